# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which part of a labelled folder each image falls to in training, without reading an image."""

from __future__ import annotations

from pathlib import Path

from sparse_split_ros.data.datasets import DatasetError
from sparse_split_ros.data.folder import scan, table_groups
from sparse_split_ros.data.labels import LABELS, read_labels
from sparse_split_ros.data.splits import SPLITS, divide


def parts_of(root: Path) -> dict[Path, tuple[str, str]]:
    """The split, train, select or report, and the class of every image that training would read.

    Of several tasks it is the class of the first. Raises DatasetError for a folder of which
    training makes no parts: without classes, or with too few images of one.
    """
    try:
        return _of_table(root) if (root / LABELS).is_file() else _of_class_folders(root)
    except DatasetError as error:
        raise DatasetError(f'{root} has no parts: {error}') from error


def _of_class_folders(root: Path) -> dict[Path, tuple[str, str]]:
    folder = scan(root)
    return {
        file: (split, folder.classes[label])
        for split in SPLITS
        for file, label, _ in folder.files(split)
    }


def _of_table(root: Path) -> dict[Path, tuple[str, str]]:
    labelled = read_labels(root)
    return {
        path: (split, next(iter(labelled[path].values())))
        for groups in table_groups(root, labelled).values()
        for split in SPLITS
        for name in divide(groups, split)
        for path in groups[name]
    }
