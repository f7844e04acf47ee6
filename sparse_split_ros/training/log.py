# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What each epoch of a run gave, in log.csv and curves.png."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

from tqdm import tqdm

from sparse_split_ros.training.pictures import draw_curves
from sparse_split_ros.training.recipe import Recipe, TrainingError

_PICTURE_SECONDS = 10.0
Row = dict[str, float]


class Log:
    """Rows by epoch, each with the `score` that chooses which epoch is kept."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.rows: list[Row] = []
        self._drawn = -math.inf

    @property
    def goes_on(self) -> bool:
        """Whether there is another epoch; early stopping looks at the score."""
        scores = [row['score'] for row in self.rows]
        stale = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return len(scores) < self._recipe.epochs and not 0 < self._recipe.patience <= stale

    @property
    def best(self) -> int:
        """After how many epochs the score was highest; of equal ones the last counts."""
        scores = [row['score'] for row in self.rows]
        return len(scores) - scores[::-1].index(max(scores)) if scores else 0

    def write(self, directory: Path) -> None:
        """Write log.csv. Raises TrainingError."""
        path = directory / 'log.csv'
        try:
            with path.open('w', newline='', encoding='utf-8') as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
        except OSError as error:
            raise TrainingError(f'{path}: cannot be written: {error.strerror}') from error

    def show(self, directory: Path) -> None:
        """Print the last row, and draw curves.png, but seldom before the end."""
        tqdm.write('  '.join(f'{key} {value:.4g}' for key, value in self.rows[-1].items()))
        if time.monotonic() - self._drawn > _PICTURE_SECONDS or not self.goes_on:
            draw_curves(self.rows, directory / 'curves.png')
            self._drawn = time.monotonic()
