# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The wire format: what goes in comes out, the layout is fixed, and each fault has its name."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.link.codec import MAX_PAYLOAD, CodecId
from sparse_split_ros.link.frame import (
    MAX_CLASSES,
    PREAMBLE_BYTES,
    FeatureFrame,
    Flag,
    FrameError,
    ReplyFrame,
    Status,
)

U32 = st.integers(0, 2**32 - 1)
U16 = st.integers(0, 2**16 - 1)
FINGERPRINT = bytes(range(8))

features = st.builds(
    FeatureFrame,
    split=st.integers(0, 254),
    codec=st.sampled_from(CodecId),
    fingerprint=st.binary(min_size=8, max_size=8),
    session=U32,
    sequence=U32,
    payload=st.binary(max_size=300),
    source=U16,
    flags=st.sampled_from([Flag.NONE, Flag.AUDIT, Flag.PROBE, Flag.AUDIT | Flag.PROBE]),
    budget_ms=U16,
    age_ms=U16,
)
scores = st.lists(st.floats(0, 1, width=32, allow_subnormal=False), max_size=60).map(
    lambda v: np.array(v, np.float32)
)


def feature(**changes: object) -> FeatureFrame:
    values = {'split': 1, 'codec': CodecId.INT8, 'fingerprint': FINGERPRINT, 'session': 7}
    values |= {'sequence': 9, 'payload': b'payload'}
    return FeatureFrame(**{**values, **changes})  # type: ignore[arg-type]


def reply(**changes: object) -> ReplyFrame:
    values = {'status': Status.OK, 'fingerprint': FINGERPRINT, 'session': 7, 'sequence': 9}
    values |= {'scores': np.array([0.25, 0.75], np.float32), 'tail_us': 1234}
    return ReplyFrame(**{**values, **changes})  # type: ignore[arg-type]


def edited(data: bytes, at: int, value: bytes) -> bytes:
    """The frame with bytes replaced and a CRC that is right again."""
    frame = bytearray(data)
    frame[at : at + len(value)] = value
    struct.pack_into('<I', frame, 36, zlib.crc32(frame[40:], zlib.crc32(frame[:36])))
    return bytes(frame)


@given(features)
def test_feature_frame_survives_the_wire(frame: FeatureFrame) -> None:
    assert FeatureFrame.parse(frame.to_bytes()) == frame


@given(scores, st.sampled_from(Status), U32, U32, U32)
def test_reply_frame_survives_the_wire(
    values: np.ndarray, status: Status, session: int, sequence: int, tail_us: int
) -> None:
    sent = values if status is Status.OK else values[:0]
    frame = ReplyFrame(status, FINGERPRINT, session, sequence, sent, tail_us)
    read = ReplyFrame.parse(memoryview(frame.to_bytes()))
    assert (read.status, read.key, read.tail_us) == (status, (session, sequence), tail_us)
    np.testing.assert_array_equal(read.scores, sent)


def test_feature_frame_layout_is_version_1() -> None:
    data = feature(source=3, flags=Flag.PROBE, budget_ms=95, age_ms=5).to_bytes()
    preamble = bytes.fromhex(
        '53534646'  # magic SSFF
        '01020102'  # version, flags, split, codec
        '03005f0005000000'  # source, budget, age, reserved
        '0001020304050607'  # fingerprint
        '070000000900000007000000'  # session, sequence, payload length
    )
    assert data == preamble + struct.pack('<I', zlib.crc32(preamble + b'payload')) + b'payload'
    assert PREAMBLE_BYTES == 40


def test_reply_frame_layout_is_version_1() -> None:
    preamble = bytes.fromhex(
        '53535246'  # magic SSRF
        '01000000'  # version, status, reserved
        '02000000d2040000'  # classes, tail microseconds
        '0001020304050607'  # fingerprint
        '070000000900000008000000'  # session, sequence, payload length
    )
    payload = struct.pack('<2f', 0.25, 0.75)
    expected = preamble + struct.pack('<I', zlib.crc32(preamble + payload)) + payload
    assert reply().to_bytes() == expected


