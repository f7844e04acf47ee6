# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which part of a labelled folder each image falls to in training, without reading an image."""

from __future__ import annotations

from pathlib import Path

from sparse_split_ros.data.folder import FolderError, divide, scan
from sparse_split_ros.data.gtsrb import SPLITS
from sparse_split_ros.data.labels import LABELS, read_labels
from sparse_split_ros.data.sources import SourceError


def parts_of(root: Path) -> dict[Path, tuple[str, str]]:
    """The split, train, select or report, and the class of every image that training would read.

    Of several tasks it is the class of the first. Raises SourceError for a folder of which training
    makes no parts: without classes, or with too few images of one.
    """
    try:
        return _of_table(root) if (root / LABELS).is_file() else _of_class_folders(root)
    # Beside what training says, of files of a table that lie elsewhere.
    except ValueError as error:
        raise SourceError(f'{root} has no parts: {error}') from error


def _of_class_folders(root: Path) -> dict[Path, tuple[str, str]]:
    folder = scan(root)
    return {
        file: (split, folder.classes[label])
        for split in SPLITS
        for file, label, _ in folder.files(split)
    }


def _of_table(root: Path) -> dict[Path, tuple[str, str]]:
    """As `load_folder` divides: by folders of images, each of the class of its first image."""
    groups: dict[str, list[Path]] = {}
    labels: dict[Path, str] = {}
    for path, said in read_labels(root).items():
        inside = path.relative_to(root)
        group = str(inside if inside.parent == Path() else inside.parent)
        groups.setdefault(group, []).append(path)
        labels[path] = next(iter(said.values()))
    of_class: dict[str, list[str]] = {}
    for name, files in groups.items():
        of_class.setdefault(labels[files[0]], []).append(name)
    for label, names in of_class.items():
        if len(names) < len(SPLITS):
            raise FolderError(
                f'{len(names)} images or folders of {label!r}, expected {len(SPLITS)} or more'
            )
    splits = {
        path: split
        for split in SPLITS
        for names in of_class.values()
        for name in divide(names, split)
        for path in groups[name]
    }
    return {path: (splits[path], label) for path, label in labels.items()}
