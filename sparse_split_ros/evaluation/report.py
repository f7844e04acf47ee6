# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML file that holds its pictures, the same as PNGs, and the figures."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.evaluation import pictures
from sparse_split_ros.evaluation.metrics import (
    DEADLINE_GRACE_MS,
    Outcome,
    accuracy,
    grouped,
    labelled,
    spread,
    worst,
)
from sparse_split_ros.evaluation.style import in_ms
from sparse_split_ros.policy.decision import Route

WORST = 12
_MEANING = {
    Route.LOCAL: 'sure enough on the robot',
    Route.OFFBOARD: 'doubtful, answered by the tail',
    Route.FALLBACK: 'doubtful and no help in time: the best of the robot',
}


@dataclass(frozen=True)
class Report:
    """What a report shows.

    ``summary`` is what :func:`~sparse_split_ros.evaluation.metrics.summarise` returned and whatever
    else is known of the run. ``images`` holds the RGB images, (H, W, 3) uint8, of the frames that
    may be shown, by index. ``input_bytes`` is the size of one uncoded network input, if known.
    ``cameras`` holds the outcomes of each, where there may be several.
    """

    title: str
    outcomes: Sequence[Outcome]
    summary: Mapping[str, Any]
    images: Mapping[int, NDArray[np.uint8]]
    input_bytes: int | None
    cameras: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A picture of a report and the words that go with it; ``name`` is its file's."""

    name: str
    title: str
    texts: Sequence[str]
    png: bytes

    @property
    def kind(self) -> str:
        """How the page lays it out."""
        return 'matrix' if self.name == 'confusion' else 'wide'

    @property
    def data(self) -> str:
        """The picture as it stands in the page."""
        return b64encode(self.png).decode()


