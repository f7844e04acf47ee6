# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled images for training: sources by name, augmentation by seed, batches that can be resumed.

What a batch holds depends only on (seed, epoch, position), never on worker processes or on what ran
before, so a training run that was killed goes on exactly as if it had not been.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from sparse_split_ros.data import weather
from sparse_split_ros.data.drive import SCENES, random_crop
from sparse_split_ros.data.folder import read_rgb, scan
from sparse_split_ros.data.gtsrb import load_packed
from sparse_split_ros.data.images import resize_to
from sparse_split_ros.data.signs import CLASSES

Images = NDArray[np.uint8]
Colour = tuple[float, float, float]


class DatasetError(ValueError):
    """A data set is missing, empty, or not what a recipe takes it for."""


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, H, W, 3) uint8 RGB with their labels (N,) and groups (N,) int64.

    A group is what must not be torn apart when data is divided or resampled, such as the frames of
    one physical sign.
    """

    images: Images
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise DatasetError(
                f'images are {self.images.dtype} {self.images.shape}, expected uint8 (N, H, W, 3)'
            )
        if not len(self.images):
            raise DatasetError('a data set without images')
        if not len(self.images) == len(self.labels) == len(self.groups):
            raise DatasetError(
                f'{len(self.images)} images, {len(self.labels)} labels, {len(self.groups)} groups'
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DatasetError(
                f'labels from {self.labels.min()} to {self.labels.max()} for '
                f'{len(self.classes)} classes'
            )

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """SHA-256 of images and labels, to know them again."""
        both = (np.ascontiguousarray(part) for part in (self.images, self.labels))
        return hashlib.sha256(b''.join(part.tobytes() for part in both)).hexdigest()

    def statistics(self) -> tuple[Colour, Colour]:
        """Mean and standard deviation of red, green and blue in 0 to 1, to three places."""
        # From a histogram, which is exact and needs no copy of the images in floating point.
        levels = np.arange(256) / 255
        counts = np.stack([np.bincount(self.images[..., c].ravel(), None, 256) for c in range(3)])
        mean = counts @ levels / counts.sum(axis=1)
        variance = counts @ levels**2 / counts.sum(axis=1) - mean**2
        # Images of one flat colour have no spread to divide by.
        std = np.sqrt(np.maximum(variance, 1e-4))
        return _rounded(mean), _rounded(std)

    def take(self, chosen: NDArray[np.int64]) -> LabelledImages:
        """The images at these indices."""
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            groups=self.groups[chosen],
        )


def join(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    """Both, one after the other; groups of the second are renumbered to stay apart."""
    if first.classes != second.classes or first.images.shape[1:] != second.images.shape[1:]:
        raise DatasetError('two data sets join only with the same classes and image size')
    offset = first.groups.max() + 1
    return LabelledImages(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.groups, second.groups + offset]),
        first.classes,
    )


def _rounded(colour: NDArray[np.float64]) -> Colour:
    red, green, blue = (round(float(value), 3) for value in colour)
    return red, green, blue


def find_data(path: str | os.PathLike[str] | None) -> Path:
    """The data directory: `path`, else the variable SPARSE_SPLIT_DATA. Raises DatasetError."""
    given = path or os.environ.get('SPARSE_SPLIT_DATA')
    if not given:
        raise DatasetError('no data directory: give one, or set SPARSE_SPLIT_DATA')
    if not Path(given).exists():
        raise DatasetError(f'{given}: no such data directory')
    return Path(given)


def load_gtsrb(data: str | os.PathLike[str] | None, split: str, size: int = 32) -> LabelledImages:
    """One split ('train', 'select' or 'report') of the packed GTSRB tracks at 32 x 32 pixels."""
    if size != 32:
        raise DatasetError(f'GTSRB is packed at 32 x 32 pixels, the network wants {size}')
    packed = load_packed(find_data(data))
    chosen = packed.indices(split)
    # Tracks are numbered within a class.
    groups = packed.labels[chosen] * 10_000 + packed.tracks[chosen]
    return LabelledImages(packed.images[chosen], packed.labels[chosen], groups, CLASSES)


def load_folder(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of a folder of class folders, resized to size x size as the robot resizes."""
    folder = scan(find_data(data))
    files = folder.files(split)
    images = np.stack([resize_to(read_rgb(path), size, size) for path, _, _ in files])
    labels, groups = np.array([row[1:] for row in files], np.int64).T
    return LabelledImages(images, labels, groups, folder.classes)


