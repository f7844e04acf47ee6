# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small synthetic bundles for tests: random weights by seed, no torch, no data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sparse_split_ros.link.codec import Codec, calibrate
from sparse_split_ros.runtime.bundle import Bundle, write_manifest

CODECS = ('none', 'fp16', 'int8', 'int4', 'int8+zstd', 'int4+zstd')


def make_bundle(
    path: str | os.PathLike[str],
    *,
    classes: int | Sequence[str] | Mapping[str, Sequence[str]] = 5,
    channels: Sequence[int] = (8, 12, 16),
    size: int = 16,
    exits: Sequence[int] | None = None,
    bottleneck: int | None = 4,
    split: int = 1,
    codec: str = 'int8+zstd',
    threshold: float = 0.9,
    seed: int = 0,
    name: str = 'synthetic',
) -> Bundle:
    """Write a convolution-ReLU-pool network of `len(channels)` stages on 3 x size x size input.

    `exits` are the stages with one (all by default; the last always has one). `bottleneck` is the
    number of channels that travel, None for no encoder and decoder. `classes` of several tasks are
    given by their names.
    """
    rng = np.random.default_rng(seed)
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    stages: list[dict[str, Any]] = []
    shape = (3, size, size)
    for index, width in enumerate(channels):
        weight = rng.normal(0, (2 / (9 * shape[0])) ** 0.5, (width, shape[0], 3, 3))
        nodes = [
            helper.make_node('Conv', ['x', 'w', 'b'], ['c'], pads=[1, 1, 1, 1]),
            helper.make_node('Relu', ['c'], ['r']),
            helper.make_node('MaxPool', ['r'], ['y'], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        out = (width, shape[1] // 2, shape[2] // 2)
        bias = rng.normal(0, 0.1, width)
        size_of = _save(directory / f'stage_{index}.onnx', nodes, shape, out, w=weight, b=bias)
        macs = 9 * shape[0] * width * shape[1] * shape[2]
        stages.append(
            _record(f'stage_{index}.onnx', weight.size + width, size_of, macs)
            | {'name': f'stage {index}', 'output_shape': list(out)}
        )
        shape = out
    several = isinstance(classes, Mapping)
    names: dict[str, list[str]] = (
        {task: list(each) for task, each in classes.items()} if isinstance(classes, Mapping)
        else {'': [f'class {i}' for i in range(classes)] if isinstance(classes, int)
              else list(classes)}
    )  # fmt: skip
    count = len([*chain(*names.values())])
    wanted = sorted({*(range(len(channels)) if exits is None else exits), len(channels) - 1})
    exit_records = [_exit(directory, rng, stages[stage], stage, count) for stage in wanted]
    for record in exit_records if several else ():
        record['temperature'] = [1.5 - 0.5 * task for task in range(len(names))]
    splits = [
        _split(directory, rng, stages[stage], stage, bottleneck)
        for stage in range(len(channels) - 1)
    ]
    return _write(
        directory, name, names, size, stages, exit_records, splits,
        {'split': split, 'threshold': threshold, 'codec': codec},
    )  # fmt: skip


def make_identity_bundle(
    path: str | os.PathLike[str], *, payload: int = 1024, classes: int = 4
) -> Bundle:
    """Write a two-stage bundle that computes almost nothing and sends `payload` bytes.

    `payload` is 4 * side * side for a whole side: 1024 (16 x 16) and 65536 (128 x 128) among them.
    """
    side = round((payload / 4) ** 0.5)
    if 4 * side * side != payload:
        raise ValueError(f'payload {payload}: expected 4 * side * side bytes')
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    pick = np.zeros((1, 3, 1, 1))
    pick[0, 0] = 1.0
    shape = (1, side, side)
    first = [helper.make_node('Conv', ['x', 'w'], ['y'])]
    size_of = _save(directory / 'stage_0.onnx', first, (3, side, side), shape, w=pick)
    second = [helper.make_node('Identity', ['x'], ['y'])]
    size_of_second = _save(directory / 'stage_1.onnx', second, shape, shape)
    stages = [
        _record('stage_0.onnx', 3, size_of, 3 * side * side) | {'name': 'pick'},
        _record('stage_1.onnx', 0, size_of_second, 0) | {'name': 'identity'},
    ]
    for stage in stages:
        stage['output_shape'] = list(shape)
    rng = np.random.default_rng(0)
    exits = [_exit(directory, rng, stages[stage], stage, classes) for stage in (0, 1)]
    split = {'stage': 0, 'shape': list(shape), 'encoder': None, 'decoder': None}
    split['codecs'] = {'none': {'mean_bytes': payload, 'disagreement': 0.0}}
    return _write(
        directory, 'identity', {'': [f'class {i}' for i in range(classes)]}, side, stages, exits,
        [split], {'split': 0, 'threshold': 1.0, 'codec': 'none'},
    )  # fmt: skip


def make_level_bundle(path: str | os.PathLike[str], *, classes: int = 40) -> Bundle:
    """Write a two-stage bundle whose two exits always agree: the class is how red the image is.

    Class k is the level 255 * k / (classes - 1); half way between two levels is full of doubt.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    pick = np.zeros((1, 3, 1, 1))
    pick[0, 0] = 1.0
    shape = (1, 8, 8)
    levels = np.linspace(-2, 2, classes)[:, None]
    stages, exits = [], []
    for index, (first, body, weights) in enumerate((
        ((3, 8, 8), helper.make_node('Conv', ['x', 'w'], ['y']), {'w': pick}),
        (shape, helper.make_node('Identity', ['x'], ['y']), {}),
    )):  # fmt: skip
        size_of = _save(directory / f'stage_{index}.onnx', [body], first, shape, **weights)
        stages.append(_record(f'stage_{index}.onnx', 0, size_of, 1000) | {
            'name': f'stage {index}', 'output_shape': list(shape)
        })  # fmt: skip
        # The nearest level: -(x - c)² / 2 without the term in x alone, which all classes share.
        nodes = [
            helper.make_node('GlobalAveragePool', ['x'], ['p']),
            helper.make_node('Flatten', ['p'], ['f']),
            helper.make_node('Gemm', ['f', 'w', 'b'], ['y'], transB=1),
        ]
        model = f'exit_{index}.onnx'
        size_of = _save(
            directory / model, nodes, shape, (classes,),
            w=2000 * levels, b=-1000 * levels[:, 0] ** 2,
        )  # fmt: skip
        record = _record(model, 2 * classes, size_of, classes)
        exits.append(record | {'stage': index, 'temperature': 1.0, 'accuracy': None, 'ece': None})
    split = {'stage': 0, 'shape': list(shape), 'encoder': None, 'decoder': None}
    split['codecs'] = {'none': {'mean_bytes': 256, 'disagreement': 0.0}}
    return _write(
        directory, 'levels', {'': [f'level {k}' for k in range(classes)]}, 8, stages, exits,
        [split], {'split': 0, 'threshold': 0.9, 'codec': 'none'},
    )  # fmt: skip


def _write(
    directory: Path,
    name: str,
    classes: dict[str, list[str]],
    size: int,
    stages: list[dict[str, Any]],
    exits: list[dict[str, Any]],
    splits: list[dict[str, Any]],
    defaults: dict[str, Any],
) -> Bundle:
    spec = {'shape': [3, size, size], 'color': 'rgb', 'scale': 1 / 255}
    spec |= {'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.25, 0.25]}
    tasks = [{'name': task, 'classes': each} for task, each in classes.items()]
    said = {'classes': classes['']} if '' in classes else {'tasks': tasks}
    manifest = {'name': name, **said, 'input': spec, 'stages': stages}
    manifest |= {'exits': exits, 'splits': splits, 'defaults': defaults, 'training': {}}
    return write_manifest(directory, manifest)


def _exit(
    directory: Path, rng: np.random.Generator, stage: dict[str, Any], index: int, classes: int
) -> dict[str, Any]:
    width, shape = stage['output_shape'][0], tuple(stage['output_shape'])
    nodes = [
        helper.make_node('GlobalAveragePool', ['x'], ['p']),
        helper.make_node('Flatten', ['p'], ['f']),
        helper.make_node('Gemm', ['f', 'w', 'b'], ['y'], transB=1),
    ]
    weight, bias = rng.normal(0, 2, (classes, width)), rng.normal(0, 0.1, classes)
    model = f'exit_{index}.onnx'
    size_of = _save(directory / model, nodes, shape, (classes,), w=weight, b=bias)
    record = _record(model, weight.size + classes, size_of, classes * width)
    return record | {'stage': index, 'temperature': 1.5, 'accuracy': None, 'ece': None}


def _split(
    directory: Path, rng: np.random.Generator, stage: dict[str, Any], index: int, width: int | None
) -> dict[str, Any]:
    shape = tuple(stage['output_shape'])
    record: dict[str, Any] = {'stage': index, 'encoder': None, 'decoder': None}
    coded = shape
    if width is not None:
        coded = (width, *shape[1:])
        mix = rng.normal(0, shape[0] ** -0.5, (width, shape[0], 1, 1))
        conv = [helper.make_node('Conv', ['x', 'w'], ['y'])]
        record |= {'encoder': f'encoder_{index}.onnx', 'decoder': f'decoder_{index}.onnx'}
        _save(directory / record['encoder'], conv, shape, coded, w=mix)
        _save(directory / record['decoder'], conv, coded, shape, w=mix.transpose(1, 0, 2, 3))
    samples = np.abs(rng.normal(0, 1, (64, *coded))).astype(np.float32)
    codecs = {}
    for codec in CODECS:
        params = calibrate(samples[:48], codec)
        coder = Codec.from_calibration(codec, coded, params)
        sizes = [len(coder.encode(row)) for row in samples[48:]]
        codecs[codec] = params | {'mean_bytes': float(np.mean(sizes)), 'disagreement': 0.0}
    return record | {'shape': list(coded), 'codecs': codecs}


def _record(model: str, parameters: int, stored_bytes: int, macs: int) -> dict[str, Any]:
    return {'model': model, 'parameters': parameters, 'stored_bytes': stored_bytes, 'macs': macs}


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    out: tuple[int, ...],
    **weights: np.ndarray,
) -> int:
    x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ['N', *shape])
    y = helper.make_tensor_value_info('y', TensorProto.FLOAT, ['N', *out])
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, path.stem, [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    path.write_bytes(data)
    return len(data)
