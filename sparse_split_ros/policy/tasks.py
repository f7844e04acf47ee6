# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several tasks in one answer: their classes stand side by side in one row of scores.

What decides knows only a label and a confidence, so all tasks together have one of each. One task
is a row that is not divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


def parts(scores: NDArray[Any], sizes: Sequence[int]) -> list[NDArray[Any]]:
    """Views of scores (..., sum of sizes), one (..., size) for each task."""
    return [scores[..., end - size : end] for size, end in zip(sizes, accumulate(sizes))]


def judge(scores: NDArray[Any], sizes: Sequence[int]) -> tuple[Any, Any]:
    """Labels (...,) int64 and confidences (...,) of scores (..., sum of sizes).

    The label numbers the tasks' most probable classes together, the last task's fastest, so two
    are the same where every task is answered alike. The confidence is that of the least sure task.
    """
    first, *others = parts(scores, sizes)
    label, confidence = first.argmax(-1), first.max(-1)
    for part in others:
        label = label * part.shape[-1] + part.argmax(-1)
        confidence = np.minimum(confidence, part.max(-1))
    return label, confidence


def places(label: int, sizes: Sequence[int]) -> list[int]:
    """Where in a row of scores the classes of a label stand, one for each task."""
    found, end = [], sum(sizes)
    for size in reversed(sizes):
        label, at = divmod(label, size)
        end -= size
        found.append(end + int(at))
    return found[::-1]
