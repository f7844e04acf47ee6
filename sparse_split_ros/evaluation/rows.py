# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Decisions as rows of a table: one per frame, in frame order, the same bytes for the same run."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.policy.decision import Reason, Route

COLUMNS = tuple(field.name for field in fields(Outcome))
# Put in front of a frame's own columns in decisions.csv.
LEADING = ('policy', 'source')


class RowError(ValueError):
    """A table of decisions that cannot be written or read."""


def write_rows(outcomes: Iterable[Outcome], file: io.TextIOBase) -> None:
    """Append rows without a header; None and NaN are empty.

    Floats have seven digits, or four behind the point where that is more.
    """
    writer = csv.writer(file, lineterminator='\n')
    writer.writerows([_text(getattr(outcome, name)) for name in COLUMNS] for outcome in outcomes)


def read_rows(path: Path) -> Iterator[Outcome]:
    """The outcomes that :func:`write_rows` wrote."""
    with path.open(newline='', encoding='utf-8') as file:
        for row in csv.reader(file):
            yield Outcome(**{name: _PARSE[name](text) for name, text in zip(COLUMNS, row)})


def check_table(name: str) -> None:
    """Raise RowError for a file of decisions that could not be written in the end."""
    suffix = Path(name).suffix
    if suffix not in ('.csv', '.parquet') or Path(name).name != name:
        raise RowError(f'table {name}: expected a file name that ends in .csv or .parquet')
    if suffix == '.parquet' and find_spec('pyarrow') is None:
        raise RowError(f'table {name}: writing .parquet needs pyarrow: pip install pyarrow')


def gather(parts: Iterable[tuple[str, str, Path]], out: Path) -> None:
    """Write parts of (policy, source, rows) into one .csv or .parquet file, in this order."""
    table = out.with_suffix('.csv')
    with table.open('w', encoding='utf-8', newline='') as file:
        csv.writer(file, lineterminator='\n').writerow([*LEADING, *COLUMNS])
        for policy, source, path in parts:
            lead = io.StringIO()
            csv.writer(lead, lineterminator='').writerow([policy, source])
            with path.open(encoding='utf-8', newline='') as rows:
                for row in rows:
                    file.write(f'{lead.getvalue()},{row}')
    if out.suffix == '.parquet':
        _to_parquet(table, out)
        table.unlink()


def _to_parquet(table: Path, out: Path) -> None:
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    # What a column looks like at first says nothing of what comes: zeros before fractions, none
    # before names, and class names that are numbers.
    kinds = {'int': 'int64', 'bool': 'int64', 'float': 'float64'}
    types = {field.name: kinds.get(str(field.type), 'string') for field in fields(Outcome)}
    convert = arrow_csv.ConvertOptions(
        column_types={**dict.fromkeys(LEADING, 'string'), **types}, strings_can_be_null=True
    )
    with (
        arrow_csv.open_csv(table, convert_options=convert) as reader,
        parquet.ParquetWriter(out, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)


def _text(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        if math.isnan(value):
            return ''
        if abs(value) >= 1e3:  # of a long run's seconds, tenths of a ms
            return f'{value:.4f}'.rstrip('0').rstrip('.')
        # Adding zero turns -0 into 0.
        return f'{round(value, 9) + 0.0:.7g}'
    return str(value)


def _float(text: str) -> float:
    return float(text) if text else math.nan


_PARSERS: dict[str, Any] = {
    'int': int,
    'float': _float,
    # Names repeat in every row: one copy of each is enough.
    'str': sys.intern,
    'bool': lambda text: text == '1',
    'str | None': lambda text: sys.intern(text) or None,
    'Route | None': lambda text: Route(text) if text else None,
    'Reason | None': lambda text: Reason(text) if text else None,
}
_PARSE = {field.name: _PARSERS[str(field.type)] for field in fields(Outcome)}
