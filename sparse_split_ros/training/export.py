# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint becomes a bundle: models, temperatures, codecs, costs and a record of its quality.

Temperatures, disagreements and what the policies start with come from the selection split, codec
ranges and dictionaries from the training split; the report split is measured once, at the end,
through the finished bundle. The record is also written beside the checkpoint, as report.json and as
a picture of how honest the confidences are, so that runs of several seeds can be compared.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparse_split_ros.data import weather
from sparse_split_ros.data.augment import augment
from sparse_split_ros.data.datasets import LabelledImages, join
from sparse_split_ros.data.drawn import load_drawn
from sparse_split_ros.evaluation.simulate import calibration_of
from sparse_split_ros.evaluation.table import tabulate
from sparse_split_ros.runtime.bundle import MANIFEST, Bundle, write_manifest
from sparse_split_ros.runtime.engine import Engine, load_engine
from sparse_split_ros.training.assemble import build_bundle
from sparse_split_ros.training.checkpoint import load_checkpoint
from sparse_split_ros.training.measure import (
    REPORT_DRIVE,
    answers,
    beside_int8,
    by_scene,
    figures,
    in_conditions,
    mean_accuracy,
    measure,
)
from sparse_split_ros.training.pictures import draw_reliability
from sparse_split_ros.training.program import ExportError
from sparse_split_ros.training.recipe import Recipe, TrainingError, load_split
from sparse_split_ros.training.train import DRAWN_SELECTION

_CONDITIONS_LEVEL, _CONDITIONS_STRIDE = 3, 5
_POLICY_IMAGES, _POLICY_ROWS = 600, 512
_log = logging.getLogger(__name__)


def export(
    checkpoint: str | os.PathLike[str],
    bundle_dir: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
) -> Bundle:
    """Write the bundle of `checkpoint` to `bundle_dir`; an older one goes only when all is well.

    `data` is the data directory (SPARSE_SPLIT_DATA without it). Raises ExportError, TrainingError,
    DatasetError, BundleError.
    """
    replacing = _Replacing(Path(bundle_dir))
    network, recipe, meta = load_checkpoint(checkpoint)
    torch.set_num_threads(recipe.threads)
    training = load_split(recipe, data, 'train')
    selection = load_split(recipe, data, 'select')
    _check_data(recipe, meta, training, selection)
    images = {'train': len(training), 'select': len(selection)}
    run = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
    drawn = None
    if recipe.drawn:
        training = join(training, _drawn_training(recipe, training, run / 'drawn.npz'))
        size, count = training.images.shape[1], DRAWN_SELECTION * len(training.classes)
        # Those that helped to choose the epoch.
        drawn = load_drawn(count, size, 2 * recipe.seed + 1, tasks=training.tasks)
    measured = recipe
    if weather.TASK in selection.tasks:  # the images come with theirs, and none is put on them
        measured = replace(recipe, weather=0.0, conditions=())
    with replacing as partial:
        sets = calibration_sets(measured, selection, drawn)
        mixed = functools.reduce(join, sets.values())
        manifest = build_bundle(network, recipe, training, selection, mixed, partial)
        record = {
            'commands': [
                f'sparse-split train {recipe.name}.yaml --data DATA --out RUN',
                'sparse-split export RUN BUNDLE --data DATA',
            ],
            'images': images,
            'origin': training.origin or recipe.dataset,
            'steps': meta['steps'],
            'chosen': meta['history'][-1],
        }
        written = Bundle.load(partial)
        engine = load_engine(written, 'onnxruntime')
        calibration = policy_calibration(engine, measured, selection, drawn)
        report, bins = _report(engine, measured, load_split(recipe, data, 'report'))
        manifest['training'] |= record | {'calibration': calibration, 'report': report}
        manifest['training']['int8'] = beside_int8(written, sets)
        reported = report[recipe.dataset]['exits']
        for exit_ in manifest['exits']:
            found = reported[str(exit_['stage'])]
            exit_ |= {k: found[k] for k in ('accuracy', 'ece')}
            if 'tasks' in found:
                exit_['tasks'] = {name: marks['accuracy'] for name, marks in found['tasks'].items()}
        write_manifest(partial, manifest)
    bundle = Bundle.load(bundle_dir)
    _keep(run, bundle, recipe, report, bins)
    return bundle


def _check_data(
    recipe: Recipe, meta: Mapping[str, Any], training: LabelledImages, selection: LabelledImages
) -> None:
    """Refuse data other than the run's: images it learned from could be reported as held out."""
    tasks = {name: list(classes) for name, classes in selection.tasks.items()}
    if tasks != meta.get('tasks', {'': meta['classes']}):
        raise TrainingError(
            f'the checkpoint knows the classes {", ".join(meta["classes"])}, the data holds '
            f'{", ".join(selection.classes)}: give the data it was trained on'
        )
    parts = [(meta.get('chosen_on', {}).get(recipe.dataset), selection)]
    if not recipe.drawn:  # which join a data set that nobody adds to
        parts.append((meta.get('learned_on'), training))
    if any(known not in (None, images.digest()) for known, images in parts):
        raise TrainingError(
            'the data has changed since the training, so its report part may hold images that '
            'were trained on: train again'
        )


