# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever contradicts 'exactly one answer per accepted frame' is found."""

from __future__ import annotations

import pytest

from sparse_split_ros.evaluation.ledger import DecisionError, Ledger, read_decision
from sparse_split_ros.evaluation.metrics import Counts, Outcome
from sparse_split_ros.policy.decision import Reason, Route

DECISION = {
    'class': 'stop', 'route': 'offboard', 'reason': 'answered', 'exit': '2', 'split': '1',
    'confidence': '0.875', 'scene': 'night', 'payload_bytes': '321', 'total_ms': '7.5',
    'compute_ms': '1.25', 'offboard_ms': '5', 'tail_ms': '2', 'queue_ms': '0.5',
    'prepare_ms': '0.25', 'codec': 'int8', 'threshold': '0.9', 'audit': 'False',
}  # fmt: skip


def key(index: int) -> tuple[int, int, str]:
    return index, 0, 'camera'


@pytest.fixture
def ledger() -> Ledger:
    """Two frames sent, the first one answered."""
    ledger = Ledger()
    for index in range(2):
        ledger.send(key(index), Outcome(index, float(index), 10.0 + index, 'stop', 'night'))
    ledger.answer(key(0), 'stop', 10.01)
    ledger.decide(key(0), read_decision(DECISION))
    return ledger


@pytest.mark.parametrize('decision_first', [False, True])
def test_an_answer_and_its_decision_are_joined_in_any_order(decision_first: bool) -> None:
    ledger = Ledger()
    ledger.send(key(0), Outcome(0, 0.0, 10.0, 'stop', 'night'))
    steps = [
        lambda: ledger.answer(key(0), 'stop', 10.01),
        lambda: ledger.decide(key(0), read_decision(DECISION)),
    ]
    first, second = reversed(steps) if decision_first else steps
    assert first() is None
    outcome = second()
    assert outcome is not None and ledger.answered == [outcome]
    assert (outcome.route, outcome.reason) == (Route.OFFBOARD, Reason.ANSWERED)
    assert outcome.correct is True and outcome.measured_scene == 'night'
    assert (outcome.payload_bytes, outcome.latency, outcome.tail) == (321, 7.5, 2.0)
    assert outcome.end_to_end == pytest.approx(10.0)
    assert outcome.received == pytest.approx(10.01)


def test_every_frame_sent_has_an_outcome(ledger: Ledger) -> None:
    first, second = ledger.outcomes()
    assert first.answer == 'stop'
    assert second.route is None and second.label == 'stop'


def test_a_clean_run_has_no_problems(ledger: Ledger) -> None:
    assert ledger.problems(Counts(received=2, accepted=1, dropped=1)) == []
    assert ledger.problems(Counts(received=2, accepted=1, dropped=0, rejected=1)) == []


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({'queue_ms': 'nan'}, 'has a queue_ms of nan'),
        ({'route': 'by post'}, "cannot be read .*'by post'"),
        ({'exit': None}, 'has no exit'),
    ],
)
def test_a_decision_of_no_head_is_refused(change: dict[str, str | None], problem: str) -> None:
    values = {name: value for name, value in (DECISION | change).items() if value is not None}
    with pytest.raises(DecisionError, match=problem):
        read_decision(values)


@pytest.mark.parametrize(('payload', 'audit'), [('321', True), ('0', False)])
def test_only_an_audit_that_was_sent_is_one(payload: str, audit: bool) -> None:
    values = DECISION | {'audit': 'True', 'payload_bytes': payload}
    assert read_decision(values)['audit'] is audit


@pytest.mark.parametrize(
    ('spoil', 'counts', 'problem'),
    [
        (lambda it: None, Counts(2, 2, 0), '1 answers to 2 accepted frames'),
        (lambda it: None, Counts(2, 0, 2), '1 answers to 0 accepted frames'),
        (lambda it: None, Counts(2, 2, 0, failed=1), '1 of which failed'),
        (lambda it: it.answer(key(0), 'stop', 10.1), Counts(2, 1, 1), '1 frames were answered'),
        (lambda it: it.answer(key(7), 'stop', 10.1), Counts(2, 1, 1), 'the header of no image'),
        (lambda it: it.answer(key(1), 'stop', 10.1), Counts(2, 2, 0), 'not both'),
        (lambda it: it.decide(key(1), read_decision(DECISION)), Counts(2, 1, 1), 'not both'),
        (lambda it: None, Counts(2, 1, 0), 'received 2 images and accounts for 1'),
        (lambda it: None, Counts(3, 1, 2), 'received 3 images of 2'),
    ],
)  # fmt: skip
def test_each_broken_promise_is_named(ledger: Ledger, spoil, counts: Counts, problem: str) -> None:
    spoil(ledger)
    assert any(problem in text for text in ledger.problems(counts))


def test_an_answer_that_differs_from_its_decision_is_named(ledger: Ledger) -> None:
    ledger.answer(key(1), 'yield', 11.0)
    ledger.decide(key(1), read_decision(DECISION))
    assert ledger.problems(Counts(2, 2, 0)) == ['1 answers differ from their decision']


def test_a_second_answer_does_not_replace_the_first(ledger: Ledger) -> None:
    ledger.answer(key(0), 'yield', 10.5)
    assert ledger.outcomes()[0].answer == 'stop'


def test_a_second_decision_does_not_count_the_frame_twice(ledger: Ledger) -> None:
    assert ledger.decide(key(0), read_decision(DECISION | {'exit': '0'})) is None
    assert [outcome.exit for outcome in ledger.answered] == [2]
