# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lighting and weather put onto an image, for training, for evaluation and for the drawn drive.

Where a corruption is published its five levels are those of CIFAR-10-C, made for 32 pixel images
(Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
perturbations", ICLR 2019). Lengths given there in pixels grow with the image. Dusk, night,
darkness, glare and rain have no published levels at this size; theirs are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Light = npt.NDArray[np.float32]
Condition = Callable[[Light, float, np.random.Generator, np.random.Generator], Light]

LEVELS = 5
TASK = 'weather'
"""What the task of telling it is called."""
CLEAR = 'day'
"""The condition that changes nothing."""
_GAMMA = 2.2


class WeatherError(ValueError):
    """An unknown condition, a severity out of range, or something that is not an RGB image."""


def level(number: int) -> float:
    """The severity in [0, 1] of one of the five published levels."""
    if not 1 <= number <= LEVELS:
        raise WeatherError(f'level {number} is outside 1..{LEVELS}')
    return number / LEVELS


def apply(
    name: str,
    image: Image,
    severity: float,
    rng: np.random.Generator,
    field: np.random.Generator | None = None,
) -> Image:
    """Put one of CONDITIONS onto an image.

    `image` is (H, W, 3) uint8 RGB; `severity` in [0, 1], where 0 changes nothing and k/5 is level
    k. What changes with every frame, such as noise and drops, is drawn from `rng`; what stays for a
    while, such as the place of the sun or the banks of fog, from `field`, which a video makes anew
    with one seed for every frame and a single image leaves out. Returns a new array of the same
    shape and type; equal generators give equal images. Raises WeatherError.
    """
    condition = CONDITIONS.get(name)
    if condition is None:
        raise WeatherError(f"unknown condition '{name}': expected one of {', '.join(CONDITIONS)}")
    if not 0.0 <= severity <= 1.0:
        raise WeatherError(f'severity {severity} of {name} is outside 0..1; level(1..5) converts')
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise WeatherError(f'image is {image.dtype} {image.shape}, expected uint8 (H, W, 3)')
    if severity == 0.0:
        return np.array(image)
    changed = condition(image.astype(np.float32) / np.float32(255.0), severity, rng, field or rng)
    return (np.clip(changed, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _light(values: npt.ArrayLike) -> Light:
    return np.asarray(values, np.float32)


def _at(severity: float, clean: float, levels: Sequence[float]) -> float:
    """A parameter between its published levels; `clean` is its value at severity 0."""
    return float(np.interp(severity * LEVELS, np.arange(LEVELS + 1), (clean, *levels)))


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Light:
    return rng.standard_normal(shape, dtype=np.float32)


def _scale(image: Light) -> float:
    return float(max(image.shape[:2]) / 32.0)


def _cloud(rng: np.random.Generator, height: int, width: int, decay: float) -> Light:
    """Fractal noise in [0, 1], octave k weighted by decay**-k: the published plasma's spectrum."""
    field = np.zeros((height, width), np.float32)
    # Coarse grids first and always all of them, so that every crop size sees the same cloud.
    for octave in range(5):
        grid = rng.random((2**octave + 2, 2**octave + 2), dtype=np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(
            decay**-octave
        )
    field -= field.min()
    return field / max(float(field.max()), 1e-6)


def _radial(height: int, width: int, x: float, y: float) -> Light:
    """Distance of each pixel from (x, y); all in units of the image's side."""
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height - np.float32(y)
    columns = (np.arange(width, dtype=np.float32) + 0.5) / width - np.float32(x)
    return _light(np.sqrt(rows[:, None] ** 2 + columns[None, :] ** 2))


def _streak_kernel(radius: float, sigma: float, degrees: float) -> Light:
    """One-sided Gaussian along a line, as ImageMagick's motion blur has it; sums to 1."""
    reach = max(1, math.ceil(radius))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    along = np.arange(0.0, radius + 1e-6, 0.5)
    weights = np.exp(-0.5 * (along / sigma) ** 2)
    angle = math.radians(degrees)
    xs, ys = reach + along * math.cos(angle), reach + along * math.sin(angle)
    for x, y, weight in zip(xs, ys, weights):
        # Bilinear, so that small radii and angles change the kernel smoothly.
        x0, y0 = math.floor(x), math.floor(y)
        for row, across in ((y0, 1.0 - (y - y0)), (y0 + 1, y - y0)):
            for column, share in ((x0, 1.0 - (x - x0)), (x0 + 1, x - x0)):
                if share * across > 0.0:
                    kernel[min(row, 2 * reach), min(column, 2 * reach)] += weight * share * across
    return _light(kernel / kernel.sum())


def _filter(image: Light, kernel: Light) -> Light:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _day(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    return image


def _darken(image: Light, gain: float) -> Light:
    return _light(image * np.float32(gain ** (1.0 / _GAMMA)))


def _darkness(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    return _darken(image, _at(severity, 1.0, (0.5, 0.3, 0.18, 0.1, 0.055)))


def _sensor(image: Light, electrons: float, read: float, rng: np.random.Generator) -> Light:
    """Shot noise of a pixel that saturates at `electrons`, and read noise of deviation `read`.

    Poisson counts are drawn as Gaussians of their mean and variance, which differ little at the
    tens of electrons used here and cost a twentieth.
    """
    variance = np.maximum(image, 0.0) / np.float32(electrons) + np.float32(read**2)
    return _light(image + np.sqrt(variance) * _noise(rng, image.shape))


def _dusk(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    # The sky's blue light with a warm rest of the sun, at a fraction of the daylight.
    warm = field.uniform(-1.0, 1.0)
    tint = 1.0 + severity * np.array([-0.04 + 0.12 * warm, -0.04, 0.08 - 0.10 * warm], np.float32)
    dark = _darken(image, _at(severity, 1.0, (0.55, 0.4, 0.3, 0.22, 0.16))) * tint
    grey = dark.mean(axis=2, keepdims=True)
    dull = grey + (dark - grey) * np.float32(1.0 - 0.25 * severity)
    return _sensor(dull.astype(np.float32), 600.0, 0.01 * severity, rng)


def _night(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    # Head lights fall off away from a centre that the retro-reflecting sign is close to.
    x, y = field.uniform(0.35, 0.65, 2)
    reach = field.uniform(0.38, 0.6)
    height, width = image.shape[:2]
    beam = np.exp(-0.5 * (_radial(height, width, x, y) / np.float32(reach)) ** 2)[..., None]
    gain = _at(severity, 1.0, (0.4, 0.25, 0.16, 0.1, 0.065))
    ambient = 1.0 - 0.92 * min(1.0, severity * 2.0)
    light = np.float32(gain) * (np.float32(ambient) + np.float32(1.0 - ambient) * beam)
    dark = image * light ** np.float32(1.0 / _GAMMA)
    tint = 1.0 + severity * np.array([0.05, 0.0, -0.09], np.float32)
    electrons = _at(severity, 2000.0, (500.0, 300.0, 200.0, 140.0, 100.0))
    return _sensor(
        dark * tint, electrons, _at(severity, 0.0, (0.01, 0.016, 0.022, 0.028, 0.034)), rng
    )


def _brightness(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    added = _at(severity, 0.0, (0.05, 0.1, 0.15, 0.2, 0.3))
    value = image.max(axis=2, keepdims=True)
    # Raising the value of HSV scales the three channels alike; black becomes grey.
    raised = np.minimum(value + np.float32(added), 1.0)
    return _light(np.where(value > 1e-3, image * raised / np.maximum(value, 1e-3), raised))


def _contrast(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    kept = _at(severity, 1.0, (0.75, 0.5, 0.4, 0.3, 0.15))
    mean = image.mean(axis=(0, 1), keepdims=True)
    return _light((image - mean) * np.float32(kept) + mean)


def _glare(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    # A low sun near the edge of the image: scattered light everywhere, and a bright lobe.
    angle = field.uniform(-math.pi, 0.0)
    far = field.uniform(0.35, 0.7)
    x, y = 0.5 + far * math.cos(angle), 0.5 + far * math.sin(angle)
    height, width = image.shape[:2]
    distance = _radial(height, width, x, y)
    veil = _at(severity, 0.0, (0.06, 0.12, 0.18, 0.25, 0.33))
    lobe = _at(severity, 0.0, (0.3, 0.5, 0.7, 0.95, 1.25))
    spread = field.uniform(0.3, 0.5)
    light = np.float32(veil) + np.float32(lobe) * np.exp(-distance / np.float32(spread))
    sun = np.array([1.0, 0.95, 0.85], np.float32)
    exposed = image * np.float32(1.0 + 0.35 * severity)
    return _light(exposed * np.float32(1.0 - 0.5 * veil) + light[..., None] * sun)


def _fog(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    thickness = _at(severity, 0.0, (0.2, 0.5, 0.75, 1.0, 1.5))
    decay = _at(severity, 3.0, (3.0, 3.0, 2.5, 2.0, 1.75))
    cloud = _cloud(field, image.shape[0], image.shape[1], decay)[..., None]
    brightest = float(image.max())
    return _light(
        (image + np.float32(thickness) * cloud)
        * np.float32(brightest / max(brightest + thickness, 1e-6))
    )


def _rain(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    height, width = image.shape[:2]
    scale = _scale(image)
    # Water on the lens and in the air: softer, greyer, a little darker.
    sigma = _at(severity, 0.05, (0.25, 0.4, 0.55, 0.7, 0.9)) * scale
    soft = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    grey = soft.mean(axis=2, keepdims=True)
    wet = (soft * np.float32(1 - 0.4 * severity) + grey * np.float32(0.4 * severity)) * np.float32(
        1.0 - 0.25 * severity
    )
    share = _at(severity, 0.0, (0.006, 0.01, 0.014, 0.018, 0.024)) / scale
    drops = (rng.random((height, width), dtype=np.float32) < share).astype(np.float32)
    length = (5.0 + 5.0 * severity) * scale
    streaks = _filter(drops, _streak_kernel(length, length, field.uniform(70.0, 110.0)))
    glint = _at(severity, 0.0, (0.16, 0.2, 0.24, 0.28, 0.34)) / scale**0.25
    bright = np.float32(length * glint)
    return _light(
        wet
        + np.minimum(streaks * bright, np.float32(0.55))[..., None] * (np.float32(0.9) - 0.5 * wet)
    )


def _snow(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    mean = _at(severity, 0.1, (0.1, 0.1, 0.15, 0.25, 0.3))
    deviation = _at(severity, 0.2, (0.2, 0.2, 0.3, 0.3, 0.3))
    zoom = _at(severity, 1.0, (1.0, 1.0, 1.75, 2.25, 1.25)) * _scale(image)
    cut = _at(severity, 1.0, (0.6, 0.5, 0.55, 0.6, 0.65))
    radius = _at(severity, 8.0, (8.0, 10.0, 10.0, 12.0, 14.0)) * _scale(image)
    # Larger images show flakes rather than streaks: their length grows by less than their size.
    sigma = _at(severity, 3.0, (3.0, 4.0, 4.0, 6.0, 12.0)) * min(
        _scale(image), _scale(image) ** 0.5
    )
    kept = _at(severity, 1.0, (0.95, 0.9, 0.9, 0.85, 0.8))
    height, width = image.shape[:2]
    coarse = (max(2, math.ceil(height / zoom)), max(2, math.ceil(width / zoom)))
    layer = cv2.resize(
        mean + deviation * _noise(rng, coarse), (width, height), interpolation=cv2.INTER_LINEAR
    )
    flakes = np.where(layer < cut, 0.0, np.clip(layer, 0.0, 1.0)).astype(np.float32)
    flakes = _filter(flakes, _streak_kernel(radius, sigma, field.uniform(45.0, 135.0)))
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    pale = np.maximum(image, grey[..., None] * 1.5 + 0.5)
    white = np.float32(kept) * image + np.float32(1.0 - kept) * pale
    return _light(white + (flakes + flakes[::-1, ::-1])[..., None])


def _motion_blur(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    radius = _at(severity, 1.0, (6.0, 6.0, 6.0, 8.0, 9.0)) * _scale(image)
    sigma = _at(severity, 0.2, (1.0, 1.5, 2.0, 2.0, 2.5)) * _scale(image)
    return _filter(image, _streak_kernel(radius, sigma, field.uniform(-45.0, 45.0)))


def _defocus(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    # The published kernels are discs of (0.3, 0.4, 0.5, 1, 1.5) pixels behind a 3 x 3 Gaussian of
    # (0.4, 0.5, 0.6, 0.2, 0.1). These radii spread 32 pixel images by the same variance, and grow
    # smoothly with severity and size, as each point of the disc falls bilinearly on four pixels.
    radius = _at(severity, 0.0, (0.19, 0.5, 0.79, 0.94, 1.55)) * _scale(image)
    spiral = np.arange(256.0) + 0.5
    distance, angle = radius * np.sqrt(spiral / 256.0), spiral * math.pi * (3.0 - math.sqrt(5.0))
    axis = np.arange(-math.ceil(radius), math.ceil(radius) + 1)[:, None]
    across = np.maximum(0.0, 1.0 - np.abs(axis - distance * np.cos(angle)))
    down = np.maximum(0.0, 1.0 - np.abs(axis - distance * np.sin(angle)))
    kernel = _light(down @ across.T)
    return _filter(image, kernel / kernel.sum())


def _sensor_noise(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    deviation = _at(severity, 0.0, (0.04, 0.06, 0.08, 0.09, 0.1))
    return _light(image + np.float32(deviation) * _noise(rng, image.shape))


def _shot_noise(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    # 1 / c is the variance, so it is this that is interpolated.
    variance = _at(severity, 0.0, (1 / 500, 1 / 250, 1 / 100, 1 / 75, 1 / 50))
    return _sensor(image, 1.0 / max(variance, 1e-9), 0.0, rng)


def _jpeg(
    image: Light, severity: float, rng: np.random.Generator, field: np.random.Generator
) -> Light:
    quality = round(_at(severity, 100.0, (80.0, 65.0, 58.0, 50.0, 40.0)))
    pixels = (image[..., ::-1] * 255.0 + 0.5).astype(np.uint8)
    _, coded = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.float32)
    return _light(decoded[..., ::-1] / np.float32(255.0))


CONDITIONS: dict[str, Condition] = {
    CLEAR: _day,
    'dusk': _dusk,
    'night': _night,
    'darkness': _darkness,
    'brightness': _brightness,
    'contrast': _contrast,
    'glare': _glare,
    'fog': _fog,
    'rain': _rain,
    'snow': _snow,
    'motion_blur': _motion_blur,
    'defocus': _defocus,
    'sensor_noise': _sensor_noise,
    'shot_noise': _shot_noise,
    'jpeg': _jpeg,
}
