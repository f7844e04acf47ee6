# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures that only a replay can draw: rivals, hindsight, the link from both ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from sparse_split_ros.evaluation.metrics import Outcome, reliability
from sparse_split_ros.evaluation.style import (
    INK,
    LINE,
    QUIET,
    ROUTE_COLOURS,
    WRONG,
    bare,
    draw_scenes,
    figure,
    shade,
    times_of,
)
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.policy.decision import Reason, Route

_RIVALS = {
    'full-local': '#7a8699', 'jpeg-offload': '#c0504d', 'webp-offload': '#e0974a',
    'fixed': '#8e6bbf', 'branchynet': '#3b8f8c', 'splitee': '#4f81bd', 'splitee-s': '#7fb2e5',
    'isplitee': '#24527a', 'splitee-paired': '#9bc1bc', 'joint': '#2e9e46', 'oracle': '#1f2733',
}  # fmt: skip
_STATES = {TailState.UP: '#cfeed6', TailState.DOWN: '#ffd9b0', TailState.UNKNOWN: '#e8ebf0',
           TailState.FOREIGN: '#f3b8c0'}  # fmt: skip


def tradeoff(summary: Mapping[str, Any]) -> bytes | None:
    """Wrong answers against cost, latency and robot compute, the best on top; None without rivals.

    Where the truth is not known, answers that the full network does not give count as wrong. What
    decided no frame has no place.
    """
    chosen = {**summary, 'name': summary['policy']}
    rows = [row for row in (*summary['baselines'].values(), chosen) if _decided(row)]
    if len(rows) < 2 or not _decided(chosen):
        return None
    panels = (
        ('cost per frame, ms equivalents', lambda row: row['cost_mean'], True),
        ('mean latency, ms', lambda row: row['latency_ms']['mean'], True),
        ('robot compute, million MACs per frame',
         lambda row: row['robot_macs_mean'] / 1e6, False),
    )  # fmt: skip
    with figure(11, 4.1) as (canvas, buffer):
        axes = canvas.subplots(1, len(panels), sharey=True, gridspec_kw={'wspace': 0.04})
        for place, (title, cost, log) in zip(axes, panels):
            for row in rows:
                _draw_rival(place, row, cost, star=row is chosen)
            place.set_xlabel(title)
            if log:
                place.set_xscale('log')
                place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
                place.xaxis.set_minor_formatter(FuncFormatter(_few))
        axes[0].set_yscale('log')
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7), numticks=20))
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{100 * value:g}%'))
        axes[0].yaxis.set_minor_locator(NullLocator())
        axes[0].set_ylabel('wrong' if chosen['accuracy'] is not None else 'not as the full network')
        wrong = [_wrong(row) for row in rows]
        # What is far off stays out; the good can then be told apart.
        axes[0].set_ylim(min(1.0, 40 * min(wrong), 1.6 * max(wrong)), min(wrong) / 1.6)
        axes[-1].legend(
            *axes[0].get_legend_handles_labels(), loc='upper left', bbox_to_anchor=(1.005, 1),
            borderaxespad=0,
        )  # fmt: skip
    return buffer.getvalue()


def _decided(row: Mapping[str, Any]) -> bool:
    return row['cost_mean'] is not None


def _few(value: float, _: int) -> str:
    """Label only the twos and fives between powers of ten."""
    lead = f'{value:.0e}'[0]
    return f'{value:g}' if lead in '25' else ''


def _wrong(row: Mapping[str, Any]) -> float:
    """The share of wrong answers; where there are none, half a frame's, less than any other's."""
    known = row['accuracy'] is not None
    share = 1.0 - float(row['accuracy']) if known else float(row['disagreement'] or 0.0)
    return max(share, 0.5 / max(1, int(row['frames'])))


def _draw_rival(axes: Axes, row: Mapping[str, Any], cost: Any, *, star: bool) -> None:
    colour = _RIVALS.get(row['name'], QUIET)
    sweep = [each for each in row.get('sweep', ()) if _decided(each)]
    if len(sweep) > 1:
        x, y = [cost(each) for each in sweep], [_wrong(each) for each in sweep]
        axes.plot(x, y, color=colour, lw=1, alpha=0.6, marker='o', ms=2.5)
    axes.plot(
        cost(row), _wrong(row), color=colour, ls='', marker='*' if star else 'o',
        ms=15 if star else 7, mec='white', mew=0.8, label=row['name'], zorder=4 if star else 3,
    )  # fmt: skip


