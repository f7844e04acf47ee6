# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle's ONNX models in torch, for a machine that has torch on CUDA and no onnxruntime-gpu.

The graphs a bundle holds are chains and short branches of a dozen operators, so a small interpreter
runs them. Imported only when this engine is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Array, EngineError, Model, StagedEngine

try:
    import onnx
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise EngineError(f"engine 'torch' needs torch and onnx: {error}; install them") from error

Attributes = dict[str, Any]
Operator = Callable[..., torch.Tensor]


class TorchEngine(StagedEngine):
    """Runs a bundle in torch, on 'cpu' or 'cuda', in float32."""

    name = 'torch'

    def __init__(self, bundle: Bundle, device: str, threads: int, stages: range | None) -> None:
        if device == 'tensorrt':
            raise EngineError("engine 'torch' runs on 'cpu' or 'cuda', not on 'tensorrt'")
        if device == 'cuda' and not torch.cuda.is_available():
            raise EngineError("device 'cuda': this torch sees no CUDA device; choose 'cpu'")
        if threads:
            torch.set_num_threads(threads)
        self._device = torch.device(device)
        super().__init__(bundle, stages)

    def _load(self, name: str, data: bytes) -> Model:
        graph = _Graph(name, data, self._device)

        def run(x: Array) -> Array:
            with torch.inference_mode():
                y = graph(torch.from_numpy(np.ascontiguousarray(x)).to(self._device))
                return y.cpu().numpy()  # type: ignore[no-any-return]

        return run


class _Graph:
    """One ONNX model as a list of (operator, attributes, input names, output name)."""

    def __init__(self, name: str, data: bytes, device: torch.device) -> None:
        try:
            graph = onnx.load_model_from_string(data).graph
            self._weights = {
                tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()).to(device)
                for tensor in graph.initializer
            }
        except Exception as error:  # protobuf and onnx raise types of their own
            raise EngineError(f'{name}: not a readable ONNX model: {error}') from error
        self._nodes = []
        for node in graph.node:
            operator = _OPERATORS.get(node.op_type)
            if operator is None:
                known = ', '.join(sorted(_OPERATORS))
                raise EngineError(f'{name}: torch engine has no {node.op_type}; it has {known}')
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            inputs, output = list(node.input), node.output[0]
            if all(name in self._weights for name in inputs):
                # What depends on weights alone, such as a dense weight out of a sparse one.
                arguments = [self._weights[name] for name in inputs]
                self._weights[output] = operator(attributes, *arguments)
            else:
                self._nodes.append((operator, attributes, inputs, output))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[str, torch.Tensor] = {'x': x}
        for operator, attributes, inputs, output in self._nodes:
            arguments = [self._weights[k] if k in self._weights else values[k] for k in inputs]
            values[output] = operator(attributes, *arguments)
        return values['y']


def _pads(a: Attributes) -> list[int]:
    """Symmetric padding per axis; ONNX lists all beginnings, then all ends."""
    pads = list(a.get('pads', [0, 0, 0, 0]))
    half = len(pads) // 2
    if pads[:half] != pads[half:] or a.get('auto_pad', b'NOTSET') != b'NOTSET':
        raise EngineError(f'torch engine takes symmetric explicit pads, found {pads}')
    return pads[:half]


def _conv(
    a: Attributes, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor:
    strides, dilations = a.get('strides', [1, 1]), a.get('dilations', [1, 1])
    return F.conv2d(x, w, b, strides, _pads(a), dilations, a.get('group', 1))


def _gemm(
    a: Attributes, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor:
    y = (x.T if a.get('transA') else x) @ (w.T if a.get('transB') else w)
    y = y * float(a.get('alpha', 1.0))
    return y if b is None else y + b * float(a.get('beta', 1.0))


def _max_pool(a: Attributes, x: torch.Tensor) -> torch.Tensor:
    ceil = bool(a.get('ceil_mode', 0))
    return F.max_pool2d(x, a['kernel_shape'], a.get('strides', [1, 1]), _pads(a), ceil_mode=ceil)


def _average_pool(a: Attributes, x: torch.Tensor) -> torch.Tensor:
    counted = bool(a.get('count_include_pad', 0))
    strides = a.get('strides', [1, 1])
    ceil = bool(a.get('ceil_mode', 0))
    return F.avg_pool2d(x, a['kernel_shape'], strides, _pads(a), ceil, counted)


def _depth_to_space(a: Attributes, x: torch.Tensor) -> torch.Tensor:
    if a.get('mode', b'DCR') != b'CRD':
        raise EngineError('torch engine takes DepthToSpace of mode CRD only')
    return F.pixel_shuffle(x, a['blocksize'])


def _zeros(a: Attributes, shape: torch.Tensor) -> torch.Tensor:
    if 'value' in a:
        raise EngineError('torch engine takes ConstantOfShape of zeros only')
    return torch.zeros(shape.tolist(), device=shape.device)


def _gather(a: Attributes, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return x.index_select(a.get('axis', 0), places)


def _unsqueeze(a: Attributes, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    for axis in axes.tolist():
        x = x.unsqueeze(axis)
    return x


def _scatter(
    a: Attributes, x: torch.Tensor, places: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    if a.get('reduction', b'none') != b'none':
        raise EngineError('torch engine takes ScatterND without reduction only')
    return x.index_put(tuple(places.unbind(-1)), values)


def _clip(
    a: Attributes,
    x: torch.Tensor,
    low: torch.Tensor | None = None,
    high: torch.Tensor | None = None,
) -> torch.Tensor:
    return torch.clamp(x, low, high)


_OPERATORS: dict[str, Operator] = {
    'Add': lambda a, x, y: x + y,
    'AveragePool': _average_pool,
    'Clip': _clip,
    'Concat': lambda a, *xs: torch.cat(xs, a['axis']),
    'ConstantOfShape': _zeros,
    'Conv': _conv,
    'DepthToSpace': _depth_to_space,
    'Flatten': lambda a, x: x.flatten(a.get('axis', 1)),
    'Gather': _gather,
    'Gemm': _gemm,
    'GlobalAveragePool': lambda a, x: x.mean((2, 3), keepdim=True),
    'GlobalMaxPool': lambda a, x: x.amax((2, 3), keepdim=True),
    'HardSigmoid': lambda a, x: (a.get('alpha', 0.2) * x + a.get('beta', 0.5)).clamp(0, 1),
    'HardSwish': lambda a, x: F.hardswish(x),
    'Identity': lambda a, x: x,
    'MaxPool': _max_pool,
    'Mul': lambda a, x, y: x * y,
    'Relu': lambda a, x: F.relu(x),
    'Reshape': lambda a, x, shape: x.reshape(shape.tolist()),
    'ScatterND': _scatter,
    'Sigmoid': lambda a, x: torch.sigmoid(x),
    'Unsqueeze': _unsqueeze,
}
