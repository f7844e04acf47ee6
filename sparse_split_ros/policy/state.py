# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy learned, kept across restarts: one JSON file, replaced as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sparse_split_ros.policy.plan import PolicyError

FORMAT = 'sparse_split_policy/1'
# More than a robot ever counts, and far from what floats stumble over.
MOST = 1e12
_MAX_BYTES = 16 << 20


class StateError(ValueError):
    """A saved state that cannot be used; the message says why, and starting blank is safe."""


@runtime_checkable
class Learned(Protocol):
    """A policy with something to keep."""

    @property
    def variant(self) -> tuple[str, ...]:
        """Settings that what was learned depends on, in words for a file's name."""

    def state(self) -> dict[str, Any]:
        """What was learned, for JSON; a copy."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take it over, all or nothing; raises ValueError."""


def save_state(
    path: str | os.PathLike[str], state: dict[str, Any], *, policy: str, fingerprint: str
) -> None:
    """Write atomically: a power cut leaves the old file or the new one. Raises StateError."""
    target = Path(path)
    partial = target.with_name(f'.{target.name}.{os.getpid()}')
    record = {'format': FORMAT, 'policy': policy, 'fingerprint': fingerprint, 'state': state}
    try:
        text = json.dumps(record, allow_nan=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open('w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except (OSError, ValueError, TypeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StateError(f'{target}: the policy state cannot be saved: {error}') from error


def load_state(
    path: str | os.PathLike[str], *, policy: str, fingerprint: str
) -> dict[str, Any] | None:
    """The state saved for this policy and bundle, None without a file. Raises StateError."""
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise StateError(f'{file}: larger than any policy state; starting blank')
        record = json.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f'{file}: not a policy state ({error}); starting blank') from error
    found = record if isinstance(record, dict) else {}
    for key, expected in (
        ('format', FORMAT), ('policy', policy), ('fingerprint', fingerprint)
    ):  # fmt: skip
        if found.get(key) != expected:
            raise StateError(
                f'{file}: saved for {key} {found.get(key)!r}, this is {expected!r}; starting blank'
            )
    state = found.get('state')
    if not isinstance(state, dict):
        raise StateError(f'{file}: holds no state; starting blank')
    return state


class StateKeeper:
    """Restores a policy at the start and saves it whenever told to.

    A file that is refused is moved aside, never overwritten. A failure to save is returned as a
    sentence, once, and never raised: the robot goes on.
    """

    def __init__(self, path: str | os.PathLike[str], policy: str, fingerprint: str) -> None:
        self._path = Path(path)
        self._policy = policy
        self._fingerprint = fingerprint
        self._complained = False
        # A refused file that could not be moved aside: it is worth more than what comes after it.
        self._blocked = False
        self._saved: dict[str, Any] | None = None

    def restore(self, policy: Learned) -> tuple[bool, str]:
        """Whether all is well, and what became of the saved state in words; blank is safe."""
        try:
            state = load_state(self._path, policy=self._policy, fingerprint=self._fingerprint)
            if state is None:
                return True, f'{self._path}: no saved policy state, starting blank'
            policy.restore(state)
        except Exception as error:
            # A file may be JSON of any shape, and a policy stumble over it anywhere.
            return False, f'refused {self._said(error)}; {self._moved_aside()}'
        return True, f'{self._path}: policy state restored'

    def _moved_aside(self) -> str:
        """Give the refused file a name that is free; what came of it in words."""
        name = f'{self._path.name}.refused'
        names = chain([name], (f'{name}.{number}' for number in count(2)))
        try:
            aside = next(path for path in map(self._path.with_name, names) if not path.exists())
            self._path.replace(aside)
        except OSError as error:
            self._blocked = True
            return f'it cannot be moved aside ({error.strerror}), so nothing is saved: move it away'
        return f'kept as {aside.name}'

    def save(self, state: dict[str, Any]) -> str:
        """Write a policy's state; what went wrong in words the first time it does, else nothing.

        The state is a copy, so that a caller needs its lock only to get it and not for the disk.
        """
        # A robot that stands still learns nothing, and a flash card wears out.
        if self._blocked or state == self._saved:
            return ''
        try:
            save_state(self._path, state, policy=self._policy, fingerprint=self._fingerprint)
        except StateError as error:
            said, self._complained = self._complained, True
            return '' if said else str(error)
        self._complained, self._saved = False, state
        return ''

    def _said(self, error: Exception) -> str:
        """An error in words, and of which file; of one that is not ours, its type too."""
        if isinstance(error, StateError):
            return str(error)
        text = str(error) if isinstance(error, PolicyError) else repr(error)
        return f'{self._path}: {text}; starting blank'