def write_report(report: Report, folder: Path) -> Path:
    """Write the report of a live run: ``index.html``, the pictures and ``summary.json``.

    Returns the path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.summary, indent=1, allow_nan=False, ensure_ascii=False)
    (folder / 'summary.json').write_text(text + '\n', encoding='utf-8')
    return write_page(
        report,
        folder,
        _figures(report),
        _provenance(report.summary),
        'All times are measured on the one machine that ran everything; its link is the '
        'loopback, so real networks will be slower. What the pictures show is in summary.json.',
    )


def write_page(
    report: Report,
    folder: Path,
    figures: Sequence[Figure],
    provenance: Sequence[tuple[str, str]],
    provenance_text: str,
    *,
    notice: str = '',
    rivals: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``index.html`` and the pictures beside it; returns the path of the page.

    ``notice`` stands under the title; ``rivals`` is a table of ``columns`` and ``rows`` under the
    first figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        (folder / f'{figure.name}.png').write_bytes(figure.png)
    template = files('sparse_split_ros.evaluation').joinpath('report.html').read_text('utf-8')
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(
        title=report.title,
        subtitle=_subtitle(report),
        notice=notice,
        errors=report.summary.get('errors', []),
        cards=_cards(report.summary),
        routes=_routes(report),
        routes_text=_routes_text(report),
        figures=figures,
        rivals=rivals,
        worst=_worst(report),
        table=_table(report.outcomes),
        provenance=provenance,
        provenance_text=provenance_text,
    )
    path = folder / 'index.html'
    path.write_text(page, encoding='utf-8')
    return path


def _subtitle(report: Report) -> str:
    scenes = list(dict.fromkeys(each.scene for each in report.outcomes if each.scene))
    through = f' through {_listed(scenes)}' if scenes else ''
    seconds = report.outcomes[-1].time - report.outcomes[0].time
    return f'{len(report.outcomes):,} frames, {seconds:.0f} s of camera time{through}'


def _cards(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    latency, payload = summary['latency_ms'], summary['payload_bytes']
    cards = [
        (f'{summary["answered"]:,}', f'answers to {summary["accepted"]:,} accepted frames'),
        (in_ms(latency['p50']), f'median from image to decision; p95 {in_ms(latency["p95"])}'),
        (
            percent(summary['deadline_hits']),
            f'answered within the deadline of {summary["deadline_ms"]:g} ms',
        ),
    ]
    if summary['labelled']:
        right = (percent(summary['accuracy']), f'right, of {summary["labelled"]:,} answers')
        cards.insert(1, right)
    for name, share in summary.get('accuracy_by_task', {}).items():
        cards.append((percent(share), f'right of the task {name}'))
    if payload['mean'] is not None:
        cards.append(
            (f'{payload["mean"]:,.0f} B', f'sent per doubtful frame; at most {payload["max"]:,.0f}')
        )
    outage = summary.get('tail_outage')
    if outage and outage['first_answer_ms'] is not None:
        late = str(outage['fallbacks_after_return'])
        cards.append((late, 'doubtful frames found no tail once the killed one was back'))
    return cards


def _always(report: Report) -> float:
    """The share of frames that an exit on the robot answered however sure it was."""
    if report.summary['policy'] == 'branchynet':
        return 0.0  # whose exits are sure by their entropy and have no threshold
    decided = [each for each in report.outcomes if each.route is not None]
    always = sum(each.route is Route.LOCAL and each.threshold == 0.0 for each in decided)
    return always / max(1, len(decided))


def _routes(report: Report) -> list[dict[str, Any]]:
    summary, always = report.summary, _always(report)
    meaning = dict(_MEANING)
    if always:
        sure = summary['route_share'][Route.LOCAL.value] - always
        meaning[Route.LOCAL] = (
            f'on the robot: {percent(sure)} sure enough, {percent(always)} by an exit that always '
            'answers'
        )
    return [
        {
            'name': route.value,
            'share': summary['route_share'][route.value],
            'percent': percent(summary['route_share'][route.value]),
            'meaning': meaning[route],
        }
        for route in Route
    ]


def _routes_text(report: Report) -> str:
    summary, always = report.summary, _always(report)
    share = summary['route_share']
    asked = share['offboard'] + share['fallback']
    rejected = summary['rejected'] or 0  # None of a recording that does not tell
    lost = summary['frames'] - summary['accepted'] - rejected
    overtaken = min(lost, summary['dropped'] or 0)
    if not asked and not share['local']:
        return 'No frame was decided.'
    sure = share['local'] - always
    parts = []
    if not asked and not always:
        parts.append('The robot was sure of every frame and answered it by itself.')
    elif sure or not always:
        parts.append(
            f'The robot was sure of {percent(sure)} of the frames and answered them by itself.'
        )
    if always:
        parts.append(
            f'{percent(always)} were answered on the robot by an exit that always answers, however '
            'sure, as the last one of the network does.'
        )
    if asked:
        parts.append(
            f'Of the {percent(asked)} that it doubted, the tail answered '
            f'{percent(share["offboard"] / asked)} in time.'
        )
    if overtaken:
        parts.append(
            f'Of {summary["frames"]:,} images {overtaken:,} were overtaken by a newer one before '
            'the head took them up, and have no part in this.'
        )
    if lost > overtaken:
        parts.append(
            f'{lost - overtaken:,} of {summary["frames"]:,} images are without a decision: they '
            'never reached the head, or nothing says why.'
        )
    if rejected:
        parts.append(f'{_frames(rejected)} could not be decoded.')
    return ' '.join(parts)


def _doubts_text(outcomes: Sequence[Outcome]) -> list[str]:
    """In which scene the robot doubted most, and in which least."""
    answered = [each for each in outcomes if each.route is not None]
    doubts = {
        scene: sum(each.route is not Route.LOCAL for each in group) / len(group)
        for scene, group in grouped(answered, lambda each: each.where).items()
    }
    if len(doubts) < 2 or not any(doubts.values()):
        return []
    most, least = max(doubts, key=doubts.__getitem__), min(doubts, key=doubts.__getitem__)
    return [
        f'The robot wanted help most often in scene {most}, with {percent(doubts[most])} of the '
        f'frames, and least often in scene {least}, with {percent(doubts[least])}.'
    ]


def _figures(report: Report) -> list[Figure]:
    """The pictures of a live run, with the tail's absence shaded."""
    outage = _outage_span(report.outcomes, report.summary.get('tail_outage'))
    texts = _outage_text(report.summary.get('tail_outage'), outage)
    return run_figures(report, outage, texts)


