# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One recipe, several seeds: every figure of the exported runs side by side, and their spread.

Each is a run directory, which holds the report.json that `sparse-split export RUN BUNDLE` leaves
there, or the bundle itself.

    python benchmarks/seeds.py models/gtsrb32 runs/gtsrb32_2 runs/gtsrb32_3
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one report by name: shares of 1, and bytes."""
    clean = next(part for part in report.values() if 'exits' in part)
    found: dict[str, float] = {}
    for stage, exit_ in clean['exits'].items():
        found[f'exit {stage}: accuracy'] = exit_['accuracy']
        found[f'exit {stage}: ECE'] = exit_['ece']
        found[f'exit {stage}: excess AURC'] = exit_['excess_aurc']
    found['every frame coded: accuracy'] = clean['coded']['accuracy']
    found['routed: accuracy'] = clean['routed']['accuracy']
    found['routed: share that stays'] = clean['routed']['local_share']
    found['payload, bytes'] = clean['payload_bytes']['mean']
    if conditions := report.get('conditions'):
        accuracy, unseen = conditions['final_accuracy'], conditions['unseen']
        level = conditions['level']
        found[f'conditions at level {level}, mean'] = statistics.mean(accuracy.values())
        if unseen:
            found[f'unseen ones at level {level}, mean'] = statistics.mean(
                accuracy[name] for name in unseen
            )
        found[f'worst ECE of the final exit at level {level}'] = max(
            list(conditions['ece'].values())[-1].values()
        )
    if drive := report.get('drive'):
        final = max(drive['scenes']['day']['exits'], key=int)
        found['drive by day'] = drive['scenes']['day']['exits'][final]['accuracy']
        found['drive, mean of the scenes'] = drive['mean_accuracy']
    return found


def read(path: Path) -> tuple[int, str, Mapping[str, Any]]:
    """Seed, name and report of a run, or of a bundle."""
    if (path / 'manifest.json').is_file():
        manifest = json.loads((path / 'manifest.json').read_text('utf-8'))
        training = manifest['training']
        return training['recipe']['seed'], manifest['name'], training['report']
    if not (path / 'report.json').is_file():
        raise SystemExit(f'{path} has neither report.json nor manifest.json: export the run first')
    record = json.loads((path / 'report.json').read_text('utf-8'))
    return record['seed'], record['name'], record['report']


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', type=Path, nargs='+', help='exported runs, or bundles')
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    options = parser.parse_args()
    records = [read(run) for run in options.runs]
    seeds = [f'seed {seed}' for seed, _, _ in records]
    columns = [figures(report) for _, _, report in records]
    print(f'| {records[0][1]} | ' + ' | '.join(seeds) + ' | mean | standard deviation |')
    print('|' + ' --- |' * (len(seeds) + 3))
    for name in columns[0]:
        values = [column[name] for column in columns]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        shown = [f'{value:.5g}' for value in (*values, statistics.mean(values))]
        print(f'| {name} | ' + ' | '.join(shown) + f' | {spread:.2g} |')
    if options.json:
        found = dict(zip(seeds, columns, strict=True))
        options.json.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
