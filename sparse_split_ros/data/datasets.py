# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled images, and where data and what is unpacked of it lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
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
    one physical sign. `origin` says where the images come from, where a name does not, and
    `passed_over` counts what was beside them and not read, by the ending of a file or the reason.

    Of several tasks, labels are (N, T), `tasks` the classes of each by its name, and `classes` all
    of them, side by side. A single task has no name.
    """

    images: Images
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    origin: str = ''
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passed_over: Mapping[str, int] = field(default_factory=dict)

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
        object.__setattr__(self, 'tasks', self.tasks or {'': self.classes})
        if self.labels.reshape(len(self.labels), -1).shape[1] != len(self.tasks):
            raise DatasetError(
                f'labels {self.labels.shape} for {len(self.tasks)} tasks, expected one column each'
            )
        for labels, size in zip(self.columns, self.sizes):
            if labels.min() < 0 or labels.max() >= size:
                raise DatasetError(
                    f'labels from {labels.min()} to {labels.max()} for {size} classes'
                )

    @classmethod
    def of_tasks(
        cls,
        images: Images,
        labels: NDArray[np.int64],
        groups: NDArray[np.int64],
        tasks: Mapping[str, tuple[str, ...]],
    ) -> LabelledImages:
        """Images with labels (N, T) of several tasks."""
        return cls(images, labels, groups, tuple(chain(*tasks.values())), tasks=tasks)

    @classmethod
    def of_labels(
        cls,
        images: Images,
        said: Sequence[Mapping[str, str]],
        groups: NDArray[np.int64],
        tasks: Mapping[str, tuple[str, ...]],
    ) -> LabelledImages:
        """Images with the label of each of `tasks` that is `said` of it, by the task's name.

        Raises DatasetError for a class that no image is of.
        """
        columns = []
        for name, classes in tasks.items():
            columns.append([classes.index(labels[name]) for labels in said])
            if absent := sorted(set(range(len(classes))) - {*columns[-1]}):
                raise DatasetError(f'no image of {name} {classes[absent[0]]!r}')
        labels = np.array(columns, np.int64).T
        if len(tasks) == 1:
            return cls(images, labels[:, 0], groups, next(iter(tasks.values())))
        return cls.of_tasks(images, labels, groups, tasks)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many classes each task has."""
        return tuple(map(len, self.tasks.values()))

    @property
    def columns(self) -> list[NDArray[np.int64]]:
        """The labels (N,) of each task."""
        return list(self.labels.reshape(len(self.labels), -1).T)

    @property
    def combined(self) -> NDArray[np.int64]:
        """The labels (N,) of all tasks together, the last task's fastest."""
        return np.ravel_multi_index(self.columns, self.sizes)

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
    tasks = [list(each.tasks.items()) for each in (first, second)]
    if tasks[0] != tasks[1] or first.images.shape[1:] != second.images.shape[1:]:
        raise DatasetError('two data sets join only with the same classes and image size')
    offset = first.groups.max() + 1
    return LabelledImages(
        np.concatenate([first.images, second.images]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.groups, second.groups + offset]),
        first.classes,
        first.origin,
        first.tasks,
        first.passed_over,
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
