# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures weigh what has to travel, no more and no less."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sparse_split_ros.evaluation.pictured import encode, wire_bytes

TABLES = (0xC4, 0xDB)


def image(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 2)


def abbreviated(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG without its tables and application segments, and the tables by themselves."""
    kept, tables = bytearray(data[:2]), bytearray(data[:2])
    at = 2
    while data[at + 1] != 0xDA:
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
        if marker in TABLES:
            tables += data[at:end]
        elif not 0xE0 <= marker <= 0xEF:
            kept += data[at:end]
        at = end
    return bytes(kept + data[at:]), bytes(tables)


@pytest.mark.parametrize('quality', [10, 50, 95])
def test_a_jpeg_weighs_its_abbreviated_stream(quality: int) -> None:
    data = encode(image(), 'jpeg', quality)
    short, tables = abbreviated(data)
    assert wire_bytes(data, 'jpeg') == len(short) < len(data) - len(tables)
    # With the tables known beforehand it is the same picture.
    restored = cv2.imdecode(np.frombuffer(tables + short[2:], np.uint8), cv2.IMREAD_COLOR)
    known = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert (restored == known).all()


def test_the_tables_of_one_quality_are_those_of_every_picture() -> None:
    first, second = (abbreviated(encode(image(seed), 'jpeg', 70))[1] for seed in (0, 1))
    assert first == second


def test_a_webp_weighs_its_stream_without_the_container() -> None:
    data = encode(image(), 'webp', 50)
    size = int.from_bytes(data[16:20], 'little')
    assert data[:4] == b'RIFF' and data[12:16] == b'VP8 '
    assert size <= wire_bytes(data, 'webp') == len(data) - 20 <= size + 1


@pytest.mark.parametrize('kind', ['jpeg', 'webp'])
def test_more_quality_is_more_bytes_and_less_error(kind: str) -> None:
    picture = image()
    coded = [encode(picture, kind, quality) for quality in (10, 50, 90)]
    sizes = [wire_bytes(data, kind) for data in coded]
    decoded = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in coded]
    errors = [np.abs(each[..., ::-1].astype(int) - picture).mean() for each in decoded]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 8, 'colours are in their order'
