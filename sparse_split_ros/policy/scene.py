# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Light and weather, measured from the image alone.

A policy keeps what it learned apart by scene, so scenes have to be few, steady and cheap to tell
apart; their names are for people. One frame says little (a dark sign by day, a bright one at
night), so scenes are told from averages over some frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Statistics need few pixels: at most this side, by striding, so that a big image costs no more.
_SIDE = 32
_WHITE = 245


@dataclass(frozen=True)
class Scene:
    """What the camera's light and weather are now.

    All in [0, 1]: mean ``luminance``, its standard deviation ``contrast``, mean ``saturation`` of
    the colours, the share ``glare`` of pixels near white, and ``noise``, a low percentile of the
    Laplacian, which is high only where no part of the image is smooth. ``sharpness`` is the median
    Laplacian over the contrast, ``haze`` the darkest channel's low percentile over the luminance
    (He, Sun and Tang's dark channel, CVPR 2009), ``streaks`` the share of the gradient across
    columns, 0.5 without falling rain. ``name`` is the coarse scene.
    """

    name: str = 'unknown'
    luminance: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    glare: float = 0.0
    noise: float = 0.0
    sharpness: float = 0.0
    haze: float = 0.0
    streaks: float = 0.5


_MEASURES = (
    'luminance', 'contrast', 'saturation', 'glare', 'noise', 'sharpness', 'haze', 'streaks'
)  # fmt: skip

# A scene is the first of these rules that holds: measure, limit, whether above it, and by how much
# of the limit it must be overrun to enter the scene (and undercut to leave it). Limits are set by
# looking at road signs under the distortions of data/weather.py.
_RULES: tuple[tuple[str, tuple[tuple[str, float, bool], ...]], ...] = (
    ('noise', (('noise', 0.036, True), ('luminance', 0.15, True))),
    ('night', (('luminance', 0.16, False), ('noise', 0.024, True))),
    ('night', (('luminance', 0.11, False),)),
    ('rain', (('streaks', 0.57, True),)),
    ('haze', (('contrast', 0.055, False), ('luminance', 0.25, True))),
    ('glare', (('luminance', 0.55, True), ('saturation', 0.18, False))),
    ('glare', (('glare', 0.30, True),)),
    ('haze', (('saturation', 0.155, False), ('luminance', 0.15, True))),
    ('haze', (('haze', 0.62, True), ('luminance', 0.15, True))),
    ('dusk', (('luminance', 0.20, False),)),
    ('blur', (('sharpness', 0.27, False),)),
)
SCENES = ('day', *dict.fromkeys(name for name, _ in _RULES))
_HYSTERESIS = 0.06


def measure(image: NDArray[np.uint8]) -> Scene:
    """Measure the scene of one RGB image of shape (H, W, 3), uint8, by itself."""
    values = _measures(image)
    return Scene(_name(dict(zip(_MEASURES, values)), ''), *values)


