# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's answers to a labelled data set, image by image, as a file for other programs."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sparse_split_ros.data.datasets import DatasetError, LabelledImages
from sparse_split_ros.data.registry import SOURCES
from sparse_split_ros.evaluation.table import ConfidenceTable, tabulate
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import load_engine

SUFFIXES = ('.csv', '.npz')


def confidences(
    bundle_or_path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    dataset: str = '',
    split: str = 'report',
    conditions: Sequence[tuple[str, int]] = (('day', 0),),
    engine: str = 'onnxruntime',
) -> ConfidenceTable:
    """Write what every exit of a bundle says of one split of `data` to `out`, .csv or .npz.

    `dataset` names how `data` is laid out, that of the bundle's training without one. Each
    (condition, level 0..5) of data/weather.py shows every image once more. The .npz is read by
    `ConfidenceTable.load`; `write_csv` describes the other. Raises DatasetError, BundleError,
    EngineError, WeatherError.
    """
    path = Path(out)
    if path.suffix not in SUFFIXES:
        raise DatasetError(f'{path}: expected a name that ends in {" or ".join(SUFFIXES)}')
    if not path.absolute().parent.is_dir():
        raise DatasetError(f'{path.parent}: no such directory to write {path.name} to')
    bundle = Bundle.load(bundle_path(bundle_or_path))
    images = _load(bundle, data, dataset, split)
    table = tabulate(
        load_engine(bundle, engine), images.images, images.combined, images.groups, conditions
    )
    if path.suffix == '.csv':
        write_csv(table, bundle.named, path)
    else:
        table.save(path)
    return table


def _load(
    bundle: Bundle, data: str | os.PathLike[str] | None, dataset: str, split: str
) -> LabelledImages:
    recipe = bundle.training.get('recipe', {})
    name = dataset or recipe.get('dataset', 'folder')
    if name not in SOURCES:
        raise DatasetError(f'unknown data set {name!r}; choose one of {", ".join(SOURCES)}')
    images = SOURCES[name](data, split, bundle.input.shape[1])
    if images.tasks != bundle.tasks:
        raise DatasetError(
            f'bundle {bundle.name!r} knows the classes {", ".join(bundle.classes[:5])}, ..., the '
            f'data holds {", ".join(images.classes[:5])}, ...: give data of the same classes'
        )
    return images


def write_csv(table: ConfidenceTable, named: Callable[[int], str], path: Path) -> None:
    """One line per image and condition, with names rather than numbers, as `named` has them.

    Columns: `image`, its place in the data set's split; `track`, what shows one thing, such as the
    frames of one sign; `condition`, with its level; `scene`, as the robot would have measured it;
    `label`, the truth; for every exit after a stage k, `exit_k`, its answer, and `confidence_k`,
    calibrated, 0 to 1; for every split s, `coded_s`, the answer of the tail to features that passed
    the encoder and decoder there.
    """
    images = len(table) // max(1, len(np.unique(table.condition)))
    columns: dict[str, Sequence[object]] = {
        'image': (np.arange(len(table)) % images).tolist(),
        'track': table.track.tolist(),
        'condition': np.asarray(table.conditions)[table.condition].tolist(),
        'scene': np.asarray(table.scenes)[table.scene].tolist(),
        'label': [named(label) for label in table.label],
    }
    for index, stage in enumerate(table.stages):
        columns[f'exit_{stage}'] = [named(label) for label in table.prediction[:, index]]
        columns[f'confidence_{stage}'] = [f'{value:.6f}' for value in table.confidence[:, index]]
    for index, stage in enumerate(table.splits):
        columns[f'coded_{stage}'] = [named(label) for label in table.coded[:, index]]
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
