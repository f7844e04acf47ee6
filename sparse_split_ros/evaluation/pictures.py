# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report. Each function draws one of them from the same outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from sparse_split_ros.data.files import natural
from sparse_split_ros.evaluation.metrics import Outcome, confusions, grouped, labelled, wilson
from sparse_split_ros.evaluation.style import (
    INK,
    NONE,
    QUIET,
    ROUTE_COLOURS,
    WRONG,
    Times,
    bare,
    draw_scenes,
    figure,
    in_ms,
    shade,
    times_of,
)
from sparse_split_ros.policy.decision import Route

RGB = NDArray[np.uint8]

# Local exits from the first to the last: the deeper, the darker.
_LOCAL_SHADES = LinearSegmentedColormap.from_list('local', ['#a9e8b6', '#3cc85a', '#1b8a38'])
_MOST_CONFUSED = 14
# Of half a second each in the shipped drive, half the approach to a sign.
_STRETCHES = 84


def drive_strip(
    outcomes: Sequence[Outcome],
    images: Mapping[int, RGB],
    outage: tuple[float, float] | None = None,
    cameras: Mapping[str, Sequence[Outcome]] | None = None,
) -> bytes:
    """Thumbnails, scenes, routes and mistakes along the drive; ``outage`` in its seconds.

    ``cameras`` divides the outcomes into one row of thumbnails each. Thumbnails need ``images``,
    and mistakes a truth.
    """
    views = (cameras or {'': outcomes}) if images else {}
    heights = [*[3.4] * len(views), 1, 2.2, *[1] * labelled(outcomes)]
    with figure(11, 1.4 + 1.1 * len(views)) as (canvas, buffer):
        rows = canvas.subplots(
            len(heights), 1, sharex=True, gridspec_kw={'height_ratios': heights, 'hspace': 0.04}
        )
        thumbnails, (scenes, routes, *wrong) = rows[: len(views)], rows[len(views) :]
        times, end = times_of(outcomes)
        draw_scenes(scenes, outcomes, end)
        answered = [[*Route].index(each.route) if each.route else -1 for each in outcomes]
        colours = ListedColormap([NONE, *(ROUTE_COLOURS[route] for route in Route)])
        routes.pcolormesh(
            [*times, end], [0, 1], [answered], cmap=colours, vmin=-1.5, vmax=len(Route) - 0.5,
            antialiased=False,
        )  # fmt: skip
        if outage is not None:
            shade(routes, outage, text='tail gone')
        for axes in wrong:
            mistakes = [time for time, each in zip(times, outcomes) if each.correct is False]
            axes.vlines(mistakes, 0, 1, color=WRONG, lw=0.9)
            if outage is not None:
                shade(axes, outage)
        for axes, name in zip((scenes, routes, *wrong), ('scene', 'route', 'wrong')):
            axes.set_ylabel(name, rotation=0, ha='right', va='center')
        if len(views) > 1:
            for axes, name in zip(thumbnails, views):
                axes.set_ylabel(name, rotation=0, ha='right', va='center')
        for axes in rows:
            bare(axes)
            axes.set_xlim(0, end)
            axes.set_ylim(0, 1)
        rows[-1].tick_params(labelbottom=True)
        # Only the finished layout tells how many squares fit.
        canvas.draw_without_rendering()
        for axes, view in zip(thumbnails, views.values()):
            place = axes.get_window_extent()
            count = max(1, round(place.width / place.height))
            _draw_thumbnails(axes, view, images, end, count)
        rows[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} s'))
    return buffer.getvalue()


def accuracy_bars(outcomes: Sequence[Outcome]) -> bytes | None:
    """Accuracy by scene and by route, each with its 95 % interval; None without any truth."""
    scenes = grouped(outcomes, lambda each: each.where if each.correct is not None else None)
    routes = grouped(outcomes, lambda each: each.route if each.correct is not None else None)
    if not routes:
        return None
    rows = max(len(scenes), len(routes), 3)
    with figure(11, 0.9 + 0.34 * rows) as (canvas, buffer):
        left, right = canvas.subplots(1, 2, sharex=True, gridspec_kw={'wspace': 0.06})
        _draw_accuracy(left, {name: (group, '#5b6b84') for name, group in scenes.items()}, rows)
        by_route = {
            route.value: (routes[route], ROUTE_COLOURS[route]) for route in Route if route in routes
        }
        _draw_accuracy(right, by_route, rows)
        left.set_title('by scene', loc='left', fontsize=10, color=QUIET)
        right.set_title('by route', loc='left', fontsize=10, color=QUIET)
        left.set_xlim(0, 1.3)
        left.set_xticks(np.linspace(0, 1, 6))
        left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return buffer.getvalue()