@pytest.mark.parametrize('budget', [-5, 0, 65_535, 70_000])
def test_budget_and_age_are_clamped_to_their_field(budget: int) -> None:
    read = FeatureFrame.parse(feature(budget_ms=budget, age_ms=budget).to_bytes())
    assert read.budget_ms == read.age_ms == min(max(budget, 0), 65_535)


@pytest.mark.parametrize('tail_us', [-5, 2**32 - 1, 2**33 + 7])
def test_the_tails_time_is_clamped_to_its_field(tail_us: int) -> None:
    read = ReplyFrame.parse(reply(tail_us=tail_us).to_bytes())
    assert read.tail_us == min(max(tail_us, 0), 2**32 - 1)


def test_a_payload_above_the_limit_is_not_sent() -> None:
    with pytest.raises(FrameError, match='above the limit'):
        feature(payload=bytes(MAX_PAYLOAD + 1)).to_bytes()


FEATURE_FAULTS = [
    (0, b'XXXX', Status.MALFORMED, 'starts with'),
    (4, b'\x02', Status.WRONG_VERSION, 'version 2'),
    (5, b'\x04', Status.MALFORMED, 'flags 0x04'),
    (6, b'\xff', Status.WRONG_SPLIT, 'split 255'),
    (7, b'\x7f', Status.WRONG_CODEC, 'unknown codec 0x7f'),
    (14, b'\x01', Status.MALFORMED, 'reserved 1'),
    (32, b'\x08', Status.MALFORMED, 'announces 8 payload bytes and has 7'),
    (32, b'\xff\xff\xff\xff', Status.MALFORMED, 'announces 4294967295'),
]


@pytest.mark.parametrize(('at', 'value', 'status', 'message'), FEATURE_FAULTS)
def test_each_wrong_field_of_a_feature_frame_is_named(
    at: int, value: bytes, status: Status, message: str
) -> None:
    with pytest.raises(FrameError, match=message) as caught:
        FeatureFrame.parse(edited(feature().to_bytes(), at, value))
    assert caught.value.status is status


REPLY_FAULTS = [
    (0, b'SSFF', 'starts with'),
    (4, b'\x00', 'version 0'),
    (5, b'\x63', 'unknown status 99'),
    (5, b'\x07', r'EXPIRED\) has 2 classes'),
    (6, b'\x01', 'reserved field'),
    (8, b'\x03', '3 classes in 8 bytes'),
    (8, struct.pack('<I', MAX_CLASSES + 1), 'classes in 8 bytes'),
    (40, struct.pack('<f', float('nan')), r'outside \[0, 1\]'),
    (40, struct.pack('<f', 1.5), r'outside \[0, 1\]'),
    (40, struct.pack('<f', -0.5), r'outside \[0, 1\]'),
]


@pytest.mark.parametrize(('at', 'value', 'message'), REPLY_FAULTS)
def test_each_wrong_field_of_a_reply_is_named(at: int, value: bytes, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        ReplyFrame.parse(edited(reply().to_bytes(), at, value))


@pytest.mark.parametrize('size', [0, 1, 39, 40, 46, 48])
def test_a_frame_of_another_length_is_refused(size: int) -> None:
    data = (feature().to_bytes() + b'x')[:size]
    with pytest.raises(FrameError, match=r'shorter than its preamble|announces 7 payload bytes'):
        FeatureFrame.parse(data)


@given(features, st.integers(0, 10_000))
def test_any_flipped_bit_is_noticed(frame: FeatureFrame, position: int) -> None:
    data = bytearray(frame.to_bytes())
    data[position // 8 % len(data)] ^= 1 << position % 8
    with pytest.raises(FrameError):
        FeatureFrame.parse(bytes(data))


def test_a_refusal_names_the_frame_it_refuses_when_the_crc_holds() -> None:
    with pytest.raises(FrameError) as caught:
        FeatureFrame.parse(edited(feature().to_bytes(), 7, b'\x7f'))
    assert caught.value.key == (7, 9)


def test_a_damaged_frame_is_not_trusted_with_a_name() -> None:
    data = bytearray(feature().to_bytes())
    data[26] ^= 1
    with pytest.raises(FrameError, match='CRC-32') as caught:
        FeatureFrame.parse(bytes(data))
    assert caught.value.key is None
