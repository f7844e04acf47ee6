# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What all pictures of a report share: colours, the strip of scenes, bare axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.policy.decision import Route

matplotlib.use('Agg')

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

# As in the annotated images of the head, but the last darker: in grey it was the first.
ROUTE_COLOURS = {Route.LOCAL: '#3cc85a', Route.OFFBOARD: '#468cff', Route.FALLBACK: '#b4500a'}
_SCENE_COLOURS = {
    'day': '#ffd76a', 'dusk': '#d98f78', 'night': '#2f3c66', 'glare': '#fff0b8',
    'fog': '#c5ccd6', 'rain': '#7d9cbd', 'snow': '#e6f0f7', 'haze': '#cfd6dd',
    'blur': '#d9c7e8', 'noise': '#b9aa9c',
}  # fmt: skip
_OTHER_SCENES = ('#b8a6d9', '#9fd0c6', '#e3b7a0', '#a7c48f')
INK, QUIET, LINE, WRONG, NONE = '#1f2733', '#5c6675', '#e3e7ee', '#d3273e', '#b9c0cb'
_STYLE: Any = {
    'font.size': 9.5, 'text.color': INK, 'axes.labelcolor': QUIET, 'axes.edgecolor': LINE,
    'xtick.color': QUIET, 'ytick.color': QUIET, 'axes.spines.top': False,
    'axes.spines.right': False, 'axes.grid': True, 'grid.color': LINE, 'axes.axisbelow': True,
    'legend.frameon': False, 'xtick.major.size': 0, 'ytick.major.size': 0, 'figure.dpi': 160,
    'savefig.facecolor': 'white',
}  # fmt: skip
# Names are what they are: no formulas in them, and letters of all the world where a font has them.
if 'text.parse_math' in matplotlib.rcParams:  # from 3.6 on, as are fonts that stand in for others
    _STYLE['text.parse_math'] = False
    _FONTS = ('DejaVu Sans', 'Noto Sans CJK JP', 'Noto Sans CJK SC', 'Noto Sans', 'Droid Sans')
    _installed = {font.name for font in fontManager.ttflist}
    _STYLE['font.family'] = [name for name in _FONTS if name in _installed]

# Blocks of scenes that a picture has room for.
_PARTS = 300

Times = NDArray[np.float64]


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Figure, BytesIO]]:
    """A figure of inches; what the buffer holds afterwards is its PNG."""
    buffer = BytesIO()
    with pyplot.rc_context(_STYLE):
        canvas = pyplot.figure(figsize=(width, height), layout='constrained')
        try:
            yield canvas, buffer
            canvas.savefig(buffer, format='png')
        finally:
            pyplot.close(canvas)


def times_of(outcomes: Sequence[Outcome]) -> tuple[Times, float]:
    """When each frame begins, and when the last one ends, in s."""
    times = np.array([each.time for each in outcomes])
    step = (times[-1] - times[0]) / max(1, len(times) - 1)
    return times, float(times[-1] + max(step, 1e-3))


def in_ms(value: float | None) -> str:
    """A time in ms for people; a dash for none."""
    if value is None:
        return '–'
    if value < 1:
        return f'{value:.2g} ms'
    return f'{value:.1f} ms' if value < 99.95 else f'{value:,.0f} ms'


def draw_scenes(axes: Axes, outcomes: Sequence[Outcome], end: float) -> None:
    """One labelled block per stretch of a scene: the true one, or else the one measured."""
    starts, names = _stretches(outcomes)
    unknown = sorted(set(names) - _SCENE_COLOURS.keys())
    others = {name: _OTHER_SCENES[i % len(_OTHER_SCENES)] for i, name in enumerate(unknown)}
    for left, right, name in zip(starts, [*starts[1:], end], names):
        colour = {**others, **_SCENE_COLOURS}[name] if name else LINE
        axes.axvspan(left, right, color=colour, lw=0)
        if (right - left) / end > 0.04:
            dark = np.dot(to_rgb(colour), (0.299, 0.587, 0.114)) < 0.5
            axes.text(
                (left + right) / 2, 0.47, name, ha='center', va='center', fontsize=8.5,
                color='white' if dark else INK, transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def _stretches(outcomes: Sequence[Outcome]) -> tuple[list[float], list[str]]:
    """Where each stretch of one scene begins, in s, and its name."""
    every = [each for each in outcomes if each.where] or outcomes[:1]
    # Of a long run, what the eye can tell apart: the most frequent scene of each part.
    parts = np.array_split(np.arange(len(every)), min(len(every), _PARTS))
    starts: list[float] = []
    names: list[str] = []
    for part in parts:
        seen = Counter(every[i].where or '' for i in part)
        name = seen.most_common(1)[0][0]
        if not names or name != names[-1]:
            starts.append(every[part[0]].time)
            names.append(name)
    return starts, names


def shade(axes: Axes, span: tuple[float, float], text: str = '') -> None:
    """Darken a span of time, and write above what it was."""
    axes.axvspan(*span, color=INK, alpha=0.10, lw=0)
    for edge in span:
        axes.axvline(edge, color=INK, lw=0.8, alpha=0.6)
    if text:
        axes.text(
            sum(span) / 2, 0.94, text, transform=axes.get_xaxis_transform(), ha='center',
            va='top', fontsize=8.5, weight='bold',
        )  # fmt: skip


def bare(axes: Axes) -> None:
    """Leave nothing but what is drawn."""
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(which='both', length=0)
