# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which layers of a network share their channels, and how channels are removed from all of them.

Layers that write into the same sum must keep the same channels: residual blocks and their
shortcuts, and a bottleneck's decoder with the stage whose features it restores. Such channels are
one `Group`. Whatever is removed from a group is removed from every layer that writes it, from its
BatchNorm, and from every layer that reads it, so what remains is a smaller dense network.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparse_split_ros.networks.bottleneck import UnitClip
from sparse_split_ros.networks.staged import StagedNetwork, evaluating
from sparse_split_ros.sparsity.layers import SparseLayer

_PASSING = (F.relu, F.relu6, F.hardswish, torch.relu, torch.sigmoid, F.adaptive_avg_pool2d)


@dataclass
class Group:
    """Channels that stay or go together.

    A layer is noted with its repeat: each channel stands for so many of its inputs or outputs in a
    row, as for a linear layer that reads a flattened map.
    """

    size: int
    fixed: bool = False
    """The image's own channels, logits and codes stay as they are."""
    writers: dict[str, int] = field(default_factory=dict)
    readers: dict[str, int] = field(default_factory=dict)
    followers: dict[str, int] = field(default_factory=dict)
    """BatchNorms and depthwise convolutions, which go with the channels."""
    parent: Group | None = None
    repeat: int = 1
    """How many channels of this group one channel of the parent stands for."""

    @property
    def name(self) -> str:
        """A layer that writes these channels, one of a stage where there is one."""
        return min(self.writers, default='', key=lambda name: (name[:6] != 'stages', name))

    @property
    def prunable(self) -> bool:
        """Whether channels can be removed."""
        return not self.fixed and bool(self.writers) and self.size > 1


def groups(network: StagedNetwork) -> list[Group]:
    """The groups of channels of a network that can be pruned, in the order they are computed.

    Layers that are predefined sparse keep their channels: prune first, draw the patterns after.
    """
    return [group for group in _Analysis(network).roots() if group.prunable]


def remove(network: StagedNetwork, keep: Mapping[str, Tensor], rescale: bool = False) -> None:
    """Keep only the channels `keep[name]` (n,) int64 of each group named, in place.

    With `rescale`, weights grow by the root of the fan-in that was lost: what is left of a freshly
    drawn layer is then as if drawn for its new size. Raises ValueError for names and numbers that
    the network does not have.
    """
    by_name = {group.name: group for group in groups(network)}
    for name, kept in keep.items():
        if name not in by_name:
            raise ValueError(f'no channels to prune are called {name!r}; there are {list(by_name)}')
        size = by_name[name].size
        if not len(kept) or int(kept.min()) < 0 or int(kept.max()) >= size:
            raise ValueError(f'{name}: expected 1 to {size} of its channels, found {len(kept)}')
    for name, kept in keep.items():
        group = by_name[name]
        for layer, repeat in group.writers.items():
            _cut(network.get_submodule(layer), _repeated(kept, repeat), 0, rescale)
        for layer, repeat in group.readers.items():
            _cut(network.get_submodule(layer), _repeated(kept, repeat), 1, rescale)
        for layer, repeat in group.followers.items():
            _follow(network.get_submodule(layer), _repeated(kept, repeat))


def shrink(network: StagedNetwork, channels: Mapping[str, int]) -> None:
    """Give a freshly drawn network fewer channels, `channels[name]` in each group named, in place.

    Which ones stay does not matter, as all were drawn alike. Raises ValueError for names and
    numbers that the network does not have.
    """
    for name, count in channels.items():
        if type(count) is not int or count < 1:
            raise ValueError(f'{name}: {count!r} channels, expected a whole number, 1 or more')
    remove(network, {name: torch.arange(count) for name, count in channels.items()}, rescale=True)


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels


def _repeated(kept: Tensor, repeat: int) -> Tensor:
    return (kept[:, None] * repeat + torch.arange(repeat)).flatten()


@torch.no_grad()
def _cut(layer: nn.Module, kept: Tensor, axis: int, rescale: bool) -> None:
    """Keep outputs (axis 0) or inputs (axis 1) of a convolution or linear layer."""
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        _make_dense(layer)
    weight = layer.weight.index_select(axis, kept)
    if axis == 1 and rescale and layer.weight.requires_grad:
        weight *= math.sqrt(layer.weight.shape[1] / len(kept))
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if axis == 0 and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias[kept])
    sizes = ('out_channels', 'in_channels') if isinstance(layer, nn.Conv2d) else (
        'out_features', 'in_features')  # fmt: skip
    setattr(layer, sizes[axis], len(kept))


def _make_dense(layer: nn.Conv2d) -> None:
    """Write a convolution in groups as one without."""
    outputs, inputs = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    weight = layer.weight.new_zeros(layer.out_channels, layer.in_channels, *layer.kernel_size)
    for group in range(layer.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        weight[rows, group * inputs : (group + 1) * inputs] = layer.weight[rows]
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    layer.groups = 1


@torch.no_grad()
def _follow(layer: nn.Module, kept: Tensor) -> None:
    if isinstance(layer, nn.Conv2d):
        layer.weight = nn.Parameter(layer.weight[kept])
        layer.bias = None if layer.bias is None else nn.Parameter(layer.bias[kept])
        layer.in_channels = layer.out_channels = layer.groups = len(kept)
        return
    assert isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))
    layer.num_features = len(kept)
    if layer.affine:
        layer.weight, layer.bias = nn.Parameter(layer.weight[kept]), nn.Parameter(layer.bias[kept])
    if layer.running_mean is not None and layer.running_var is not None:
        layer.running_mean, layer.running_var = layer.running_mean[kept], layer.running_var[kept]


