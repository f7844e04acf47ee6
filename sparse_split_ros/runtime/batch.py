# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A batch whose rows leave at different exits, for whoever has many images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.runtime.engine import Array, Engine, EngineError


@dataclass(frozen=True)
class BatchAnswer:
    """What each of N rows was answered, and by which exit."""

    probabilities: Array
    """(N, K), calibrated, of the exit that answered."""
    stages: NDArray[np.int64]
    """(N,) that exit's stage."""


def answer(engine: Engine, x: Array, thresholds: Sequence[float | None]) -> BatchAnswer:
    """Answer x (N, C, H, W); a row leaves at the first exit that is sure of it.

    `thresholds` has one entry per stage, as for `Engine.run`: the confidence from which an exit is
    sure, or None not to ask it. The final exit answers the rest, and rows that left are not
    computed further. Raises EngineError, also for a batch without rows.
    """
    final = engine.bundle.final
    if not len(x):
        raise EngineError('a batch without rows has no answer')
    # The final exit is always asked, and answers whatever its confidence is.
    asked = [*thresholds[:-1], 0.0]
    probabilities = np.empty((len(x), len(engine.bundle.classes)), np.float32)
    stages = np.full(len(x), final, np.int64)
    rows = np.arange(len(x))
    for stage in range(final + 1):
        result = engine.run(x, stage, stage, asked, stop=False)
        assert result.features is not None
        x = result.features
        if stage not in result.exits:
            continue
        scores = result.exits[stage]
        # Rows that nobody was sure of are overwritten by a deeper exit.
        probabilities[rows] = scores
        sure = engine.bundle.judge(scores)[1] >= asked[stage]
        stages[rows[sure]] = stage
        x, rows = x[~sure], rows[~sure]
        if not len(rows):
            break
    return BatchAnswer(probabilities, stages)
