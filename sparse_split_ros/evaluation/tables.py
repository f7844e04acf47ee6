# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a run as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

# Narrow and short enough for a terminal of 80 columns and 24 lines.
PLAIN: Any = {'box': None, 'header_style': 'dim', 'padding': (0, 2, 0, 0)}


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The figures of a run that matter first."""
    latency, payload = summary['latency_ms'], summary['payload_bytes']
    rows = {
        'frames': f'{summary["frames"]} sent, {_count(summary["received"])} received, '
        f'{summary["accepted"]} accepted, {_count(summary["dropped"])} dropped, '
        f'{summary["answered"]} answered',
        'accuracy': _percent(summary['accuracy']),
        **{
            f'  {name}': _percent(share)
            for name, share in summary.get('accuracy_by_task', {}).items()
        },
        'routes': ', '.join(
            f'{name} {_percent(share)} (right {_percent(summary["accuracy_by_route"][name])})'
            for name, share in summary['route_share'].items()
        ),
        'latency': ', '.join(f'{name} {_number(value)}' for name, value in latency.items()) + ' ms',
        'deadline': f'{_percent(summary["deadline_hits"])} within {summary["deadline_ms"]:g} ms',
        'payload': ', '.join(f'{name} {_number(value)}' for name, value in payload.items())
        + ' bytes per frame sent',
    }
    outage = summary.get('tail_outage')
    if outage and outage['killed_s'] is not None:
        rows['tail'] = (
            f'loss noticed after {_number(outage["noticed_ms"])} ms, {outage["fallbacks"]} '
            f'fallbacks, {outage["fallbacks_after_return"]} of them after the new tail had '
            'announced itself'
            if outage['fallbacks']
            else 'killed, and no frame needed it while it was gone'
        )
    table = Table(**PLAIN, show_header=False)
    table.add_column(style='dim')
    table.add_column(overflow='fold')
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return table


def _percent(share: float | None) -> str:
    return '–' if share is None else f'{share:.1%}'


def _count(count: int | None) -> str:
    return 'unknown' if count is None else str(count)


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    return f'{value:,.0f}' if value >= 100 else f'{value:.1f}' if value >= 1 else f'{value:.2g}'


def rivals_table(summary: Mapping[str, Any]) -> Table:
    """The chosen policy and everything it was compared with, a row each; 80 columns suffice."""
    table = Table(**{**PLAIN, 'padding': (0, 1, 0, 0)})
    table.add_column('policy', no_wrap=True)
    for name in ('right', 'differ', 'mean', 'p99', 'in time', 'drop', 'tail', 'bytes', 'MMAC',
                 'cost'):  # fmt: skip
        table.add_column(name, justify='right', no_wrap=True)
    chosen = {**summary, 'name': summary['policy']}
    for row in (chosen, *summary['baselines'].values()):
        setting = '' if row['setting'] is None else f'@{row["setting"]:g}'
        latency = row['latency_ms']
        table.add_row(
            f'{row["name"]}{setting}', _percent(row['accuracy']), _percent(row['disagreement']),
            _number(latency['mean']), _number(latency['p99']), _percent(row['deadline_hits']),
            _percent(row['dropped'] / max(1, row['received'])),
            _percent(row['route_share']['offboard']),
            _number(row['sent_bytes'] / max(1, row['accepted'])),
            _number((row['robot_macs_mean'] or 0) / 1e6), _number(row['cost_mean']),
            style='bold' if row is chosen else None,
        )  # fmt: skip
    return table
