# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Signals that wait for a library which calls Python back and swallows a KeyboardInterrupt."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_depth = 0
_waiting: list[Callable[[], None]] = []


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back what `handle` is given until the end of the block, where it may raise."""
    global _depth  # noqa: PLW0603
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        while _waiting and not _depth:
            _waiting.pop()()


def handle(act: Callable[[], None]) -> None:
    """Do what a signal asks for, now or at the end of the block that it came into."""
    if _depth:
        _waiting.append(act)
    else:
        act()