def learning(
    outcomes: Sequence[Outcome], oracle: Sequence[Outcome] | None, target: float
) -> bytes | None:
    """Threshold, cumulative disagreement and regret over time, above the scenes.

    None when nothing was decided.
    """
    decided = [each for each in outcomes if each.route is not None]
    if not decided:
        return None
    _, end = times_of(outcomes)
    regret = None if oracle is None else _regret(decided, oracle)
    heights = [2.4, 2.0, *([2.0] if regret else []), 0.6]
    with figure(11, 0.75 * sum(heights)) as (canvas, buffer):
        rows = canvas.subplots(
            len(heights), 1, sharex=True,
            gridspec_kw={'height_ratios': heights, 'hspace': 0.05},
        )  # fmt: skip
        times = np.array([each.time for each in decided])
        for route in Route:
            mine = [each for each in decided if each.route is route]
            # A threshold above every confidence means never; it is drawn at 1.
            held = [min(1.0, each.threshold) for each in mine]
            rows[0].scatter(
                [each.time for each in mine], held, s=5, lw=0, alpha=0.7,
                color=ROUTE_COLOURS[route],
            )  # fmt: skip
        rows[0].set_ylabel('threshold')
        rows[0].set_ylim(-0.04, 1.06)
        promised = np.array([each.route is not Route.FALLBACK for each in decided])
        differs = np.array([each.differs is True for each in decided]) & promised
        share = np.cumsum(differs) / np.maximum(1, np.cumsum(promised))
        rows[1].plot(times, share, color=INK, lw=1.3)
        rows[1].axhline(target, color=QUIET, lw=1, ls=(0, (4, 3)))
        rows[1].text(end, target, 'target ', ha='right', va='bottom', color=QUIET)
        rows[1].set_ylim(0, max(2.2 * target, 1.15 * float(share[len(share) // 10 :].max())))
        rows[1].yaxis.set_major_formatter(PercentFormatter(1))
        rows[1].set_ylabel('differ so far')
        if regret is not None:
            rows[2].plot(*regret, color=INK, lw=1.3)
            rows[2].set_ylabel('regret, s')
            rows[2].set_ylim(min(0.0, *regret[1]), None)
        for axes in rows[:-1]:
            axes.grid(False, axis='x')
        draw_scenes(rows[-1], outcomes, end)
        bare(rows[-1])
        _seconds(rows[-1], end)
    return buffer.getvalue()


def _regret(
    decided: Sequence[Outcome], oracle: Sequence[Outcome]
) -> tuple[list[float], list[float]] | None:
    """Times, and what was spent beyond the oracle until then, in s of cost."""
    best = {each.index: each.cost for each in oracle if each.route is not None}
    both = [each for each in decided if each.index in best]
    if not both:
        return None
    beyond = np.cumsum([each.cost - best[each.index] for each in both]) / 1e3
    return [each.time for each in both], beyond.tolist()


def link_strip(outcomes: Sequence[Outcome], deadline_ms: float) -> bytes | None:
    """Every trip to the tail: how long it took, what was lost, and when the head gave up on it."""
    asked = [each for each in outcomes if each.offboard > 0]
    if not asked:
        return None
    decided = [each for each in outcomes if each.tail_state]
    _, end = times_of(outcomes)
    with figure(11, 2.8) as (canvas, buffer):
        axes = canvas.subplots()
        came = [each for each in asked if each.route is Route.OFFBOARD]
        lost = [each for each in asked if each.reason is Reason.DEADLINE]
        axes.scatter(
            [each.time for each in came], [each.offboard for each in came], s=8, lw=0, alpha=0.8,
            color=ROUTE_COLOURS[Route.OFFBOARD], label='answered in',
        )  # fmt: skip
        axes.scatter(
            [each.time for each in lost], [each.offboard for each in lost], s=24, lw=1.2,
            marker='x', color=WRONG, label='no answer after',
        )  # fmt: skip
        seen = [each for each in decided if not math.isnan(each.rtt)]
        axes.plot(
            [each.time for each in seen], [each.rtt for each in seen], color=INK, lw=1,
            label='round trip as estimated',
        )  # fmt: skip
        axes.axhline(deadline_ms, color=QUIET, lw=1, ls=(0, (4, 3)), label='deadline')
        starts = [i for i, each in enumerate(decided)
                  if i == 0 or each.tail_state != decided[i - 1].tail_state]  # fmt: skip
        for start, stop in zip(starts, [*starts[1:], len(decided)]):
            state = TailState(decided[start].tail_state)
            right = decided[stop].time if stop < len(decided) else end
            if state is not TailState.UP:
                shade(axes, (decided[start].time, right))
            axes.axvspan(decided[start].time, right, 0, 0.045, color=_STATES[state], lw=0, zorder=0)
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7), numticks=20))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylabel('ms')
        axes.grid(False, axis='x')
        axes.legend(loc='upper left', bbox_to_anchor=(1.005, 1), borderaxespad=0)
        _seconds(axes, end)
    return buffer.getvalue()


def reliability_diagram(outcomes: Sequence[Outcome]) -> bytes | None:
    """Whether confidence is what it says: accuracy by confidence; None without any truth."""
    groups = {
        'on the robot': [each for each in outcomes if each.route in (Route.LOCAL, Route.FALLBACK)],
        'offboard': [each for each in outcomes if each.route is Route.OFFBOARD],
    }
    bins = {name: reliability(group) for name, group in groups.items()}
    bins = {name: rows for name, rows in bins.items() if rows}
    if not bins:
        return None
    with figure(11, 3.9) as (canvas, buffer):
        places = canvas.subplots(1, len(bins), sharey=True, squeeze=False)[0]
        colours = {'on the robot': ROUTE_COLOURS[Route.LOCAL],
                   'offboard': ROUTE_COLOURS[Route.OFFBOARD]}  # fmt: skip
        for axes, (name, rows) in zip(places, bins.items()):
            mean, share, count = (np.array(column) for column in zip(*rows))
            axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=(0, (4, 3)))
            axes.bar(
                np.minimum(0.95, (mean * 10).astype(int) / 10 + 0.05), share, width=0.094,
                color=colours[name], alpha=0.3,
            )  # fmt: skip
            axes.plot(mean, share, color=colours[name], marker='o', ms=5, lw=1.4)
            for x, y, number in zip(mean, share, count):
                axes.annotate(
                    f'{number:,}', (x, y), (0, -13 if y > 0.12 else 7), fontsize=8, color=QUIET,
                    textcoords='offset points', ha='center',
                )  # fmt: skip
            axes.set_title(f'{name}, {count.sum():,} answers', loc='left', fontsize=10, color=QUIET)
            axes.set_xlim(0, 1.02)
            axes.set_ylim(0, 1.06)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.set_xlabel('confidence')
            axes.tick_params(color=LINE)
        places[0].set_ylabel('right')
    return buffer.getvalue()


def _seconds(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end)
    axes.tick_params(labelbottom=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g} s'))
