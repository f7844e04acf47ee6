# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An image becomes the network's input. Robot, training and evaluation share this one function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.images import ImageError, resize_to
from sparse_split_ros.runtime.bundle import InputSpec


def prepare(
    image: NDArray[np.uint8], spec: InputSpec, roi: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Crop, resize and normalise one RGB image (H, W, 3) uint8 to (1, 3, H', W') float32.

    See :func:`fit`. Raises ImageError.
    """
    return normalise(fit(image, spec, roi), spec)


def fit(
    image: NDArray[np.uint8], spec: InputSpec, roi: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """What the network sees of an RGB image (H, W, 3) uint8, cropped and resized: (H', W', 3).

    `roi` is (x, y, width, height) in pixels, clipped to the image; None or (0, 0, 0, 0) is the
    whole image. Raises ImageError.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(
            f'expected a non-empty RGB image (H, W, 3) uint8, found {image.shape} {image.dtype}'
        )
    if roi is not None and any(roi):
        image = _crop(image, roi)
    return resize(image, spec)


def resize(image: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to the input size of a bundle, as the training data was."""
    _, height, width = spec.shape
    return resize_to(image, height, width)


def normalise(images: NDArray[np.uint8], spec: InputSpec) -> NDArray[np.float32]:
    """(H, W, 3) or (N, H, W, 3) uint8 to (N, 3, H, W) float32 = (x * scale - mean) / std."""
    batch = images if images.ndim == 4 else images[None]
    gain = spec.scale / np.asarray(spec.std, np.float64)
    offset = -np.asarray(spec.mean, np.float64) / np.asarray(spec.std, np.float64)
    x = batch * gain.astype(np.float32) + offset.astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def _crop(image: NDArray[np.uint8], roi: Sequence[int]) -> NDArray[np.uint8]:
    if len(roi) != 4:
        raise ImageError(f'roi {tuple(roi)}: expected x, y, width, height')
    x, y, width, height = (int(value) for value in roi)
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if right <= left or bottom <= top:
        raise ImageError(
            f'roi {tuple(roi)} has no pixel inside the image of {image.shape[1]}x{image.shape[0]}'
        )
    return image[top:bottom, left:right]
