# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a replay: the chosen policy, what it was compared with, and what is simulated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.bags import BagError
from sparse_split_ros.data.sources import SourceError
from sparse_split_ros.evaluation import charts, pictures
from sparse_split_ros.evaluation.evaluate import Result
from sparse_split_ros.evaluation.metrics import Outcome, worst
from sparse_split_ros.evaluation.recorded import Live, images_of
from sparse_split_ros.evaluation.report import (
    WORST,
    Figure,
    Report,
    percent,
    run_figures,
    write_page,
)
from sparse_split_ros.evaluation.stream import Source
from sparse_split_ros.evaluation.style import in_ms

# Frames along the run whose images are kept for the strip.
_SHOWN = 160


def write_evaluation(result: Result, sources: Sequence[Source], folder: Path) -> Path:
    """Write ``index.html`` and its pictures; returns the path of the page."""
    summary = result.summary
    outcomes = result.outcomes[summary['policy']]
    height, width = result.bundle.input.shape[1:]
    report = Report(
        title=f'{summary["policy"]} on {_names(summary)}',
        outcomes=outcomes,
        summary=summary,
        images=_images(sources, summary, outcomes),
        input_bytes=3 * height * width,
    )
    return write_page(
        report,
        folder,
        [*_compared(summary), *run_figures(report), *_replayed(result, outcomes)],
        _provenance(summary),
        'decisions.csv has every frame, summary.json every figure, profile.json the times of the '
        'steps; docs/evaluation.md says what each one means.',
        notice=_notice(summary),
        rivals=_rivals(summary) if summary['baselines'] else None,
    )


def write_recorded(live: Live, bag: Path, folder: Path) -> Path:
    """Write the report of a recorded live run; returns the path of the page."""
    cameras = live.cameras()
    shown = set[int]().union(*map(_shown, cameras.values()))
    wanted = {key: each.index for key, each in zip(live.keys, live.outcomes) if each.index in shown}
    images = {index: pictures.reduced(image) for index, image in images_of(bag, wanted)}
    report = Report(f'{live.summary["policy"]} on {_names(live.summary)}', live.outcomes,
                    live.summary, images, None, cameras)  # fmt: skip
    reliability = charts.reliability_diagram(live.outcomes)
    figures = run_figures(report)
    if reliability is not None:
        figures.append(_reliability(live.summary, reliability))
    return write_page(
        report, folder, figures, _recorded_provenance(live.summary),
        'A live run as it was recorded: times are the robot’s own.'
        + ('' if images else ' record --images also keeps what the camera saw.'),
    )  # fmt: skip