def run_figures(
    report: Report, outage: tuple[float, float] | None = None, outage_text: Sequence[str] = ()
) -> list[Figure]:
    """What any run shows, live or replayed; ``outage`` in s is shaded."""
    outcomes, summary = report.outcomes, report.summary
    known = labelled(outcomes)
    shown = ['what the camera saw'] if report.images else []
    wrong = ['where the answer was wrong'] if known else []
    seen = _listed([*shown, 'the scene', 'who answered', *wrong])
    drawn: list[tuple[str, str, list[str], bytes | None]] = [
        (
            'drive',
            'The drive',
            [f'{seen[0].upper()}{seen[1:]}.', *outage_text],
            pictures.drive_strip(outcomes, report.images, outage, report.cameras),
        ),
        (
            'exits',
            'Who answered, and how well' if known else 'Which exit answered',
            ['Above, the share of right answers; below, who gave them, in short stretches of the '
             'drive.' if known else 'In short stretches of the drive.', *_doubts_text(outcomes)],
            pictures.exit_use(outcomes, outage),
        ),
        (
            'accuracy',
            'How often the answer was right',
            ['The thin lines are 95 % intervals as if each frame stood alone; where many show one '
             'thing, the truth is two to three times less sure. The routes are not rivals: easy '
             'frames stay on the robot, the tail gets the hard ones, and a fallback has only the '
             'robot’s own best guess at them.'],
            pictures.accuracy_bars(outcomes),
        ),
        (
            'latency',
            'How long an answer took',
            ['From the arrival of the image to the decision. The black line is the median. A '
             'fallback costs a whole deadline only until the loss of the tail is noticed; then the '
             'robot answers at once. An answer counts as within the deadline up to '
             f'{DEADLINE_GRACE_MS:g} ms after it, for no fallback can come before it.'],
            pictures.latency_rows(outcomes, summary['deadline_ms']),
        ),
        (
            'bytes',
            'What went over the network',
            [f'One dot per frame whose features were sent, {summary["sent_bytes"] / 1e3:,.1f} kB '
             'in all. The marks at the bottom are frames that sent nothing. While the tail is '
             'lost, a few frames already answered are sent to find out whether it is back.'],
            pictures.payload_dots(outcomes, report.input_bytes, outage),
        ),
        (
            'confusion',
            'What was taken for what',
            ['Only classes that were confused, the most frequent ones.'],
            pictures.confusion_matrix(outcomes),
        ),
    ]  # fmt: skip
    return [Figure(name, title, texts, png) for name, title, texts, png in drawn if png is not None]


def _outage_span(
    outcomes: Sequence[Outcome], outage: Mapping[str, Any] | None
) -> tuple[float, float] | None:
    """The tail's absence in the time of the drive; None when there was none."""
    if outage is None or outage['killed_s'] is None:
        return None
    end = math.inf if outage['recovered_s'] is None else outage['recovered_s']
    before = [each.time for each in outcomes if each.wall <= outage['killed_s']]
    until = [each.time for each in outcomes if each.wall <= end]
    return (before or until)[-1], until[-1]