class _Whole(nn.Module):
    """Everything that a staged network can compute, in one graph."""

    def __init__(self, network: StagedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        answers = []
        for stage, body in enumerate(self.network.stages):
            x = body(x)
            if stage in self.network.exit_stages:
                answers.append(self.network.exit_at(stage)(x))
            if stage in self.network.split_stages:
                bottleneck = self.network.bottleneck_at(stage)
                # Summed, as what is restored has the same channels.
                x = x + bottleneck.decoder(bottleneck.encoder(x))
        return answers


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, (SparseLayer, UnitClip))
        return known or super().is_leaf_module(m, module_qualified_name)


class _Analysis(fx.Interpreter):
    """Runs the network once on zeros and follows the channels of every value."""

    def __init__(self, network: StagedNetwork) -> None:
        self._found: list[Group] = []
        self._layers: set[str] = set()
        self._values: dict[fx.Node, tuple[Group, int]] = {}
        with evaluating(network), torch.inference_mode():
            whole = _Whole(network)
            super().__init__(fx.GraphModule(whole, _Tracer().trace(whole)))
            self.run(torch.zeros(1, *network.input_shape))

    def roots(self) -> list[Group]:
        """The groups that are part of no other."""
        return [group for group in self._found if group.parent is None]

    def run_node(self, n: fx.Node) -> Any:
        """Compute one value and note its channels."""
        result = super().run_node(n)
        if n.op == 'output':
            for node in n.all_input_nodes:
                self._fix(node)
        elif isinstance(result, Tensor) and n.op != 'get_attr':  # a parameter has no channels
            self._values[n] = self._channels(n, result)
        return result

    def _channels(self, n: fx.Node, result: Tensor) -> tuple[Group, int]:
        sources = [self._values[node] for node in n.all_input_nodes if node in self._values]
        if not sources:
            return self._new(result.shape[1], fixed=True)
        if n.op == 'call_module':
            name = str(n.target).removeprefix('network.')
            layer = self.submodules[str(n.target)]
            found = self._layer(name, layer, sources[0], result)
            if name in self._layers:  # in two places: what is cut for one would be for the other
                for group in self._found:
                    if name in (*group.writers, *group.readers, *group.followers):
                        self._root((group, 1))[0].fixed = True
            self._layers.add(name)
            return found
        sums = (operator.add, operator.iadd, torch.add, 'add', operator.mul, torch.mul, 'mul')
        if n.target in sums and len(sources) == 2:
            return self._joined(*sources)
        group, repeat = self._root(sources[0])
        each, odd = divmod(result.shape[1], group.size * repeat)
        if n.target in (torch.flatten, 'flatten', torch.mean, 'mean') and each and not odd:
            return group, repeat * each
        if n.target not in _PASSING or len(sources) > 1:
            for source in sources:
                self._root(source)[0].fixed = True
            return self._new(result.shape[1], fixed=True)
        return group, repeat

    def _layer(
        self, name: str, layer: nn.Module, source: tuple[Group, int], result: Tensor
    ) -> tuple[Group, int]:
        group, repeat = self._root(source)
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or _is_depthwise(layer):
            group.followers[name] = repeat
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            # A linear layer on more axes than two has its channels on the last.
            whole = (
                result.ndim == 2
                if isinstance(layer, nn.Linear)
                # In groups of one input only where the weights are fixed, as of a shortcut.
                else layer.groups == 1
                or (layer.groups == layer.in_channels and not layer.weight.requires_grad)
            )
            group.readers[name] = repeat
            group.fixed |= not whole
            written, _ = self._new(result.shape[1], fixed=not whole)
            written.writers[name] = 1
            return written, 1
        elif isinstance(layer, nn.Flatten):
            return group, repeat * (result.shape[1] // (group.size * repeat))
        elif isinstance(layer, nn.PixelShuffle):
            merged, _ = self._new(result.shape[1])
            self._adopt(merged, group, layer.upscale_factor**2)
            return merged, 1
        elif result.shape[1] != group.size * repeat or any(True for _ in layer.parameters()):
            # A layer that is not known here, such as a transposed convolution.
            group.fixed = True
            return self._new(result.shape[1], fixed=True)
        elif isinstance(layer, UnitClip):
            group.fixed = True  # codes travel in a format that is agreed on
        return group, repeat

    def _new(self, size: int, fixed: bool = False) -> tuple[Group, int]:
        group = Group(size, fixed)
        self._found.append(group)
        return group, 1

    def _root(self, value: tuple[Group, int]) -> tuple[Group, int]:
        group, repeat = value
        while group.parent is not None:
            group, repeat = group.parent, repeat * group.repeat
        return group, repeat

    def _joined(self, one: tuple[Group, int], other: tuple[Group, int]) -> tuple[Group, int]:
        (a, repeat), (b, other_repeat) = self._root(one), self._root(other)
        if a is not b and (a.size, repeat) == (b.size, other_repeat):
            self._adopt(a, b, 1)
        elif a is not b:
            a.fixed = b.fixed = True
        return a, repeat

    def _adopt(self, parent: Group, child: Group, repeat: int) -> None:
        child.parent, child.repeat = parent, repeat
        parent.fixed |= child.fixed
        for own, others in (
            (parent.writers, child.writers),
            (parent.readers, child.readers),
            (parent.followers, child.followers),
        ):
            own.update({name: count * repeat for name, count in others.items()})

    def _fix(self, node: fx.Node) -> None:
        if node in self._values:
            self._root(self._values[node])[0].fixed = True
