# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Comparisons of the benchmarks: paired, by track, and over the seeds that both have."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('onnxruntime')
pytest.importorskip('sparse_split_ros.native._native')

sys.path.insert(0, str(Path(__file__).parents[1] / 'benchmarks'))

import front
import paired
import seeds

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(50), 8)


def data() -> Any:
    return SimpleNamespace(groups=GROUPS)


def test_a_gain_is_of_the_second_last_exits_and_paired() -> None:
    base = RNG.random(400) < 0.5
    better = base.copy()
    better[np.flatnonzero(~base)[::20][:8]] = True
    one = {0: ~base, 3: better}
    text = paired.gain(one, {0: better, 2: base}, data())
    points, low, high = map(float, text.translate(str.maketrans('', '', '(to)')).split())
    assert points == pytest.approx(2.0)
    # Unpaired, the interval of accuracies near a half would be ten points wide.
    assert 0 <= low < points < high < 5
    assert paired.gain({2: base}, {3: better}, data()).startswith('-2.00')
    assert paired.gain({2: base}, {2: base}, data()) == '+0.00 (+0.00 to +0.00)'


def test_whole_tracks_are_drawn() -> None:
    base, better = np.zeros(400, bool), np.zeros(400, bool)
    better[:40] = True  # five tracks of eight

    def width(groups: Any) -> float:
        text = paired.gain({0: better}, {0: base}, SimpleNamespace(groups=groups))
        low, _, high = text.partition('(')[2].rstrip(')').split()
        return float(high) - float(low)

    assert width(GROUPS) > 2 * width(np.arange(400))


def test_seeds_are_averaged_image_by_image() -> None:
    rights = [{0: np.array([True, False, True])}, {0: np.array([True, False, False])}]
    assert paired.averaged(rights)[0].tolist() == [1.0, 0.0, 0.5]
    assert paired.shares(rights[0]) == {'exit 0': pytest.approx(200 / 3)}


def test_only_seeds_that_both_have_are_compared() -> None:
    clean = (RNG.random((3, 400)) < 0.6).astype(float)
    shifted = clean.copy()
    shifted[1, np.flatnonzero(clean[1] == 0)[::35][:4]] = 1
    of = front.Found([1, 2, 3], shifted, GROUPS, np.zeros(3))
    over = front.Found([3, 2, 9], clean[[2, 1, 0]], GROUPS, np.zeros(3))
    mean, low, high, by_seed = front.gain(of, over)
    assert by_seed == pytest.approx([1.0, 0.0])
    assert mean == pytest.approx(0.5)
    assert 0 <= low < 0.5 < high < 1.5
    assert front.gain(over, of)[0] == pytest.approx(-0.5)


def test_figures_have_their_mean_and_spread() -> None:
    (row,) = seeds.compared('t', ['a', 'b', 'c'], [{'x': 1.0}, {'x': 2.0}, {'x': 6.0}])
    assert row == {'t': 'x', 'a': 1.0, 'b': 2.0, 'c': 6.0, 'mean': 3.0,
                   'standard deviation': pytest.approx(7**0.5)}  # fmt: skip