def _drawn_training(recipe: Recipe, training: LabelledImages, cache: Path) -> LabelledImages:
    """Some of the drawn signs that the network learned on, an eighth of the real images."""
    size, seed = training.images.shape[1], 2 * recipe.seed
    some = min(recipe.drawn, len(training) // 8)
    if not cache.is_file():
        return load_drawn(some, size, seed, tasks=training.tasks)
    whole = load_drawn(recipe.drawn, size, seed, cache, training.tasks)
    return whole.take(np.arange(some))


def calibration_sets(
    recipe: Recipe, selection: LabelledImages, drawn: LabelledImages | None
) -> dict[str, LabelledImages]:
    """The selection split as it is, once more in the recipe's weather, and `drawn` signs.

    On clean images alone a good network makes too few mistakes to say how sure it should be, and
    would be far too sure in fog.
    """
    sets = {'selection': selection}
    if recipe.weather:
        how, rng = replace(recipe.augmentation, weather=1.0), np.random.default_rng(recipe.seed)
        changed = np.stack([augment(rng, image, how) for image in selection.images])
        sets['weather'] = replace(selection, images=changed)
    return sets if drawn is None else sets | {'drawn': drawn}


def policy_calibration(
    engine: Engine, recipe: Recipe, selection: LabelledImages, drawn: LabelledImages | None
) -> dict[str, Any]:
    """What the exits say of the selection split by scene, which a robot's policies start from.

    Every track is seen as it is and in each weather of the recipe at two severities, and the scene
    is measured along it as on the robot. Drawn signs bring the weather that they were drawn in.
    """
    conditions = [('day', 0)]
    conditions += [(name, level) for name in dict.fromkeys(recipe.conditions) for level in (2, 4)]
    stride = max(1, len(selection) // _POLICY_IMAGES)
    some = selection.take(np.arange(0, len(selection), stride))
    table = tabulate(engine, some.images, some.combined, some.groups, conditions, recipe.seed)
    if drawn is not None:
        table = table.joined(tabulate(engine, drawn.images, drawn.combined, drawn.groups))
    return calibration_of(table).thinned(_POLICY_ROWS, recipe.seed).to_json()


Bins = dict[int, list[tuple[float, float, int]]]


def _report(
    engine: Engine, recipe: Recipe, held_out: LabelledImages
) -> tuple[dict[str, Any], Bins]:
    """Figures on the report split, and on a drive of an unseen seed for what knows drawn signs.

    The second value is the reliability of every exit on the report split.
    """
    bundle = engine.bundle
    said = answers(engine, held_out.images)
    report: dict[str, Any] = {recipe.dataset: figures(bundle, said, held_out)}
    if recipe.weather:
        some = held_out.take(np.arange(0, len(held_out), _CONDITIONS_STRIDE))
        conditions = {
            name: measure(bundle, changed, engine)['exits']
            for name, changed in in_conditions(some, _CONDITIONS_LEVEL, recipe.seed)
        }
        report['conditions'] = {
            'level': _CONDITIONS_LEVEL,
            'every': _CONDITIONS_STRIDE,
            'unseen': sorted(set(conditions) - set(recipe.conditions) - {'day'}),
            'final_accuracy': _column(conditions, str(bundle.final), 'accuracy'),
            'ece': {stage: _column(conditions, stage, 'ece') for stage in conditions['day']},
        }
    if recipe.drawn:
        drive = by_scene(REPORT_DRIVE, bundle.tasks, bundle.input)
        scenes = {scene: measure(bundle, frames, engine) for scene, frames in drive.items()}
        report['drive'] = {
            'seed': REPORT_DRIVE.seed,
            'severity': REPORT_DRIVE.severity,
            'mean_accuracy': mean_accuracy(scenes.values(), bundle.final),
            'scenes': scenes,
        }
    return report, said.reliability(held_out)


def _column(conditions: Mapping[str, Any], stage: str, figure: str) -> dict[str, float]:
    return {name: exits[stage][figure] for name, exits in conditions.items()}


def _keep(run: Path, bundle: Bundle, recipe: Recipe, report: dict[str, Any], bins: Bins) -> None:
    """Write the record beside the checkpoint; the bundle is whole without it."""
    facts = {'name': recipe.name, 'seed': recipe.seed, 'fingerprint': bundle.fingerprint.hex()}
    try:
        text = json.dumps(facts | {'report': report}, indent=1)
        (run / 'report.json').write_text(text + '\n', encoding='utf-8')
        draw_reliability(bins, run / 'reliability.png')
    except OSError as error:
        _log.warning('%s: the report is not kept beside the checkpoint: %s', run, error)


class _Replacing:
    """A fresh directory that takes the place of `target`, an older bundle, if the block ends well.

    Raises ExportError where something else would be lost.
    """

    def __init__(self, target: Path) -> None:
        self._target = target.resolve()  # what a link points to is replaced, and the link kept
        found = list(self._target.iterdir()) if self._target.is_dir() else [self._target]
        bundle = (self._target / MANIFEST).is_file() and not any(path.is_dir() for path in found)
        if any(path.exists() for path in found) and not bundle:
            raise ExportError(
                f'{target}: holds something else than a bundle, which would be lost: give a new '
                'directory, or a bundle to replace'
            )

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
