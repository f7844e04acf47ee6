# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle's record says of routed frames, and how heavy its conditions are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('torch')

from sparse_split_ros.data import weather
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.training import measure as measuring
from sparse_split_ros.training.measure import Answers, figures, in_conditions


def rows(*pairs: tuple[int, float]) -> Any:
    """Probabilities of three classes: the class said, and how sure."""
    made = np.empty((len(pairs), 3), np.float32)
    for row, (said, sure) in zip(made, pairs):
        row[:] = (1 - sure) / 2
        row[said] = sure
    return made


def test_the_sure_are_answered_at_the_split_and_the_others_behind_it() -> None:
    # All are of class 0. Sure and right, sure and wrong, unsure and mended, unsure and right.
    local = rows((0, 0.95), (1, 0.9), (1, 0.5), (0, 0.6), (0, 0.5))
    coded = rows((1, 0.9), (0, 0.9), (0, 0.9), (0, 0.9), (0, 0.9))
    final = rows(*[(0, 0.9)] * 5)
    data = LabelledImages(
        np.zeros((5, 4, 4, 3), np.uint8), np.zeros(5, np.int64), np.arange(5), ('a', 'b', 'c')
    )
    bundle: Any = SimpleNamespace(defaults=SimpleNamespace(split=1, threshold=local[1].max()))
    said = Answers({1: local, 2: final}, coded, [10, 20, 30, 40, 50])
    report = figures(bundle, said, data)
    assert report['routed'] == {
        'accuracy': 0.8, 'local_share': 0.4,
        'sent_accuracy': 1.0,
        'sent_accuracy_had_they_stayed': pytest.approx(2 / 3, abs=1e-5),
    }  # fmt: skip
    assert report['coded']['accuracy'] == 0.8
    assert report['exits']['1']['accuracy'] == 0.6
    assert report['exits']['2']['accuracy'] == 1
    assert report['payload_bytes'] == {'mean': 30.0, 'max': 50}
    local[3, 0] = 0.1  # now it is wrong at the split too
    local[3, 1] = 0.6
    assert figures(bundle, said, data)['routed']['sent_accuracy_had_they_stayed'] == round(1 / 3, 5)


def test_an_exit_before_the_split_answers_what_it_is_sure_of() -> None:
    # All are of class 0. Sure at the first exit and wrong, sure at the second, sent.
    first = rows((1, 0.95), (1, 0.5), (1, 0.5))
    second = rows((0, 0.99), (0, 0.95), (1, 0.6))
    data = LabelledImages(
        np.zeros((3, 4, 4, 3), np.uint8), np.zeros(3, np.int64), np.arange(3), ('a', 'b', 'c')
    )
    sent = rows(*[(0, 0.9)] * 3)
    # As where features leave from a stage without an exit of its own.
    bundle: Any = SimpleNamespace(defaults=SimpleNamespace(split=2, threshold=0.9))
    said = Answers({0: first, 1: second, 3: sent}, sent, [10] * 3)
    assert figures(bundle, said, data)['routed'] == {
        'accuracy': pytest.approx(2 / 3, abs=1e-5), 'local_share': pytest.approx(2 / 3, abs=1e-5),
        'sent_accuracy': 1.0, 'sent_accuracy_had_they_stayed': 0.0,
    }  # fmt: skip


def test_conditions_are_as_heavy_as_asked(monkeypatch: Any) -> None:
    asked: list[tuple[str, float, float]] = []

    def apply(name: str, image: Any, severity: float, rng: Any) -> Any:
        asked.append((name, severity, rng.random()))
        return image // 2

    monkeypatch.setattr(measuring.weather, 'apply', apply)
    data = LabelledImages(
        np.full((2, 4, 4, 3), 8, np.uint8), np.arange(2), np.arange(2), ('a', 'b')
    )
    found = dict(in_conditions(data, 3, 7))
    assert list(found) == list(weather.CONDITIONS)
    assert {severity for _, severity, _ in asked} == {0.6}
    assert [name for name, _, _ in asked[::2]] == list(weather.CONDITIONS)
    # Each image draws anew, and all conditions from the same start.
    expected = np.random.default_rng(7).random(2).tolist()
    assert [draw for _, _, draw in asked] == expected * len(found)
    assert all((images.images == 4).all() for images in found.values())
