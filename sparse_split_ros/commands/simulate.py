# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command `simulate`: policies on a confidence table, before a robot has to try them."""

from __future__ import annotations

import argparse
import json
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_split_ros.commands.parser import (
    Commands,
    UsageError,
    console,
    given,
    refuse,
    refuse_for,
)

if TYPE_CHECKING:
    from sparse_split_ros.evaluation.schedule import Part, Study
    from sparse_split_ros.policy.risk import Calibration

_DESCRIPTION = """\
Plays policies against what every exit of a network says of recorded images (a confidence
table), in virtual time, over a model of the link and a robot as slow as you like. No image is
decoded and no network runs: 100,000 frames take less than a minute. Every figure is simulated.

A schedule is a list of parts CONDITION[@LINK][:FRAMES]. Conditions are the table's; links are
none, ideal, ethernet, wifi, wifi-bad and lte, a .yaml file of rate_mbit, delay_ms, jitter_ms,
loss, outage_every_s and outage_s, or a recorded .csv of time_s, rtt_ms, loss and rate_mbit.

How to read it
  cost       ms of latency, plus bytes and joules as --cost-weights says; a missed deadline or
             an answer without the tail that was wanted costs another deadline
  saved      against computing the whole network on the robot for every frame
  over       against the cheapest fixed split, threshold and codec that keeps the target, chosen
             with all frames known; no policy can know it, and one that breaks the target may
             cost less
  right      answers that are the truth
  differ     answers of robot and tail that the full, uncompressed network would not give
  local, tail, alone
             answers of the robot, of the tail, and of the robot because no help came
  bytes      sent per frame
  adapt      frames until cost stays within 5 % of the gap between all local and the best
"""

_EXAMPLES = """\
examples:
  sparse-split simulate                                       a made-up table, no data needed
  sparse-split simulate --profile 10 --schedule day:3000 fog:3000 fog@wifi-bad:3000 day@none:1000
  sparse-split confidences gtsrb32 DATA table.npz
  sparse-split simulate --table table.npz --profile 15 --target 0.02 --out study
"""

# Headings of the table and what their columns are at least wide.
_COLUMNS = {
    'cost': 5, 'saved': 5, 'over': 5, 'right': 6, 'differ': 6, 'local': 6, 'tail': 6, 'alone': 6,
    'bytes': 5, 'adapt': 5,
}  # fmt: skip
_USUAL = ('joint', 'splitee', 'fixed')


