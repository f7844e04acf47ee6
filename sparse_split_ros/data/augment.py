# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training images changed by seed, in batches that can be resumed.

What a batch holds depends only on (seed, epoch, position), never on worker processes or on what ran
before, so a training run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sparse_split_ros.data import weather
from sparse_split_ros.data.datasets import DatasetError, Images, LabelledImages


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; see `augment`."""

    weather: float = 0.0
    """Share of the images that get weather."""
    conditions: tuple[str, ...] = ()
    """Which, by the names of data/weather.py; those left out are there to be met unseen."""
    severity: tuple[float, float] = (0.1, 0.8)
    flip: bool = False
    """Mirror every other image; not for signs or letters, which would be others."""
    geometric: float = 1.0
    """How strongly rotation, scale, shift and perspective are varied, 0 to 1."""
    photometric: float = 1.0
    """How strongly blur, light, colour and noise are varied, 0 to 1."""

    def __post_init__(self) -> None:
        unknown = set(self.conditions) - set(weather.CONDITIONS)
        if unknown or (self.weather > 0 and not self.conditions):
            raise DatasetError(
                f'weather {self.weather:g} with conditions {sorted(self.conditions)}: expected '
                f'some of {", ".join(weather.CONDITIONS)}'
            )


class AugmentedBatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches of augmented images: item k of epoch e is the same whoever asks for it.

    An item is (images (B, H, W, 3) uint8, labels (B,) or (B, T) int64); the last short batch is
    left out. Where telling the weather is a task, that which is put onto an image is its label,
    and images that come with weather keep theirs.
    """

    def __init__(
        self, source: LabelledImages, batch_size: int, seed: int, augmentation: Augmentation
    ) -> None:
        if batch_size > len(source):
            raise DatasetError(
                f'batch_size {batch_size} for {len(source)} training images: lower it in the recipe'
            )
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._augmentation = augmentation
        self._weather = _check_weather(source, augmentation)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for `epoch`; to be called before a loader is made from this."""
        self._epoch = epoch
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._source))

    def __len__(self) -> int:
        return len(self._source) // self._batch_size

    def __getitem__(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self._seed, self._epoch, batch])
        chosen = self._order[batch * self._batch_size : (batch + 1) * self._batch_size]
        how, labels = self._augmentation, self._source.labels[chosen]
        rows = []
        for row, i in enumerate(chosen):
            image, met = _augmented(rng, self._source.images[i], how, self._weather_of(i))
            rows.append(image)
            if self._weather is not None and met is not None:
                labels[row, self._weather] = self._source.tasks[weather.TASK].index(met)
        return torch.from_numpy(np.stack(rows)), torch.from_numpy(labels)

    def _weather_of(self, index: int) -> str | None:
        """The weather that an image comes with, as far as a task tells it."""
        if self._weather is None:
            return None
        label = int(self._source.labels[index, self._weather])
        met = self._source.tasks[weather.TASK][label]
        return None if met == weather.CLEAR else met


def _check_weather(source: LabelledImages, how: Augmentation) -> int | None:
    """The column of the weather's labels, None without. Raises DatasetError for untold weather."""
    if weather.TASK not in source.tasks:
        return None
    column = list(source.tasks).index(weather.TASK)
    classes = source.tasks[weather.TASK]
    put_on = set(how.conditions) if how.weather else set()
    met = {classes[label] for label in np.unique(source.labels[:, column])} | put_on
    if put_on and weather.CLEAR not in classes:
        raise DatasetError(
            f'weather {how.weather:g}: the task {weather.TASK!r} is to tell {", ".join(classes)}; '
            f'weather is put onto images of {weather.CLEAR!r}, and none is called so: take 0'
        )
    if not set(classes) - {weather.CLEAR} <= met <= set(classes):
        raise DatasetError(
            f'weather {how.weather:g} with conditions {sorted(put_on)}: the task {weather.TASK!r} '
            f'is to tell {", ".join(classes)}; expected a share above 0 and all of these but '
            f'{weather.CLEAR} in conditions, and no others'
        )
    return column


