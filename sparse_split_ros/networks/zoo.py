# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Networks by name. A recipe names one and gives its arguments; a checkpoint remembers both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sparse_split_ros.networks.arguments import check_counts, check_triples
from sparse_split_ros.networks.backbones import backbone, names
from sparse_split_ros.networks.bottleneck import Bottleneck
from sparse_split_ros.networks.channels import groups, shrink
from sparse_split_ros.networks.exits import conv_exit, final_exit
from sparse_split_ros.networks.prune import apply_masks, load_masks
from sparse_split_ros.networks.resnet import resnet20
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.sparsity.layers import sparsify
from sparse_split_ros.sparsity.patterns import IN_BLOCKS, Kind
from sparse_split_ros.vision import VisionError


class Residual(nn.Module):
    """relu(x + f(x)), f = two 3 x 3 convolutions (He et al., arXiv 1512.03385); shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        # Starting as the identity lets a deep stack train at a high rate from the first step.
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W), shape kept."""
        return F.relu(x + self.norm(self.second(self.first(x))))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the side is divided by `stride`."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def compact(
    classes: int,
    size: int = 32,
    widths: tuple[int, int, int] = (32, 64, 104),
    stem: int | None = None,
    blocks: int = 2,
    exit_channels: tuple[int, int, int] | None = None,
    encoder_channels: tuple[int, int, int] = (32, 48, 32),
    code_channels: tuple[int, int, int] = (4, 11, 11),
    bits: int = 4,
) -> StagedNetwork:
    """Our own family for square inputs of 32, 64 or 96 pixels: four stages, three cuts.

    Most of the work lies behind the second cut, so that a robot does a quarter of it: the stem
    halves the side at once, `blocks` residual blocks follow after the cut at a quarter of the side.
    `widths` are the channels of stages 0, 1 and 2, and 3; `stem` those of the first convolution.
    """
    check_triples(widths=widths, encoder_channels=encoder_channels, code_channels=code_channels)
    a, b, c = widths
    stem = a if stem is None else stem
    hidden = (a, 40, 32) if exit_channels is None else exit_channels
    check_triples(exit_channels=hidden)
    check_counts(size=size, stem=stem, blocks=blocks)
    if size % 32:
        raise ValueError(f'size {size}: expected a multiple of 32')
    stages = [
        nn.Sequential(conv(3, stem, 5, 2), conv(stem, a)),
        conv(a, b, 3, 2),
        nn.Sequential(*(Residual(b) for _ in range(blocks))),
        nn.Sequential(conv(b, c, 3, 2), Residual(c)),
    ]
    exits = {
        0: conv_exit(a, size // 2, hidden[0], classes),
        1: conv_exit(b, size // 4, hidden[1], classes),
        2: conv_exit(b, size // 4, hidden[2], classes),
        3: final_exit(c, size // 8, classes),
    }
    bottlenecks = {
        0: Bottleneck(a, code_channels[0], encoder_channels[0], 2, bits),
        1: Bottleneck(b, code_channels[1], encoder_channels[1], 2, bits),
        2: Bottleneck(b, code_channels[2], encoder_channels[2], 2, bits),
    }
    return StagedNetwork(stages, exits, bottlenecks, (3, size, size))


NETWORKS: dict[str, Callable[..., StagedNetwork]] = {'compact': compact, 'resnet20': resnet20}
"""Our own; every other name is looked for in torchvision."""


def build(
    name: str,
    classes: int,
    pretrained: bool = False,
    narrow: float = 1.0,
    channels: Mapping[str, int] | None = None,
    masks: str | Mapping[str, Tensor] | None = None,
    density: float = 1.0,
    pattern_seed: int = 0,
    pattern: str = 'block-regular',
    block_width: int | None = None,
    keep_dense: Sequence[str] = (),
    allocation: str = 'uniform',
    erk_power: float = 1.0,
    **arguments: Any,
) -> StagedNetwork:
    """The network called `name` for `classes` classes, pruned or predefined sparse if asked for.

    `pretrained` loads the weights that the arguments name, if they name some: wanted where a
    training starts, and not where a checkpoint is read. `narrow` is a share of all channels of the
    stages, such as 0.5 for a network of half the width. `channels` by group, or a file of `masks`,
    are what `sparse-split prune` found. With a `density` below 1 the network is predefined sparse,
    where its layers' shapes allow: patterns of the kind `pattern`, those in blocks of `block_width`
    inputs x 16 outputs, drawn from `pattern_seed`, at each layer's nearest feasible density. With
    `allocation` 'erk' the density is that of all layers together, and large layers are sparser than
    small ones, the more so the higher `erk_power` is. The first convolution, the exits' last linear
    layers and what matches `keep_dense` (['stages.0.*']) stay dense. Kinds that are not in blocks
    save storage, not time.

    Raises ValueError for an unknown name and for what the network cannot have.
    """
    if not (isinstance(density, (int, float)) and 0 < density <= 1):
        raise ValueError(f'density is {density!r}, expected a share more than 0 and at most 1')
    if not isinstance(keep_dense, (list, tuple)) or not all(
        isinstance(item, str) for item in keep_dense
    ):
        raise ValueError(f"keep_dense is {keep_dense!r}, expected a list: ['stages.0.*']")
    if not (isinstance(narrow, (int, float)) and 0 < narrow <= 1):
        raise ValueError(f'narrow is {narrow!r}, expected a share more than 0 and at most 1')
    if not (isinstance(erk_power, (int, float)) and 0 <= erk_power <= 3):
        raise ValueError(f'erk_power is {erk_power!r}, expected a number from 0 to 3')
    if erk_power != 1 and allocation != 'erk':
        raise ValueError(
            f'erk_power is {erk_power}: it shapes allocation: erk, which is not asked for'
        )
    if not isinstance(channels or {}, Mapping):
        raise ValueError(f'channels is {channels!r}, expected "group: number" lines')
    if not isinstance(masks, (str, Mapping, type(None))):
        raise ValueError(f'masks is {masks!r}, expected the name of a file')
    check_counts(0, pattern_seed=pattern_seed)
    if block_width is not None:
        check_counts(block_width=block_width)
    if arguments.get('weights') is not None and (narrow != 1 or channels or density < 1):
        raise ValueError(
            f'weights {arguments["weights"]!r} are of the whole network: narrow, channels and '
            'density would keep any part of them; train the smaller network without weights'
        )
    network = _drawn(name, classes, pretrained, arguments)
    if narrow != 1:
        own = [group for group in groups(network) if group.name.startswith('stages.')]
        if not own:
            raise ValueError(f'narrow is {narrow}: no channels of {name} can be removed')
        shrink(network, {group.name: max(1, round(narrow * group.size)) for group in own})
    if channels:
        shrink(network, channels)
    kind = Kind(pattern)
    if masks is not None:
        if density < 1:
            raise ValueError('masks and a density exclude one another: both choose the weights')
        apply_masks(network, load_masks(masks) if isinstance(masks, str) else masks)
    if density < 1:
        width = block_width
        if kind in IN_BLOCKS:
            width = block_width or 8
        elif kind is not Kind.N_OF_M and block_width is not None:
            raise ValueError(f'block_width is {block_width}: {pattern} has no blocks')
        keep = [*keep_dense, *network.last_linears()]
        sparsify(
            network, density, kind, pattern_seed,
            width=width, keep=keep, nearest=True, allocation=allocation,
            power=erk_power,
        )  # fmt: skip
    return network


def _drawn(
    name: str, classes: int, pretrained: bool, arguments: Mapping[str, Any]
) -> StagedNetwork:
    if name in NETWORKS:
        _check_names(NETWORKS[name], arguments)
        return NETWORKS[name](classes=classes, **arguments)
    own = ', '.join(NETWORKS)
    try:
        known = names()
    except VisionError as error:
        raise ValueError(f'unknown network {name!r}; ours are {own}. If not: {error}') from error
    if name not in known:
        raise ValueError(
            f'unknown network {name!r}; choose one of {own}, or a classifier of torchvision: '
            f'{", ".join(known)}'
        )
    _check_names(backbone, arguments)
    return backbone(name, classes, pretrained=pretrained, **arguments)


def _check_names(maker: Callable[..., StagedNetwork], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of another network, which stay in a recipe easily."""
    ours = ('name', 'classes', 'pretrained', 'arguments')
    known = [n for f in (maker, build) for n in inspect.signature(f).parameters if n not in ours]
    if unknown := [repr(name) for name in arguments if name not in known]:
        raise ValueError(f'it takes no {", ".join(unknown)}, but {", ".join(known)}')
