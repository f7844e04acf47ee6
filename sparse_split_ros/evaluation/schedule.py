# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies on a schedule of conditions and links: cost, accuracy and regret part by part.

Everything here is simulated: times are the cost model's, links are models. Regret is measured
against the cheapest fixed split, threshold and codec that keeps the promise in hindsight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_split_ros.evaluation.link_model import LinkSpec, TraceModel, load_link
from sparse_split_ros.evaluation.simulate import (
    Fixed,
    Run,
    Segment,
    Simulation,
    hindsight,
    steady,
    time_to_adapt,
)
from sparse_split_ros.evaluation.table import ConfidenceTable, TableError
from sparse_split_ros.policy.factory import Settings, make_policy
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.risk import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ScheduleError(ValueError):
    """A part of a schedule is malformed; says how one is written."""


@dataclass(frozen=True)
class Part:
    """So many frames of one condition over one link."""

    condition: str
    link: LinkSpec | TraceModel
    frames: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read CONDITION[@LINK][:FRAMES]. Raises ScheduleError, LinkModelError."""
        what, _, count = text.rpartition(':') if ':' in text else (text, '', '2000')
        condition, _, link = what.partition('@')
        if not condition or not count.isdecimal() or not 100 <= int(count) <= 10_000_000:
            raise ScheduleError(
                f'part {text!r}: expected CONDITION[@LINK][:FRAMES] with 100 frames or more, such '
                'as day@wifi:2000'
            )
        return cls(condition, load_link(link or 'wifi'), int(count))

    @property
    def name(self) -> str:
        """The condition and the link."""
        return f'{self.condition} @ {self.link.name}'


@dataclass(frozen=True)
class Study:
    """Policies of one bundle on one schedule, ``streams`` times with tracks in another order."""

    table: ConfidenceTable
    facts: Facts
    schedule: Sequence[Part]
    settings: Settings
    calibration: Calibration | None = None
    streams: int = 1
    period_ms: float = 33.0

    def __post_init__(self) -> None:
        exits, made_of = self.facts.stages, self.table.bundle
        if made_of not in ('', self.facts.fingerprint):
            raise TableError(
                f'the table is of bundle {made_of}, and this one is {self.facts.fingerprint}: name '
                'the bundle of the table by --bundle'
            )
        if self.table.stages != exits:
            raise TableError(
                f'the table has exits at stages {self.table.stages}, the bundle at {exits}: make '
                'the table from this bundle'
            )
        for name in ('prediction', 'coded'):
            said, classes = getattr(self.table, name), math.prod(self.facts.sizes)
            if said.size and (said.min() < 0 or said.max() >= classes):
                raise TableError(
                    f'{name} of the table from {said.min()} to {said.max()}, the bundle has '
                    f'{classes} classes: make the table from this bundle'
                )
        for part in self.schedule:
            self.table.only(part.condition)

    def tables(self, stream: int) -> list[ConfidenceTable]:
        """The frames of each part."""
        first = 1_000_000 * self.settings.seed + 1000 * stream
        return [
            self.table.only(part.condition).shuffled(first + number, part.frames)
            for number, part in enumerate(self.schedule)
        ]

    def run(self, name: str, stream: int = 0) -> Run:
        """One policy through the whole schedule. Raises PolicyError."""
        policy = make_policy(name, self.facts, self.settings, self.calibration)
        segments = [
            Segment(table, part.link) for table, part in zip(self.tables(stream), self.schedule)
        ]
        truth = self.settings.costs(self.facts)
        simulation = Simulation(
            policy, self.facts, truth, period_ms=self.period_ms, seed=self.settings.seed + stream
        )
        return simulation.run(segments)

    def references(self, stream: int) -> list[tuple[Fixed, Fixed]]:
        """Per part: all local, and the best fixed choice in hindsight that keeps the target.

        Where nothing a robot without the last stage can do keeps it, both are all local.
        """
        truth, found = self.settings.costs(self.facts), []
        for table, part in zip(self.tables(stream), self.schedule):
            link = part.link.mean() if isinstance(part.link, TraceModel) else part.link
            every = hindsight(
                table, self.facts, truth, steady(link), self.settings.target_disagreement
            )
            final = next(item for item in every if item.split == self.facts.final
                         and item.threshold > 1)  # fmt: skip
            able = [
                item for item in every
                if self.settings.all_local or item.split != self.facts.final
            ]  # fmt: skip
            found.append((final, able[0] if able else final))
        return found

    def result(self, policies: Sequence[str]) -> tuple[dict[str, Any], dict[str, Run]]:
        """Every policy's figures per part, means over the streams, ready for JSON.

        And its run on the first stream, for :meth:`picture`.
        """
        references = [self.references(stream) for stream in range(self.streams)]
        parts: list[dict[str, Any]] = [
            {
                'name': part.name,
                'frames': part.frames,
                'always_final': _mean([r[number][0].cost for r in references]),
                'best_fixed': _mean([r[number][1].cost for r in references]),
                'policies': {},
            }
            for number, part in enumerate(self.schedule)
        ]
        speed, shown = {}, {}
        for name in policies:
            start = time.perf_counter()
            runs = [self.run(name, stream) for stream in range(self.streams)]
            taken = time.perf_counter() - start
            speed[name], shown[name] = round(60 * sum(map(len, runs)) / taken), runs[0]
            first = 0
            for number, part in enumerate(self.schedule):
                rows = []
                for run, reference in zip(runs, references):
                    final, best = reference[number]
                    rows.append(_figures(run, first, part.frames, final, best))
                first += part.frames
                parts[number]['policies'][name] = {
                    key: _mean([row[key] for row in rows]) for key in rows[0]
                }
        result = {
            'simulated': True,
            'robot_profile': self.settings.profile,
            'deadline_ms': self.settings.deadline_ms,
            'target_disagreement': self.settings.target_disagreement,
            'cost_weights': self.settings.weights,
            'streams': self.streams,
            'frames_per_minute': speed,
            'parts': parts,
        }
        return result, shown

    def picture(self, runs: Mapping[str, Run], window: int = 100) -> Figure:
        """Cost, what is sent and disagreement over the frames of the first stream, by policy."""
        from matplotlib.figure import Figure as NewFigure

        figure = NewFigure(figsize=(9, 7), dpi=120)
        axes = figure.subplots(3, 1, sharex=True)
        kernel = np.ones(window) / window
        for name, run in runs.items():
            for axis, values in zip(axes, (run.cost, 100.0 * (run.sent > 0))):
                # Of the frames until then: no change is to be seen before it comes.
                mean = np.convolve(values, kernel, 'valid')
                axis.plot(np.arange(window - 1, len(run)), mean, label=name, lw=1.2)
            axes[2].plot(100 * run.disagreement(), label=name, lw=1.2)
        at = 0
        for number, (part, (final, best)) in enumerate(zip(self.schedule, self.references(0))):
            span = (at, at + part.frames)
            axes[0].hlines(final.cost, *span, color='grey', ls=':', lw=1)
            axes[0].hlines(best.cost, *span, color='black', ls='--', lw=1)
            # Names of short parts would run into each other on one line.
            place = (at, 1.02 + 0.08 * (number % 2))
            axes[0].annotate(part.name, place, xycoords=('data', 'axes fraction'), fontsize=8)
            for axis in axes:
                axis.axvline(at, color='lightgrey', lw=0.8, zorder=0)
            at += part.frames
        axes[2].axhline(100 * self.settings.target_disagreement, color='black', ls='--', lw=1)
        axes[0].set_ylabel('cost, ms equivalents\n(dotted: all local,\ndashed: best fixed)')
        axes[1].set_ylabel(f'sent, % of {window} frames')
        axes[2].set_ylabel('disagreement so far, %')
        axes[2].set_xlabel('frame')
        axes[2].legend(loc='upper right', frameon=False)
        figure.suptitle(
            f'simulated: robot profile x{self.settings.profile:g}, deadline '
            f'{self.settings.deadline_ms:g} ms', fontsize=10,
        )  # fmt: skip
        figure.tight_layout()
        return figure


def _figures(run: Run, first: int, frames: int, final: Fixed, best: Fixed) -> dict[str, float]:
    """One run's figures in one part."""
    part = run.part(first, first + frames)
    gap = max(final.cost - best.cost, 1e-9)
    settled = time_to_adapt(part, 0, best.cost, gap)
    return {
        **part.summary(),
        'regret': float(part.cost.mean()) - best.cost,
        'cost_over_best': float(part.cost.mean()) / best.cost - 1,
        'cost_saved': 1 - float(part.cost.mean()) / final.cost,
        'frames_to_adapt': math.nan if settled is None else float(settled),
    }


def _mean(values: list[float]) -> float | None:
    """The mean of those that are numbers; None when none is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None
