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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import Row, show


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


def compared(
    title: str, seeds: Sequence[str], columns: Sequence[Mapping[str, float]]
) -> Iterator[Row]:
    """A row for each figure: its value by seed, their mean and standard deviation."""
    for name in columns[0]:
        values = [column[name] for column in columns]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        by_seed = dict(zip(seeds, values, strict=True))
        yield {
            title: name,
            **by_seed,
            'mean': statistics.mean(values),
            'standard deviation': spread,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', type=Path, nargs='+', help='exported runs, or bundles')
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    options = parser.parse_args()
    records = [read(run) for run in options.runs]
    seeds = [f'{run.name}, seed {seed}' for run, (seed, _, _) in zip(options.runs, records)]
    columns = [figures(report) for _, _, report in records]
    show(compared(records[0][1], seeds, columns), options.json)


if __name__ == '__main__':
    main()
