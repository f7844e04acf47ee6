# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Your own classes: a folder of class folders of images, divided once for everyone.

An image that lies directly in its class folder stands alone. A folder inside a class folder is one
group, such as the frames of one object or of one recording, and is never torn apart, as frames that
look alike on both sides of a division flatter the result.

A folder that holds `train` and `test`, and perhaps `val`, with the class folders in each, is
divided already, and stays so.

Labels of several tasks stand in a file, `labels.csv`, beside the images: a column `file` and one
for each task. Images in one folder are then one group.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_split_ros.data.datasets import DatasetError, LabelledImages, find_data
from sparse_split_ros.data.files import (
    IMAGE_SUFFIXES,
    files_in,
    images_in,
    is_hidden,
    is_utf_8,
)
from sparse_split_ros.data.images import ImageError, decode_file, resize_to
from sparse_split_ros.data.labels import LABELS, read_labels
from sparse_split_ros.data.splits import SPLITS, check_split, divide

_GIVEN = {'train': 'train', 'select': 'val', 'report': 'test'}
"""The folder of each split, in a folder that is divided already."""
_PARTS = {
    'dev', 'eval', 'test', 'testing', 'train', 'training', 'val', 'valid', 'validation',
}  # fmt: skip
"""What the parts of a divided folder are called elsewhere."""

_NAMED = 10
"""How many broken images one error names."""

Groups = dict[str, list[Path]]


class FolderError(DatasetError):
    """A folder of class folders is missing, too small, or holds what is no image."""


@dataclass(frozen=True)
class ClassFolder:
    """Where the images of each class lie: `groups[split][k]` are those of `classes[k]`, by name."""

    classes: tuple[str, ...]
    groups: dict[str, tuple[Groups, ...]]

    def files(self, split: str) -> list[tuple[Path, int, int]]:
        """File, label and group number of every image of a split; 'train', 'select', 'report'."""
        found, number = [], 0
        for label, groups in enumerate(self.groups[check_split(split)]):
            for name in groups:
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
    if is_divided(folder):
        return _divided(folder)
    classes = _classes(folder)
    names = {path.name for path in classes}
    if {name.lower() for name in names} <= _PARTS:
        raise FolderError(
            f'{folder}: holds {", ".join(sorted(names))}, which are parts and no classes; a '
            'folder that is divided already holds train and test, and perhaps val: rename them'
        )
    groups = [_groups(path, len(SPLITS)) for path in classes]
    parts = {
        split: tuple({name: found[name] for name in divide(found, split)} for found in groups)
        for split in SPLITS
    }
    return ClassFolder(tuple(path.name for path in classes), parts)


def is_divided(folder: Path) -> bool:
    """Whether a folder holds `train` and `test`, perhaps `val`, and no other folder."""
    names = {path.name for path in _folders(folder)}
    return names in ({'train', 'test'}, {'train', 'val', 'test'})


def _load_table(root: Path, split: str, size: int) -> LabelledImages:
    """One split of the images of `labels.csv`, divided within each class of the first task."""
    labelled = read_labels(root)
    names = list(next(iter(labelled.values())))
    tasks = {name: tuple(sorted({said[name] for said in labelled.values()})) for name in names}
    for name, classes in tasks.items():
        if len(classes) < 2:
            raise FolderError(
                f'{root / LABELS}: the task {name!r} has the one class {classes[0]!r}, expected '
                'two or more'
            )
    names_of_groups = dict.fromkeys(_group_of(path, root) for path in labelled)
    number = {group: count for count, group in enumerate(names_of_groups)}
    rows = [
        (path, number[group])
        for _, found in sorted(table_groups(root, labelled).items())
        for group in divide(found, split)
        for path in found[group]
    ]
    images = read_images((path for path, _ in rows), size)
    labels = [labelled[path] for path, _ in rows]
    numbers = np.array([each for _, each in rows], np.int64)
    try:
        made = LabelledImages.of_labels(images, labels, numbers, tasks)
    except DatasetError as error:
        raise FolderError(
            f'{root / LABELS}: {error} falls to {split}: label more of them, or divide them into '
            'more folders'
        ) from error
    return replace(made, passed_over=_passed_over(root, labelled))


def table_groups(root: Path, labelled: Mapping[Path, Mapping[str, str]]) -> dict[str, Groups]:
    """By class of the first task, the images of `labels.csv` by what must stay together.

    A group is of the class that its first image is of. Raises FolderError for too few of a class.
    """
    classes_of: dict[str, str] = {}
    groups: dict[str, Groups] = {}
    for path, said in labelled.items():
        group = _group_of(path, root)
        label = classes_of.setdefault(group, next(iter(said.values())))
        groups.setdefault(label, {}).setdefault(group, []).append(path)
    first = next(iter(next(iter(labelled.values()))))
    for label, found in groups.items():
        _check_count(f'{root / LABELS}: {first} {label!r}', len(found), len(SPLITS))
    return groups


