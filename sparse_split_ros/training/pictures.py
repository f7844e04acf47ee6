# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a training run: how it went, and how honest the exits' confidences are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

Bins = Sequence[tuple[float, float, int]]
"""Mean confidence, accuracy and number of images, bin by bin."""


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Loss, learning rate and the errors of every exit over epochs, as a PNG file."""
    figure = _figure(9.0, 3.4, path)
    if figure is None:
        return
    from matplotlib.ticker import LogFormatter

    left, right = figure.subplots(1, 2)
    epochs = [int(row['epoch']) + 1 for row in history]
    left.plot(epochs, [row['loss'] for row in history], color='C0')
    left.set(xlabel='epoch', ylabel='training loss')
    rate = left.twinx()
    rate.plot(epochs, [row['rate'] for row in history], color='0.7', linestyle=':')
    rate.set_ylabel('learning rate', color='0.5')
    measured = [name for name in history[0] if name.endswith('_coded') or '_exit_' in name]
    for name in [*measured, 'score']:
        # An error of none has no place on a logarithmic axis.
        errors = [max(100 * (1 - row[name]), 0.01) for row in history]
        style = {'score': 'k-'}.get(name, '--' if name.endswith('_coded') else '-')
        right.plot(epochs, errors, style, label=name, linewidth=1)
    # Of equal scores, of which few images have many, the last is kept.
    best = max(reversed(history), key=lambda row: row['score'])
    right.axvline(best['epoch'] + 1, color='0.7', linestyle=':')
    right.set(xlabel='epoch', ylabel='selection error, %', yscale='log')
    right.yaxis.set_major_formatter('{x:g}')
    right.yaxis.set_minor_formatter(LogFormatter())
    right.legend(fontsize=6, loc='upper right')
    for axis in (left, right):
        axis.locator_params(axis='x', integer=True)
    figure.savefig(path, dpi=120)


def draw_reliability(bins: Mapping[int, Bins], path: Path) -> None:
    """Accuracy over confidence for every exit, bins of equal mass, as a PNG file."""
    figure = _figure(3.0 * len(bins), 3.2, path)
    if figure is None:
        return
    for axis, (stage, points) in zip(
        figure.subplots(1, len(bins), squeeze=False)[0], bins.items(), strict=True
    ):
        axis.plot([0, 1], [0, 1], color='0.7', linestyle=':')
        axis.plot([c for c, _, _ in points], [a for _, a, _ in points], '.-')
        low = min(min(c, a) for c, a, _ in points)
        axis.set(title=f'exit {stage}', xlabel='confidence', xlim=(low - 0.02, 1.01))
        axis.set_ylim(low - 0.02, 1.01)
    figure.axes[0].set_ylabel('accuracy')
    figure.savefig(path, dpi=120)


def _figure(width: float, height: float, path: Path) -> Any:
    """An empty figure, or None without matplotlib, which no training needs."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        _log.warning('%s is not drawn: pip install matplotlib', path.name)
        return None
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure
