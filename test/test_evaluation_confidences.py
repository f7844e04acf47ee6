# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of every exit's answer to every image, from the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_bundle

from sparse_split_ros.cli import main
from sparse_split_ros.evaluation.table import ConfidenceTable

CLASSES = ('bee', 'cat', 'dog')


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp('table') / 'bundle', classes=CLASSES).path


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir()
        for index in range(20):
            image = rng.integers(0, 255, (24, 24, 3), np.uint8)
            cv2.imwrite(str(root / name / f'{index}.png'), image)
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_both_forms_say_the_same(bundle: Path, photos: Path, tmp_path: Path) -> None:
    given = [str(bundle), str(photos)]
    options = ['--split', 'train', '--condition', 'fog:3']
    for name in ('table.csv', 'table.npz'):
        assert main(['confidences', *given, str(tmp_path / name), *options]) == 0
    table = ConfidenceTable.load(tmp_path / 'table.npz')
    lines = rows(tmp_path / 'table.csv')
    assert len(lines) == len(table)
    assert list(lines[0]) == [
        'image', 'track', 'condition', 'scene', 'label', 'exit_0', 'confidence_0', 'exit_1',
        'confidence_1', 'exit_2', 'confidence_2', 'coded_0', 'coded_1',
    ]  # fmt: skip
    assert {line['condition'] for line in lines} == {'day', 'fog_3'}
    for index in (0, len(table) - 1):
        line = lines[index]
        assert line['label'] == CLASSES[table.label[index]]
        assert line['exit_1'] == CLASSES[table.prediction[index, 1]]
        assert float(line['confidence_2']) == pytest.approx(table.confidence[index, 2], abs=1e-6)
        assert line['coded_1'] == CLASSES[table.coded[index, 1]]
    images = [int(line['image']) for line in lines]
    half = len(images) // 2
    assert images == [*range(half), *range(half)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['t.txt'], 'expected a name that ends in .csv or .npz'),
        (['nowhere/t.csv'], 'no such directory to write t.csv to'),
        (['t.csv', '--dataset', 'imagenet'], "unknown data set 'imagenet'"),
        (['t.csv', '--condition', 'hail:2'], "--condition 'hail:2': expected NAME:LEVEL"),
        (['t.csv', '--condition', 'fog:6'], "--condition 'fog:6': expected NAME:LEVEL"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str],
    message: str,
    bundle: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['confidences', str(bundle), str(photos), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_data_of_other_classes_is_refused(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / 'other', classes=('bee', 'cow', 'dog')).path
    assert main(['confidences', str(other), str(photos), str(tmp_path / 't.csv')]) == 2
    assert 'knows the classes bee, cow, dog' in capsys.readouterr().err
