# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Codecs: how near the values come back, how small they are, and what is refused."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse_split_ros.link.codec import (
    CODECS,
    MAX_PAYLOAD,
    Codec,
    CodecError,
    calibrate,
    codec_id,
    pack,
)

SHAPE = (4, 8, 8)
SAMPLES = np.abs(np.random.default_rng(0).normal(0, 1, (96, *SHAPE))).astype(np.float32)
CALIBRATIONS = {name: calibrate(SAMPLES, name) for name in CODECS}
BY_NAME = {name: Codec.from_calibration(name, SHAPE, CALIBRATIONS[name]) for name in CODECS}
ENTROPY_CODED = [name for name in CODECS if name.endswith('+zstd')]

finite = hnp.arrays(
    np.float32, SHAPE, elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
)


def bound(codec: Codec, features: np.ndarray) -> np.ndarray:
    """The most a decoded value may differ: half a step, after clipping to the calibrated range."""
    if codec.id.bits == 32:
        return np.zeros_like(features)
    if codec.id.bits == 16:
        # Half of float16's spacing: 2^-11 relative, 2^-25 absolute among subnormal numbers.
        return np.abs(features) * 2**-11 + 2**-25
    return np.broadcast_to(codec.step * 0.5001, features.shape)


@pytest.mark.parametrize('name', CODECS)
@settings(max_examples=40, deadline=None)
@given(features=finite)
def test_any_finite_features_come_back_within_half_a_step(name: str, features: np.ndarray) -> None:
    codec = BY_NAME[name]
    decoded = codec.decode(codec.encode(features))
    assert decoded.shape == (1, *SHAPE) and decoded.dtype == np.float32
    reachable = features
    if codec.id.bits < 16:
        top = codec.low + codec.step * ((1 << codec.id.bits) - 1)
        reachable = np.clip(features, codec.low, top)
    elif codec.id.bits == 16:
        reachable = np.clip(features, -65504, 65504)
    assert (np.abs(decoded[0] - reachable) <= bound(codec, reachable)).all()


@pytest.mark.parametrize('name', CODECS)
def test_coding_is_deterministic_and_reusable(name: str) -> None:
    codec = BY_NAME[name]
    again = Codec.from_calibration(name, SHAPE, json.loads(json.dumps(CALIBRATIONS[name])))
    payloads = [codec.encode(features) for features in SAMPLES[:5]]
    assert [again.encode(features) for features in SAMPLES[:5]] == payloads
    assert [codec.encode(features) for features in SAMPLES[:5]] == payloads


@pytest.mark.parametrize('name', ['none', 'fp16', 'int8', 'int4'])
def test_plain_payloads_have_the_announced_size(name: str) -> None:
    assert len(BY_NAME[name].encode(SAMPLES[0])) == BY_NAME[name].raw_bytes


@pytest.mark.parametrize('name', ['int8+zstd', 'int4+zstd'])
def test_entropy_coding_makes_quantised_features_smaller(name: str) -> None:
    # Features after a ReLU: half zeros, as the coder was calibrated on.
    rng = np.random.default_rng(1)
    sparse = np.maximum(rng.normal(0, 1, (300, *SHAPE)), 0).astype(np.float32)
    codec = Codec.from_calibration(name, SHAPE, calibrate(sparse[:256], name))
    sizes = [len(codec.encode(features)) for features in sparse[256:]]
    assert np.mean(sizes) < 0.85 * codec.raw_bytes


def test_a_constant_channel_is_coded_exactly() -> None:
    samples = np.full((8, 2, 3, 3), 1.5, np.float32)
    codec = Codec.from_calibration('int8', (2, 3, 3), calibrate(samples, 'int8'))
    np.testing.assert_array_equal(codec.decode(codec.encode(samples[0])), samples[:1])


def test_an_odd_number_of_values_is_packed_in_halves() -> None:
    samples = np.random.default_rng(2).uniform(0, 1, (8, 1, 3, 3)).astype(np.float32)
    codec = Codec.from_calibration('int4', (1, 3, 3), calibrate(samples, 'int4'))
    payload = codec.encode(samples[0])
    assert len(payload) == 5
    assert np.abs(codec.decode(payload) - samples[0]).max() <= codec.step.max()


def test_values_beyond_fp16_are_its_largest_without_the_kernel_too() -> None:
    large, none = np.array([1e6, -1e6, 0.5], np.float32), np.zeros(1, np.float32)
    packed = np.frombuffer(pack(large, none, none, 16), '<f2')
    assert packed.tolist() == [65504.0, -65504.0, 0.5]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', CODECS)
