# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint becomes a bundle: models, temperatures, codecs, costs and a record of its quality.

Temperatures and disagreements come from the selection split, codec ranges and dictionaries from the
training split; the report split is measured once, at the end, through the finished bundle.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparse_split_ros.data.datasets import LabelledImages, augment, join, load_drawn
from sparse_split_ros.link.codec import Codec, calibrate
from sparse_split_ros.networks.account import account
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.runtime.bundle import Bundle, InputSpec, write_manifest
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.preprocess import normalise
from sparse_split_ros.training.calibrate import fit_temperature
from sparse_split_ros.training.joint import (
    DRAWN_SELECTION,
    Recipe,
    TrainingError,
    input_spec,
    load_checkpoint,
    load_split,
    predict,
)
from sparse_split_ros.training.measure import (
    REPORT_DRIVE,
    calibrated,
    mean_accuracy,
    measure,
    prepare_conditions,
    prepare_drive,
    prepare_set,
)
from sparse_split_ros.training.onnx_graph import ExportError, to_onnx

TOLERANCE = 1e-4
SHIPPED_CODECS = ('none', 'fp16', 'int8', 'int4', 'int8+zstd', 'int4+zstd')
_CALIBRATION_IMAGES = 4000
_VERIFIED_IMAGES = 1000
_CONDITIONS_LEVEL, _CONDITIONS_STRIDE = 3, 5


