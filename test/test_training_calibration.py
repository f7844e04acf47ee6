# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which images an export calibrates on, and that drawn ones are those of the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from test_training_joint import RECIPE, blobs  # noqa: E402

from sparse_split_ros.training import export as exporting  # noqa: E402
from sparse_split_ros.training import train as training_module  # noqa: E402
from sparse_split_ros.training.calibrate import expected_calibration_error  # noqa: E402


def test_bins_count_by_their_size() -> None:
    confidence, correct = np.array([0.5, 0.6, 0.9]), np.array([True, True, False])
    error = expected_calibration_error(confidence, correct, bins=2)
    assert error == pytest.approx((2 * (1 - 0.55) + 1 * 0.9) / 3)


def test_every_image_is_calibrated_on_clean_and_in_weather(monkeypatch: Any) -> None:
    met: list[float] = []

    def watched(rng: Any, image: Any, how: Any) -> Any:
        met.append(how.weather)
        return image // 2

    monkeypatch.setattr(exporting, 'augment', watched)
    recipe = dataclasses.replace(RECIPE, weather=0.25, conditions=('fog',))
    selection, drawn = blobs(9, 0), blobs(3, 1)
    sets = exporting.calibration_sets(recipe, selection, drawn)
    assert met == [1.0] * 9
    assert sets['selection'] is selection and sets['drawn'] is drawn
    assert np.array_equal(sets['weather'].images, selection.images // 2)
    assert np.array_equal(sets['weather'].labels, selection.labels)
    assert list(exporting.calibration_sets(RECIPE, selection, None)) == ['selection']


class StopHere(Exception):  # noqa: N818
    """What has been asked for by then is what the test is about."""


def test_drawn_signs_are_told_apart_as_in_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    recipe = dataclasses.replace(RECIPE, dataset='gtsrb', drawn=40, seed=7)
    asked: list[tuple[int, int, int]] = []

    def drawn(count: int, size: int, seed: int, *_: Any, **__: Any) -> Any:
        asked.append((count, size, seed))
        return blobs(count, seed)

    for module in (training_module, exporting):
        monkeypatch.setattr(module, 'load_drawn', drawn)
        monkeypatch.setattr(module, 'load_split', lambda *_: blobs(160, 0))
    training_module.load_sets(recipe, tmp_path, None)
    (_, size, learned), (chosen, _, chosen_on) = asked
    assert learned != chosen_on
    asked.clear()
    monkeypatch.setattr(exporting, 'load_checkpoint', lambda _: (None, recipe, {}))
    monkeypatch.setattr(exporting, '_check_data', lambda *_: None)

    def stop(*_: Any) -> None:
        raise StopHere

    monkeypatch.setattr(exporting, 'calibration_sets', stop)
    with pytest.raises(StopHere):
        exporting.export(tmp_path, tmp_path / 'bundle', tmp_path)
    assert asked == [(20, size, learned), (chosen, size, chosen_on)]
