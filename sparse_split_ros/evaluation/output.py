# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The folder that an evaluation writes: for one run at a time, and of one run only."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparse_split_ros.evaluation.metrics import SUMMARY_FORMAT

_log = logging.getLogger(__name__)
PARTS, PLAN = '.parts', 'plan.json'
"""Where the parts of an unfinished run lie, and what they are parts of."""
PICTURES = frozenset({
    'accuracy', 'bytes', 'confusion', 'drive', 'exits', 'latency', 'learning', 'link',
    'reliability', 'tradeoff',
})  # fmt: skip
"""The pictures of reports."""
_FILES = {
    'index.html', 'summary.json', 'profile.json', 'decisions.csv', 'decisions.parquet',
    *(f'{name}.png' for name in PICTURES),
}  # fmt: skip


class OutputError(Exception):
    """A folder that a run cannot have for its own."""


@contextmanager
def reserved(folder: Path | None) -> Iterator[None]:
    """Have a folder to oneself; one that is not there is made, and stays if something is in it.

    Raises OutputError while another run has it, and for files in it that are no evaluation's.
    """
    if folder is None:
        yield
        return
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # Locked is the folder itself, so that no file is left over, and none by who is killed.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor, folder):
            raise OutputError(
                f'{folder}: another run is writing there: wait for its end, or name another '
                'folder by --out'
            )
        _check_ours(folder)
        yield
    finally:
        os.close(descriptor)
        if new:
            with suppress(OSError):
                folder.rmdir()


def lock(descriptor: int, path: Path) -> bool:
    """Lock an open file or folder; False while another process has it.

    The lock ends with the descriptor. Where there are none, that is logged, and True.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # of some network file systems
        _log.warning('%s: cannot be locked (%s): start no other run there', path, error.strerror)
    return True


def _check_ours(folder: Path) -> None:
    try:
        summary = json.loads((folder / 'summary.json').read_text(encoding='utf-8'))
        ours = summary['format'] == SUMMARY_FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = (folder / PARTS / PLAN).is_file()
    if not ours and any(folder.iterdir()):
        raise OutputError(
            f'{folder} holds files and no summary.json of an evaluation, which is all that is '
            'written over: name another folder by --out'
        )


def clear(folder: Path, kept: Collection[str]) -> None:
    """Remove what earlier runs wrote there under the usual names, but for what is ``kept``."""
    for name in _FILES.difference(kept):
        (folder / name).unlink(missing_ok=True)