def load_drawn(
    count: int, size: int, seed: int, cache: str | os.PathLike[str] | None = None
) -> LabelledImages:
    """`count` drawn signs at size x size pixels, every class as often, a third by clear day.

    Equal arguments give equal images. Rendering takes some milliseconds each; with `cache`, a .npz
    file, they are rendered once.
    """
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    key = np.array([count, size, seed])
    images = _cached(cache, key)
    if images is None:
        images = np.stack([_drawn(seed, i, int(labels[i]), size) for i in range(count)])
        if cache is not None:
            np.savez(cache, key=key, images=images)
    return LabelledImages(images, labels, np.arange(count, dtype=np.int64), CLASSES)


def _cached(cache: str | os.PathLike[str] | None, key: NDArray[np.int64]) -> Images | None:
    if cache is None or not Path(cache).is_file():
        return None
    with np.load(cache, allow_pickle=False) as kept:
        return kept['images'] if np.array_equal(kept['key'], key) else None


def _drawn(seed: int, index: int, label: int, size: int) -> Images:
    # The drive draws from [seed, 1..3, ...]; the first word keeps training apart from every drive.
    rng = np.random.default_rng([0xD4A33, seed, index])
    if rng.random() < 1 / 3:
        return random_crop(rng, label, size)
    scene = SCENES[1 + rng.integers(len(SCENES) - 1)]
    return random_crop(rng, label, size, scene, rng.uniform(0.1, 0.9))


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

    def __post_init__(self) -> None:
        unknown = set(self.conditions) - set(weather.CONDITIONS)
        if unknown or (self.weather > 0 and not self.conditions):
            raise DatasetError(
                f'weather {self.weather:g} with conditions {sorted(self.conditions)}: expected '
                f'some of {", ".join(weather.CONDITIONS)}'
            )


class AugmentedBatches(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Batches of augmented images: item k of epoch e is the same whoever asks for it.

    An item is (images (B, H, W, 3) uint8, labels (B,) int64); the last short batch is left out.
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
        rows = (augment(rng, self._source.images[i], self._augmentation) for i in chosen)
        return torch.from_numpy(np.stack(list(rows))), torch.from_numpy(self._source.labels[chosen])


def batches(
    dataset: AugmentedBatches, epoch: int, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, made ahead in `workers` processes (0: here)."""
    dataset.set_epoch(epoch)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    return iter(loader)


def augment(rng: np.random.Generator, image: Images, how: Augmentation) -> Images:
    """A crop (H, W, 3) uint8 as another detector, camera, light and weather might give it."""
    if how.flip and rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    image = _warp(rng, image)
    if rng.random() < how.weather:
        condition = how.conditions[rng.integers(len(how.conditions))]
        image = weather.apply(condition, image, rng.uniform(*how.severity), rng)
        return _expose(rng, image, 0.4)
    return _expose(rng, _blur(rng, image), 1.0)


def _warp(rng: np.random.Generator, image: Images) -> Images:
    """Rotation, scale, aspect, shift and a little perspective, as a detector's box jitters."""
    side = image.shape[0]
    centre = (side - 1) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) * centre
    angle = rng.normal(0, np.radians(6))
    scale = np.exp(rng.normal(0, 0.1, 2) * (0.4, 0.4) + rng.normal(0, 0.1))
    c, s = np.cos(angle), np.sin(angle)
    moved = corners @ np.array([[c, s], [-s, c]], np.float32) * scale
    moved += rng.normal(0, 0.045 * side, 2) + rng.normal(0, 0.025 * side, (4, 2))
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