def batches(
    dataset: AugmentedBatches, epoch: int, workers: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, made ahead in `workers` processes (0: here).

    Of `world` processes that train together, each with a `rank` of its own, each gets as many.
    """
    dataset.set_epoch(epoch)
    mine = range(rank, len(dataset) - len(dataset) % world, world)
    loader = DataLoader(dataset, batch_size=None, sampler=mine, num_workers=workers)
    with _interrupts_held():
        return iter(loader)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Raise KeyboardInterrupt only behind the block; what is forked in it never does.

    Ctrl-C reaches the workers too. While they are forked it would be lost here, and kill them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of this thread's business
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def augment(rng: np.random.Generator, image: Images, how: Augmentation) -> Images:
    """A crop (H, W, 3) uint8 as another detector, camera, light and weather might give it."""
    return _augmented(rng, image, how, None)[0]


def _augmented(
    rng: np.random.Generator, image: Images, how: Augmentation, met: str | None
) -> tuple[Images, str | None]:
    """`augment`, and the weather that is on the image now; it already had what it `met`."""
    if how.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    if how.geometric:
        image = _warp(rng, image, how.geometric)
    if met is None and rng.random() < how.weather:
        met = how.conditions[rng.integers(len(how.conditions))]
        image = weather.apply(met, image, rng.uniform(*how.severity), rng)
    if how.photometric == 0:
        return image, met
    if met is not None:
        return _expose(rng, image, min(0.4, how.photometric)), met
    if how.photometric == 1 or rng.random() < how.photometric:
        image = _blur(rng, image)
    return _expose(rng, image, how.photometric), None


def _warp(rng: np.random.Generator, image: Images, strength: float) -> Images:
    """Rotation, scale, aspect, shift and a little perspective, as a detector's box jitters."""
    side = image.shape[0]
    centre = (side - 1) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * centre
    angle = strength * rng.normal(0, np.radians(6))
    scale = np.exp(strength * (rng.normal(0, 0.1, 2) * 0.4 + rng.normal(0, 0.1)))
    c, s = np.cos(angle), np.sin(angle)
    moved = corners @ np.array([[c, s], [-s, c]], np.float32) * scale
    shift = rng.normal(0, 0.045 * side, 2) + rng.normal(0, 0.025 * side, (4, 2))
    moved += strength * shift
    matrix = cv2.getPerspectiveTransform(
        (corners + centre).astype(np.float32), (moved + centre).astype(np.float32)
    )
    return cv2.warpPerspective(  # type: ignore[return-value]
        image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def _blur(rng: np.random.Generator, image: Images) -> Images:
    """Now and then: a far sign's few pixels, defocus, or motion."""
    kind, side = rng.random(), image.shape[0]
    if kind < 0.12:
        small = int(rng.integers(side * 3 // 8, side * 3 // 4))
        down = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        return cv2.resize(down, (side, side), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
    if kind < 0.20:
        sigma = side / 32 * rng.uniform(0.4, 1.3)
        return cv2.GaussianBlur(image, (0, 0), sigma)  # type: ignore[return-value]
    if kind < 0.28:
        length = int(rng.integers(2, max(3, side // 5)))
        kernel = np.zeros((length, length), np.float32)
        slope = rng.uniform(-0.5, 0.5) * length
        middle = (length - 1) / 2
        ends = ((0, round(middle - slope)), (length - 1, round(middle + slope)))
        cv2.line(kernel, *ends, color=1.0)
        return cv2.filter2D(image, -1, kernel / kernel.sum())  # type: ignore[return-value]
    return image


def _expose(rng: np.random.Generator, image: Images, strength: float) -> Images:
    """Gamma, gain, haze, white balance and sensor noise: one table per channel, then noise."""
    ramp = np.linspace(0, 1, 256)
    gamma, gain = np.exp(strength * rng.normal(0, 0.25)), np.exp(strength * rng.normal(0, 0.3))
    if image.mean() < 40:
        # An image this dark has few levels left; darker still it would teach nothing.
        gamma, gain = min(gamma, 1.0), max(gain, 1.0)
    tint, haze = np.exp(strength * rng.normal(0, 0.06, 3)), abs(strength * rng.normal(0, 0.05))
    table = 255 * (ramp[:, None] ** gamma * gain * tint + haze)
    image = cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[None])  # type: ignore[assignment]
    if rng.random() < 0.3 * strength:
        noise = rng.normal(0, 255 * rng.uniform(0.01, 0.06), image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return image