def _outage_text(outage: Mapping[str, Any] | None, span: tuple[float, float] | None) -> list[str]:
    if outage is None or span is None:
        return []
    text = f'{span[0]:.1f} s into the drive the tail was killed without warning.'
    if outage['noticed_ms'] is not None:
        text += (
            f' The head noticed {in_ms(outage["noticed_ms"])} later: {_frames(outage["waited"])} '
            f'waited for a whole deadline, {in_ms(outage["longest_wait_ms"])} at most. From then '
            f'on doubtful frames were answered on the robot, {outage["fallbacks"]} in all.'
        )
    if outage['first_answer_ms'] is not None:
        late = outage['fallbacks_after_return']
        text += (
            f' The tail was started again. Once it had announced itself, {_frames(late)} of them '
            f'still found nobody, and it gave its first answer {in_ms(outage["first_answer_ms"])} '
            'later, when there was a frame to ask about.'
        )
    return [text]


def _worst(report: Report) -> list[dict[str, str]]:
    return [
        {
            'data': b64encode(pictures.thumbnail(report.images[each.index])).decode(),
            'answer': each.answer or '',
            'truth': each.label or '',
            'confidence': f'{each.confidence:.0%}',
            'route': each.route.value if each.route else '',
            'file': each.file,
            'where': f'{each.route.value if each.route else ""}, exit {each.exit}, '
            f'{each.where or "scene unknown"}, frame {each.index}',
        }
        for each in worst(report.outcomes, WORST)
        if each.index in report.images
    ]


def _table(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The same figures for each route, each scene and all."""
    answered = [each for each in outcomes if each.route is not None]
    groups: dict[str, Sequence[Outcome]] = {
        **{f'route {route.value}': [e for e in answered if e.route is route] for route in Route},
        **{f'scene {name}': g for name, g in grouped(answered, lambda e: e.where).items()},
        'all': answered,
    }
    rows = []
    for name, group in groups.items():
        latency = spread([each.latency for each in group], 'p50', 'p95', 'p99', 'max')
        sent = [float(each.payload_bytes) for each in group if each.payload_bytes]
        mean = spread(sent, 'mean')['mean']
        asked = sum(each.route is not Route.LOCAL for each in group) / max(1, len(group))
        rows.append([
            name, f'{len(group):,}', percent(accuracy(group)), percent(asked),
            *(in_ms(value) for value in latency.values()),
            '–' if mean is None else f'{mean:,.0f}',
        ])  # fmt: skip
    columns = ['', 'frames', 'right', 'doubted', 'p50', 'p95', 'p99', 'max', 'bytes sent']
    return {'columns': columns, 'rows': rows}


def _provenance(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    bundle, computer = summary['bundle'], summary['machine']
    counts = ', '.join(
        f'{summary[name]:,} {name}' for name in ('frames', 'received', 'accepted', 'dropped')
    )
    exit_share = ', '.join(f'{k}: {percent(v)}' for k, v in summary['exit_share'].items())
    rows = {
        'bundle': f'{bundle["name"]}, fingerprint {bundle["fingerprint"]}',
        'policy': f'{summary["policy"]}: split after stage {summary["split"]}, threshold '
        f'{summary["threshold"]:g}, codec {summary["codec"]}',
        'source': f'{summary["source"]}, played at {summary["rate"]:.3g} times real time, seed '
        f'{summary["seed"]}',
        'frames': f'{counts}, {summary["answered"]:,} answered',
        'exits': exit_share,
        'end to end': f'p50 {in_ms(summary["end_to_end_ms"]["p50"])}, p95 '
        f'{in_ms(summary["end_to_end_ms"]["p95"])} from publishing an image to holding its answer',
        'runtime': summary['runtime'],
        'machine': f'{computer["processor"]}, {computer["cores"]} cores, {computer["system"]}',
        'versions': ', '.join(f'{name} {value}' for name, value in summary['versions'].items()),
        'made': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
    }
    return list(rows.items())


def percent(share: float | None) -> str:
    """A share for people; a dash for none."""
    return '–' if share is None else f'{share:.1%}'.replace('%', ' %')


def _frames(count: int) -> str:
    return '1 frame' if count == 1 else f'{count} frames'


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} and {names[-1]}'