def latency_rows(outcomes: Sequence[Outcome], deadline_ms: float) -> bytes:
    """How long answers took, one row per route, on a logarithmic scale."""
    groups = grouped(outcomes, lambda each: each.route)
    routes = [route for route in Route if route in groups]
    everything = [max(each.latency, 1e-2) for group in groups.values() for each in group]
    low = min([*everything, deadline_ms]) * 0.8
    high = max([*everything, deadline_ms]) * 1.3
    edges = np.geomspace(low, high, 110)
    with figure(11, 0.7 + 0.95 * max(1, len(routes))) as (canvas, buffer):
        rows = canvas.subplots(
            max(1, len(routes)), 1, sharex=True, squeeze=False, gridspec_kw={'hspace': 0.08}
        )[:, 0]
        for axes, route in zip(rows, routes):
            values = np.array([max(each.latency, 1e-2) for each in groups[route]])
            counts, _ = np.histogram(values, edges)
            axes.fill_between(
                edges[:-1], counts, step='post', color=ROUTE_COLOURS[route], alpha=0.85, lw=0
            )
            top = counts.max() * 1.45
            axes.set_ylim(0, top)
            median, p95 = np.percentile(values, (50, 95))
            axes.vlines(median, 0, top * 0.8, color=INK, lw=1)
            text = f'{route.value}\n{len(values)} frames\np50 {in_ms(median)}, p95 {in_ms(p95)}'
            axes.text(1.01, 0.5, text, transform=axes.transAxes, va='center', linespacing=1.4)
            axes.axvline(deadline_ms, color=QUIET, lw=1, ls=(0, (4, 3)))
            bare(axes)
        rows[0].text(deadline_ms, rows[0].get_ylim()[1], ' deadline', color=QUIET, va='top')
        bottom = rows[-1]
        bottom.set_xscale('log')
        bottom.set_xlim(low, high)
        bottom.tick_params(labelbottom=True)
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} ms'))
        bottom.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ''))
        for axes in rows:
            axes.grid(True, axis='x')
    return buffer.getvalue()


def exit_use(outcomes: Sequence[Outcome], outage: tuple[float, float] | None = None) -> bytes:
    """Which exit answered and, with a truth, how often rightly, in short stretches of the drive."""
    answered = [each for each in outcomes if each.route is not None]
    _, end = times_of(outcomes)
    # Two frames or more in each, for a stretch without one is a gap.
    stretches = max(1, min(_STRETCHES, len(outcomes) // 2))
    edges = np.linspace(0.0, end, stretches + 1)
    width = end / stretches

    def count(chosen: Iterable[Outcome]) -> Times:
        return np.histogram([each.time for each in chosen], edges)[0].astype(float)

    every = np.maximum(count(answered), 1.0)
    known = count(each for each in answered if each.correct is not None)
    right = count(each for each in answered if each.correct is True)
    groups = [
        (route, stage)
        for route in Route
        for stage in sorted({each.exit for each in answered if each.route is route})
    ]
    local = [stage for route, stage in groups if route is Route.LOCAL]
    heights = [*[2.2] * labelled(outcomes), 4.2, 0.7]
    with figure(11, 0.75 + 0.4 * sum(heights)) as (canvas, buffer):
        *accuracy, shares, scenes = canvas.subplots(
            len(heights), 1, sharex=True, gridspec_kw={'height_ratios': heights, 'hspace': 0.04}
        )
        for axes in accuracy:
            with np.errstate(invalid='ignore'):
                axes.stairs(right / known, edges, color=INK, lw=1.4, baseline=None)
            axes.set_ylim(-0.02, 1.08)
            axes.set_yticks([0, 0.5, 1])
            axes.set_ylabel('right')
        below = np.zeros(stretches)
        for route, stage in groups:
            mine = [each for each in answered if (each.route, each.exit) == (route, stage)]
            share = count(mine) / every
            shares.bar(
                edges[:-1], share, width * 1.01, below, align='edge',
                color=_exit_colour(route, stage, local), label=_exit_name(route, stage),
            )  # fmt: skip
            below += share
        if groups:
            handles, names = shares.get_legend_handles_labels()
            shares.legend(
                handles[::-1], names[::-1], loc='upper left', bbox_to_anchor=(1.005, 1),
                handlelength=1, handleheight=1, borderaxespad=0,
            )  # fmt: skip
        shares.set_ylim(0, 1)
        shares.set_ylabel('who answered')
        for axes in (*accuracy, shares):
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.grid(False, axis='x')
            if outage is not None:
                shade(axes, outage)
        draw_scenes(scenes, outcomes, end)
        bare(scenes)
        scenes.set_xlim(0, end)
        scenes.tick_params(labelbottom=True)
        scenes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} s'))
    return buffer.getvalue()


def payload_dots(
    outcomes: Sequence[Outcome], input_bytes: int | None, outage: tuple[float, float] | None = None
) -> bytes | None:
    """The bytes each frame sent, beside what its network input would have taken.

    None when nothing was sent.
    """
    times, end = times_of(outcomes)
    sizes = np.array([each.payload_bytes for each in outcomes])
    if not sizes.any():
        return None
    with figure(11, 2.6) as (canvas, buffer):
        axes = canvas.subplots()
        for route in Route:
            colour = ROUTE_COLOURS[route]
            mine = np.array([each.route is route for each in outcomes])
            sent, silent = mine & (sizes > 0), mine & (sizes == 0)
            axes.scatter(times[sent], sizes[sent], s=9, color=colour, lw=0, alpha=0.85)
            axes.vlines(
                times[silent], 0.0, 0.05, color=colour, lw=0.8,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        shown = [*sizes[sizes > 0].tolist(), *([] if input_bytes is None else [input_bytes])]
        if input_bytes is not None:
            axes.axhline(input_bytes, color=QUIET, lw=1, ls=(0, (4, 3)))
            axes.text(
                end, input_bytes * 1.06, f'the network input, uncoded: {input_bytes:,} bytes',
                color=QUIET, ha='right', va='bottom',
            )  # fmt: skip
        axes.set_yscale('log')
        axes.set_ylim(min(shown) / 1.8, max(shown) * 1.7)
        axes.set_xlim(0, end)
        axes.set_ylabel('bytes sent')
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} s'))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,.0f}'))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(False, axis='x')
        if outage is not None:
            shade(axes, outage, text='tail gone')
    return buffer.getvalue()


