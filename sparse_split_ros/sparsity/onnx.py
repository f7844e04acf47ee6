# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sparse layers as ONNX nodes, with no more weights in the file than the pattern has.

In blocks: Gather, then a Conv with one group per block of outputs. ONNX Runtime is faster that way
than with the dense layer, in proportion. Edge by edge, and tap by tap: ScatterND into zeros, which
a runtime folds into a dense weight when it loads the model, then Conv or Gemm; gathering single
edges is tens of times slower than that, and gathering by taps gains nothing.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLayer, SparseLinear
from sparse_split_ros.sparsity.patterns import Kind


class Graph(Protocol):
    """Where nodes and constants of a model are collected; each method returns a value's name."""

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node with one output."""

    def weight(self, value: Tensor) -> str:
        """Append a float32 constant."""

    def integers(self, value: NDArray[np.int64]) -> str:
        """Append an int64 constant."""


def write_linear(
    graph: Graph, layer: SparseLinear, x: str, weight: Tensor, bias: Tensor | None
) -> str:
    """Append `layer` on x (N, inputs); the name of (N, outputs). Needs opset 13 or later.

    `weight` (outputs, fan-in) and `bias` stand for the layer's own, so that a BatchNorm can be
    folded in before.
    """
    tail = [] if bias is None else [graph.weight(bias)]
    if layer.pattern.spec.kind is not Kind.BLOCK_REGULAR:
        return graph.add('Gemm', [x, _scattered(graph, layer, weight), *tail], transB=1)
    kernels = graph.weight(weight[:, :, None, None])
    gathered = graph.add('Gather', [x, graph.integers(layer.edges.numpy())], axis=1)
    pixels = graph.add('Unsqueeze', [gathered, graph.integers(np.array([2, 3]))])
    y = graph.add('Conv', [pixels, kernels, *tail], group=_groups(layer), kernel_shape=[1, 1])
    return graph.add('Flatten', [y])


def write_conv(
    graph: Graph, layer: SparseConv2d, x: str, weight: Tensor, bias: Tensor | None
) -> str:
    """Append `layer` on x (N, inputs, H, W); the name of (N, outputs, H', W').

    `weight` (outputs, fan-in, kH, kW) and `bias` stand for the layer's own, as in `write_linear`.
    """
    window = {
        'kernel_shape': list(layer.kernel_size),
        'strides': list(layer.stride),
        'pads': list(layer.padding) * 2,
        'dilations': list(layer.dilation),
    }
    tail = [] if bias is None else [graph.weight(bias)]
    if layer.pattern.spec.kind is not Kind.BLOCK_REGULAR:
        return graph.add('Conv', [x, _scattered(graph, layer, weight), *tail], **window)
    gathered = graph.add('Gather', [x, graph.integers(layer.edges.numpy())], axis=1)
    inputs = [gathered, graph.weight(weight), *tail]
    return graph.add('Conv', inputs, group=_groups(layer), **window)


def _groups(layer: SparseLayer) -> int:
    return layer.pattern.spec.outputs // layer.pattern.spec.rows


def _scattered(graph: Graph, layer: SparseLayer, weight: Tensor) -> str:
    """The dense weight (outputs, inputs, *kernel) out of `weight` (outputs, fan-in, *kernel)."""
    shape = [len(weight), layer.pattern.spec.inputs, *weight.shape[2:]]
    parts = weight.reshape(len(layer.edges), -1)
    size = [math.prod(shape) // parts.shape[1], parts.shape[1]]
    zeros = graph.add('ConstantOfShape', [graph.integers(np.array(size))])
    dense = graph.add('ScatterND', [zeros, _places(graph, layer), graph.weight(parts)])
    return graph.add('Reshape', [dense, graph.integers(np.array(shape))])


def _places(graph: Graph, layer: SparseLayer) -> str:
    """(edges, 1) rows of the dense weight that exist."""
    spec = layer.pattern.spec
    if spec.taps == 1:
        return graph.integers(layer.edges[:, None].numpy())
    # One number a weight would be twice the weights: of 16 x width of them only the first is kept.
    steps = (np.arange(spec.rows)[:, None] * spec.inputs + np.arange(spec.width)) * spec.taps
    places = layer.edges.view(-1, spec.rows, spec.fan_in // spec.width, spec.width, spec.taps)
    first = graph.integers(places[:, :1, :, :1].numpy())
    rest = graph.integers(steps[None, :, None, :, None])
    whole = graph.add('Add', [first, rest])
    return graph.add('Reshape', [whole, graph.integers(np.array([-1, 1]))])
