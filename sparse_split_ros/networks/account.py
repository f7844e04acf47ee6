# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a module costs: parameters, bytes, multiply-accumulates, memory and energy of one sample.

Everything is counted on the module as it is deployed: BatchNorm folded, activation functions in
place, float32.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparse_split_ros.networks.staged import evaluating
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLayer, SparseLinear

_WEIGHTED = (nn.Conv2d, nn.Linear, SparseConv2d, SparseLinear)
_KEEPING = (nn.BatchNorm2d, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid)
"""What keeps its input for the backward pass beside its output, which the next layer keeps."""
_RESHAPING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.PixelShuffle)

# Energy in picojoules, 45 nm, 0.9 V: M. Horowitz, "Computing's energy problem (and what we can do
# about it)", ISSCC 2014, figure 1.1.9. Memory is given there per 64-bit access.
PJ_MAC = 3.7 + 0.9
"""A float32 multiplication and addition."""
PJ_CACHE_BYTE = 100 / 8
"""From or to a cache of 1 MB."""
PJ_DRAM_BYTE = 1300 / 8
"""From DRAM; the lower of the two ends that the source gives."""


@dataclass(frozen=True)
class Cost:
    """The costs of one module for one sample; bytes are of float32 weights and values."""

    parameters: int
    """Existing weights, and one bias per output."""
    macs: int
    dense_macs: int
    """What dense layers of the same shapes multiply."""
    output_shape: tuple[int, ...]
    """Without the batch axis."""
    stored_bytes: int
    """Weights, biases and the lists of what sparse layers read."""
    dense_bytes: int
    """What a dense module of the same shapes stores."""
    unstructured_bytes: int
    """The same number of weights as single ones: per layer the smaller of CSR and a bit mask."""
    peak_bytes: int
    """The most that the values alive at one time take, the module's input among them."""
    moved_bytes: int
    """Values written by one layer and read by the next, each counted twice."""
    kept_bytes: int
    """Values that the backward pass needs, for each sample of a batch."""

    @property
    def energy_uj(self) -> float:
        """An estimate in microjoules: float32 arithmetic, weights from DRAM, values in a cache."""
        picojoules = (
            PJ_MAC * self.macs
            + PJ_DRAM_BYTE * self.stored_bytes
            + PJ_CACHE_BYTE * self.moved_bytes
        )  # fmt: skip
        return picojoules * 1e-6

    def training_bytes(self, batch: int) -> int:
        """Memory of a training step: weight, gradient, two moments of Adam, and kept values."""
        return 16 * self.parameters + batch * self.kept_bytes