def confusion_matrix(outcomes: Sequence[Outcome]) -> bytes | None:
    """The classes confused most, in rows the truth; None when nothing was confused."""
    counts = confusions(outcomes)
    involved: Counter[str] = Counter()
    for (truth, answer), count in counts.items():
        involved[truth] += count
        involved[answer] += count
    if not involved:
        return None
    names = sorted((name for name, _ in involved.most_common(_MOST_CONFUSED)), key=natural)
    matrix = np.array([[counts[truth, answer] for answer in names] for truth in names])
    side = 2.2 + 0.34 * len(names)
    with figure(min(11, side + 1.6), side) as (canvas, buffer):
        axes = canvas.subplots()
        shades = LinearSegmentedColormap.from_list('wrong', ['#ffffff', '#f7b3bc', WRONG])
        axes.imshow(matrix, cmap=shades, vmin=0, vmax=max(1, matrix.max()))
        for row, column in np.argwhere(matrix):
            value = matrix[row, column]
            axes.text(
                column, row, str(value), ha='center', va='center', fontsize=9,
                color='white' if value > 0.6 * matrix.max() else INK,
            )  # fmt: skip
        for position in range(len(names)):
            axes.text(position, position, '·', ha='center', va='center', color=NONE)
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel('answered')
        axes.set_ylabel('truth')
        axes.set_xticks(np.arange(-0.5, len(names)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(names)), minor=True)
        axes.grid(False)
        axes.grid(True, which='minor')
        axes.tick_params(which='both', length=0)
        axes.spines[:].set_visible(False)
    return buffer.getvalue()


def reduced(image: RGB, side: int = 256) -> RGB:
    """An image, (H, W, 3) or (H, W) uint8, of which no more is kept than can be shown."""
    return image if max(image.shape[:2]) <= side else _resized(image, side)


def thumbnail(image: RGB, side: int = 128) -> bytes:
    """An image of shape (H, W, 3) or (H, W), uint8, as a PNG whose longer side is ``side``."""
    small = _resized(image, side)
    coloured = cv2.cvtColor(small, cv2.COLOR_RGB2BGR if small.ndim == 3 else cv2.COLOR_GRAY2BGR)
    return bytes(cv2.imencode('.png', coloured)[1])


def _resized(image: RGB, side: int) -> RGB:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _draw_thumbnails(
    axes: Axes, outcomes: Sequence[Outcome], images: Mapping[int, RGB], end: float, count: int
) -> None:
    width = end / count
    for slot in range(count):
        part = [each for each in outcomes if slot <= each.time / width < slot + 1]
        # The largest crop of each part shows the most.
        shown = [images[each.index] for each in part if each.index in images]
        image = max(shown, key=lambda each: each.shape[0], default=None)
        if image is not None:
            gap = 0.02 * width
            extent = (slot * width + gap, (slot + 1) * width - gap, 0.02, 0.98)
            axes.imshow(image, extent=extent, aspect='auto', cmap='gray', interpolation='bicubic')


def _draw_accuracy(
    axes: Axes, groups: Mapping[str, tuple[Sequence[Outcome], str]], rows: int
) -> None:
    for row, (group, colour) in enumerate(groups.values()):
        right = sum(each.correct is True for each in group)
        share = right / len(group)
        low, high = wilson(right, len(group))
        axes.barh(row, share, color=colour, height=0.62, alpha=0.9)
        axes.hlines(row, low, high, color=INK, lw=1.1)
        axes.text(1.03, row, f'{share:.1%} of {len(group)}', va='center', fontsize=9)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(rows - 0.4, -0.6)
    axes.tick_params(axis='y', labelcolor=INK)
    axes.spines['bottom'].set_visible(False)
    axes.grid(False, axis='y')


def _exit_colour(route: Route, stage: int, local: Sequence[int]) -> Any:
    if route is not Route.LOCAL:
        return ROUTE_COLOURS[route]
    return _LOCAL_SHADES(0.5 if len(local) < 2 else local.index(stage) / (len(local) - 1))


def _exit_name(route: Route, stage: int) -> str:
    where = {
        Route.LOCAL: f'exit {stage} on the robot',
        Route.OFFBOARD: f'the tail, exit {stage}',
        Route.FALLBACK: f'fallback, exit {stage}',
    }
    return where[route]