def _recorded_provenance(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    source, bundle = summary['sources'][0], summary['bundle']
    return [
        ('bag', f'{source["name"]}, SHA-256 {source["sha256"]}…'),
        ('bundle', f'{bundle["name"]}, fingerprint {bundle["fingerprint"]}'),
        ('policy', summary['policy']),
        ('scored on', ', '.join(f'{k} {v}' for k, v in summary['versions'].items())),
    ]


def _reliability(summary: Mapping[str, Any], png: bytes) -> Figure:
    text = (
        'On the dashed line an answer of so much confidence is right so often. The numbers are '
        f'answers. The expected calibration error is {percent(summary["calibration_error"])}.'
    )
    return Figure('reliability', 'Whether confidence can be believed', [text], png)


def _names(summary: Mapping[str, Any]) -> str:
    names = [source['name'] for source in summary['sources']]
    return names[0] if len(names) == 1 else f'{len(names)} sources'


def _notice(summary: Mapping[str, Any]) -> str:
    robot = summary['robot']
    slow = '' if robot['factor'] == 1 else f', {robot["factor"]:g} times slower'
    return (
        'Simulated: all times. The networks really ran; the clock is virtual, the link is the '
        f'model {summary["link"]["name"]!r}, and the robot takes for each step what was '
        f'{robot["times_from"]}{slow}, {in_ms(robot["full_local_ms"])} for the whole '
        'network.'
    )


def _images(
    sources: Sequence[Source], summary: Mapping[str, Any], outcomes: Sequence[Outcome]
) -> dict[int, NDArray[np.uint8]]:
    """A second look at the sources, for the few images that are shown."""
    wanted = _shown(outcomes)
    found: dict[int, NDArray[np.uint8]] = {}
    first = 0
    for source, known in zip(sources, summary['sources']):
        end = first + known['frames']
        last = max((index for index in wanted if first <= index < end), default=first - 1)
        try:
            for index, frame in enumerate(itertools.islice(source.frames(), last - first + 1)):
                if first + index in wanted and not frame.error:
                    found[first + index] = pictures.reduced(frame.image)
        except (BagError, SourceError):
            pass  # Said when it was evaluated; what came before is shown.
        first += known['frames']
    return found


def _shown(outcomes: Sequence[Outcome]) -> set[int]:
    """The frames of a camera whose images are shown: some along its way, and the worst."""
    step = max(1, len(outcomes) // _SHOWN)
    return {each.index for each in (*outcomes[::step], *worst(outcomes, WORST))}


def _compared(summary: Mapping[str, Any]) -> list[Figure]:
    png = charts.tradeoff(summary)
    if png is None:
        return []
    text = (
        'The same frames, the same network input, the same link. Higher is better, left cheaper; '
        'the star is the policy of this report. Lines are settings of one rival, its large dot the '
        'cheapest within a point of its best. The oracle knows what every exit and the tail would '
        'say before it decides.'
    )
    return [Figure('tradeoff', 'What you could do instead', [text], png)]


def _replayed(result: Result, outcomes: Sequence[Outcome]) -> list[Figure]:
    """What is known in a replay only."""
    summary = result.summary
    oracle = None if summary['policy'] == 'oracle' else result.outcomes.get('oracle')
    target = summary['settings']['target_disagreement']
    drawn = [
        (
            'learning', 'What the policy learned',
            'Above, the threshold each frame was held against, coloured by who answered; at 0 the '
            'network’s own last exit, which always answers, at 1 an exit that never does. Below, '
            'the share of answers so far that are not what the full network says'
            + ('.' if oracle is None else ', and what was spent so far beyond an oracle that '
               'knows every answer beforehand.'),
            charts.learning(outcomes, oracle, target),
        ),
        (
            'link', 'What the link did',
            'Every trip to the tail and back. Where the picture is dark, the head took the tail '
            'for lost and answered at once.',
            charts.link_strip(outcomes, summary['deadline_ms']),
        ),
    ]  # fmt: skip
    figures = [Figure(name, title, [text], png) for name, title, text, png in drawn if png]
    reliability = charts.reliability_diagram(outcomes)
    return figures if reliability is None else [*figures, _reliability(summary, reliability)]


def _rivals(summary: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for row in ({**summary, 'name': summary['policy']}, *summary['baselines'].values()):
        setting = '' if row['setting'] is None else f' at {row["setting"]:g}'
        latency = row['latency_ms']
        rows.append([
            f'{row["name"]}{setting}', percent(row['accuracy']), percent(row['disagreement']),
            in_ms(latency['mean']), in_ms(latency['p99']),
            percent(row['deadline_hits']), percent(row['route_share']['offboard']),
            f'{row["sent_bytes"] / max(1, row["accepted"]):,.0f}',
            f'{(row["robot_macs_mean"] or 0) / 1e6:,.2f}', f'{row["dropped"]:,}',
            '–' if row['cost_mean'] is None else f'{row["cost_mean"]:,.1f}',
        ])  # fmt: skip
    columns = ['', 'right', 'differ', 'mean', 'p99', 'in time', 'offboard', 'bytes/frame',
               'robot MMAC', 'dropped', 'cost']  # fmt: skip
    return {'columns': columns, 'rows': rows}


def _provenance(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    bundle, computer, robot = summary['bundle'], summary['machine'], summary['robot']
    counts = ', '.join(
        f'{summary[name]:,} {name}' for name in ('frames', 'received', 'accepted', 'dropped')
    )
    settings = ', '.join(f'{name} {value}' for name, value in summary['settings'].items()
                         if value not in ('', -1, -1.0))  # fmt: skip
    link = ', '.join(f'{key} {value}' for key, value in summary['link'].items()
                     if value is not None)  # fmt: skip
    rows = {
        'sources': '; '.join(
            f'{source["name"]}, {source["frames"]:,} frames, SHA-256 {source["sha256"]}…'
            + (f', part {source["part"]}' if source['part'] else '')
            + (f', weather {source["weather"]}' if source['weather'] else '')
            for source in summary['sources']
        ),
        'bundle': f'{bundle["name"]}, fingerprint {bundle["fingerprint"]}, engine '
        f'{summary["engine"]}',
        'policy': f'{summary["policy"]}: {settings}',
        'link (simulated)': link,
        'robot (simulated)': f'factor {robot["factor"]:g} on times {robot["times_from"]}',
        'seed': str(summary['seed']),
        'frames': f'{counts}, {summary["answered"]:,} answered, {summary["missed_frames"]:,} '
        'missed',
        'frame rate': '–' if summary['mean_frame_rate'] is None
        else f'{summary["mean_frame_rate"]:.1f} answers a second on average, jitter '
        f'{in_ms(summary["jitter_ms"]["mean"])}',
        'exits': ', '.join(f'{k}: {percent(v)}' for k, v in summary['exit_share'].items()),
        'machine': f'{computer["processor"]}, {computer["cores"]} cores, {computer["system"]}',
        'versions': ', '.join(f'{name} {value}' for name, value in summary['versions'].items()),
    }  # fmt: skip
    return list(rows.items())
