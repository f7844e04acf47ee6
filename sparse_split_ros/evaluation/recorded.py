# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a live run from the bag that `sparse-split record` (or `ros2 bag record`) made of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.bags import (
    CLASSIFICATION,
    BagError,
    further_truths,
    image_topics,
    read_bag,
    read_messages,
)
from sparse_split_ros.evaluation.ledger import DecisionError, Key, Ledger, read_decision
from sparse_split_ros.evaluation.metrics import SUMMARY_FORMAT, Counts, Outcome, summarise
from sparse_split_ros.evaluation.provenance import machine, versions
from sparse_split_ros.evaluation.stream import Source, Truth, class_meant, label_meant
from sparse_split_ros.runtime.bundle import BETWEEN_TASKS, Bundle, bundle_path

_DIAGNOSTICS = 'diagnostic_msgs/msg/DiagnosticArray'
# What a head counts, in the order of Counts.
_COUNTED = ('received', 'accepted', 'dropped', 'rejected', 'failed')


@dataclass(frozen=True)
class Live:
    """What a bag of decisions says of a run; ``keys`` are the headers of the outcomes."""

    summary: dict[str, Any]
    outcomes: list[Outcome]
    keys: list[Key]

    def cameras(self) -> dict[str, list[Outcome]]:
        """The outcomes of each camera, by its frame_id."""
        found: dict[str, list[Outcome]] = {}
        for key, outcome in zip(self.keys, self.outcomes):
            found.setdefault(key[2], []).append(outcome)
        return found


@dataclass
class _Heard:
    """What was on the topics, by header."""

    decisions: dict[Key, tuple[int, dict[str, Any]]]
    answers: dict[Key, tuple[int, str]]
    others: dict[Key, dict[str, str]]
    """Answers of the tasks beside the first, by name."""
    truths: dict[Key, str]
    further: dict[Key, dict[str, str]]
    """The truths of the tasks beside the first, by name."""
    scenes: dict[Key, str]
    head: dict[str, str]
    counted: dict[str, list[list[str]]]
    """What each head said again and again of _COUNTED and of frames in flight, by its name."""
    decided: Counter[str]
    """How many decisions came in each namespace."""
    tasks: list[str]
    """Of the decisions; a single one has no name."""
    repeated: int = 0
    """Decisions with the header of another."""


