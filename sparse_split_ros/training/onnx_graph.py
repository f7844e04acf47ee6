# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A program as a small ONNX model that a person can read; needs nothing but `onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLinear
from sparse_split_ros.sparsity.onnx import write_conv, write_linear
from sparse_split_ros.training.program import Operation, Program

# Old enough for the onnxruntime of a JetPack 5 image.
_OPSET, _IR_VERSION = 17, 8


def to_onnx(program: Program, name: str) -> bytes:
    """`program` as a serialised ONNX model, input 'x' (N, *input_shape), output 'y', float32."""
    writer = _Writer()
    for operation in program.operations:
        writer.write(operation)
    if not program.operations:
        writer.nodes.append(helper.make_node('Identity', ['x'], ['y']))
    x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', *program.input_shape])
    y = helper.make_tensor_value_info('y', TensorProto.FLOAT, ['N', *program.output_shape])
    graph = helper.make_graph(writer.nodes, name, [x], [y], writer.weights)
    opset = [helper.make_opsetid('', _OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


class _Writer:
    """Collects nodes and constants; a `Graph` of sparsity/onnx.py."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def write(self, operation: Operation) -> None:
        """Append the nodes of one operation, the last of which gives its output."""
        _WRITERS[operation.kind](self, operation)
        self.nodes[-1].output[0] = operation.output

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node with one output."""
        output = f'n{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, value: Tensor | float) -> str:
        """Append a float32 constant."""
        array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value)
        return self._constant(array.astype(np.float32))

    def integers(self, value: NDArray[np.int64]) -> str:
        """Append an int64 constant."""
        return self._constant(value.astype(np.int64))

    def _constant(self, array: NDArray[Any]) -> str:
        name = f'w{len(self.weights)}'
        self.weights.append(numpy_helper.from_array(array, name))
        return name


def _conv(w: _Writer, op: Operation) -> None:
    assert op.weight is not None
    if isinstance(op.layer, SparseConv2d):
        write_conv(w, op.layer, op.inputs[0], op.weight, op.bias)
        return
    inputs = [op.inputs[0], w.weight(op.weight), *_bias(w, op)]
    geometry = _window(op) | {'dilations': op.attributes['dilation']}
    w.add('Conv', inputs, group=op.attributes['groups'], **geometry)


def _linear(w: _Writer, op: Operation) -> None:
    assert op.weight is not None
    if isinstance(op.layer, SparseLinear):
        write_linear(w, op.layer, op.inputs[0], op.weight, op.bias)
        return
    w.add('Gemm', [op.inputs[0], w.weight(op.weight), *_bias(w, op)], transB=1)


def _bias(w: _Writer, op: Operation) -> list[str]:
    return [] if op.bias is None else [w.weight(op.bias)]


def _window(op: Operation) -> dict[str, Any]:
    return {
        'kernel_shape': op.attributes['kernel'],
        'strides': op.attributes['stride'],
        'pads': op.attributes['padding'] * 2,
    }


def _pool(w: _Writer, op: Operation) -> None:
    attributes = _window(op) | {'ceil_mode': int(op.attributes['ceil_mode'])}
    if op.kind == 'avg_pool':
        attributes['count_include_pad'] = int(op.attributes['count_include_pad'])
    w.add('AveragePool' if op.kind == 'avg_pool' else 'MaxPool', list(op.inputs), **attributes)


def _elementwise(w: _Writer, op: Operation) -> None:
    number = [w.weight(op.attributes['value'])] if 'value' in op.attributes else []
    w.add('Add' if op.kind == 'add' else 'Mul', [*op.inputs, *number])


def _plain(kind: str) -> Callable[[_Writer, Operation], object]:
    return lambda w, op: w.add(kind, list(op.inputs), **op.attributes)


_WRITERS: dict[str, Callable[[_Writer, Operation], object]] = {
    'add': _elementwise,
    'avg_pool': _pool,
    'concat': lambda w, op: w.add('Concat', list(op.inputs), axis=1),
    'conv': _conv,
    'flatten': lambda w, op: w.add('Flatten', list(op.inputs), axis=1),
    'global_avg_pool': _plain('GlobalAveragePool'),
    'hard_sigmoid': _plain('HardSigmoid'),
    'hard_swish': _plain('HardSwish'),
    'linear': _linear,
    'max_pool': _pool,
    'mul': _elementwise,
    'pixel_shuffle': lambda w, op: w.add(
        'DepthToSpace', list(op.inputs), blocksize=op.attributes['factor'], mode='CRD'
    ),
    'relu': _plain('Relu'),
    'relu6': lambda w, op: w.add('Clip', [*op.inputs, w.weight(0.0), w.weight(6.0)]),
    'sigmoid': _plain('Sigmoid'),
}
