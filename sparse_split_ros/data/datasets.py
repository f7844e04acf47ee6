# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled images, and where data and what is unpacked of it lie."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Colour = tuple[float, float, float]


class DatasetError(ValueError):
    """A data set is missing, empty, or not what a recipe takes it for."""


@dataclass(frozen=True)
class LabelledImages:
    """Images (N, H, W, 3) uint8 RGB with their labels (N,) and groups (N,) int64.

    A group is what must not be torn apart when data is divided or resampled, such as the frames of
    one physical sign. `origin` says where the images come from, where a name does not.
    """

    images: Images
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    origin: str = ''

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
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

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
        first.origin,
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


def cache_directory() -> Path:
    """Where unpacked data is kept: SPARSE_SPLIT_CACHE, else below the user's cache directory."""
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    given = os.environ.get('SPARSE_SPLIT_CACHE') or f'{base}/sparse_split_ros'
    return Path(given).expanduser()
