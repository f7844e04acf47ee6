# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images of every encoding become the same RGB, and broken ones are refused by name."""

from __future__ import annotations

import struct
import zlib
from array import array

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.data.images import ImageError, decode_compressed, decode_image

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PICTURE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
BYTES_PER_PIXEL = {'rgb8': 3, 'bgra8': 4, 'mono8': 1, 'mono16': 2, 'bgr16': 6, 'yuyv': 2}


def decoded(pixels: np.ndarray, encoding: str, bigendian: bool = False) -> np.ndarray:
    height, width = pixels.shape[:2]
    step = pixels.nbytes // height
    return decode_image(height, width, encoding, bigendian, step, pixels.tobytes())


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0]), ('8UC3', [2, 1, 0])],
)
def test_channels_are_put_in_order(encoding: str, order: list[int]) -> None:
    np.testing.assert_array_equal(decoded(PICTURE[..., order], encoding), PICTURE)


@pytest.mark.parametrize(('encoding', 'order'), [('rgba8', [0, 1, 2]), ('bgra8', [2, 1, 0])])
def test_alpha_is_dropped(encoding: str, order: list[int]) -> None:
    alpha = np.full((*PICTURE.shape[:2], 1), 7, np.uint8)
    pixels = np.concatenate([PICTURE[..., order], alpha], axis=2)
    np.testing.assert_array_equal(decoded(pixels, encoding), PICTURE)


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_becomes_three_equal_channels(encoding: str) -> None:
    grey = PICTURE[..., 0]
    np.testing.assert_array_equal(decoded(grey, encoding), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('bigendian', [False, True])
@pytest.mark.parametrize(
    ('kind', 'channels'),
    [('mono', 1), ('bayer_rggb', 1), ('rgb', 3), ('bgr', 3), ('rgba', 4), ('bgra', 4)],
)
def test_sixteen_bits_keep_their_high_byte(kind: str, channels: int, bigendian: bool) -> None:
    narrow = np.random.default_rng(0).integers(0, 256, (6, 8, channels)).astype(np.uint8)
    wide = (narrow.astype(np.uint16) << 8 | 0x5A).astype('>u2' if bigendian else '<u2')
    expected = decoded(narrow, f'{kind}8')
    np.testing.assert_array_equal(decoded(wide, f'{kind}16', bigendian), expected)


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('colour', [RED, GREEN, BLUE])
def test_bayer_patterns_are_named_by_their_first_row(
    pattern: str, colour: tuple[int, int, int]
) -> None:
    mosaic = np.zeros((12, 12), np.uint8)
    for index, letter in enumerate(pattern):
        mosaic[index // 2 :: 2, index % 2 :: 2] = colour['rgb'.index(letter)]
    centre = decoded(mosaic, f'bayer_{pattern}8')[4:8, 4:8].reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(centre, colour, atol=1)


@pytest.mark.parametrize(('encoding', 'luma'), [('yuv422', 1), ('uyvy', 1), ('yuyv', 0)])
def test_packed_luma_is_found_where_the_encoding_has_it(encoding: str, luma: int) -> None:
    pixels = np.full((2, 4, 2), 128, np.uint8)
    pixels[..., luma] = np.linspace(40, 220, 8).reshape(2, 4)
    image = decoded(pixels, encoding)
    # ITU-R BT.601: 16 is black, 235 white; without chroma all channels are equal.
    expected = (pixels[..., luma].astype(float) - 16) * 255 / 219
    np.testing.assert_allclose(image, np.repeat(expected[..., None], 3, axis=2), atol=2)


@pytest.mark.parametrize('last', [True, False])
def test_padding_between_rows_is_skipped(last: bool) -> None:
    padded = np.full((6, 24 + 5), 99, np.uint8)
    padded[:, :24] = PICTURE.reshape(6, 24)
    data = padded.tobytes()
    # The last row may come without its padding.
    image = decode_image(6, 8, 'rgb8', False, 29, data if last else data[:-5])
    np.testing.assert_array_equal(image, PICTURE)


@pytest.mark.parametrize('holder', [bytes, bytearray, memoryview, lambda data: array('B', data)])
def test_the_image_owns_its_memory(holder: type) -> None:
    image = decode_image(6, 8, 'rgb8', 0, 24, holder(PICTURE.tobytes()))
    assert image.flags.owndata and image.flags.c_contiguous and image.flags.writeable


@pytest.mark.parametrize(
    ('height', 'width', 'encoding', 'step', 'size', 'message'),
    [
        (0, 8, 'rgb8', 24, 0, '8x0 pixels: both sides must be positive'),
        (6, 0, 'rgb8', 24, 0, '0x6 pixels'),
        (0, 0, '', 0, 0, '0x0 pixels'),
        (2**32 - 1, 2**32 - 1, 'rgb8', 24, 10, 'above the limit'),
        (6, 8, 'yuv444', 24, 144, "'yuv444' is not supported; supported are rgb8"),
        (6, 8, '', 24, 144, "encoding '' is not supported"),
        (6, 8, 'a\nb', 24, 144, r"'a\\nb' is not supported"),
        (6, 8, 'rgb8', 23, 144, 'step of 23 bytes is shorter than a row of 24'),
        (6, 8, 'rgb8', 24, 143, '143 bytes, 8x6 rgb8 needs 144'),
        (6, 8, 'rgb8', 2**32 - 1, 144, '144 bytes'),
        (6, 7, 'yuyv', 14, 84, '7x6 yuyv'),
    ],
)
def test_what_is_wrong_with_an_image_is_named(
    height: int, width: int, encoding: str, step: int, size: int, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(height, width, encoding, False, step, bytes(size))


@given(
    st.integers(0, 9), st.integers(0, 9), st.sampled_from([*BYTES_PER_PIXEL, 'nope']),
    st.integers(0, 60), st.binary(max_size=400),
)  # fmt: skip
def test_any_message_is_decoded_or_refused(
    height: int, width: int, encoding: str, step: int, data: bytes
) -> None:
    try:
        image = decode_image(height, width, encoding, True, step, data)
    except ImageError:
        return
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert len(data) >= step * (height - 1) + width * BYTES_PER_PIXEL[encoding]


def encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(PICTURE[..., ::-1]))[1].tobytes()


def test_png_comes_back_exactly() -> None:
    np.testing.assert_array_equal(decode_compressed(encoded('.png')), PICTURE)


def test_jpeg_comes_back_in_rgb() -> None:
    solid = np.zeros((16, 16, 3), np.uint8)
    solid[..., 2] = 255  # red, in OpenCV's order
    image = decode_compressed(array('B', cv2.imencode('.jpg', solid)[1].tobytes()))
    np.testing.assert_allclose(image, np.broadcast_to(RED, (16, 16, 3)), atol=4)


def png_of(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b'\0' * 99))


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded('.jpg'))
    at = data.find(b'\xff\xc0')
    data[at + 5 : at + 9] = struct.pack('>HH', height, width)
    return bytes(data)


