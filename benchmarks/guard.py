# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of the shipped bundle that no change may move unnoticed: counts and ratios, no seconds.

A short drawn drive is replayed over a made-up link on a nominal robot, which is alike on every
machine; engines round differently, so counts have a tolerance. A test compares the figures with
guard.json. After a change that is meant to move them:

    python benchmarks/guard.py --update
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from sparse_split_ros.evaluation.evaluate import evaluate
from sparse_split_ros.evaluation.jobs import Request
from sparse_split_ros.evaluation.robot import NOMINAL
from sparse_split_ros.evaluation.stream import Source
from sparse_split_ros.policy.factory import Settings
from sparse_split_ros.runtime.bundle import Bundle, bundle_path

FILE = Path(__file__).with_name('guard.json')
FRAMES = 300
POLICIES = ('fixed', 'joint', 'full-local', 'jpeg-offload', 'branchynet', 'oracle')
# What may differ between engines, machines and versions of numpy, as a share or in shares.
RELATIVE = {'robot_macs_mean': 0.02, 'payload_mean': 0.03, 'cost_mean': 0.05, 'macs': 0.0,
            'stored_bytes': 0.0}  # fmt: skip
ABSOLUTE = {'accuracy': 0.02, 'disagreement': 0.02, 'local': 0.02, 'offboard': 0.02,
            'fallback': 0.02, 'deadline_hits': 0.01}  # fmt: skip


def measure() -> dict[str, Any]:
    """The figures as they are now."""
    bundle = Bundle.load(bundle_path('gtsrb32'))
    request = Request(
        (Source('drive', limit=FRAMES, rate=6.0),), POLICIES, link='lte', robot=4.0,
        profile=NOMINAL, settings=Settings(deadline_ms=100.0),
    )  # fmt: skip
    summary = evaluate(request).summary
    rows = {summary['policy']: summary, **summary['baselines']}
    return {
        'bundle': bundle.fingerprint.hex(),
        'macs': sum(stage.macs for stage in bundle.stages),
        'stored_bytes': sum(stage.stored_bytes for stage in bundle.stages),
        'policies': {name: _figures(row) for name, row in rows.items()},
    }


def _figures(row: dict[str, Any]) -> dict[str, float | None]:
    found = {name: row[name] for name in ('accuracy', 'disagreement', 'deadline_hits',
                                          'robot_macs_mean', 'cost_mean')}  # fmt: skip
    found |= {'payload_mean': row['payload_bytes']['mean'], **row['route_share']}
    return {
        name: None if value is None else round(float(value), 4) for name, value in found.items()
    }


def differences(known: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What moved by more than its tolerance, in words."""
    if known['bundle'] != found['bundle']:
        return [
            f'the shipped bundle is {found["bundle"]}, {FILE.name} is of {known["bundle"]}: '
            'run python benchmarks/guard.py --update and look at what changed'
        ]
    pairs = [(name, known[name], found[name]) for name in ('macs', 'stored_bytes')]
    for policy, figures in known['policies'].items():
        pairs += [
            (f'{policy} {name}', value, found['policies'][policy][name])
            for name, value in figures.items()
        ]
    return [f'{name}: {old} became {new}' for name, old, new in pairs if not _near(name, old, new)]


def _near(name: str, old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    figure = name.rpartition(' ')[2]
    if figure in ABSOLUTE:
        return abs(new - old) <= ABSOLUTE[figure]
    return abs(new - old) <= RELATIVE[figure] * abs(old)


def main() -> int:
    """Compare, or write what is now."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--update', action='store_true', help=f'write {FILE.name}')
    options = parser.parse_args()
    found = measure()
    if options.update:
        FILE.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
        print(f'{FILE.name}: bundle {found["bundle"]}')
        return 0
    moved = differences(json.loads(FILE.read_text(encoding='utf-8')), found)
    print('\n'.join(moved) or 'as in guard.json')
    return 1 if moved else 0


if __name__ == '__main__':
    raise SystemExit(main())
