# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Light and weather, measured from the image alone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Statistics need few pixels: at most this side, by striding, so that a big image costs no more.
_SIDE = 32


@dataclass(frozen=True)
class Scene:
    """What the camera's light and weather are now.

    All in [0, 1]: mean ``luminance``, its standard deviation ``contrast``, mean ``saturation`` of
    the colours, the share ``glare`` of pixels near white, and ``noise``, the median absolute
    Laplacian, which sensor noise and rain raise and fog lowers. ``name`` is the coarse scene.
    """

    name: str = 'unknown'
    luminance: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    glare: float = 0.0
    noise: float = 0.0


def measure(image: NDArray[np.uint8]) -> Scene:
    """Measure the scene of an RGB image of shape (H, W, 3), uint8."""
    step = max(1, min(image.shape[:2]) // _SIDE)
    small = np.ascontiguousarray(image[::step, ::step])
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(gray)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    luminance, contrast = float(mean[0, 0]) / 255, float(deviation[0, 0]) / 255
    saturation = float(hsv[:, :, 1].mean()) / 255
    glare = float(np.count_nonzero(gray >= 250)) / gray.size
    noise = float(np.median(np.abs(cv2.Laplacian(gray, cv2.CV_16S)))) / 255
    name = _name(luminance, contrast, glare)
    return Scene(name, luminance, contrast, saturation, glare, noise)


def _name(luminance: float, contrast: float, glare: float) -> str:
    """Fixed bands: coarse on purpose, until scenes are learned from what the camera sees."""
    if luminance < 0.10:
        return 'night'
    if glare > 0.20:
        return 'glare'
    if luminance < 0.22:
        return 'dusk'
    if contrast < 0.08:
        return 'haze'
    return 'day'