@pytest.mark.parametrize('data', [png_of(60_000, 60_000), jpeg_of(30_000, 30_000)])
def test_a_small_file_that_claims_a_huge_image_is_refused_unread(data: bytes) -> None:
    with pytest.raises(ImageError, match=r'0000x[36]0000 pixels is above the limit'):
        decode_compressed(data)


@pytest.mark.parametrize('marker', [0x00, 0x01, 0xD0, 0xD7])
def test_no_jpeg_hides_its_size_from_the_limit(marker: int) -> None:
    # What reads a length after a marker that has none passes over the true frame segment, and
    # finds a small one.
    huge = jpeg_of(30_000, 30_000)[2:]
    small = encoded('.jpg')[2:]
    data = b'\xff\xd8\xff' + bytes([marker]) + huge
    claimed = 4 + int.from_bytes(data[4:6], 'big')
    data = data.ljust(claimed, b'\0')[:claimed] + small
    with pytest.raises(ImageError, match='is not a JPEG or PNG'):
        decode_compressed(data)


def test_a_png_that_does_not_begin_with_its_size_is_refused() -> None:
    data = png_of(8, 8)
    first = struct.pack('>I', 8) + b'abCd' + bytes(8) + struct.pack('>I', zlib.crc32(bytes(8)))
    with pytest.raises(ImageError, match='is not a JPEG or PNG'):
        decode_compressed(data[:8] + first + data[8:])


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'without data'),
        (b'GIF89a' + bytes(40), 'starting 47494638 is not a JPEG or PNG'),
        (b'\x89PNG', 'starting 89504e47 is not'),
        (b'\xff\xd8' + b'\xff' * 50, 'starting ffd8ffff is not'),
        (encoded('.png')[:60], 'is damaged'),
        (encoded('.jpg')[:30], 'is not a JPEG or PNG'),
    ],
)
def test_what_is_wrong_with_a_compressed_image_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_compressed(data)


@given(st.sampled_from(['.png', '.jpg']), st.integers(0, 2**20), st.integers(0, 255))
def test_a_damaged_compressed_image_is_decoded_or_refused(
    suffix: str, position: int, value: int
) -> None:
    data = bytearray(encoded(suffix))
    data[position % len(data)] = value
    try:
        image = decode_compressed(data)
    except ImageError:
        return
    assert image.ndim == 3 and image.shape[2] == 3
