# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The rivals of the bottleneck get their due: bytes counted in their favour, tuned, best chosen."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('matplotlib')

from test_training_joint import RECIPE, blobs  # noqa: E402

from sparse_split_ros.training.joint import fit  # noqa: E402


@pytest.fixture(scope='module')
def bench() -> ModuleType:
    path = Path(__file__).parents[1] / 'benchmarks' / 'bytes.py'
    spec = importlib.util.spec_from_file_location('benchmark_bytes', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_jpeg_is_charged_for_its_scan_alone(bench: ModuleType) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    data = cv2.imencode('.jpeg', image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()
    size = bench.scan_bytes(data)
    # Whoever has the rest of the file already can put the picture together again.
    head, scan, end = data[: -size - 2], data[-size - 2 : -2], data[-2:]
    assert end == b'\xff\xd9'
    assert head[-3:] == b'\x00\x3f\x00'  # the last bytes of a baseline scan's header
    whole = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    again = cv2.imdecode(np.frombuffer(head + scan + end, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(whole, again)


@pytest.mark.parametrize('kind', ['jpeg', 'webp'])
def test_less_quality_and_fewer_pixels_are_fewer_bytes(bench: ModuleType, kind: str) -> None:
    image = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8), (0, 0), 2
    )
    sizes = {}
    for setting in ((90, 32), (10, 32), (10, 16)):
        back, sizes[setting] = bench.compress(image, kind, *setting)
        assert back.shape == image.shape
    assert sizes[90, 32] > sizes[10, 32] > sizes[10, 16]
    near = bench.compress(image, kind, 95, 32)[0]
    assert np.abs(near.astype(int) - image).mean() < 8


def test_the_best_setting_is_chosen_elsewhere_than_it_is_reported(bench: ModuleType) -> None:
    def point(way: str, size: int, right: list[bool]) -> object:
        return bench.Point(way, f'{size}', np.full(4, size), np.array(right))

    chosen = [
        point('features', 90, [True, True, True, True]),
        point('jpeg', 80, [True, True, False, False]),
        point('jpeg', 100, [True, True, True, False]),
    ]
    reported = [
        point('features', 90, [True, True, True, False]),
        point('jpeg', 80, [True, True, True, True]),
        point('jpeg', 100, [True, False, True, False]),
    ]
    rows = {row['rate']: row for row in bench.compared(chosen, reported, np.arange(4))}
    assert rows[88] == {'rate': 88, 'jpeg': 1.0, 'jpeg_setting': '80'}
    assert rows[128]['jpeg_setting'] == '100'
    assert rows[128]['over_jpeg'][0] == pytest.approx(0.25)


def test_the_whole_benchmark_runs(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {'train': blobs(48, 0), 'select': blobs(24, 1), 'report': blobs(24, 2)}
    fit(RECIPE, parts['train'], {'none': parts['select']}, tmp_path / 'run')
    monkeypatch.setattr(bench, 'load_split', lambda recipe, data, split: parts[split])
    arguments = ['--out', str(tmp_path / 'out'), '--epochs', '1', '--json', str(tmp_path / 'j')]
    monkeypatch.setattr(sys, 'argv', ['bytes.py', str(tmp_path / 'run'), *arguments])
    bench.main()
    found = json.loads((tmp_path / 'j').read_text())
    assert {point['way'] for point in found['points']} == {'features', 'jpeg', 'webp'}
    assert (tmp_path / 'out' / 'bytes.png').stat().st_size > 1000
    assert len(found['rates']) == len(bench.RATES)
