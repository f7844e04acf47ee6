# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle's operations and weights, read from graph.json and weights.safetensors.

What a field *is* (its type, its range, the tensor it names) is checked here; whether the operations
*fit* each other is checked where they are planned. The weights stay views of the file's bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.runtime.bundle import GRAPH_FORMAT
from sparse_split_ros.runtime.engine import EngineError

Tensors = Mapping[str, NDArray[Any]]
Shape = tuple[int, ...]

_FLOAT, _INTEGER = np.dtype('<f4'), np.dtype('<i4')
_DTYPES = {'F32': _FLOAT, 'I32': _INTEGER}
_MAX_HEADER_BYTES = 64 << 20
_MAX_SIDE = 1 << 16
_MAX_ELEMENTS = 1 << 26
_MAX_OPERATIONS = 1 << 12


class GraphError(EngineError):
    """graph.json or weights.safetensors is malformed, or says what cannot be."""


@dataclass(frozen=True)
class Operation:
    """One operation: the tensors it reads and writes by name, and what its kind needs."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    range: float
    """Largest absolute value of the output on the calibration images."""
    fields: Mapping[str, Any]
    """Weights as arrays, windows as pairs, numbers; None where an optional one is left out."""


@dataclass(frozen=True)
class Model:
    """The operations of one model, in order: tensor 'x' is its input, 'y' its output."""

    name: str
    input: Shape
    output: Shape
    input_range: float
    operations: tuple[Operation, ...]


class Graph:
    """The models of a bundle by the stem of their ONNX file; each is parsed when it is asked for.

    Raises GraphError, as `model` does.
    """

    def __init__(self, graph: bytes, weights: bytes) -> None:
        try:
            root = json.loads(graph.decode('utf-8'))
        except (ValueError, RecursionError) as error:
            raise GraphError(f'graph.json: not valid JSON: {error}') from error
        where = 'graph.json'
        version = _text(_get(root, 'format', where), f'{where}: format')
        if version != GRAPH_FORMAT:
            raise GraphError(
                f'{where}: format {version!r}, this release reads {GRAPH_FORMAT!r}: export it again'
            )
        self._models = _mapping(_get(root, 'models', where), f'{where}: models')
        self._tensors = read_safetensors(weights)

    def model(self, name: str) -> Model:
        """The model called `name`."""
        where = f'graph.json: {name}'
        record = _mapping(_get(self._models, name, 'graph.json: models'), where)
        operations = _list(_get(record, 'operations', where), f'{where}: operations')
        if len(operations) > _MAX_OPERATIONS:
            raise GraphError(f'{where}: {len(operations)} operations, at most {_MAX_OPERATIONS}')
        return Model(
            name,
            _shape(_get(record, 'input', where), f'{where}: input'),
            _shape(_get(record, 'output', where), f'{where}: output'),
            _positive(_get(record, 'input_range', where), f'{where}: input_range'),
            tuple(
                self._operation(item, f'{where}: operation {index}')
                for index, item in enumerate(operations)
            ),
        )

    def _operation(self, record: Any, where: str) -> Operation:
        kind = _text(_get(record, 'op', where), f'{where}: op')
        inputs = _list(_get(record, 'inputs', where), f'{where}: inputs')
        fields: dict[str, Any] = {}
        for field, parse in (_FIELDS.get(kind, {}) | _TENSORS.get(kind, {})).items():
            value = record.get(field) if field in _OPTIONAL else _get(record, field, where)
            place = f'{where} ({kind}): {field}'
            if value is None and field in _OPTIONAL:
                fields[field] = None
            elif isinstance(parse, np.dtype):
                fields[field] = self._tensor(value, parse, place)
            else:
                fields[field] = parse(value, place)
        return Operation(
            kind,
            tuple(_text(item, f'{where}: inputs') for item in inputs),
            _text(_get(record, 'output', where), f'{where}: output'),
            _positive(_get(record, 'range', where), f'{where}: range'),
            fields,
        )

    def _tensor(self, value: Any, dtype: np.dtype[Any], where: str) -> NDArray[Any]:
        name = _text(value, where)
        if name not in self._tensors:
            raise GraphError(f'{where}: weights.safetensors has no tensor {name!r}')
        tensor = self._tensors[name]
        if tensor.dtype != dtype:
            raise GraphError(f'{where}: {name!r} is {tensor.dtype}, expected {dtype}')
        if dtype == _FLOAT and not np.isfinite(tensor).all():
            raise GraphError(f'{where}: {name!r} holds a value that is not finite')
        return tensor


def read_safetensors(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file of float32 and int32, views of `data` where it is aligned.

    The layout is 8 bytes little endian, the length of a JSON header, the header, the values. As
    the format demands, the tensors must fill the rest of the file without a gap or an overlap.
    Raises GraphError.
    """
    where = 'weights.safetensors'
    length = int.from_bytes(data[:8], 'little')
    if len(data) < 8 or length > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise GraphError(
            f'{where}: {len(data)} bytes cannot hold the header; the file is truncated'
        )
    try:
        header = json.loads(data[8 : 8 + length].decode('utf-8'))
    except (ValueError, RecursionError) as error:
        raise GraphError(f'{where}: the header is not valid JSON: {error}') from error
    body = len(data) - 8 - length
    tensors, spans = {}, []
    for name, record in _mapping(header, where).items():
        if name == '__metadata__':
            continue
        place = f'{where}: {name}'
        code = _text(_get(record, 'dtype', place), f'{place}: dtype')
        if code not in _DTYPES:
            raise GraphError(f'{place}: dtype {code!r}, expected F32 or I32')
        shape = [
            _integer(side, f'{place}: shape', 0, _MAX_ELEMENTS)
            for side in _list(_get(record, 'shape', place), f'{place}: shape')
        ]
        offsets = _list(_get(record, 'data_offsets', place), f'{place}: data_offsets', 2)
        start, end = (_integer(value, f'{place}: data_offsets', 0, body) for value in offsets)
        dtype, count = _DTYPES[code], math.prod(shape)
        if end - start != count * dtype.itemsize:
            raise GraphError(f'{place}: {end - start} bytes for a tensor of shape {shape}')
        values = np.frombuffer(data, dtype, count, 8 + length + start)
        try:
            values = values.reshape(shape)
        except ValueError as error:
            raise _refuse(shape, f'{place}: shape', 'one that numpy can hold') from error
        tensors[name] = values if values.flags.aligned else values.copy()
        spans.append((start, end))
    reached = 0
    for start, end in sorted(spans):
        if start != reached:
            byte = min(start, reached)
            raise GraphError(f'{where}: byte {byte} of the values is in no tensor, or in two')
        reached = end
    if reached != body:
        raise GraphError(f'{where}: {body} bytes of values, the tensors have {reached}')
    return tensors


