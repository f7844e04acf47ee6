# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A hundred thousand damaged frames: each is refused by name or harmless, none costs memory.

Most mutations get a CRC that is right again, so that they reach the checks behind it.
"""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from bundles import make_bundle
from simulation import FakeEngine, StaticPolicy

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.codec import Codec, CodecError, CodecId
from sparse_split_ros.link.frame import PREAMBLE_BYTES, FeatureFrame, FrameError, ReplyFrame, Status
from sparse_split_ros.policy.decision import Decision
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.head import Head, compute
from sparse_split_ros.runtime.tail import Tail

MUTATIONS = 60_000  # of feature frames, and as many of replies
SMALL = (0, 1, 2, 3, 0x7F, 0x80, 0xFE, 0xFF)
WORDS = (0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 22, (1 << 22) + 1, 65_536, 65_537)
SESSION = 5


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('fuzz') / 'bundle', bottleneck=None)


def resealed(data: bytearray) -> bytes:
    """The frame with its length and CRC made right, where it is long enough to have them."""
    if len(data) >= PREAMBLE_BYTES:
        struct.pack_into('<I', data, 32, len(data) - PREAMBLE_BYTES)
        struct.pack_into('<I', data, 36, zlib.crc32(data[40:], zlib.crc32(data[:36])))
    return bytes(data)


def mutations(frames: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Valid frames with flipped bits, cut, grown, edited and spliced, or bytes of nothing."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        data = bytearray(frames[rng.integers(len(frames))])
        kind = index % 8
        if kind == 0:
            for _ in range(rng.integers(1, 9)):
                data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del data[rng.integers(len(data)) :]
        elif kind == 2:
            data += rng.bytes(int(rng.integers(1, 200)))
        elif kind == 3:
            data[rng.integers(PREAMBLE_BYTES)] = SMALL[rng.integers(len(SMALL))]
        elif kind == 4:
            at = 4 * int(rng.integers(PREAMBLE_BYTES // 4))
            struct.pack_into('<I', data, at, WORDS[rng.integers(len(WORDS))])
        elif kind == 5 and len(data) > PREAMBLE_BYTES:
            start = int(rng.integers(PREAMBLE_BYTES, len(data)))
            stop = int(rng.integers(start, len(data))) + 1
            data[start:stop] = rng.bytes(stop - start)
        elif kind == 6:
            other = frames[rng.integers(len(frames))]
            data[PREAMBLE_BYTES:] = other[PREAMBLE_BYTES:]
        else:
            data = bytearray(rng.bytes(int(rng.integers(0, 120))))
        # Lengths and CRCs are left wrong in a third of the cases, to test those checks as well.
        yield resealed(data) if rng.integers(3) else bytes(data)


def peak_memory(start: bool) -> int:
    """Start counting, or the most that was held since then, in bytes."""
    if start:
        tracemalloc.start()
        return 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_the_tail_answers_any_mutation_of_a_feature_frame_by_name(bundle: Bundle) -> None:
    split = bundle.split_at(1)
    features = np.abs(np.random.default_rng(0).normal(0, 1, split.shape)).astype(np.float32)
    codecs = [Codec.from_calibration(n, split.shape, p) for n, p in split.codecs.items()]
    valid = [
        FeatureFrame(1, codec.id, bundle.fingerprint, SESSION, number, codec.encode(features))
        for number, codec in enumerate(codecs)
    ]
    tail = Tail(FakeEngine(bundle))
    statuses: Counter[Status] = Counter()
    unnamed = 0
    for data in mutations([frame.to_bytes() for frame in valid], MUTATIONS, seed=1):
        answer = tail.submit(0, None, data, 0.0)
        answers = tail.process(lambda: 0.001) if answer is None else [answer]
        for answer in answers:
            statuses[answer.reply.status] += 1
            unnamed += (answer.reply.status is not Status.OK) == (answer.error == '')
            ReplyFrame.parse(answer.reply.to_bytes())
        assert len(tail) == 0
    assert sum(statuses.values()) == MUTATIONS, 'one reply each'
    assert unnamed == 0
    expected = set(Status) - {Status.FAILED}
    assert set(statuses) == expected, 'the mutations reach every check'


def test_parsing_any_mutation_holds_no_more_memory_than_the_frame(bundle: Bundle) -> None:
    valid = FeatureFrame(1, CodecId.NONE, bundle.fingerprint, SESSION, 1, bytes(1024)).to_bytes()
    reply = ReplyFrame(Status.OK, bundle.fingerprint, SESSION, 1, np.full(43, 0.5, np.float32))
    frames = [*mutations([valid], 2000, seed=2), *mutations([reply.to_bytes()], 2000, seed=3)]
    peak_memory(start=True)
    for data in frames:
        for kind in (FeatureFrame, ReplyFrame):
            try:
                kind.parse(data)
            except FrameError as error:
                assert 'frame' in str(error)
    assert peak_memory(start=False) < 100_000


@pytest.mark.parametrize('name', ['none', 'fp16', 'int8', 'int4', 'int8+zstd', 'int4+zstd'])
def test_decoding_any_payload_holds_no_more_memory_than_the_features(
    bundle: Bundle, name: str
) -> None:
    split = bundle.split_at(1)
    codec = Codec.from_calibration(name, split.shape, split.codecs[name])
    payload = codec.encode(np.ones(split.shape, np.float32))
    rng = np.random.default_rng(4)
    codec.decode(payload)
    peak_memory(start=True)
    for _ in range(500):
        damaged = bytearray(payload)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            codec.decode(bytes(damaged))
        except CodecError as error:
            assert 'payload' in str(error)
    assert peak_memory(start=False) < 200_000


def test_the_head_survives_any_mutation_of_a_reply(bundle: Bundle) -> None:
    engine = FakeEngine(bundle)
    policy = StaticPolicy(Plan(1, (0.9, 0.9, None), 'none'))
    head = Head(bundle, policy, deadline=0.1, session=SESSION)
    announcement = Announcement('tail', 1, (bundle.fingerprint.hex(),))
    scores = np.full(5, 0.2, np.float32)
    empty = np.zeros(0, np.float32)
    decisions: list[Decision] = []
    now, refused, parsed = 0.0, 0, 0
    for number in range(MUTATIONS // 20):
        now += 0.01
        head.announced(announcement, now)
        ticket = head.begin(0, number, Scene(), now, now)
        step = head.computed(
            ticket.sequence, compute(engine, ticket, engine.image(number, 0.5)), now
        )
        decisions += step.decisions
        statuses = [*Status] if number % 2 else [Status.OK]
        valid = [
            ReplyFrame(
                status, bundle.fingerprint, SESSION, max(ticket.sequence - age, 0),
                scores if status is Status.OK else empty,
            ).to_bytes()
            for status in statuses for age in (0, 1, 20)
        ]  # fmt: skip
        for data in mutations(valid, 20, seed=number):
            try:
                reply = ReplyFrame.parse(data)
            except FrameError as error:
                refused += 1
                assert 'reply frame' in str(error)
                continue
            parsed += 1
            decisions += head.answer(reply, now).decisions
        decisions += head.tick(now).decisions
    decisions += head.stop(now).decisions
    assert sorted(decision.header for decision in decisions) == list(range(MUTATIONS // 20))
    assert parsed > MUTATIONS // 5 and refused > MUTATIONS // 5, 'both sides are exercised'
    assert all(np.isfinite(decision.scores).all() for decision in decisions)
