# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tail: every frame gets one reply, whatever is wrong with it, and robots share it fairly."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from simulation import FakeEngine

from sparse_split_ros.link.codec import Codec, CodecId
from sparse_split_ros.link.frame import FeatureFrame, ReplyFrame, Status
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.head import Ticket, compute
from sparse_split_ros.runtime.tail import Answer, Tail


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('tail') / 'bundle', bottleneck=None)


def frame(bundle: Bundle, number: int, **changes: object) -> bytes:
    split = changes.get('split', 1)
    stage = bundle.stages[split if split in (0, 1) else 1]  # type: ignore[index]
    features = np.zeros(stage.output_shape, np.float32)
    features[0, 0, 0] = number
    values = {'split': 1, 'codec': CodecId.NONE, 'fingerprint': bundle.fingerprint, 'session': 5}
    values |= {'sequence': number, 'payload': features.tobytes(), 'budget_ms': 100}
    return FeatureFrame(**{**values, **changes}).to_bytes()  # type: ignore[arg-type]


def process(tail: Tail, now: float = 0.0) -> list[Answer]:
    return tail.process(lambda: now)


def test_a_frame_waits_and_is_answered(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    assert tail.submit(0, 'header', frame(bundle, 2), 1.0) is None
    assert len(tail) == 1
    (answer,) = process(tail, 1.005)
    assert (answer.header, answer.error, len(tail)) == ('header', '', 0)
    reply = answer.reply
    assert (reply.status, reply.key, reply.tail_us) == (Status.OK, (5, 2), 4999)
    assert reply.fingerprint == bundle.fingerprint
    assert reply.scores.argmax() == 3


def test_scores_that_rounding_leaves_above_one_are_answers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(bundle)
    run = engine.run

    def rounded(*given, **options):  # type: ignore[no-untyped-def]
        result = run(*given, **options)
        return result._replace(exits={k: np.float32(1.0001) * v for k, v in result.exits.items()})

    monkeypatch.setattr(engine, 'run', rounded)
    tail = Tail(engine)
    tail.submit(0, None, frame(bundle, 2), 0.0)
    (answer,) = process(tail)
    assert ReplyFrame.parse(answer.reply.to_bytes()).scores.max() == 1.0


def test_nothing_waiting_is_no_batch(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    assert process(tail) == [] and tail.counts.batches == 0


def test_what_waits_runs_as_one_batch_in_order(bundle: Bundle) -> None:
    engine = FakeEngine(bundle)
    tail = Tail(engine, max_batch=4)
    for number in range(6):
        tail.submit(0, None, frame(bundle, number), 0.0)
    answers = [process(tail), process(tail)]
    assert engine.batches == [4, 2]
    assert [a.reply.sequence for batch in answers for a in batch] == [0, 1, 2, 3, 4, 5]
    assert [a.reply.scores.argmax() for batch in answers for a in batch] == [1, 2, 3, 4, 0, 1]


def test_a_batch_is_of_one_split(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    for number, split in enumerate([1, 1, 0, 1]):
        tail.submit(0, None, frame(bundle, number, split=split), 0.0)
    assert [[a.reply.sequence for a in process(tail)] for _ in range(3)] == [[0, 1], [2], [3]]


def test_codecs_mix_within_a_batch(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    split = bundle.split_at(1)
    features = np.zeros(split.shape, np.float32)
    for number, name in enumerate(['none', 'fp16', 'int4+zstd']):
        codec = Codec.from_calibration(name, split.shape, split.codecs[name])
        payload = codec.encode(features)
        tail.submit(0, None, frame(bundle, number, codec=codec.id, payload=payload), 0.0)
    assert [a.reply.status for a in process(tail)] == [Status.OK] * 3
    assert tail.counts.batches == 1


REFUSED = [
    ({'fingerprint': bytes(8)}, Status.WRONG_BUNDLE, 'start both with the same bundle'),
    ({'split': 2}, Status.WRONG_SPLIT, r'cut at stage 2, this bundle can be at \[0, 1\]'),
    ({'codec': CodecId.NONE_ZSTD}, Status.WRONG_CODEC, r'coded as none\+zstd, this split has'),
]


@pytest.mark.parametrize(('changes', 'status', 'error'), REFUSED)
def test_a_frame_that_does_not_fit_is_refused_at_once_by_name(
    bundle: Bundle, changes: dict[str, object], status: Status, error: str
) -> None:
    tail = Tail(FakeEngine(bundle))
    answer = tail.submit(0, 'header', frame(bundle, 2, **changes), 0.0)
    assert answer is not None
    assert (answer.reply.status, answer.reply.key) == (status, (5, 2))
    assert answer.header == 'header' and len(tail) == 0
    assert re.search(error, answer.error)


@pytest.mark.parametrize(
    ('data', 'status', 'error'),
    [
        (b'', Status.MALFORMED, 'feature frame of 0 bytes is shorter than its preamble of 40'),
        (b'SSFF\x02' + bytes(50), Status.WRONG_VERSION, 'feature frame has version 2'),
    ],
)
def test_bytes_that_are_no_frame_are_refused_without_a_name(
    bundle: Bundle, data: bytes, status: Status, error: str
) -> None:
    answer = Tail(FakeEngine(bundle)).submit(0, None, data, 0.0)
    assert answer is not None and answer.error.startswith(error)
    assert (answer.reply.status, answer.reply.key) == (status, (0, 0))


def test_a_bad_payload_costs_only_its_own_frame(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    for number, payload in enumerate([None, b'short', None]):
        changes = {} if payload is None else {'payload': payload}
        tail.submit(0, None, frame(bundle, number, **changes), 0.0)
    by_number = {a.reply.sequence: a for a in process(tail)}
    assert [by_number[n].reply.status for n in range(3)] == [
        Status.OK, Status.BAD_PAYLOAD, Status.OK,
    ]  # fmt: skip
    assert 'payload holds 5 bytes' in by_number[1].error


def test_a_frame_whose_time_ran_out_is_not_computed(bundle: Bundle) -> None:
    engine = FakeEngine(bundle)
    tail = Tail(engine)
    tail.submit(0, None, frame(bundle, 0, budget_ms=50), 0.0)
    tail.submit(0, None, frame(bundle, 1, budget_ms=100), 0.0)
    statuses = {a.reply.sequence: a.reply.status for a in process(tail, 0.0625)}
    assert statuses == {0: Status.EXPIRED, 1: Status.OK}
    assert engine.batches == [1]


def test_a_frame_that_fails_does_not_cost_the_others_of_its_batch(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle, faulty=frozenset({1})), robots=2)
    for number in range(3):
        tail.submit(number % 2, None, frame(bundle, number), 0.0)
    answers = {a.reply.sequence: a for a in process(tail)}
    assert [answers[n].reply.status for n in range(3)] == [Status.OK, Status.FAILED, Status.OK]
    assert 'not finite' in answers[1].error and answers[1].reply.scores.size == 0


def test_a_full_queue_loses_its_oldest_frame_and_counts_it(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle), queue=3)
    for number in range(5):
        tail.submit(0, None, frame(bundle, number), 0.0)
    assert [a.reply.sequence for a in process(tail)] == [2, 3, 4]
    assert tail.counts.overrun == 2


def test_a_busy_robot_does_not_crowd_out_another(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle), robots=2, max_batch=4)
    for number in range(8):
        tail.submit(0, None, frame(bundle, number), 0.0)
    for number in range(20, 22):
        tail.submit(1, None, frame(bundle, number), 0.0)
    answers = process(tail)
    assert sorted(a.robot for a in answers) == [0, 0, 1, 1]
    assert all((a.robot == 1) == (a.reply.sequence >= 20) for a in answers)


def test_every_answer_is_counted_by_its_status(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle))
    tail.submit(0, None, b'', 0.0)
    tail.submit(0, None, frame(bundle, 1), 0.0)
    tail.submit(0, None, frame(bundle, 2, payload=b''), 0.0)
    process(tail)
    counted = {status: n for status, n in tail.counts.statuses.items() if n}
    assert counted == {Status.MALFORMED: 1, Status.OK: 1, Status.BAD_PAYLOAD: 1}


def test_frames_may_be_handed_in_while_a_batch_runs(bundle: Bundle) -> None:
    tail = Tail(FakeEngine(bundle), queue=4000, max_batch=7)
    frames = [frame(bundle, number) for number in range(2000)]

    def submit() -> None:
        for number, data in enumerate(frames):
            tail.submit(0, number, data, 0.0)

    thread = threading.Thread(target=submit)
    thread.start()
    answers: list[Answer] = []
    while thread.is_alive() or len(tail):
        answers += process(tail)
    thread.join()
    assert [a.reply.sequence for a in answers] == list(range(2000))


def test_head_and_tail_together_are_the_whole_network(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / 'bundle', bottleneck=None)
    engine = load_engine(bundle)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (1, *bundle.input.shape)).astype(np.float32)
    whole = engine.run(x, 0, 2, (None, None, 0.0)).exits[2][0]
    for split in (0, 1):
        ticket = Ticket(1, Plan(split, (2.0, 2.0, None), 'none'), False, True)
        computed = compute(engine, ticket, x)
        assert computed.features is not None and computed.stopped is None
        tail = Tail(engine)
        data = frame(bundle, 1, split=split, payload=computed.features.tobytes())
        tail.submit(0, None, data, 0.0)
        np.testing.assert_allclose(process(tail)[0].reply.scores, whole, atol=1e-6)
