# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Keeps the books of a run: which images were sent, and what became of each.

Answers and decisions are joined with their image by its header, which the head copies. Exactly one
answer per accepted frame is the promise, so whatever contradicts it is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparse_split_ros.evaluation.metrics import Counts, Outcome
from sparse_split_ros.policy.decision import Reason, Route
from sparse_split_ros.runtime.bundle import BETWEEN_TASKS

# Seconds, nanoseconds and frame of a header.
Key = tuple[int, int, str]
DECISION_KEYS = frozenset((
    'route', 'reason', 'class', 'exit', 'split', 'codec', 'confidence', 'threshold', 'audit',
    'payload_bytes', 'scene', 'queue_ms', 'prepare_ms', 'compute_ms', 'offboard_ms', 'tail_ms',
    'total_ms',
))  # fmt: skip
"""What is read of a ``decision`` message."""


class DecisionError(ValueError):
    """A ``decision`` message that no head of this version sent; says what is wrong with it."""


def is_class(key: str) -> bool:
    """Whether a key of a ``decision`` message is for a task's class: class, and class/NAME."""
    return key.partition('/')[0] == 'class'


def read_decision(values: Mapping[str, str]) -> dict[str, Any]:
    """What a ``decision`` message says, as fields of an Outcome. Raises DecisionError."""
    if missing := DECISION_KEYS - values.keys():
        raise DecisionError(f'has no {", ".join(sorted(missing))}')
    try:
        times = {name: float(values[name]) for name in DECISION_KEYS if name.endswith('_ms')}
        found = {
            'answer': BETWEEN_TASKS.join(value for key, value in values.items() if is_class(key)),
            'route': Route(values['route']),
            'reason': Reason(values['reason']),
            'exit': int(values['exit']),
            'split': int(values['split']),
            'confidence': float(values['confidence']),
            'measured_scene': values['scene'],
            'payload_bytes': int(values['payload_bytes']),
            'latency': times['total_ms'],
            'compute': times['compute_ms'],
            'offboard': times['offboard_ms'],
            'tail': times['tail_ms'],
            'queue': times['queue_ms'],
            'prepare': times['prepare_ms'],
            'codec': values['codec'],
            'threshold': float(values['threshold']),
            'audit': values['audit'] == 'True' and int(values['payload_bytes']) > 0,
        }
    except ValueError as error:
        raise DecisionError(f'cannot be read ({error})') from error
    if odd := [name for name, value in times.items() if not math.isfinite(value)]:
        raise DecisionError(f'has a {odd[0]} of {values[odd[0]]}')
    return found


@dataclass(frozen=True)
class _Answer:
    received: float
    name: str


class Ledger:
    """Joins images, answers and decisions; ``answered`` holds the complete ones in their order.

    One thread may send while another takes in answers.
    """

    def __init__(self) -> None:
        self.answered: list[Outcome] = []
        self.doubled = 0
        self.foreign = 0
        self.contradicted = 0
        self._sent: dict[Key, Outcome] = {}
        self._answers: dict[Key, _Answer] = {}
        self._decisions: dict[Key, Mapping[str, Any]] = {}

    def send(self, key: Key, frame: Outcome) -> None:
        """An image is about to be sent; ``frame`` holds what is known of it without an answer."""
        self._sent[key] = frame

    def answer(self, key: Key, name: str, received: float) -> Outcome | None:
        """A classification came at ``received`` s of the run; the outcome if this completes it."""
        if key not in self._sent:
            self.foreign += 1
        elif key in self._answers:
            self.doubled += 1
        else:
            self._answers[key] = _Answer(received, name)
            return self._joined(key)
        return None

    def decide(self, key: Key, decision: Mapping[str, Any]) -> Outcome | None:
        """A decision came, as :func:`read_decision` gives it; the outcome if this completes it."""
        if key not in self._sent or key in self._decisions:
            return None
        self._decisions[key] = decision
        return self._joined(key)

    def _joined(self, key: Key) -> Outcome | None:
        if key not in self._answers or key not in self._decisions:
            return None
        sent, answer, decision = self._sent[key], self._answers[key], self._decisions[key]
        self.contradicted += answer.name != decision['answer']
        # What was published is the answer.
        told = {'answer': answer.name, 'end_to_end': (answer.received - sent.wall) * 1e3}
        outcome = replace(sent, **{**decision, **told})
        self.answered.append(outcome)
        return outcome

    def outcomes(self) -> list[Outcome]:
        """One outcome per frame sent, in order, those without an answer included."""
        known = {outcome.index: outcome for outcome in self.answered}
        return [known.get(frame.index, frame) for frame in self._sent.values()]

    def problems(self, counts: Counts, *, all_sent: bool = True) -> list[str]:
        """What is wrong with the answers, held against the head's own counts.

        ``all_sent`` tells whether every image was sent from here.
        """
        answers, decided = self._answers.keys(), self._decisions.keys()
        handled = counts.accepted + counts.dropped + counts.rejected
        found = {
            f'{len(answers)} answers to {counts.accepted} accepted frames, '
            f'{counts.failed} of which failed': counts.accepted - len(answers),
            f'{self.doubled} frames were answered twice': self.doubled,
            f'{self.foreign} answers carry the header of no image': self.foreign,
            f'{self.contradicted} answers differ from their decision': self.contradicted,
            f'{len(answers ^ decided)} frames have an answer or a decision, not both': (
                len(answers ^ decided)
            ),
            f'the head received {counts.received} images and accounts for {handled}': (
                counts.received - handled
            ),
            f'the head received {counts.received} images of {len(self._sent)}': max(
                0, counts.received - len(self._sent) if all_sent else 0
            ),
        }
        return [text for text, count in found.items() if count]
