# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a bundle out of a trained network, and the proof that they answer as it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.evaluation.metrics import wilson
from sparse_split_ros.link.codec import Codec, calibrate
from sparse_split_ros.networks.account import account
from sparse_split_ros.networks.bottleneck import Bottleneck, Levels, quantise
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.policy.tasks import judge, parts
from sparse_split_ros.runtime.bundle import Bundle, InputSpec, write_manifest
from sparse_split_ros.runtime.engine import Engine, choose_engine, load_engine
from sparse_split_ros.runtime.preprocess import normalise
from sparse_split_ros.training.calibrate import fit_temperature
from sparse_split_ros.training.graph import GRAPH, WEIGHTS, write_graph
from sparse_split_ros.training.measure import calibrated
from sparse_split_ros.training.onnx_graph import to_onnx
from sparse_split_ros.training.predict import predict, rows_at_once
from sparse_split_ros.training.program import ExportError, Program, trace
from sparse_split_ros.training.recipe import SHIPPED_CODECS, Recipe, input_spec

TOLERANCE = 1e-4
_CALIBRATION_IMAGES = 4000
_VERIFIED_IMAGES = 1000


@torch.inference_mode()
def build_bundle(
    network: StagedNetwork,
    recipe: Recipe,
    training: LabelledImages,
    selection: LabelledImages,
    calibration: LabelledImages,
    directory: Path,
) -> dict[str, Any]:
    """Write a verified bundle into the empty `directory`; its manifest, to be completed.

    Codecs and the ranges of values are calibrated on `training`, codecs are measured on
    `selection`, temperatures are fitted on `calibration`. Raises ExportError when the models do not
    answer as the network does within TOLERANCE.
    """
    network = network.eval()
    spec = input_spec(recipe, network)
    learned = _some(training, _CALIBRATION_IMAGES)
    models = _Models(directory, recipe.batch_size)
    logits = predict(network, calibration.images, spec)
    whole = predict(network, selection.images, spec)
    sizes = selection.sizes
    uncut, _ = judge(whole[max(whole)], sizes)
    x = torch.from_numpy(normalise(learned[: rows_at_once(*spec.shape[1:])], spec))
    stages, exits, splits = [], [], []
    for index, stage in enumerate(network.stages):
        record, x = models.write(f'stage_{index}', stage, x)
        shape = _three(x)
        stages.append({'name': f'stage {index}', **record, 'output_shape': list(shape)})
        if index in network.exit_stages:
            record, _ = models.write(f'exit_{index}', network.exit_at(index), x)
            tasks = zip(parts(logits[index], sizes), calibration.columns)
            temperatures = [fit_temperature(*task) for task in tasks]
            figures = calibrated(logits[index], temperatures, calibration)
            rounded = [round(temperature, 5) for temperature in temperatures]
            record |= {'temperature': rounded if len(sizes) > 1 else rounded[0]}
            exits.append({'stage': index, **record} | figures)
        if index in network.split_stages:
            bottleneck = network.bottleneck_at(index)
            record, restored = models.write_cut(index, bottleneck, x)
            measured = _codecs(network, index, spec, learned, selection, uncut)
            splits.append({'stage': index, **record, 'codecs': measured})
            # The stages behind see what is computed in one place and what comes out of a decoder.
            x = torch.cat([x[::2], restored[1::2]])
    models.finish()
    manifest = {
        'name': recipe.name,
        **_said(selection),
        'input': {
            'shape': list(spec.shape),
            'color': spec.color,
            'scale': spec.scale,
            'mean': list(spec.mean),
            'std': list(spec.std),
        },
        'stages': stages,
        'exits': exits,
        'splits': splits,
        'defaults': {'split': recipe.cut, 'threshold': recipe.threshold, 'codec': recipe.codec},
        'graph': GRAPH,
        'weights': WEIGHTS,
        'training': {
            'recipe': recipe.plain(),
            'torch': torch.__version__,
        },
    }
    verify(write_manifest(directory, manifest), network, selection.images[:_VERIFIED_IMAGES])
    return manifest


def _said(data: LabelledImages) -> dict[str, Any]:
    """What the manifest has of the classes: of one task, or of several."""
    if len(data.tasks) == 1:
        return {'classes': list(data.classes)}
    tasks = data.tasks.items()
    return {'tasks': [{'name': name, 'classes': list(classes)} for name, classes in tasks]}