def account(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """The costs of `module`, which is run on zeros of `input_shape` (C, H, W)."""
    with evaluating(module), torch.inference_mode():
        root = nn.Sequential(module)  # a single layer would be traced into, not counted
        counter = _Counter(fx.GraphModule(root, _Tracer().trace(root)))
        output = counter.run(torch.zeros(1, *input_shape))
    layers = [stored(layer) for layer in counter.layers]
    return Cost(
        parameters=sum(x.weight.numel() + len(x.weight) for x in dict.fromkeys(counter.layers)),
        macs=counter.macs,
        dense_macs=counter.dense_macs,
        output_shape=tuple(output.shape[1:]),
        stored_bytes=sum(sizes[0] for sizes in layers),
        dense_bytes=sum(sizes[1] for sizes in layers),
        unstructured_bytes=sum(sizes[2] for sizes in layers),
        peak_bytes=counter.peak_bytes(),
        moved_bytes=counter.moved_bytes(),
        kept_bytes=counter.kept,
    )


def stored(layer: nn.Module) -> tuple[int, int, int]:
    """Bytes of a layer as it is, as a dense one, and with as many weights one by one.

    Biases count in all three. A dense layer that a mask has left with zeros is stored as it is.
    """
    assert isinstance(layer, _WEIGHTED)
    weight, biases = layer.weight, 4 * len(layer.weight)
    if not isinstance(layer, SparseLayer):
        own, kept = biases + 4 * weight.numel(), int(weight.count_nonzero())
        one_by_one = biases + single_bytes(kept, len(weight), weight[0].numel())
        return own, own, min(own, one_by_one)
    columns = _columns(layer)
    return (
        biases + 4 * weight.numel() + 4 * layer.pattern.sources.size,
        biases + 4 * len(weight) * columns,
        biases + single_bytes(weight.numel(), len(weight), columns),
    )


def _columns(layer: nn.Module) -> int:
    """The places for weights that each output has, in a dense layer of the same shape."""
    assert isinstance(layer, _WEIGHTED)
    if isinstance(layer, SparseLayer):
        return layer.pattern.spec.inputs * math.prod(layer.weight.shape[2:])
    return layer.weight[0].numel()


def single_bytes(kept: int, rows: int, columns: int) -> int:
    """Bytes of `kept` float32 weights one by one, in the smaller of CSR and a bit mask.

    CSR has a column of two bytes (four above 65,536 columns) beside every weight and an offset of
    four bytes per row; a bit mask has a bit for every place.
    """
    csr = (2 if columns <= 1 << 16 else 4) * kept + 4 * (rows + 1)
    return 4 * kept + min(csr, math.ceil(rows * columns / 8))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A layer of one's own that is such a layer is counted as one, whatever else it does.
        return isinstance(m, _WEIGHTED) or super().is_leaf_module(m, module_qualified_name)


class _Counter(fx.Interpreter):
    """Runs a traced module and notes its layers, their work and the size of every new value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: list[Any] = []
        self.macs = self.dense_macs = self.kept = 0
        self.sizes: dict[fx.Node, int] = {}
        self._owner: dict[fx.Node, fx.Node] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Count one operation."""
        value = super().run_node(n)
        if not isinstance(value, Tensor) or n.op == 'output':
            return value
        size = value.numel() * value.element_size()
        sources = [item for item in n.all_input_nodes if item in self._owner]
        layer = self.submodules[str(n.target)] if n.op == 'call_module' else None
        if isinstance(layer, _WEIGHTED):
            self.layers.append(layer)
            self.macs += layer.weight.numel() * (value[0].numel() // len(layer.weight))
            self.dense_macs += _columns(layer) * value[0].numel()
        host = self._host(n, value, sources) if _in_place(n, layer) else None
        if host is not None:
            self._owner[n] = self._owner[host]
        else:
            self._owner[n] = n
            self.sizes[n] = size
        gate = n.target in (operator.mul, operator.imul, torch.mul, 'mul') and len(sources) == 2
        if self._owner[n] is n or gate or isinstance(layer, _KEEPING):
            self.kept += size
        if isinstance(layer, nn.MaxPool2d):
            self.kept += 8 * value.numel()  # where in the input each maximum is, int64
        return value

    def _host(self, n: fx.Node, value: Tensor, sources: list[fx.Node]) -> fx.Node | None:
        """The operand whose memory the result of `n` can take, or takes."""
        order = {node: step for step, node in enumerate(n.graph.nodes)}
        for source in reversed(sources):
            read: Tensor = self.env[source]
            if read.untyped_storage().data_ptr() == value.untyped_storage().data_ptr():
                return source
            owner = self._owner[source]
            late = (
                user for node in self._owner if self._owner[node] is owner for user in node.users
            )
            if read.numel() == value.numel() and all(order[user] <= order[n] for user in late):
                return source
        return None

    def peak_bytes(self) -> int:
        """The most bytes of values that are alive while one operation runs."""
        last: dict[fx.Node, int] = {}
        nodes = list(self._owner)
        for step, node in enumerate(nodes):
            for read in (node, *(item for item in node.all_input_nodes if item in self._owner)):
                last[self._owner[read]] = step
        last[self._owner[nodes[-1]]] = len(nodes)
        births = {node: step for step, node in enumerate(nodes) if node in self.sizes}
        return max(
            sum(self.sizes[node] for node in births if births[node] <= step <= last[node])
            for step in range(len(nodes))
        )

    def moved_bytes(self) -> int:
        """Bytes written and read by all operations that make a new value."""
        read: Iterable[int] = (
            self.sizes[self._owner[item]]
            for node in self.sizes
            for item in node.all_input_nodes
            if item in self._owner
        )
        return sum(self.sizes.values()) + sum(read)


def _in_place(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether an operation is folded into the one before it, or works on its output in place."""
    if layer is not None:
        return not isinstance(layer, (*_WEIGHTED, *_RESHAPING))
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return not any(word in name for word in ('pool', 'cat', 'shuffle', 'mean'))