class SceneMeter:
    """The scene of one camera's stream; deterministic, and knows no time but frames.

    Every ``every``-th frame is measured, which is what it costs on average; the others get the last
    scene. The name comes from fast averages, with hysteresis, and changes only when two
    measurements in a row agree. ``changes`` counts changes: of name, or of the fast averages away
    from the slow ones by more than they usually swing.
    """

    def __init__(self, every: int = 5, fast: float = 0.25, slow: float = 0.01) -> None:
        if every < 1:
            raise ValueError(f'every {every}: expected a number of frames from 1')
        self.changes = 0
        self._every = every
        self._fast_gain = fast
        self._slow_gain = slow
        self._count = 0
        self._fast: list[float] = []
        self._slow: list[float] = []
        self._swing: list[float] = []
        self._candidate = ''
        self._quiet = 0
        self._scene = Scene()

    def __call__(self, image: NDArray[np.uint8]) -> Scene:
        """The scene now, ``image`` (H, W, 3) uint8 RGB being the newest frame."""
        turn = self._count % self._every
        # The first frames are all measured: an average of one is not much.
        if turn == 0 or self._count < self._every:
            self._update(_measures(image))
        self._count += 1
        return self._scene

    def _update(self, values: tuple[float, ...]) -> None:
        if not self._fast:
            self._fast, self._slow = list(values), list(values)
            self._swing = [0.25 * value + 0.01 for value in values]
            self._scene = Scene(_name(dict(zip(_MEASURES, values)), ''), *values)
            return
        fast, slow, swing = self._fast, self._slow, self._swing
        # Shorter memory at first, as in a plain mean.
        gain = max(self._slow_gain, 1 / (2 + self._count // self._every))
        furthest = 0.0
        for i, value in enumerate(values):
            fast[i] += self._fast_gain * (value - fast[i])
            furthest = max(furthest, abs(fast[i] - slow[i]) / (swing[i] + 1e-3))
            swing[i] += gain * (abs(fast[i] - slow[i]) - swing[i])
            slow[i] += gain * (value - slow[i])
        name = _name(dict(zip(_MEASURES, fast)), self._scene.name)
        agreed = name == self._candidate
        self._candidate = name
        self._quiet = max(0, self._quiet - 1)
        if name != self._scene.name and agreed:
            self._changed()
        elif furthest > 5.0 and not self._quiet:
            self._changed()
            name = self._scene.name
        elif name != self._scene.name:
            name = self._scene.name
        self._scene = Scene(name, *fast)

    def _changed(self) -> None:
        """Count it, and take the new state of things as usual, not to count it again."""
        self.changes += 1
        self._slow = list(self._fast)
        self._quiet = 25


def _measures(image: NDArray[np.uint8]) -> tuple[float, ...]:
    step = max(1, min(image.shape[:2]) // _SIDE)
    small = np.ascontiguousarray(image[::step, ::step])
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(gray)
    luminance, contrast = float(mean[0, 0]), float(deviation[0, 0])
    red, green, blue = cv2.split(small)
    darkest = cv2.min(cv2.min(red, green), blue)
    brightest = cv2.mean(cv2.max(cv2.max(red, green), blue))[0]
    saturation = 1 - cv2.mean(darkest)[0] / max(brightest, 1.0)
    glare = float(np.count_nonzero(gray >= _WHITE)) / gray.size
    laplacian = _quantiles(cv2.convertScaleAbs(cv2.Laplacian(gray, cv2.CV_16S)), (0.2, 0.5))
    (dark,) = _quantiles(darkest, (0.1,))
    across = cv2.norm(gray[:, 1:], gray[:, :-1], cv2.NORM_L1) if gray.shape[1] > 1 else 0.0
    down = cv2.norm(gray[1:], gray[:-1], cv2.NORM_L1) if gray.shape[0] > 1 else 0.0
    return (
        luminance / 255,
        contrast / 255,
        saturation,
        glare,
        laplacian[0] / 255,
        min(1.0, laplacian[1] / max(contrast, 1.0)),
        min(1.0, dark / max(luminance, 2.0)),
        across / (across + down) if across + down else 0.5,
    )


def _quantiles(values: NDArray[Any], shares: tuple[float, ...]) -> list[float]:
    """Quantiles of 8-bit values by their histogram, much cheaper than by sorting."""
    below = np.cumsum(np.bincount(values.ravel(), minlength=256))
    return [float(np.searchsorted(below, math.ceil(share * values.size))) for share in shares]


def _name(values: dict[str, float], now: str) -> str:
    """The first rule that holds; a scene is left and entered with a margin."""
    for name, conditions in _RULES:
        # Easier to stay in than to get into.
        slack = _HYSTERESIS if name == now else -_HYSTERESIS if now else 0.0
        for key, limit, above in conditions:
            value = values[key]
            if above and value <= limit * (1 - slack):
                break
            if not above and value >= limit * (1 + slack):
                break
        else:
            return name
    return 'day'