class _Models:
    """Writes ONNX models one by one, and at the end what the other engines read."""

    def __init__(self, directory: Path, batch: int) -> None:
        self._directory, self._batch = directory, batch
        self._programs: dict[str, Program] = {}

    def write(self, name: str, module: nn.Module, x: Tensor) -> tuple[dict[str, Any], Tensor]:
        """The manifest's record of `module` and its answer to the calibration values x."""
        program = trace(module, x, name.replace('_', ' '))
        self._programs[name] = replace(program, answer=program.answer[:0])
        data = to_onnx(program, name)
        (self._directory / f'{name}.onnx').write_bytes(data)
        cost = account(module, tuple(x.shape[1:]))
        record = {
            'model': f'{name}.onnx',
            'parameters': cost.parameters,
            'stored_bytes': len(data),
            'macs': cost.macs,
            'account': {
                'weight_bytes': cost.stored_bytes,
                'dense_bytes': cost.dense_bytes,
                'unstructured_bytes': cost.unstructured_bytes,
                'peak_bytes': cost.peak_bytes,
                'energy_uj': round(cost.energy_uj, 3),
                'dense_macs': cost.dense_macs,
                'training_bytes': cost.training_bytes(self._batch),
            },
        }
        return record, program.answer

    def write_cut(
        self, index: int, bottleneck: Bottleneck, x: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """The manifest's record of a cut, and its features x as they come out of it."""
        if isinstance(bottleneck, Levels):
            return {'shape': list(_three(x))}, quantise(x, bottleneck.bits)
        encoder, codes = self.write(f'encoder_{index}', bottleneck.encoder, x)
        coarse = quantise(codes, bottleneck.bits)
        decoder, restored = self.write(f'decoder_{index}', bottleneck.decoder, coarse)
        record = {
            'shape': list(_three(codes)),
            'encoder': encoder['model'],
            'decoder': decoder['model'],
            'encoder_macs': encoder['macs'],
            'decoder_macs': decoder['macs'],
            'account': encoder['account'],
        }
        return record, restored

    def finish(self) -> None:
        """Write graph.json and the weights it refers to."""
        write_graph(self._directory, self._programs)


def verify(bundle: Bundle, network: StagedNetwork, images: NDArray[np.uint8]) -> float:
    """The largest difference between bundle and network over all logits and codes of `images`.

    Looks at ONNX Runtime and at the engine that this machine would choose. Raises ExportError when
    the difference is above TOLERANCE.
    """
    step = rows_at_once(*images.shape[1:3])
    differences = []
    for name in sorted({'onnxruntime', choose_engine(bundle)}):
        engine = load_engine(bundle, name)
        differences += [
            _difference(engine, network, images[first : first + step])
            for first in range(0, len(images), step)
        ]
    worst = float(np.max(differences))  # of a NaN it is one, unlike max()
    if not worst <= TOLERANCE:
        raise ExportError(
            f'the bundle answers {worst:.2e} off the network, more than {TOLERANCE:g}'
        )
    return worst


def _difference(engine: Engine, network: StagedNetwork, images: NDArray[np.uint8]) -> float:
    bundle = engine.bundle
    x = normalise(images, bundle.input)
    thresholds: list[float | None] = [0.0] * len(bundle.stages)
    answers = engine.run(x, 0, bundle.final, thresholds, stop=False).logits
    found: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).logits
        for stage, values in expected.items():
            found.append(values.numpy() - answers[stage])
        for split in network.split_stages:
            features = engine.run(x, 0, split, thresholds, stop=False).features
            assert features is not None
            bottleneck = network.bottleneck_at(split)
            codes = bottleneck.encoder(torch.from_numpy(features))
            restored = bottleneck.decoder(codes).numpy()
            coded = engine.encode(features, split)
            found.append(codes.numpy() - coded)
            found.append(restored - engine.decode(codes.numpy(), split))
    return float(np.max([np.abs(item).max() for item in found]))


def _codecs(
    network: StagedNetwork,
    index: int,
    spec: InputSpec,
    learned: NDArray[np.uint8],
    data: LabelledImages,
    uncut: NDArray[np.int64],
) -> dict[str, Any]:
    """Calibrate every codec of one split on `learned`, and say what it costs on `data`.

    `uncut` (N,) are the network's labels for the images of `data` where nothing is coded.
    """
    codes = _codes(network, index, learned, spec)
    seen = _codes(network, index, data.images, spec)
    answers: dict[int, NDArray[np.int64]] = {}
    codecs: dict[str, Any] = {}
    for name in SHIPPED_CODECS:
        # The encoder's outputs are bounded by construction, so no outlier stretches their range.
        params = calibrate(codes, name, clip=0.0)
        codec = Codec.from_calibration(name, codes.shape[1:], params)
        payloads = [codec.encode(row) for row in seen]
        if codec.id.bits not in answers:
            arrived = np.concatenate([codec.decode(payload) for payload in payloads])
            answers[codec.id.bits], _ = judge(_finish(network, index, arrived), data.sizes)
        differ = int((answers[codec.id.bits] != uncut).sum())
        codecs[name] = params | {
            'mean_bytes': round(float(np.mean([len(p) for p in payloads])), 2),
            'max_bytes': max(len(payload) for payload in payloads),
            'disagreement': round(differ / len(uncut), 5),
            # 95 %, one-sided.
            'disagreement_bound': round(wilson(differ, len(uncut), z=1.6449)[1], 5),
        }
    return codecs


def _some(images: LabelledImages, count: int) -> NDArray[np.uint8]:
    return images.images[np.random.default_rng(0).permutation(len(images))[:count]]


def _codes(
    network: StagedNetwork, index: int, images: NDArray[np.uint8], spec: InputSpec
) -> NDArray[np.float32]:
    """What the encoder of a split gives for images (N, H, W, 3): (N, C, H', W') in [0, 1]."""
    parts = []
    step = rows_at_once(*images.shape[1:3])
    for first in range(0, len(images), step):
        x = torch.from_numpy(normalise(images[first : first + step], spec))
        for stage in network.stages[: index + 1]:
            x = stage(x)
        parts.append(network.bottleneck_at(index).encoder(x).numpy())
    return np.concatenate(parts)


def _finish(network: StagedNetwork, index: int, codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The final exit's logits (N, K) for codes that arrived behind a split."""
    parts = []
    step = rows_at_once(*network.input_shape[1:])
    for first in range(0, len(codes), step):
        x = network.bottleneck_at(index).decoder(torch.from_numpy(codes[first : first + step]))
        for stage in network.stages[index + 1 :]:
            x = stage(x)
        parts.append(network.exit_at(network.exit_stages[-1])(x).numpy())
    return np.concatenate(parts)


def _three(x: Tensor) -> tuple[int, int, int]:
    if x.ndim != 4:
        raise ExportError(f'a stage or encoder gave shape {tuple(x.shape[1:])}, expected (C, H, W)')
    return x.shape[1], x.shape[2], x.shape[3]
