# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labels beside a folder's images, in `labels.csv`: a column `file`, and one for each task."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from sparse_split_ros.data.datasets import DatasetError

LABELS = 'labels.csv'
TASK_NAME = re.compile(r'[A-Za-z](_?[A-Za-z0-9])*_?')
"""What a further task may be called, as the name becomes a part of topics' names."""


class LabelsError(DatasetError):
    """A file of labels is unreadable, or leaves open which image is what."""


def read_labels(root: str | os.PathLike[str]) -> dict[Path, dict[str, str]]:
    """The label of each task, by its name, of every image that `labels.csv` in `root` names.

    Files are relative to `root`; blanks around a name do not count. Raises LabelsError for an image
    that lacks a label, among others.
    """
    table = Path(root) / LABELS
    try:
        with table.open(newline='', encoding='utf-8-sig') as file:  # with Excel's mark or without
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, ())]
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f'{table}: cannot be read: {error}') from error
    tasks = [name for name in columns if name != 'file']
    if 'file' not in columns or not tasks or len(set(columns)) != len(columns):
        raise LabelsError(
            f'{table}: has the columns {", ".join(map(repr, columns)) or "none"}, expected '
            "'file', and one for each task with a name of its own"
        )
    for name in tasks[1:]:
        if not TASK_NAME.fullmatch(name):
            raise LabelsError(
                f"{table}: the column {name!r} is no part of a topic's name, as the name of a "
                'further task has to be: a letter, then letters, digits and single underscores'
            )
    found: dict[Path, dict[str, str]] = {}
    seen: set[str] = set()
    for line, row in rows:
        values = dict(zip(columns, map(str.strip, row)))
        lines = ' '.join(row).splitlines()
        if len(row) != len(columns) or len(lines) != 1 or '' in values.values():
            raise LabelsError(
                f'{table}: line {line} is {row}: expected a file and a label of each task, each in '
                'one line, nothing more'
            )
        path = Path(root) / values.pop('file')
        if (plain := os.path.normpath(path)) in seen:
            raise LabelsError(f'{table}: line {line} names {path} again, expected each image once')
        seen.add(plain)
        if not path.is_file():
            raise LabelsError(f'{table}: line {line}: {path} does not exist')
        found[path] = values
    if not found:
        raise LabelsError(f'{table}: names no image')
    return found
