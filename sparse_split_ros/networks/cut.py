# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A chain of blocks becomes a staged network: where it is cut, and the exits and bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from sparse_split_ros.networks.account import account
from sparse_split_ros.networks.bottleneck import Bottleneck
from sparse_split_ros.networks.exits import light_exit
from sparse_split_ros.networks.staged import StagedNetwork, evaluating

_CODED_SIDE = 4
"""Codes have at least this side, where the features do: 4 x 4 for small images, 7 x 7 for 224."""
_EARLY_EXITS = 3


@dataclass(frozen=True)
class Features:
    """What comes out of a block for one image."""

    shape: tuple[int, int, int]
    """(C, H, W)."""
    signed: bool
    """Whether values below 0 are among them."""


def cut(
    blocks: Sequence[nn.Module],
    classifier: nn.Module,
    classes: int,
    input_shape: tuple[int, int, int],
    cuts: Sequence[int] | None = None,
    code_channels: int = 8,
    bits: int = 4,
) -> StagedNetwork:
    """Cut a network, `blocks` one after the other and then `classifier`, into stages.

    `cuts` are the numbers of blocks before each cut, by default those nearest to a quarter, a half
    and three quarters of the MACs. At each cut stand an exit and a bottleneck of `code_channels`
    channels of `bits`. Raises ValueError for cuts that are not in order within the network.
    """
    if cuts is not None and not (
        isinstance(cuts, (list, tuple)) and all(type(at) is int for at in cuts)
    ):
        raise ValueError(f'cuts is {cuts!r}, expected a list of numbers of blocks')
    chosen = balanced(blocks, input_shape) if cuts is None else list(cuts)
    if chosen != sorted(set(chosen)) or not all(0 < at < len(blocks) for at in chosen):
        raise ValueError(
            f'cuts {chosen}: expected ascending numbers of blocks, of 1 to {len(blocks) - 1}'
        )
    bounds = [0, *chosen, len(blocks)]
    stages = [nn.Sequential(*blocks[a:b]) for a, b in pairwise(bounds)]
    exits: dict[int, nn.Module] = {len(chosen): classifier}
    bottlenecks = {}
    for index, features in enumerate(measure(stages, input_shape)[:-1]):
        exits[index] = light_exit(features.shape, classes)
        bottlenecks[index] = Bottleneck(
            features.shape[0], code_channels, 48, _stride(features), bits, features.signed
        )
    return StagedNetwork(stages, exits, bottlenecks, input_shape)


def balanced(blocks: Sequence[nn.Module], input_shape: tuple[int, int, int]) -> list[int]:
    """Numbers of blocks before cuts that divide the MACs into four parts as equal as they get."""
    if len(blocks) < 2:
        raise ValueError('a single block cannot be cut: divide it, or give cuts: []')
    shapes = [input_shape, *(features.shape for features in measure(blocks, input_shape))]
    done, total = [], 0
    for block, shape in zip(blocks, shapes):
        total += account(block, shape).macs
        done.append(total)
    parts = _EARLY_EXITS + 1
    nearest = {
        min(range(1, len(blocks)), key=lambda at: abs(done[at - 1] - total * part / parts))
        for part in range(1, parts)
    }
    return sorted(nearest)


@torch.inference_mode()
def measure(blocks: Sequence[nn.Module], input_shape: tuple[int, int, int]) -> list[Features]:
    """The features behind each block, for one image of noise.

    Raises ValueError where a block does not give (C, H, W), or cannot read what it is given.
    """
    x = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    found = []
    for index, block in enumerate(blocks):
        before = tuple(x.shape[1:])
        try:
            with evaluating(block):
                x = block(x)
        except RuntimeError as error:
            raise ValueError(
                f'images of {input_shape[1]} x {input_shape[2]} pixels: block {index} cannot read '
                f'features {before}: {error}; choose another size'
            ) from error
        if x.ndim != 4:
            raise ValueError(f'block {index} gives {tuple(x.shape[1:])}, expected (C, H, W)')
        _, channels, height, width = x.shape
        found.append(Features((channels, height, width), bool((x < 0).any())))
    return found


def _stride(features: Features) -> int:
    """By how much the encoder shrinks the sides."""
    _, height, width = features.shape
    for stride in (8, 4, 2):
        whole = height % stride == 0 and width % stride == 0
        if whole and min(height, width) >= stride * _CODED_SIDE:
            return stride
    return 1
