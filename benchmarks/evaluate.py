# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who is right, fast and cheap: every policy and baseline on four links and two robots.

Frames are real: the report tracks of GTSRB in the order of time, as a bag. Robots are this
machine's step times, as they are (profile 1) and so many times slower that the whole network on
board misses the deadline. Links, times and robots are simulated. For each link and robot it says
who wins, and whether the joint policy meets the marks:

  faster     at least twice as fast on average as the best of JPEG and WebP offload
  in time    deadline hits no lower than theirs
  lighter    at most half of the robot compute of the full network on board
  right      at most one point below the full network
  unbeaten   no baseline that a robot could run is both more accurate and faster

    python benchmarks/evaluate.py --data gtsrb32_train.npz [--limit 2000] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from rich.console import Console

from sparse_split_ros.data.sources import make_bag
from sparse_split_ros.evaluation.contestants import BASELINES
from sparse_split_ros.evaluation.evaluate import evaluate
from sparse_split_ros.evaluation.jobs import Request
from sparse_split_ros.evaluation.robot import step_times
from sparse_split_ros.evaluation.stream import Source
from sparse_split_ros.evaluation.tables import rivals_table
from sparse_split_ros.policy.factory import Settings
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import load_engine

LINKS = ('ethernet', 'wifi', 'wifi-bad', 'lte')
# How much longer than the deadline the slow robot takes for the whole network.
BEYOND = 1.2
PICTURES = ('jpeg-offload', 'webp-offload')


def marks(summary: dict[str, Any]) -> dict[str, bool]:
    """Which of the marks the joint policy meets, with the best setting of each rival."""
    rows = summary['baselines']
    joint = summary['latency_ms']['mean']
    settings = [each for name in PICTURES for each in rows[name]['sweep']]
    full = rows['full-local']
    able = [
        each for name, row in rows.items() if name != 'oracle' for each in row.get('sweep', [row])
    ]
    best = min(settings, key=lambda each: each['latency_ms']['mean'])
    return {
        'faster': joint <= best['latency_ms']['mean'] / 2,
        'in time': summary['deadline_hits'] >= best['deadline_hits'],
        'lighter': summary['robot_macs_mean'] <= full['robot_macs_mean'] / 2,
        'right': summary['accuracy'] >= summary['accuracy_full'] - 0.01,
        'unbeaten': not any(
            each['accuracy'] > summary['accuracy'] and each['latency_ms']['mean'] < joint
            for each in able
        ),
    }


def winners(summary: dict[str, Any]) -> str:
    """The fastest that is within a point of the full network, and the most accurate of all."""
    rows = {summary['policy']: summary, **summary['baselines']}
    every = [
        (name if each['setting'] is None else f'{name}@{each["setting"]:g}', each)
        for name, row in rows.items()
        if name != 'oracle'
        for each in row.get('sweep', [row])
    ]
    good = [item for item in every if item[1]['accuracy'] >= summary['accuracy_full'] - 0.01]
    fast = min(good, key=lambda item: item[1]['latency_ms']['mean'])
    right = max(every, key=lambda item: item[1]['accuracy'])
    return (
        f'fastest within a point: {fast[0]} ({fast[1]["latency_ms"]["mean"]:.3g} ms); most '
        f'accurate: {right[0]} ({right[1]["accuracy"]:.2%})'
    )


def engines_agree(request: Request, names: list[str]) -> dict[str, Any]:
    """Frames whose route differs between engines, and how near their threshold they were."""
    runs = {name: evaluate(replace(request, engine=name)) for name in names}
    first, *others = (run.outcomes[run.summary['policy']] for run in runs.values())
    pairs = [(a, b) for other in others for a, b in zip(first, other)]
    moved = [(a, b) for a, b in pairs if (a.route, a.exit) != (b.route, b.exit)]
    near = sum(abs(a.confidence - a.threshold) < 1e-4 for a, _ in moved)
    return {
        'engines': names, 'frames': len(first), 'routes_differ': len(moved),
        'of_them_within_1e-4': near,
        'answers_differ': sum(a.answer != b.answer for a, b in pairs),
    }  # fmt: skip


def main() -> int:
    """Replay everything, print the tables and verdicts, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--data', default=os.environ.get('SPARSE_SPLIT_DATA', ''), help='gtsrb32_train.npz, or the '
        'folder it is in (SPARSE_SPLIT_DATA)',
    )  # fmt: skip
    parser.add_argument('--bundle', default='gtsrb32')
    parser.add_argument('--limit', type=int, help='the first frames only')
    parser.add_argument('--links', nargs='+', default=LINKS)
    parser.add_argument('--deadline', type=float, default=100.0, help='ms')
    parser.add_argument('--robots', type=float, nargs='+', help='factors instead of the two')
    parser.add_argument('--engines', nargs='+', default=[], help='compare their routes as well')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', type=Path, help='where to write the result')
    options = parser.parse_args()
    data = Path(options.data)
    data = data / 'gtsrb32_train.npz' if data.is_dir() else data
    if not data.is_file():
        parser.error('name the packed GTSRB by --data or SPARSE_SPLIT_DATA')
    bundle = Bundle.load(bundle_path(options.bundle))
    times = step_times(bundle, load_engine(bundle))
    slow = round(BEYOND * options.deadline / times.full)
    console = Console(width=100)
    result: dict[str, Any] = {'bundle': bundle.fingerprint.hex(), 'full_local_ms': times.full,
                              'deadline_ms': options.deadline, 'runs': []}  # fmt: skip
    met = True
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / 'tracks'
        result['frames'] = make_bag(data, bag, split='report', limit=options.limit)
        names = ('joint', *(name for name in BASELINES if name != 'joint'))
        settings = Settings(deadline_ms=options.deadline)
        request = Request(
            (Source(str(bag)),), names, options.bundle, settings=settings, seed=options.seed
        )
        for robot in options.robots or (1.0, float(slow)):
            for link in options.links:
                asked = replace(request, link=link, robot=robot)
                summary = evaluate(asked, jobs=options.jobs).summary
                found = marks(summary)
                run = {'marks': found, 'winners': winners(summary), 'summary': summary}
                result['runs'].append({'link': link, 'robot': robot, **run})
                console.print(
                    f'\n[bold]{link}, robot x{robot:g}[/], the whole network on board '
                    f'{robot * times.full:.3g} ms, deadline {options.deadline:g} ms (simulated)'
                )
                console.print(rivals_table(summary))
                console.print(winners(summary), highlight=False)
                console.print(', '.join(f'{k}: {"met" if v else "missed"}'
                                        for k, v in found.items()), highlight=False)  # fmt: skip
                met = met and (robot == 1.0 or all(found.values()))
        if options.engines:
            alone = replace(request, policies=('fixed',))
            result['engines'] = engines_agree(alone, options.engines)
            console.print(result['engines'])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