def _get(record: Any, key: str, where: str) -> Any:
    if key not in _mapping(record, where):
        raise GraphError(f'{where}: {key!r} is missing')
    return record[key]


def _refuse(value: Any, where: str, expected: str) -> GraphError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f'{shown[:57]}...'
    return GraphError(f'{where}: expected {expected}, found {shown}')


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(value, where, 'an object')
    return value


def _list(value: Any, where: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        raise _refuse(value, where, 'a list' if length is None else f'a list of {length}')
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _refuse(value, where, 'a non-empty string')
    return value


def _integer(value: Any, where: str, low: int = 0, high: int = _MAX_SIDE) -> int:
    if type(value) is not int or not low <= value <= high:
        raise _refuse(value, where, f'a whole number from {low} to {high}')
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) < 3e38:
        raise _refuse(value, where, 'a finite number')
    return float(value)


def _positive(value: Any, where: str) -> float:
    if _number(value, where) < 0:
        raise _refuse(value, where, 'a number of at least 0')
    return float(value)


def _flag(value: Any, where: str) -> bool:
    if type(value) is not bool:
        raise _refuse(value, where, 'true or false')
    return value


def _shape(value: Any, where: str) -> Shape:
    sides = _list(value, where)
    if len(sides) not in (1, 3):
        raise _refuse(value, where, '[channels, height, width] or [features]')
    shape = tuple(_integer(side, where, 1) for side in sides)
    if math.prod(shape) > _MAX_ELEMENTS:
        raise _refuse(value, where, f'a shape of at most {_MAX_ELEMENTS} elements')
    return shape


def _pair(value: Any, where: str) -> tuple[int, int]:
    first, second = (_integer(item, where) for item in _list(value, where, 2))
    return first, second


_Parse = Callable[[Any, str], Any]
_POOL: dict[str, _Parse] = {
    'kernel': _pair, 'stride': _pair, 'padding': _pair, 'ceil_mode': _flag,
}  # fmt: skip
_FIELDS: dict[str, dict[str, _Parse]] = {
    'conv': {
        'kernel': _pair, 'stride': _pair, 'padding': _pair, 'dilation': _pair,
        'groups': _integer, 'width': _integer,
    },
    'linear': {'width': _integer},
    'hard_sigmoid': {'alpha': _number, 'beta': _number},
    'add': {'value': _number},
    'mul': {'value': _number},
    'max_pool': _POOL,
    'avg_pool': {**_POOL, 'count_include_pad': _flag},
    'pixel_shuffle': {'factor': _integer},
}  # fmt: skip
_TENSORS: dict[str, dict[str, np.dtype[Any]]] = {
    'conv': {'weight': _FLOAT, 'bias': _FLOAT, 'blocks': _INTEGER},
    'linear': {'weight': _FLOAT, 'bias': _FLOAT, 'blocks': _INTEGER, 'columns': _INTEGER},
}
_OPTIONAL = {'bias', 'blocks', 'columns', 'width', 'value'}