def add(commands: Commands) -> None:
    """Add `simulate`."""
    parser = commands.add_parser(
        'simulate', help='policies on a confidence table, in virtual time',
        description=_DESCRIPTION, epilog=_EXAMPLES,
    )  # fmt: skip
    parser.add_argument(
        '--table', default='synthetic', metavar='FILE',
        help="the .npz of `sparse-split confidences`, or 'synthetic' (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        '--calibration', metavar='FILE',
        help="a table of other images to start from (the bundle's own calibration)",
    )  # fmt: skip
    parser.add_argument('--bundle', default='gtsrb32', help='the network of a table (%(default)s)')
    parser.add_argument(
        '--policy', nargs='+', metavar='NAME',
        help='some of joint, fixed, splitee, splitee-s, isplitee and splitee-paired '
        '(joint splitee fixed)',
    )  # fmt: skip
    parser.add_argument(
        '--schedule', nargs='+', metavar='PART', help='parts CONDITION[@LINK][:FRAMES]'
    )
    parser.add_argument(
        '--profile', type=float, default=1.0, help='a robot so many times slower (%(default)s)'
    )
    parser.add_argument('--deadline-ms', type=float, default=100.0, help='(%(default)s)')
    parser.add_argument(
        '--target', type=float, default=0.01, help='share of answers that may differ (%(default)s)'
    )
    parser.add_argument('--threshold', type=float, default=-1.0, help='for fixed and SplitEE')
    parser.add_argument('--split', type=int, default=-1, help="for fixed (the bundle's)")
    parser.add_argument(
        '--cost-weights', default='latency', help='latency, balanced or frugal (%(default)s)'
    )
    parser.add_argument(
        '--index', default='ucb1',
        help='for SplitEE: ucb1, ucb-v, ucb-tuned, bayes-ucb, discounted-ucb or '
        'sliding-window-ucb (%(default)s)',
    )  # fmt: skip
    parser.add_argument('--audit-budget', type=float, default=0.02, help='(%(default)s)')
    parser.add_argument(
        '--no-all-local', action='store_true', help='the robot does not hold the last stage'
    )
    parser.add_argument('--streams', type=int, default=1, help='repetitions (%(default)s)')
    parser.add_argument(
        '--period-ms', type=float, default=33.0, help='between frames (%(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, metavar='DIR', help='write simulate.json and .png here')
    parser.set_defaults(run=partial(_simulate, parser))


def _simulate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from sparse_split_ros.policy.factory import readers

    asked = given(parser, options)
    if options.table == 'synthetic':
        refuse(asked & {'bundle'}, 'is the network of a --table, and none is given')
    for name, low, high in (
        ('profile', 0.01, 1e4), ('deadline_ms', 1, 1e6), ('target', 1e-5, 0.9), ('streams', 1, 1e4),
        ('period_ms', 0.1, 1e5), ('audit_budget', 0, 0.2), ('seed', 0, 2**31),
    ):  # fmt: skip
        value = getattr(options, name)
        if not low <= value <= high:
            raise UsageError(f'--{name.replace("_", "-")} {value:g} is outside {low:g} to {high:g}')
    study = _study(options)
    policies = _policies(options, study)
    told = ('split', 'threshold', 'index', 'audit_budget')
    refuse_for(asked, policies, {setting: readers(setting) for setting in told})
    if options.out is not None:
        # Before minutes of work whose result could not be drawn or written.
        import_module('matplotlib')
        options.out.mkdir(parents=True, exist_ok=True)
    out = console()
    result, runs = study.result(policies)
    result['table'] = options.table
    _print(result, out)
    if options.out is not None:
        text = json.dumps(result, indent=1, allow_nan=False)
        (options.out / 'simulate.json').write_text(text + '\n', encoding='utf-8')
        study.picture(runs).savefig(options.out / 'simulate.png')
        out.print(f'written: {options.out}/simulate.json, {options.out}/simulate.png')
    return 0


def _study(options: argparse.Namespace) -> Study:
    from sparse_split_ros.evaluation.schedule import Part, Study
    from sparse_split_ros.evaluation.simulate import calibration_of
    from sparse_split_ros.evaluation.table import ConfidenceTable, synthetic, synthetic_facts
    from sparse_split_ros.policy.factory import Settings, bundle_calibration
    from sparse_split_ros.policy.facts import Facts
    from sparse_split_ros.runtime.bundle import Bundle, bundle_path
    from sparse_split_ros.runtime.engine import choose_engine
    from sparse_split_ros.runtime.profile import key

    times: dict[str, Any] = {}
    calibration: Calibration | None
    if options.table == 'synthetic':
        table = synthetic(options.seed + 1)
        calibration = calibration_of(synthetic(options.seed + 2))
        facts = synthetic_facts(table)
    else:
        table = ConfidenceTable.load(options.table)
        bundle = Bundle.load(bundle_path(options.bundle))
        facts, calibration = Facts.of(bundle), bundle_calibration(bundle)
        times = bundle.profile().get('engines', {}).get(key(choose_engine(bundle), 'cpu', 1), {})
    if options.calibration:
        calibration = calibration_of(ConfidenceTable.load(options.calibration))
    settings = Settings(
        split=options.split, threshold=options.threshold, target_disagreement=options.target,
        weights=options.cost_weights, audit_budget=options.audit_budget,
        deadline_ms=options.deadline_ms, all_local=not options.no_all_local,
        profile=options.profile, index=options.index, seed=options.seed,
        stage_ms={int(k): float(v) for k, v in times.get('stage_ms', {}).items()},
        exit_ms={int(k): float(v) for k, v in times.get('exit_ms', {}).items()},
    )  # fmt: skip
    schedule: list[Part] = [
        Part.parse(text) for text in options.schedule or _usual(table.conditions)
    ]
    return Study(table, facts, schedule, settings, calibration, options.streams, options.period_ms)


def _policies(options: argparse.Namespace, study: Study) -> list[str]:
    """The policies asked for, or the usual ones that this robot can follow."""
    from sparse_split_ros.policy.splitee import LEARNERS

    # Where nothing can be split, the robot has to hold the last stage whatever is said.
    unable = LEARNERS if options.no_all_local and study.facts.splits else ()
    wanted: list[str] = options.policy or [name for name in _USUAL if name not in unable]
    for name in wanted:
        if name in unable:
            raise UsageError(
                f'policy {name} may compute the whole network on the robot: leave out '
                '--no-all-local or choose joint or fixed'
            )
    return wanted


def _usual(conditions: tuple[str, ...]) -> list[str]:
    """The first condition, a harder one, then a bad link and none."""
    first, last = conditions[0], conditions[-1]
    return [first, last, f'{last}@wifi-bad', f'{first}@none:1000']


def _print(result: dict[str, Any], out: Any) -> None:
    from rich.table import Table

    out.print(
        f'SIMULATED: robot profile x{result["robot_profile"]:g}, deadline '
        f'{result["deadline_ms"]:g} ms, target {result["target_disagreement"]:.2%}, '
        f'{result["streams"]} stream(s)'
    )
    for part in result['parts']:
        table = Table(
            title=f'{part["name"]}, {part["frames"]} frames', title_justify='left', box=None,
            header_style='dim', padding=(0, 1, 0, 0), pad_edge=False,
        )  # fmt: skip
        # As wide as the longest name, so that parts stand below each other; 80 columns suffice.
        table.add_column('policy', no_wrap=True, min_width=max(map(len, part['policies'])))
        for heading, width in _COLUMNS.items():
            table.add_column(heading, justify='right', no_wrap=True, min_width=width)
        for name, row in part['policies'].items():
            adapted = row['frames_to_adapt']
            table.add_row(
                name, f'{row["cost"]:.1f}', f'{row["cost_saved"]:.0%}',
                f'{row["cost_over_best"]:+.0%}', f'{row["accuracy"]:.2%}',
                f'{row["disagreement"]:.2%}', f'{row["local"]:.1%}', f'{row["offboard"]:.1%}',
                f'{row["fallback"]:.1%}', f'{row["bytes"]:.0f}',
                '-' if adapted is None else f'{adapted:.0f}',
            )  # fmt: skip
        out.print()
        out.print(table)
    speeds = ', '.join(f'{name} {n:,}' for name, n in result['frames_per_minute'].items())
    out.print(f'\nframes per minute of computing: {speeds}')
