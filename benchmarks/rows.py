# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of figures as a Markdown table, printed as they come: some take an hour."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def show(rows: Iterable[Row], path: Path | None = None) -> None:
    """Print rows of equal keys, and write them to a JSON file too, if one is given."""
    shown: list[Row] = []
    for row in rows:
        if not shown:
            print('| ' + ' | '.join(row) + ' |\n|' + ' --- |' * len(row))
        cells = (f'{v:.4g}' if isinstance(v, float) else str(v) for v in row.values())
        print('| ' + ' | '.join(cells) + ' |', flush=True)
        shown.append(row)
        if path:
            path.write_text(json.dumps(shown, indent=1), encoding='utf-8')