def score(
    path: Path,
    deadline_ms: float | None = None,
    bundle: str = '',
    truth: Truth | None = None,
) -> Live:
    """The figures of a recorded run.

    Raises BagError where no decision was recorded, BundleError for a `bundle` that is none.

    Labels and answers are classes of `bundle` by name or by number, if it is the one that the head
    ran; labels that are no class of it are not known. Without it both are taken as they are.
    The deadline is the head's own in /diagnostics unless one is given, and 100 ms without either.
    `truth` knows more of the labels than the bag; its frames are numbered as the outcomes are.
    """
    heard = _heard(path)
    if not heard.decisions:
        raise BagError(
            f'bag {path} holds no decisions: record decision, classification and ground_truth of a '
            'running head with `sparse-split record`'
        )
    classes = _classes(bundle, heard.head)
    tasks = list(classes) or heard.tasks
    # An image with a truth and no decision was sent, and lost or overtaken on the way.
    order = sorted(heard.decisions.keys() | heard.truths.keys() | heard.further.keys())
    unknown: dict[str, int] = {}
    labels: dict[Key, str] = {}
    for index, key in enumerate(order):
        stamp_ns = key[0] * 1_000_000_000 + key[1]
        said = (truth or Truth()).of(index, stamp_ns, heard.truths.get(key))
        others = further_truths(heard.scenes.get(key), heard.further.get(key, {}))
        meant = label_meant(said, others, classes or dict.fromkeys(tasks), unknown)
        if meant is not None:
            labels[key] = meant
    ledger = Ledger()
    start = min(received for received, _ in heard.decisions.values())
    for index, key in enumerate(order):
        since = (key[0] - order[0][0]) + (key[1] - order[0][1]) * 1e-9
        frame = Outcome(index, since, label=labels.get(key), scene=heard.scenes.get(key))
        if key in heard.decisions:
            received, decision = heard.decisions[key]
            published = (received - start) * 1e-9 - decision['latency'] / 1e3
            frame = replace(frame, wall=published)
        ledger.send(key, frame)
        if key in heard.decisions:
            ledger.decide(key, decision)
        if key in heard.answers:
            received, name = heard.answers[key]
            answers = {tasks[0]: name, **heard.others.get(key, {})}
            if key in heard.decisions:  # where the answers of further tasks are not recorded
                answers = dict(zip(tasks, decision['answer'].split(BETWEEN_TASKS))) | answers
            answer = _answer([answers.get(task, '') for task in tasks], classes)
            ledger.answer(key, answer, (received - start) * 1e-9)
    outcomes = ledger.outcomes()
    head = heard.head
    problems = []
    if heard.repeated:
        problems.append(
            f'{heard.repeated} decisions have stamp and frame_id of another and are not counted: '
            'give every camera a frame_id of its own, and play a recording once'
        )
    try:
        known = _counts(heard)
        deadline = float(head.get('deadline_ms', 100)) if deadline_ms is None else deadline_ms
        if not 0 < deadline < math.inf:
            raise ValueError(f'deadline_ms is {deadline:g}')
    except ValueError as error:
        raise BagError(f'bag {path}: the numbers in /diagnostics are none ({error})') from error
    decided = len(heard.decisions)
    counts = known or Counts(decided, decided, 0)
    figures = summarise(outcomes, counts, deadline, tasks)
    if known is None:
        figures |= dict.fromkeys(name for name in _COUNTED if name != 'accepted')
    # Without a truth nothing but the head's count tells of an image that was overtaken.
    figures['frames'] = max(len(order), counts.received)
    figures['missed_frames'] = figures['frames'] - figures['answered']
    source = Source(str(path))
    summary = {
        'format': SUMMARY_FORMAT,
        'kind': 'recorded',
        'simulated': [],
        **figures,
        'policy': head.get('policy', 'unknown'),
        'bundle': {'name': head.get('bundle', 'unknown'),
                   'fingerprint': head.get('fingerprint', 'unknown')},
        'engine': head.get('engine', 'unknown'),
        'link': 'live',
        'robot': 'live',
        'seed': None,
        'sources': [{'name': source.name, 'sha256': source.fingerprint(),
                     'frames': len(order), 'weather': None}],
        'unknown_labels': unknown if classes else None,
        'errors': [*problems, *ledger.problems(counts, all_sent=False)],
        'baselines': {},
        'machine': machine(),
        'versions': versions(),
    }  # fmt: skip
    return Live(summary, outcomes, order)


def _counts(heard: _Heard) -> Counts | None:
    """What the heads counted, up to the last decision; None where that cannot be told.

    Raises ValueError for counts that are no numbers.
    """
    heads = {name: np.array([[int(count) for count in each] for each in said])
             for name, said in heard.counted.items()}  # fmt: skip
    spaces = [name.rpartition('/')[0] for name in heads]
    if heard.decided.keys() <= set(spaces):
        # /diagnostics is of all robots, the recording perhaps of one.
        parts = [
            _counted([said for said, other in zip(heads.values(), spaces) if other == space], count)
            for space, count in heard.decided.items()
        ]
    else:  # decisions were remapped
        parts = [_counted(list(heads.values()), sum(heard.decided.values()))]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    received, accepted, dropped, rejected, failed = np.sum(known, 0).tolist()
    # Heads say once a second what they counted; decisions tell of the rest.
    rest = len(heard.decisions) + failed - accepted
    received, accepted = received + rest, accepted + rest
    # Nothing was known yet of an image in the mailbox of its camera or in the hands of the worker.
    handled = accepted + dropped + rejected
    if abs(received - handled) <= len({key[2] for key in heard.decisions}) + len(heads):
        received = handled
    return Counts(received, accepted, dropped, rejected, failed)


