# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labels beside a folder's images, in `labels.csv`: a column `file`, and one for each task."""

from __future__ import annotations

import csv
import os
from pathlib import Path

LABELS = 'labels.csv'


class LabelsError(ValueError):
    """A file of labels is unreadable, or leaves open which image is what."""


def read_labels(root: str | os.PathLike[str]) -> dict[Path, dict[str, str]]:
    """The label of each task, by its name, of every image that `labels.csv` in `root` names.

    Files are relative to `root`. Raises LabelsError for an image that lacks a label, among others.
    """
    table = Path(root) / LABELS
    try:
        with table.open(newline='', encoding='utf-8-sig') as file:  # with Excel's mark or without
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f'{table}: cannot be read: {error}') from error
    tasks = [name for name in columns if name != 'file']
    if 'file' not in columns or not tasks or len(set(columns)) != len(columns):
        raise LabelsError(
            f'{table}: has the columns {", ".join(map(repr, columns)) or "none"}, expected '
            "'file', and one for each task with a name of its own"
        )
    found: dict[Path, dict[str, str]] = {}
    for line, row in rows:
        values = {name: row[name] for name in columns}
        if len(row) > len(columns) or not all(values.values()):
            raise LabelsError(
                f'{table}: line {line} is {values}: expected a file and a label of each task, '
                'nothing more'
            )
        path = Path(root) / values.pop('file')
        if path in found:
            raise LabelsError(f'{table}: line {line} names {path} again, expected each image once')
        if not path.is_file():
            raise LabelsError(f'{table}: line {line}: {path} does not exist')
        found[path] = values
    if not found:
        raise LabelsError(f'{table}: names no image')
    return found
