# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The three splits of a data set, and how the names of a class are divided among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sparse_split_ros.data.datasets import DatasetError

SPLITS = ('train', 'select', 'report')
REPORT_SHARE = 0.2
SELECT_SHARE = 0.1
SPLIT_SEED = 20260001


def check_split(split: str) -> str:
    """The split, if it is one. Raises DatasetError."""
    if split not in SPLITS:
        raise DatasetError(f'unknown split {split!r}: expected one of {", ".join(SPLITS)}')
    return split


def divide(names: Iterable[str], split: str, report_share: float = REPORT_SHARE) -> list[str]:
    """The names of one class that fall to a split: ordered by a hash, 20 % report, 10 % select.

    A `report_share` of 0 is for what has a test set of its own. Raises DatasetError.
    """
    ordered = sorted(
        names,
        # Names of files that are not UTF-8 hold surrogates in place of what is not.
        key=lambda name: hashlib.sha256(name.encode(errors='surrogateescape')).digest(),
    )
    report = max(1, round(report_share * len(ordered))) if report_share else 0
    train = report + max(1, round(SELECT_SHARE * len(ordered)))
    return {
        'report': ordered[:report],
        'select': ordered[report:train],
        'train': ordered[train:],
    }[check_split(split)]