def export(
    checkpoint: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Write the bundle of `checkpoint` to `bundle_dir`; an older one goes only when all is well.

    `data` is the data directory (SPARSE_SPLIT_DATA without it). Raises ExportError, TrainingError,
    DatasetError, BundleError.
    """
    network, recipe, meta = load_checkpoint(checkpoint)
    training = load_split(recipe, data, 'train')
    selection = load_split(recipe, data, 'select')
    _check_data(recipe, meta, selection)
    images = {'train': len(training), 'select': len(selection)}
    if recipe.drawn:
        size = training.images.shape[1]
        training = join(training, load_drawn(len(training) // 8, size, 2 * recipe.seed))
    directory = Path(bundle_dir)
    with _Replacing(directory) as partial:
        classes = tuple(meta['classes'])
        harder = calibration_set(recipe, selection)
        manifest = build_bundle(network, recipe, classes, training, selection, harder, partial)
        record = {
            'commands': [
                f'sparse-split train {recipe.name}.yaml --data DATA --out RUN',
                'sparse-split export RUN BUNDLE --data DATA',
            ],
            'images': images,
            'steps': meta['steps'],
            'chosen': meta['history'][-1],
        }
        bundle = Bundle.load(partial)
        manifest['training'] |= record | {'report': _report(bundle, recipe, data)}
        reported = manifest['training']['report'][recipe.dataset]['exits']
        for exit_ in manifest['exits']:
            exit_ |= {k: reported[str(exit_['stage'])][k] for k in ('accuracy', 'ece')}
        write_manifest(partial, manifest)
    return Bundle.load(directory)


def _check_data(recipe: Recipe, meta: Mapping[str, Any], selection: LabelledImages) -> None:
    """Refuse data other than the run's: images it learned from could be reported as held out.

    Whatever moves the border of a report split changes the selection split, which lies between it
    and the training split.
    """
    if list(selection.classes) != meta['classes']:
        raise TrainingError(
            f'the checkpoint knows the classes {", ".join(meta["classes"])}, the data holds '
            f'{", ".join(selection.classes)}: give the data it was trained on'
        )
    known = meta.get('chosen_on', {}).get(recipe.dataset)
    if known not in (None, selection.digest()):
        raise TrainingError(
            'the data has changed since the training, so its report part may hold images that '
            'were trained on: train again'
        )


def build_bundle(
    network: StagedNetwork,
    recipe: Recipe,
    classes: tuple[str, ...],
    training: LabelledImages,
    selection: LabelledImages,
    calibration: LabelledImages,
    directory: Path,
) -> dict[str, Any]:
    """Write a verified bundle into the empty `directory`; its manifest, to be completed.

    Codecs are calibrated on `training` and measured on `selection`; temperatures are fitted on
    `calibration`.
    Raises ExportError when the models do not answer as the network does within TOLERANCE.
    """
    network = network.eval()
    spec = input_spec(recipe, network)
    shapes = [network.input_shape]
    stages = []
    for index, stage in enumerate(network.stages):
        record = _write(directory, f'stage_{index}', stage, shapes[-1])
        shapes.append(_three(account(stage, shapes[-1]).output_shape))
        stages.append({'name': f'stage {index}', **record, 'output_shape': list(shapes[-1])})
    logits = predict(network, calibration.images, spec)
    exits = []
    for index in network.exit_stages:
        temperature = fit_temperature(logits[index], calibration.labels)
        record = _write(directory, f'exit_{index}', network.exit_at(index), shapes[index + 1])
        figures = calibrated(logits[index], temperature, calibration.labels)
        exits.append({'stage': index, **record, 'temperature': round(temperature, 5), **figures})
    splits = [
        _split(network, index, shapes[index + 1], spec, training, selection, directory)
        for index in network.split_stages
    ]
    manifest = {
        'name': recipe.name,
        'classes': list(classes),
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
        'defaults': {'split': recipe.split, 'threshold': recipe.threshold, 'codec': recipe.codec},
        'training': {'recipe': _plain(recipe), 'torch': torch.__version__},
    }
    verify(write_manifest(directory, manifest), network, selection.images[:_VERIFIED_IMAGES])
    return manifest


def calibration_set(recipe: Recipe, selection: LabelledImages) -> LabelledImages:
    """The selection split as it is, once more in the recipe's weather, and drawn signs.

    On clean images alone a good network makes too few mistakes to say how sure it should be, and
    would be far too sure in fog.
    """
    mixed = selection
    if recipe.weather:
        how, rng = replace(recipe.augmentation, weather=1.0), np.random.default_rng(recipe.seed)
        changed = np.stack([augment(rng, image, how) for image in selection.images])
        mixed = join(mixed, replace(selection, images=changed))
    if recipe.drawn:
        size = selection.images.shape[1]
        drawn = load_drawn(DRAWN_SELECTION * len(selection.classes), size, 2 * recipe.seed + 1)
        mixed = join(mixed, drawn)
    return mixed


def verify(bundle: Bundle, network: StagedNetwork, images: NDArray[np.uint8]) -> float:
    """The largest difference between bundle and network over all logits and codes of `images`.

    Raises ExportError when it is above TOLERANCE.
    """
    engine = load_engine(bundle)
    x = normalise(images, bundle.input)
    thresholds: list[float | None] = [0.0] * len(bundle.stages)
    answers = engine.run(x, 0, bundle.final, thresholds, stop=False).logits
    worst = 0.0
    with torch.inference_mode():
        expected = network(torch.from_numpy(x)).logits
        for stage, values in expected.items():
            worst = max(worst, float(np.abs(values.numpy() - answers[stage]).max()))
        for split in network.split_stages:
            features = engine.run(x, 0, split, thresholds, stop=False).features
            assert features is not None
            bottleneck = network.bottleneck_at(split)
            codes = bottleneck.encoder(torch.from_numpy(features))
            restored = bottleneck.decoder(codes).numpy()
            coded = engine.encode(features, split)
            worst = max(worst, float(np.abs(codes.numpy() - coded).max()))
            worst = max(worst, float(np.abs(restored - engine.decode(codes.numpy(), split)).max()))
    if not worst <= TOLERANCE:
        raise ExportError(
            f'the bundle answers {worst:.2e} off the network, more than {TOLERANCE:g}'
        )
    return worst


def _write(directory: Path, name: str, module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    data = to_onnx(module, shape, name)
    (directory / f'{name}.onnx').write_bytes(data)
    cost = account(module, shape)
    return {
        'model': f'{name}.onnx',
        'parameters': cost.parameters,
        'stored_bytes': len(data),
        'macs': cost.macs,
    }


@torch.inference_mode()
def _split(
    network: StagedNetwork,
    index: int,
    shape: tuple[int, int, int],
    spec: InputSpec,
    training: LabelledImages,
    selection: LabelledImages,
    directory: Path,
) -> dict[str, Any]:
    """Write encoder and decoder of one split; calibrate every codec and say what it costs."""
    bottleneck = network.bottleneck_at(index)
    encoder = _write(directory, f'encoder_{index}', bottleneck.encoder, shape)
    coded_shape = _three(account(bottleneck.encoder, shape).output_shape)
    decoder = _write(directory, f'decoder_{index}', bottleneck.decoder, coded_shape)
    some = np.random.default_rng(0).permutation(len(training))[:_CALIBRATION_IMAGES]
    learned = _codes(network, index, training.images[some], spec)
    seen = _codes(network, index, selection.images, spec)
    whole = predict(network, selection.images, spec)
    uncut = whole[max(whole)].argmax(axis=1)
    answers: dict[int, NDArray[np.int64]] = {}
    codecs: dict[str, Any] = {}
    for name in SHIPPED_CODECS:
        # The encoder's outputs are bounded by construction, so nothing is clipped.
        params = calibrate(learned, name, clip=0.0)
        codec = Codec.from_calibration(name, coded_shape, params)
        payloads = [codec.encode(row) for row in seen]
        if codec.id.bits not in answers:
            arrived = np.concatenate([codec.decode(payload) for payload in payloads])
            answers[codec.id.bits] = _finish(network, index, arrived)
        differ = int((answers[codec.id.bits] != uncut).sum())
        codecs[name] = params | {
            'mean_bytes': round(float(np.mean([len(p) for p in payloads])), 2),
            'max_bytes': max(len(payload) for payload in payloads),
            'disagreement': round(differ / len(uncut), 5),
            'disagreement_bound': round(_upper_bound(differ, len(uncut)), 5),
        }
    return {
        'stage': index,
        'shape': list(coded_shape),
        'encoder': encoder['model'],
        'decoder': decoder['model'],
        'encoder_macs': encoder['macs'],
        'decoder_macs': decoder['macs'],
        'codecs': codecs,
    }


def _codes(
    network: StagedNetwork, index: int, images: NDArray[np.uint8], spec: InputSpec
) -> NDArray[np.float32]:
    """What the encoder of a split gives for images (N, H, W, 3): (N, C, H', W') in [0, 1]."""
    parts = []
    for first in range(0, len(images), 256):
        x = torch.from_numpy(normalise(images[first : first + 256], spec))
        for stage in network.stages[: index + 1]:
            x = stage(x)
        parts.append(network.bottleneck_at(index).encoder(x).numpy())
    return np.concatenate(parts)


def _finish(network: StagedNetwork, index: int, codes: NDArray[np.float32]) -> NDArray[np.int64]:
    """The final exit's class (N,) for codes that arrived behind a split."""
    parts = []
    for first in range(0, len(codes), 256):
        x = network.bottleneck_at(index).decoder(torch.from_numpy(codes[first : first + 256]))
        for stage in network.stages[index + 1 :]:
            x = stage(x)
        parts.append(network.exit_at(network.exit_stages[-1])(x).numpy().argmax(axis=1))
    return np.concatenate(parts)


def _upper_bound(events: int, trials: int) -> float:
    """95 % upper bound of a share, Wilson's score interval, one-sided.

    Wilson, "Probable inference", J. Am. Stat. Assoc. 22, 1927. It takes frames as independent.
    """
    z, share = 1.6449, events / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return (centre + spread) / (1 + z * z / trials)


def _report(bundle: Bundle, recipe: Recipe, data: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Figures on the report split, and on a drive of an unseen seed for what knows drawn signs."""
    held_out = prepare_set(load_split(recipe, data, 'report'), bundle.input)
    report: dict[str, Any] = {recipe.dataset: measure(bundle, held_out)}
    if recipe.weather:
        images = load_split(recipe, data, 'report')
        some = images.take(np.arange(0, len(images), _CONDITIONS_STRIDE))
        conditions = prepare_conditions(some, bundle.input, _CONDITIONS_LEVEL, recipe.seed)
        accuracies = {
            name: measure(bundle, changed)['exits'][str(bundle.final)]['accuracy']
            for name, changed in conditions
        }
        report['conditions'] = {
            'level': _CONDITIONS_LEVEL,
            'every': _CONDITIONS_STRIDE,
            'unseen': sorted(set(accuracies) - set(recipe.conditions) - {'day'}),
            'final_accuracy': accuracies,
        }
    if recipe.drawn:
        drive = prepare_drive(REPORT_DRIVE, bundle.classes, bundle.input)
        scenes = {scene: measure(bundle, frames) for scene, frames in drive.items()}
        report['drive'] = {
            'seed': REPORT_DRIVE.seed,
            'severity': REPORT_DRIVE.severity,
            'mean_accuracy': mean_accuracy(scenes.values(), bundle.final),
            'scenes': scenes,
        }
    return report


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ExportError(f'a stage or encoder gave shape {shape}, expected (C, H, W)')
    return shape[0], shape[1], shape[2]


def _plain(recipe: Recipe) -> dict[str, Any]:
    values: Mapping[str, Any] = vars(recipe)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


class _Replacing:
    """A fresh directory that takes the place of `target` if the block ends well."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._partial = Path(tempfile.mkdtemp(prefix='.bundle-', dir=self._target.parent))
        self._partial.chmod(0o755)
        return self._partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self._target.exists():
                shutil.rmtree(self._target)
            self._partial.rename(self._target)
        else:
            shutil.rmtree(self._partial)
