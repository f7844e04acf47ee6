# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images of messages and files as arrays, resized one way for training and robot alike.

There is no cv_bridge in it, which breaks where NumPy's major version differs.

Encodings are the names of ``sensor_msgs/image_encodings.hpp``. Every decoder returns an RGB image
of shape (H, W, 3), uint8, contiguous, that owns its memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

# A camera message above this is a mistake or an attack; 64 Mpixel is more than any camera in use.
MAX_PIXELS = 64_000_000
# Start-of-frame markers; 0xC4, 0xC8 and 0xCC between them mean something else.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that a length follows.
_JPEG_SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))

RGB = NDArray[np.uint8]


class ImageError(ValueError):
    """An image that cannot be decoded; the message names what is wrong with it."""


def _cv(code: int) -> Callable[[NDArray], NDArray]:
    return lambda image: cv2.cvtColor(image, code)


def _same(image: NDArray) -> NDArray:
    return image


# encoding: (dtype, channels as stored, conversion of (H, W[, channels]) to RGB).
# OpenCV names Bayer patterns by the second row's second and third pixel, ROS by the first row.
_ENCODINGS: dict[str, tuple[type, int, Callable[[NDArray], NDArray]]] = {
    'rgb8': (np.uint8, 3, _same),
    'bgr8': (np.uint8, 3, _cv(cv2.COLOR_BGR2RGB)),
    'rgba8': (np.uint8, 4, _cv(cv2.COLOR_RGBA2RGB)),
    'bgra8': (np.uint8, 4, _cv(cv2.COLOR_BGRA2RGB)),
    'mono8': (np.uint8, 1, _cv(cv2.COLOR_GRAY2RGB)),
    '8UC1': (np.uint8, 1, _cv(cv2.COLOR_GRAY2RGB)),
    '8UC3': (np.uint8, 3, _cv(cv2.COLOR_BGR2RGB)),
    'bayer_rggb8': (np.uint8, 1, _cv(cv2.COLOR_BayerBG2RGB)),
    'bayer_bggr8': (np.uint8, 1, _cv(cv2.COLOR_BayerRG2RGB)),
    'bayer_gbrg8': (np.uint8, 1, _cv(cv2.COLOR_BayerGR2RGB)),
    'bayer_grbg8': (np.uint8, 1, _cv(cv2.COLOR_BayerGB2RGB)),
    'yuv422': (np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    'uyvy': (np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    'yuv422_yuy2': (np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    'yuyv': (np.uint8, 2, _cv(cv2.COLOR_YUV2RGB_YUY2)),
}
# rgb16 and so on: brought to 8 bits, they are converted as those.
_ENCODINGS |= {
    f'{name[:-1]}16': (np.uint16, channels, convert)
    for name, (_, channels, convert) in _ENCODINGS.items()
    if name.endswith('8')
}


def decode_image(
    height: int,
    width: int,
    encoding: str,
    is_bigendian: int | bool,
    step: int,
    data: object,
) -> RGB:
    """Decode the fields of a ``sensor_msgs/Image``.

    ``data`` is any object with the buffer protocol; rows are ``step`` bytes apart, padding is
    skipped. 16-bit images are scaled to 8 bits by their high byte.

    Raises ImageError for a size of zero, an unknown encoding, a step shorter than a row and data
    that is too short.
    """
    if height <= 0 or width <= 0:
        raise ImageError(f'image of {width}x{height} pixels: both sides must be positive')
    if height * width > MAX_PIXELS:
        raise ImageError(f'image of {width}x{height} pixels is above the limit of {MAX_PIXELS}')
    if encoding not in _ENCODINGS:
        known = ', '.join(_ENCODINGS)
        raise ImageError(f'image encoding {encoding!r} is not supported; supported are {known}')
    dtype, channels, convert = _ENCODINGS[encoding]
    row = width * channels * np.dtype(dtype).itemsize
    if step < row:
        raise ImageError(f'image step of {step} bytes is shorter than a row of {row} bytes')
    raw = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    needed = step * (height - 1) + row  # the last row may come without its padding
    if raw.size < needed:
        raise ImageError(
            f'image data has {raw.size} bytes, {width}x{height} {encoding} needs {needed}'
        )
    rows = np.lib.stride_tricks.as_strided(raw, (height, row), (step, 1), writeable=False)
    pixels: NDArray = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if dtype is np.uint16:
        if bool(is_bigendian) != (np.little_endian is False):
            pixels = pixels.byteswap()
        pixels = (pixels >> 8).astype(np.uint8)
    try:
        image = convert(pixels if channels > 1 else pixels[:, :, 0])
    except cv2.error as error:
        raise ImageError(f'image of {width}x{height} {encoding}: {error.err}') from error
    # A decoded image outlives its message, whose buffer the middleware may reuse.
    return np.array(image, np.uint8, order='C', copy=True) if image.base is not None else image


def decode_compressed(data: object) -> RGB:
    """Decode the JPEG or PNG of a ``sensor_msgs/CompressedImage``.

    Raises ImageError when the bytes are empty, of another format, not decodable, or of a size
    above the limit, which a few hundred bytes can claim.
    """
    raw = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    if raw.size == 0:
        raise ImageError('compressed image without data')
    size = _stated_size(memoryview(raw))
    if size is None:
        start = raw[:4].tobytes().hex()
        raise ImageError(
            f'compressed image of {raw.size} bytes starting {start} is not a JPEG or PNG image'
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f'compressed image of {size[0]}x{size[1]} pixels is above the limit of {MAX_PIXELS}'
        )
    return _decoded(raw)


def decode_file(data: bytes) -> RGB:
    """Decode the bytes of an image file of any format that OpenCV reads. Raises ImageError."""
    if not data or _stated_size(memoryview(data)) is not None:
        return decode_compressed(data)
    return _decoded(np.frombuffer(data, np.uint8))


def _decoded(raw: NDArray[np.uint8]) -> RGB:
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'compressed image of {raw.size} bytes: {error.err}') from error
    if image is None:
        start = raw[:4].tobytes().hex()
        raise ImageError(
            f'compressed image of {raw.size} bytes starting {start} is damaged, or no image'
        )
    rgb: RGB = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    return rgb


def _stated_size(data: memoryview) -> tuple[int, int] | None:
    """Width and height in the header of a PNG (its first chunk) or JPEG (its frame segment)."""
    if bytes(data[:16]) == b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' and len(data) >= 24:
        width, height = struct.unpack_from('>II', data, 16)
        return width, height
    if bytes(data[:2]) != b'\xff\xd8':
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from('>HH', data, at + 5)
            return width, height
        if marker == 0xFF:  # may be repeated as filling before a marker
            at += 1
        elif marker in _JPEG_SEGMENTS:
            at += 2 + length
        else:
            return None  # a decoder would go on right here, perhaps to another frame segment
    return None


def resize_to(image: RGB, height: int, width: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3), by area when shrinking, linear when growing."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] * image.shape[1] > height * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)  # type: ignore[return-value]
