# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ten thousand frames through two processes and a bad link, the tail killed and stopped on the way.

A tenth of the feature and reply frames is dropped, delayed, doubled, reordered, cut or damaged.

    python benchmarks/soak.py [--frames 10000] [--rate 150] [--json result.json]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / 'test'), str(Path(__file__).parents[1])]

from bundles import make_bundle
from soaking import DEADLINE_MS, Outcome, Plan, soak

# Beyond the deadline, at the 99.9th percentile.
GRACE_MS = 20.0
ACCEPTED = 0.99
# Resident memory may grow by so much between the tenth part of the frames and the last.
GROWTH_MB = 10.0
IN_FLIGHT = 4


def growth(outcome: Outcome, name: str) -> float:
    """How many MB a process grew after its first tenth."""
    sizes = outcome.rss_mb[name]
    return round(sizes[-1] - sizes[len(sizes) // 10], 1)


def marks(outcome: Outcome) -> list[tuple[str, object, bool]]:
    """What was asked for: name, value, met."""
    accepted = outcome.accepted / outcome.sent
    late = outcome.total_ms['p99.9'] - DEADLINE_MS
    balanced = outcome.received == outcome.accepted + outcome.dropped
    grown = max(growth(outcome, name) for name in ('head', 'relay'))
    return [
        ('missing', outcome.missing, outcome.missing == 0),
        ('doubled', outcome.doubled, outcome.doubled == 0),
        ('answers to nothing', outcome.strange, outcome.strange == 0),
        ('received = accepted + dropped', outcome.received, balanced),
        ('accepted of sent', round(accepted, 4), accepted >= ACCEPTED),
        ('in flight, most seen', outcome.in_flight_max, outcome.in_flight_max >= IN_FLIGHT),
        ('p99.9 after the deadline, ms', round(late, 1), late <= GRACE_MS),
        ('memory growth, MB', grown, grown <= GROWTH_MB),
    ]


def main() -> int:
    """Run the soak, print what it showed, and say whether the marks are met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--frames', type=int, default=10_000)
    parser.add_argument('--rate', type=float, default=150.0, help='frames per second')
    parser.add_argument('--share', type=float, default=0.1, help='of the messages meet a fault')
    parser.add_argument('--delay', type=float, default=20.0, help='of the link each way, in ms')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', type=Path, help='where to write the result')
    options = parser.parse_args()
    load = os.getloadavg()[0]
    plan = Plan(
        options.frames, options.rate, options.share, options.delay, options.seed,
        kills=(0.2, 0.6, 0.8), stops=(0.4, 0.9),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        outcome = soak(make_bundle(Path(directory) / 'bundle'), plan)
    print(
        f'{outcome.sent} frames in {outcome.seconds:.0f} s at {options.rate:g} Hz, load average '
        f'{load:.2f} -> {os.getloadavg()[0]:.2f}'
    )
    for title, counts in (
        ('routes', outcome.routes),
        ('reasons', outcome.reasons),
        ('link', outcome.faults),
        ('arrival to decision, ms', outcome.total_ms),
    ):
        print(f'{title}: ' + ', '.join(f'{name} {n}' for name, n in sorted(counts.items())))
    kept = (outcome.accepted, outcome.dropped, outcome.received)
    print('accepted {}, dropped {}, received {}'.format(*kept))
    print(f'from a new tail to its first answer, s: {[round(s, 2) for s in outcome.recovered_s]}')
    for name, sizes in outcome.rss_mb.items():
        print(f'memory of {name}, MB: first {sizes[0]}, last {sizes[-1]}, most {max(sizes)}')
    judged = marks(outcome)
    for name, value, met in judged:
        print(f'{"met   " if met else "MISSED"} {name}: {value}')
    if options.json:
        options.json.write_text(outcome.to_json() + '\n')
    return 0 if all(met for *_, met in judged) else 1


if __name__ == '__main__':
    raise SystemExit(main())
