# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files of images and of arrays, as they are found on a disk."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.datasets import DatasetError

IMAGE_SUFFIXES = frozenset(
    {'.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.pgm', '.webp', '.tif', '.tiff'}
)
# What numpy lets through for damaged .npz files; RuntimeError where one seems to be encrypted, or
# compressed in a way that zipfile does not know; the last two for a single array of that name.
_DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, TypeError,
    AttributeError,
)  # fmt: skip


def files_in(folder: Path) -> list[Path]:
    """The files in a folder and those inside it, but for what is hidden.

    Linked folders are followed, each folder once. Raises DatasetError for one that may not be read.
    """
    return _files_in(folder, set())


def _files_in(folder: Path, seen: set[tuple[int, int]]) -> list[Path]:
    found: list[Path] = []
    try:
        known = folder.stat()
        if (here := (known.st_dev, known.st_ino)) in seen:
            return found
        seen.add(here)
        # Real folders before links to them, and alike on every file system.
        for each in sorted(folder.iterdir(), key=lambda each: (each.is_symlink(), each)):
            if is_hidden(each):
                continue
            if each.is_dir():
                found += _files_in(each, seen)
            elif each.is_file():
                found.append(each)
    except OSError as error:
        raise DatasetError(f'folder {folder} cannot be read: {error.strerror or error}') from error
    return found


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is not for those who look for data."""
    return path.name.startswith('.') or path.name == 'lost+found'


def images_in(folder: Path) -> list[Path]:
    """The files in a folder that are named as images are, unread. Raises DatasetError."""
    return [file for file in files_in(folder) if file.suffix.lower() in IMAGE_SUFFIXES]


def named(path: str) -> Path:
    """The path that somebody typed; where there is no such user, `~user` is a name like any."""
    return Path(os.path.expanduser(path))


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts 2.png before 10.png, and 01.png before 1.png."""
    parts = (part for part in re.split(r'(\d+)', name) if part)
    return [(int(part), '') if part.isdecimal() else (-1, part) for part in parts], name


def is_utf_8(name: str) -> bool:
    """Whether the name of a file is text, as the name of a class has to be."""
    return name.encode(errors='replace').decode() == name


def read_npz(path: str | os.PathLike[str], names: Iterable[str]) -> dict[str, NDArray]:
    """Those of the named arrays that a .npz file holds. Raises DatasetError for a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as packed:
            return {name: packed[name] for name in names if name in packed}
    except _DAMAGE as error:
        raise DatasetError(f'{path} is not a readable .npz of arrays: {error}') from error


def write_npz(path: Path, **arrays: NDArray) -> None:
    """Write a .npz file, whole or not at all, making its folder. Raises OSError."""
    partial = path.with_suffix(f'.{os.getpid()}.npz')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