def _counted(heads: Sequence[NDArray[np.int_]], decided: int) -> NDArray[np.int_] | None:
    """The sums of _COUNTED over heads, of the time in which they decided so many frames.

    Each of ``heads`` is what one said, (N, 6): _COUNTED and the frames in flight. None where they
    said too little, or accepted more frames than were decided.
    """
    whole, since = np.zeros((2, len(_COUNTED)), int)
    undecided = 0
    for said in heads:
        counts = said[:, :-1]
        # Counts that go back are of a head that was started anew.
        ends = (np.diff(counts[:, :2], axis=0) < 0).any(1).nonzero()[0]
        total = counts[ends].sum(0) + counts[-1]
        whole, since = whole + total, since + total - counts[0]
        undecided += said[-1, -1] + 1  # one is in the hands of the worker
    # A recording that began after its head is held against what was counted since.
    told = [whole, since] if all(len(said) > 1 for said in heads) else [whole]
    fitting = [each for each in told if each[1] - each[4] - undecided <= decided]
    return fitting[0] if heads and fitting else None


def _classes(bundle: str, head: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    """The classes of a bundle's tasks, if it is the one that the head ran; else none."""
    if not bundle:
        return {}
    found = Bundle.load(bundle_path(bundle))
    return found.tasks if found.fingerprint.hex() == head.get('fingerprint') else {}


def _answer(said: Sequence[str], classes: Mapping[str, tuple[str, ...]]) -> str:
    """The name of an answer, whose tasks' classes may be said by number."""
    of_tasks = list(classes.values()) or [()] * len(said)
    return BETWEEN_TASKS.join(
        class_meant(name, known) or name for name, known in zip(said, of_tasks)
    )


def images_of(path: Path, wanted: Mapping[Key, int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The images of a recorded run whose header has a number, as far as the bag has them."""
    for topic in image_topics(path):
        # What is cut short or damaged shows what came before.
        with suppress(BagError):
            for frame in read_bag(path, topic):
                key = (*divmod(frame.stamp_ns, 1_000_000_000), frame.frame_id)
                if key in wanted and not frame.error:
                    yield wanted[key], frame.image


def _heard(path: Path) -> _Heard:
    heard = _Heard({}, {}, {}, {}, {}, {}, {}, {}, Counter(), [''])
    for topic, kind, received, message in read_messages(path, (CLASSIFICATION, _DIAGNOSTICS)):
        stamp = message.header.stamp
        key = (int(stamp.sec), int(stamp.nanosec), message.header.frame_id)
        above, _, name = topic.rpartition('/')
        kind_of = above.rpartition('/')[2]
        if kind == _DIAGNOSTICS:
            for status in message.status:
                values = {value.key: value.value for value in status.values}
                if name == 'decision':
                    try:
                        decision = read_decision(values)
                    except DecisionError as error:
                        raise BagError(
                            f'bag {path}: the decision of stamp {key[0]}.{key[1]:09d} {error}: '
                            f'topic {topic} is not of this head'
                        ) from error
                    heard.tasks = values.get('tasks', '').split() or ['']
                    heard.repeated += key in heard.decisions
                    heard.decisions[key] = received, decision
                    heard.decided[above] += 1
                elif 'accepted' in values and 'fingerprint' in values:
                    heard.head = values
                    heard.counted.setdefault(status.name, []).append(
                        [values.get(each, '0') for each in (*_COUNTED, 'in_flight')]
                    )
        elif message.results and '/tail/classification' not in f'/{topic}':
            best = message.results[0].class_id
            # A further task may be called as one of our topics is, so what it is below tells first.
            if kind_of == 'ground_truth':
                heard.further.setdefault(key, {})[name] = best
            elif kind_of == 'classification':
                heard.others.setdefault(key, {})[name] = best
            elif name == 'ground_truth':
                heard.truths[key] = best
            elif name == 'scene':
                heard.scenes[key] = best
            elif name == 'classification':
                heard.answers[key] = received, best
    return heard
