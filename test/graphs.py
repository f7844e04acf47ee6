# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs for tests: graph.json and weights.safetensors beside the models of a synthetic bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sparse_split_ros.runtime.bundle import GRAPH_FORMAT, Bundle, write_manifest

Tensors = dict[str, NDArray[Any]]
_CODES = {'float32': 'F32', 'int32': 'I32'}
_WINDOW = {'kernel': [1, 1], 'stride': [1, 1], 'padding': [0, 0]}


def safetensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a safetensors file."""
    header, values = {}, b''
    for name, tensor in tensors.items():
        data = np.ascontiguousarray(tensor).tobytes()
        header[name] = {
            'dtype': _CODES[str(tensor.dtype)],
            'shape': list(tensor.shape),
            'data_offsets': [len(values), len(values) + len(data)],
        }
        values += data
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return len(text).to_bytes(8, 'little') + text + values


def graph(models: Mapping[str, Any]) -> bytes:
    """The bytes of a graph.json with these models."""
    return json.dumps({'format': GRAPH_FORMAT, 'models': models}).encode()


def model(
    inputs: tuple[int, ...], output: tuple[int, ...], operations: list[dict[str, Any]]
) -> dict[str, Any]:
    """One model of a graph."""
    return {
        'input': list(inputs),
        'output': list(output),
        'input_range': 1.0,
        'operations': operations,
    }


def operation(op: str, inputs: list[str], output: str, **fields: Any) -> dict[str, Any]:
    """One operation, of a range that nobody measured."""
    return {'op': op, 'inputs': inputs, 'output': output, 'range': 1.0, **fields}


def conv(
    x: str, y: str, weight: str, bias: str | None, kernel: list[int], **fields: Any
) -> dict[str, Any]:
    """A dense convolution, unless `fields` say otherwise."""
    return operation(
        'conv', [x], y,
        **{
            'weight': weight, 'bias': bias, 'kernel': kernel, 'stride': [1, 1],
            'padding': [0, 0], 'dilation': [1, 1], 'groups': 1, 'blocks': None, 'width': 1,
        } | fields,
    )  # fmt: skip


def add_graph(bundle: Bundle) -> Bundle:
    """Write the graph of a bundle of `bundles.py`, from its ONNX models, and load it back."""
    models: dict[str, Any] = {}
    tensors: Tensors = {}
    for path in sorted(bundle.path.glob('*.onnx')):
        models[path.stem] = _converted(path, tensors)
    return save_graph(bundle, graph(models), safetensors(tensors))


def save_graph(bundle: Bundle, graph_bytes: bytes, weights: bytes) -> Bundle:
    """Put these files into `bundle`, with their hashes."""
    (bundle.path / 'graph.json').write_bytes(graph_bytes)
    (bundle.path / 'weights.safetensors').write_bytes(weights)
    manifest = json.loads((bundle.path / 'manifest.json').read_text())
    for key in ('format', 'files'):
        manifest.pop(key)
    names = {'graph': 'graph.json', 'weights': 'weights.safetensors'}
    return write_manifest(bundle.path, manifest | names)


def _converted(path: Path, tensors: Tensors) -> dict[str, Any]:
    graph = onnx.load(path).graph
    weights = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    shapes = [
        [side.dim_value for side in value.type.tensor_type.shape.dim[1:]]
        for value in (graph.input[0], graph.output[0])
    ]
    operations = []
    names = {'x': 'x'}
    for index, node in enumerate(graph.node):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == 'Identity':
            names[node.output[0]] = names[node.input[0]]
            continue
        parts = {}
        for part, name in zip(('weight', 'bias'), node.input[1:]):
            parts[part] = f'{path.stem}.{index}.{part}'
            tensors[parts[part]] = weights[name]
        source, output = names[node.input[0]], node.output[0]
        names[output] = output
        if node.op_type == 'Conv':
            weight = weights[node.input[1]]
            padding = list(attributes.get('pads', [0, 0]))[:2]
            operations.append(
                conv(
                    source, output, parts['weight'], parts.get('bias'), list(weight.shape[2:]),
                    padding=padding,
                )
            )  # fmt: skip
        elif node.op_type == 'Gemm':
            operations.append(operation('linear', [source], output, **parts, blocks=None, width=1))
        elif node.op_type == 'MaxPool':
            window = _WINDOW | {'kernel': attributes['kernel_shape']}
            window |= {'stride': attributes['strides'], 'ceil_mode': False}
            operations.append(operation('max_pool', [source], output, **window))
        else:
            kinds = {'Relu': 'relu', 'GlobalAveragePool': 'global_avg_pool', 'Flatten': 'flatten'}
            operations.append(operation(kinds[node.op_type], [source], output))
    return model(tuple(shapes[0]), tuple(shapes[1]), operations)
