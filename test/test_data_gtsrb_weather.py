# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The weather of the tracks that nothing is learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('torch')

from sparse_split_ros.data import gtsrb, registry
from sparse_split_ros.data.drive import SCENES


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Twenty tracks of three frames in each of 43 classes."""
    labels, tracks, frames = (a.ravel() for a in np.mgrid[:43, :20, :3])
    images = np.full((len(labels), 32, 32, 3), 100, np.uint8)
    np.savez(tmp_path / gtsrb.FILE_NAME, images=images, labels=labels, track=tracks, frame=frames)
    return tmp_path


def test_every_track_has_a_weather_of_its_own_and_the_training_none(
    packed: Path, monkeypatch: Any
) -> None:
    met: list[tuple[str, float, float]] = []

    def apply(name: str, image: Any, severity: float, rng: Any, field: Any) -> Any:
        met.append((name, severity, field.random()))
        return image

    monkeypatch.setattr(registry.weather, 'apply', apply)
    data = registry.load_gtsrb_weather(packed, 'report')
    assert len(met) == len(data) == 43 * 4 * 3
    by_track: dict[int, set[tuple[str, float, float]]] = {}
    for group, what in zip(data.groups.tolist(), met):
        by_track.setdefault(group, set()).add(what)
    assert all(len(found) == 1 for found in by_track.values()), 'one weather for a whole track'
    found = [next(iter(each)) for each in by_track.values()]
    counts = [sum(name == scene for name, _, _ in found) for scene in SCENES]
    assert max(counts) - min(counts) <= 1
    severities = np.array([severity for _, severity, _ in found])
    assert 0.1 <= severities.min() < 0.15 and 0.75 < severities.max() <= 0.8
    assert len(set(severities)) == len({field for _, _, field in found}) == len(found)
    assert [SCENES[k] for k in data.labels[:, 1]] == [name for name, _, _ in met]
    assert len(set(data.groups[data.labels[:, 0] == 3])) == 4
    met.clear()
    training = registry.load_gtsrb_weather(packed, 'train')
    assert not met and not training.labels[:, 1].any()
