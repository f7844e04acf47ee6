# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A batch on an engine: every row leaves at its own exit with the answer it gets alone."""

from __future__ import annotations

import numpy as np
import pytest
from bundles import make_bundle
from numpy.typing import NDArray

from sparse_split_ros.runtime.batch import answer
from sparse_split_ros.runtime.engine import Engine, EngineError, load_engine


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_engine(make_bundle(tmp_path_factory.mktemp('batch')))


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32)


def between(engine: Engine, x: NDArray[np.float32], stage: int) -> float:
    """A threshold in the widest gap in the middle of the confidences at an exit."""
    thresholds = [0.0 if index == stage else None for index in range(3)]
    confidence = engine.run(x, 0, stage, thresholds, stop=False).exits[stage].max(axis=1)
    ordered = np.sort(confidence)[len(x) // 4 : -len(x) // 4]
    at = int(np.diff(ordered).argmax())
    return float(ordered[at : at + 2].mean())


def test_a_batch_gives_the_answers_of_single_rows(engine: Engine) -> None:
    x = images(48)
    thresholds = [between(engine, x, 0), between(engine, x, 1), None]
    batch = answer(engine, x, thresholds)
    assert set(batch.stages) == {0, 1, 2}
    for row in range(len(x)):
        single = answer(engine, x[row : row + 1], thresholds)
        assert single.stages[0] == batch.stages[row]
        np.testing.assert_allclose(single.probabilities[0], batch.probabilities[row], atol=1e-5)


def test_a_single_row_answers_as_the_early_stop_does(engine: Engine) -> None:
    x = images(12)
    threshold = between(engine, x, 0)
    for row in range(len(x)):
        stopped = engine.run(x[row : row + 1], 0, 2, [threshold, None, 0.0]).stopped
        assert answer(engine, x[row : row + 1], [threshold, None, None]).stages[0] == stopped


def test_rows_that_left_are_computed_no_further(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, seen, run = images(20), [], engine.run
    threshold = between(engine, x, 0)
    monkeypatch.setattr(
        engine,
        'run',
        lambda x, *rest, **options: (seen.append(len(x)), run(x, *rest, **options))[1],
    )
    stayed = int((answer(engine, x, [threshold, None, None]).stages == 2).sum())
    assert 0 < stayed < 20
    assert seen == [20, stayed, stayed]


def test_nothing_and_wrong_thresholds_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match='a batch without rows'):
        answer(engine, images(0), [None, None, None])
    with pytest.raises(EngineError, match='1 thresholds given for 3 stages'):
        answer(engine, images(2), [0.5])
