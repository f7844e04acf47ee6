# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A torch module in evaluation mode as a small ONNX model, BatchNorm folded into its convolution.

The module is traced with torch.fx and its operations are written one by one. That covers
feed-forward image classifiers, needs nothing but `onnx`, and gives graphs a person can read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sparse_split_ros.networks.bottleneck import UnitClip

# Old enough for the onnxruntime of a JetPack 5 image.
_OPSET, _IR_VERSION = 17, 8


class ExportError(Exception):
    """A network that cannot be written as a bundle, or a bundle that does not answer as it does."""


def to_onnx(module: nn.Module, input_shape: tuple[int, ...], name: str) -> bytes:
    """`module` as a serialised ONNX model, input 'x' (N, *input_shape), output 'y', float32.

    Raises ExportError for an operation that has no counterpart here.
    """
    module = module.eval()
    with torch.inference_mode():
        output_shape = tuple(module(torch.zeros(1, *input_shape)).shape[1:])
    return _Writer(module).write(input_shape, output_shape, name)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in _MODULES or super().is_leaf_module(m, module_qualified_name)


class _Writer:
    """Collects the nodes and weights of one traced module."""

    def __init__(self, module: nn.Module) -> None:
        self._graph = _Tracer().trace(module)
        self._modules = dict(module.named_modules())
        self.nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._names: dict[fx.Node, str] = {}

    def write(self, shape: tuple[int, ...], output: tuple[int, ...], name: str) -> bytes:
        for node in self._graph.nodes:
            self._visit(node)
        x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', *shape])
        y = helper.make_tensor_value_info('y', TensorProto.FLOAT, ['N', *output])
        graph = helper.make_graph(self.nodes, name, [x], [y], self._weights)
        opset = [helper.make_opsetid('', _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f'v{len(self.nodes)}'
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, value: Tensor | float) -> str:
        array = np.asarray(value.detach().numpy() if isinstance(value, Tensor) else value)
        name = f'w{len(self._weights)}'
        self._weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def _visit(self, node: fx.Node) -> None:
        if node.op == 'placeholder':
            self._names[node] = 'x'
        elif node.op == 'output':
            source = node.args[0]
            assert isinstance(source, fx.Node)
            self.nodes.append(helper.make_node('Identity', [self._names[source]], ['y']))
            self._end_at_output()
        elif node.op == 'call_module':
            self._names[node] = self._module(node)
        elif node.op == 'call_function' and node.target in _FUNCTIONS:
            inputs = [
                self._names[item] if isinstance(item, fx.Node) else self.weight(item)
                for item in node.args
                if isinstance(item, (fx.Node, float, int))
            ]
            self._names[node] = self.add(_FUNCTIONS[node.target], inputs)
        else:
            raise ExportError(f'cannot export {node.op} {node.target}: no ONNX counterpart here')

    def _module(self, node: fx.Node) -> str:
        module = self._modules[str(node.target)]
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if isinstance(module, nn.BatchNorm2d):
            before = self._modules.get(str(source.target))
            if isinstance(before, nn.Conv2d) and len(source.users) == 1:
                return self._names[source]  # folded when the convolution was written
            raise ExportError(f'cannot export {node.target}: BatchNorm without its own convolution')
        writer = _MODULES.get(type(module))
        if writer is None:
            raise ExportError(
                f'cannot export {node.target}: no counterpart of {type(module).__name__}'
            )
        if isinstance(module, nn.Conv2d):
            return _write_conv(self, module, self._names[source], self._folded(node))
        return writer(self, module, self._names[source])

    def _folded(self, node: fx.Node) -> nn.BatchNorm2d | None:
        users = list(node.users)
        if len(users) == 1 and users[0].op == 'call_module':
            module = self._modules[str(users[0].target)]
            return module if isinstance(module, nn.BatchNorm2d) else None
        return None

    def _end_at_output(self) -> None:
        """Let the last real operation write 'y' itself, where there is one."""
        if len(self.nodes) > 1 and self.nodes[-2].output[0] == self.nodes[-1].input[0]:
            self.nodes.pop()
            self.nodes[-1].output[0] = 'y'


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def _window(module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) -> dict[str, list[int]]:
    if isinstance(module.padding, str):
        raise ExportError(f'cannot export padding {module.padding!r}: give it in pixels')
    stride = module.kernel_size if module.stride is None else module.stride
    return {
        'kernel_shape': _pair(module.kernel_size),
        'strides': _pair(stride),
        'pads': _pair(module.padding) * 2,
    }


def _write_conv(w: _Writer, module: nn.Conv2d, x: str, norm: nn.BatchNorm2d | None = None) -> str:
    kernel, bias = module.weight, module.bias
    if norm is not None:
        assert norm.running_mean is not None and norm.running_var is not None
        kernel, bias = fuse_conv_bn_weights(
            kernel, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    inputs = [x, w.weight(kernel)] + ([] if bias is None else [w.weight(bias)])
    dilations = _pair(module.dilation)
    return w.add('Conv', inputs, group=module.groups, dilations=dilations, **_window(module))


def _write_linear(w: _Writer, module: nn.Linear, x: str) -> str:
    inputs = [x, w.weight(module.weight)]
    inputs += [] if module.bias is None else [w.weight(module.bias)]
    return w.add('Gemm', inputs, transB=1)


def _write_adaptive(w: _Writer, module: nn.AdaptiveAvgPool2d, x: str) -> str:
    if _pair(module.output_size) != [1, 1]:
        raise ExportError(f'cannot export adaptive pooling to {module.output_size}, only to 1')
    return w.add('GlobalAveragePool', [x])


_MODULES: dict[type[nn.Module], Callable[..., str]] = {
    nn.AdaptiveAvgPool2d: _write_adaptive,
    nn.AvgPool2d: lambda w, m, x: w.add(
        'AveragePool', [x], count_include_pad=int(m.count_include_pad), **_window(m)
    ),
    nn.Conv2d: _write_conv,
    nn.Dropout: lambda w, m, x: x,
    nn.Flatten: lambda w, m, x: w.add('Flatten', [x], axis=m.start_dim),
    nn.Hardsigmoid: lambda w, m, x: w.add('HardSigmoid', [x], alpha=1 / 6, beta=0.5),
    nn.Hardswish: lambda w, m, x: w.add('HardSwish', [x]),
    nn.Identity: lambda w, m, x: x,
    nn.Linear: _write_linear,
    nn.MaxPool2d: lambda w, m, x: w.add('MaxPool', [x], ceil_mode=int(m.ceil_mode), **_window(m)),
    nn.PixelShuffle: lambda w, m, x: w.add(
        'DepthToSpace', [x], blocksize=m.upscale_factor, mode='CRD'
    ),
    nn.ReLU: lambda w, m, x: w.add('Relu', [x]),
    nn.ReLU6: lambda w, m, x: w.add('Clip', [x, w.weight(0.0), w.weight(6.0)]),
    nn.Sigmoid: lambda w, m, x: w.add('Sigmoid', [x]),
    nn.SiLU: lambda w, m, x: w.add('Mul', [x, w.add('Sigmoid', [x])]),
    UnitClip: lambda w, m, x: w.add('HardSigmoid', [x], alpha=0.25, beta=0.5),
}

_FUNCTIONS: dict[Any, str] = {
    operator.add: 'Add',
    operator.iadd: 'Add',
    operator.mul: 'Mul',
    torch.add: 'Add',
    torch.mul: 'Mul',
    torch.relu: 'Relu',
    F.relu: 'Relu',
}
