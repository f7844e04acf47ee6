# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Your own classes: a folder of class folders of images, divided once for everyone.

An image that lies directly in its class folder stands alone. A folder inside a class folder is one
group, such as the frames of one object or of one recording, and is never torn apart, as frames that
look alike on both sides of a division flatter the result.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from sparse_split_ros.data.gtsrb import REPORT_SHARE, SELECT_SHARE, SPLITS
from sparse_split_ros.data.sources import IMAGE_SUFFIXES


class FolderError(ValueError):
    """A folder of class folders is missing, too small, or holds what is no image."""


@dataclass(frozen=True)
class ClassFolder:
    """Where the images of each class lie: `groups[k]` are the groups of `classes[k]`, by name."""

    classes: tuple[str, ...]
    groups: tuple[dict[str, list[Path]], ...]

    def files(self, split: str) -> list[tuple[Path, int, int]]:
        """File, label and group number of every image of a split; 'train', 'select', 'report'."""
        if split not in SPLITS:
            raise FolderError(f'unknown split {split!r}: expected one of {", ".join(SPLITS)}')
        found, number = [], 0
        for label, groups in enumerate(self.groups):
            for name in _part(list(groups), split):
                found += [(file, label, number) for file in groups[name]]
                number += 1
        return found


def scan(root: str | os.PathLike[str]) -> ClassFolder:
    """Find classes and groups below `root`, without reading an image.

    Classes are the folders in `root` in the order of their names. What is hidden or has no image
    suffix is passed over. Raises FolderError.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise FolderError(f'{folder}: no such folder; expected one that holds a folder per class')
    classes = [path for path in sorted(folder.iterdir()) if path.is_dir() and _shown(path)]
    if len(classes) < 2:
        names = ', '.join(repr(path.name) for path in classes) or 'none'
        raise FolderError(f'{folder}: expected at least two class folders in it, found {names}')
    return ClassFolder(tuple(path.name for path in classes), tuple(map(_groups, classes)))


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """Any image that OpenCV decodes, as (H, W, 3) uint8 RGB. Raises FolderError."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise FolderError(f'{path}: not a readable image: {_line(error)}') from error
    if image is None:
        raise FolderError(f'{path}: not a readable image; mend it or take it away')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _groups(folder: Path) -> dict[str, list[Path]]:
    """The images of a class by the path, relative to it, of what must stay together."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob('*')):
        inside = path.relative_to(folder)
        hidden = any(part.startswith('.') for part in inside.parts)
        if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            groups.setdefault(inside.parts[0], []).append(path)
    if not groups:
        raise FolderError(f'{folder}: no image in this class folder')
    if len(groups) < len(SPLITS):
        raise FolderError(
            f'{folder}: {len(groups)} to divide into {", ".join(SPLITS)}, expected at least '
            f'{len(SPLITS)} images, or folders of images that belong together'
        )
    return groups


def _part(names: list[str], split: str) -> list[str]:
    """The names of one class that fall to a split: ordered by a hash, 20 % report, 10 % select."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    report = max(1, round(REPORT_SHARE * len(names)))
    train = report + max(1, round(SELECT_SHARE * len(names)))
    return {
        'report': ordered[:report],
        'select': ordered[report:train],
        'train': ordered[train:],
    }[split]


def _shown(path: Path) -> bool:
    return not path.name.startswith('.')


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