def test_values_that_are_not_finite_are_not_sent(name: str, value: float) -> None:
    features = SAMPLES[0].copy()
    features[1, 2, 3] = value
    with pytest.raises(CodecError, match='not finite'):
        BY_NAME[name].encode(features)


@pytest.mark.parametrize(('name', 'kind'), [('none', '<f4'), ('fp16', '<f2')])
def test_values_that_are_not_finite_are_not_taken(name: str, kind: str) -> None:
    values = np.zeros(SHAPE, kind)
    values[0, 0, 0] = np.nan
    with pytest.raises(CodecError, match='not finite'):
        BY_NAME[name].decode(values.tobytes())


@pytest.mark.parametrize('shape', [(4, 8, 7), (2, *SHAPE), (4, 64), ()])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match='features of shape'):
        BY_NAME['int8'].encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize('name', CODECS)
@pytest.mark.parametrize('change', [-1, 1])
def test_a_payload_of_another_length_is_refused(name: str, change: int) -> None:
    payload = BY_NAME[name].encode(SAMPLES[0])
    changed = payload[:change] if change < 0 else payload + b'\0'
    with pytest.raises(CodecError, match='payload'):
        BY_NAME[name].decode(changed)


def test_a_payload_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(CodecError, match='above the limit'):
        BY_NAME['int8+zstd'].decode(bytes(MAX_PAYLOAD + 1))


@pytest.mark.parametrize('name', ENTROPY_CODED)
@pytest.mark.parametrize('window_log', [10, 17, 27, 31, 41])
def test_a_decompression_bomb_is_refused(name: str, window_log: int) -> None:
    # 128 MB in 4 KB: a frame header with only a window, then run-length blocks of 128 KB zeros.
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, 'little') + b'\0'
    bomb = bytes([0, window_log - 10 << 3]) + block * 1000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=r'does not decompress|not one whole'):
            BY_NAME[name].decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('name', CODECS)
@given(payload=st.binary(max_size=1100))
@settings(max_examples=50, deadline=None)
def test_random_bytes_decode_or_are_refused(name: str, payload: bytes) -> None:
    try:
        decoded = BY_NAME[name].decode(payload)
    except CodecError as error:
        assert 'payload' in str(error)
    else:
        assert decoded.shape == (1, *SHAPE) and np.isfinite(decoded).all()


@pytest.mark.parametrize('name', ENTROPY_CODED)
def test_a_window_larger_than_a_payload_is_refused_before_it_is_made(name: str) -> None:
    window = bytes([0, (27 - 10) << 3])  # of 128 MiB, in the header of a frame of no size
    with pytest.raises(CodecError, match='memory'):
        BY_NAME[name].decode(window + b'\x01\x00\x00')


def test_an_unknown_codec_is_named_with_the_known_ones() -> None:
    with pytest.raises(CodecError, match=r"'jpeg' is not known; known are none, fp16, int8"):
        codec_id('jpeg')


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "needs 'low' and 'step'"),
    ({'low': 'abc', 'step': [1]}, "needs 'low' and 'step'"),
    ({'low': [0] * 3, 'step': [1] * 3}, '3 lows and 3 steps for 4 channels'),
    ({'low': [0] * 4, 'step': [0, 1, 1, 1]}, 'positive finite steps'),
    ({'low': [float('inf'), 0, 0, 0], 'step': [1] * 4}, 'finite lows'),
    ({'low': [0] * 4, 'step': [1] * 4, 'dictionary': '%'}, 'not base64'),
    ({'low': [0] * 4, 'step': [1] * 4, 'dictionary': 3}, 'not base64'),
]


@pytest.mark.parametrize(('params', 'message'), WRONG)
def test_a_calibration_that_does_not_fit_is_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        Codec.from_calibration('int8+zstd', SHAPE, params)


@pytest.mark.parametrize('data', [b'nonsense', bytes.fromhex('37a430ec01000000') + b'x' * 99])
def test_a_damaged_dictionary_is_named(data: bytes) -> None:
    params = CALIBRATIONS['int8'] | {'dictionary': base64.b64encode(data).decode()}
    with pytest.raises(CodecError, match='dictionary'):
        Codec.from_calibration('int8+zstd', SHAPE, params)


@pytest.mark.parametrize('shape', [(4, 8), (0, 8, 8), (4, -1, 8)])
def test_a_codec_needs_a_whole_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match=r'shape \(C, H, W\)'):
        Codec.from_calibration('none', shape, {})