def _group_of(path: Path, root: Path) -> str:
    """An image beside the table stands alone; others, also those elsewhere, go by their folder."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return str(inside if inside.parent == Path() else inside.parent)


def load_folder(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of a folder of class folders, resized to size x size as the robot resizes.

    Where there is a `labels.csv`, the labels are those that it gives.
    """
    root = find_data(data)
    if (root / LABELS).is_file():
        return _load_table(root, split, size)
    folder = scan(root)
    files = folder.files(split)
    images = read_images((path for path, _, _ in files), size)
    labels, groups = np.array([row[1:] for row in files], np.int64).T
    used = (file for each in SPLITS for file, _, _ in folder.files(each))
    passed_over = _passed_over(root, used)
    return LabelledImages(images, labels, groups, folder.classes, passed_over=passed_over)


def _passed_over(root: Path, used: Iterable[Path]) -> dict[str, int]:
    """How many files of each ending no split has, but for notes and the like beside the folders."""
    beside = (
        path
        for path in {*files_in(root)} - {*used}
        if path.parent != root or path.suffix.lower() in IMAGE_SUFFIXES
    )
    others = Counter(path.suffix.lower() or path.name for path in beside)
    return {name: others[name] for name in sorted(others)}


def read_images(paths: Iterable[Path], size: int) -> npt.NDArray[np.uint8]:
    """The images (N, size, size, 3) uint8 RGB, resized as the robot resizes.

    Raises FolderError with the names of those that cannot be read, the first `_NAMED` of them.
    """
    images: list[npt.NDArray[np.uint8]] = []
    broken: dict[Path, Exception] = {}
    for path in paths:
        try:
            images.append(resize_to(decode_file(path.read_bytes()), size, size))
        except (OSError, ImageError) as error:
            broken[path] = error
            if len(broken) == _NAMED:
                break
    if len(broken) == 1:
        [(path, why)] = broken.items()
        raise FolderError(f'{path}: not a readable image: {why}; mend it or take it away') from why
    if broken:
        more = ' or more' if len(broken) == _NAMED else ''
        raise FolderError(
            f'{len(broken)}{more} files are not readable images; mend them or take them away: '
            f'{", ".join(map(str, broken))}'
        )
    return np.stack(images)


def _divided(folder: Path) -> ClassFolder:
    """A folder with `train` and `test`; what is to select is taken from `train` without `val`."""
    names = {
        split: tuple(p.name for p in _classes(folder / part))
        for split, part in _GIVEN.items()
        if (folder / part).is_dir()
    }
    for split, found in names.items():
        if found != names['train']:
            odd = sorted(set(found) ^ set(names['train']))
            raise FolderError(
                f'{folder}: train and {_GIVEN[split]} differ in the classes {", ".join(odd)}'
            )
    least = 1 if 'select' in names else 2
    groups = {
        split: tuple(
            _groups(path, least if split == 'train' else 1)
            for path in _classes(folder / _GIVEN[split])
        )
        for split in names
    }
    if 'select' not in groups:
        whole = groups['train']
        for split in ('train', 'select'):
            groups[split] = tuple({n: g[n] for n in divide(g, split, 0)} for g in whole)
    return ClassFolder(names['train'], groups)


def _classes(folder: Path) -> list[Path]:
    classes = _folders(folder)
    if len(classes) < 2:
        names = ', '.join(repr(path.name) for path in classes) or 'none'
        raise FolderError(f'{folder}: expected at least two class folders in it, found {names}')
    for path in classes:
        if not is_utf_8(path.name):
            raise FolderError(
                f'{folder}: the name of the class folder {os.fsencode(path.name)!r} is not UTF-8, '
                'and the name of a class has to be text: rename it'
            )
    return classes


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not is_hidden(path) and path.is_dir()]


def _groups(folder: Path, least: int) -> Groups:
    """The images of a class by the path, relative to it, of what must stay together."""
    groups: Groups = {}
    for path in sorted(images_in(folder)):
        groups.setdefault(path.relative_to(folder).parts[0], []).append(path)
    if not groups:
        raise FolderError(
            f'{folder}: no image in this class folder; their names end in '
            f'{", ".join(sorted(IMAGE_SUFFIXES))}'
        )
    _check_count(str(folder), len(groups), least)
    return groups


def _check_count(what: str, count: int, least: int) -> None:
    """Raise FolderError for a class of too few images to be divided."""
    if count < least:
        raise FolderError(
            f'{what}: {count} to divide into {", ".join(SPLITS[:least])}, expected at least '
            f'{least} images, or folders of images that belong together'
        )
