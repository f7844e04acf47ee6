# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The state of unfinished replays on disk, so that a killed evaluation goes on where it was.

Replays hold random generators, queues and learned statistics of many classes, so they are pickled,
by and for one user in the folder of one run. Reading knows only what a replay is made of, so that a
foreign or damaged file is refused; it is no defence against a forged one.
"""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path
from typing import Any

from sparse_split_ros.link.codec import Codec
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Engine

_ENGINE, _BUNDLE = 'engine', 'bundle'
_PACKAGES = ('sparse_split_ros', 'numpy')
_ALLOWED = {
    'builtins': {'getattr', 'set', 'frozenset', 'complex', 'slice', 'range', 'bytearray'},
    'collections': {'deque', 'OrderedDict', 'Counter', 'defaultdict'},
    'functools': {'partial'},
    'random': {'Random'},
    'pathlib': {'Path', 'PosixPath', 'WindowsPath'},
}


class CheckpointError(Exception):
    """A checkpoint that does not fit, or is damaged."""


def save(path: Path, state: Any, engine: Engine) -> None:
    """Write ``state`` atomically; the engine and its bundle are named in it, not written."""
    buffer = io.BytesIO()
    _Pickler(buffer, engine).dump(state)
    partial = path.with_name(f'.{path.name}')
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def load(path: Path, engine: Engine) -> Any:
    """Read what :func:`save` wrote, with this engine in its place. Raises CheckpointError."""
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), engine).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise CheckpointError(
            f'{path}: not a checkpoint of this version ({error}); run again without --resume'
        ) from error


def _new_lock() -> Any:
    """A lock, by a name that is the same in all versions of Python."""
    return threading.Lock()


class _Pickler(pickle.Pickler):
    """Leaves out what belongs to the process: models, compressors, locks."""

    def __init__(self, file: io.BytesIO, engine: Engine) -> None:
        super().__init__(file, protocol=4)
        self._engine = engine

    def persistent_id(self, obj: Any) -> str | None:
        if obj is self._engine:
            return _ENGINE
        return _BUNDLE if isinstance(obj, Bundle) else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Codec):
            return Codec, (obj.id, obj.shape, obj.low, obj.step, obj.dictionary)
        if isinstance(obj, type(threading.Lock())):
            return _new_lock, ()
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Knows no other classes than a replay is made of."""

    def __init__(self, file: io.BytesIO, engine: Engine) -> None:
        super().__init__(file)
        self._engine = engine

    def persistent_load(self, name: Any) -> Any:
        if name == _ENGINE:
            return self._engine
        if name == _BUNDLE:
            return self._engine.bundle
        raise pickle.UnpicklingError(f'{name!r} is unknown')

    def find_class(self, module: str, name: str) -> Any:
        ours = module.partition('.')[0] in _PACKAGES
        if not ours and name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f'{module}.{name} does not belong in it')
        return super().find_class(module, name)
