# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What numbers a network can be built of."""

from __future__ import annotations


def check_counts(least: int = 1, **values: object) -> None:
    """Raise ValueError, by its name, for a value that is no whole number of `least` or more."""
    for name, value in values.items():
        if not _counts(value, least):
            raise ValueError(f'{name} is {value!r}, expected a whole number of {least} or more')


def check_triples(**values: object) -> None:
    """Raise ValueError, by its name, for a value that is no list of three whole numbers."""
    for name, value in values.items():
        if not (isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_counts, value))):
            raise ValueError(f'{name} is {value!r}, expected three whole numbers of 1 or more')


def _counts(value: object, least: int = 1) -> bool:
    return type(value) is int and value >= least
