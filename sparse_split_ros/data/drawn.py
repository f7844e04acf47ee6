# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Drawn signs as training images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data import weather
from sparse_split_ros.data.datasets import DatasetError, Images, LabelledImages
from sparse_split_ros.data.drive import SCENES, random_crop
from sparse_split_ros.data.files import read_npz, write_npz
from sparse_split_ros.data.signs import CLASSES


def load_drawn(
    count: int,
    size: int,
    seed: int,
    cache: str | os.PathLike[str] | None = None,
    tasks: Mapping[str, tuple[str, ...]] | None = None,
) -> LabelledImages:
    """`count` drawn signs at size x size pixels, every class as often, a third by clear day.

    Equal arguments give equal images. Rendering takes some milliseconds each; with `cache`, a .npz
    file, they are rendered once. Where the weather is one of two `tasks`, it is labelled too.
    """
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    key = np.array([count, size, seed])
    images = _cached(cache, key)
    if images is None:
        images = np.stack([_drawn(seed, i, int(labels[i]), size) for i in range(count)])
        if cache is not None:
            write_npz(Path(cache), key=key, images=images)
    groups = np.arange(count, dtype=np.int64)
    if tasks is None or weather.TASK not in tasks:
        return LabelledImages(images, labels, groups, CLASSES)
    scenes = [tasks[weather.TASK].index(_scene(_generator(seed, i))) for i in range(count)]
    return LabelledImages.of_tasks(images, np.stack([labels, scenes], axis=1), groups, tasks)


def _cached(cache: str | os.PathLike[str] | None, key: NDArray[np.int64]) -> Images | None:
    if cache is None or not Path(cache).is_file():
        return None
    with contextlib.suppress(DatasetError):  # a damaged one is made anew
        kept = read_npz(cache, ('key', 'images'))
        if len(kept) == 2 and np.array_equal(kept['key'], key):
            return kept['images']
    return None


def _drawn(seed: int, index: int, label: int, size: int) -> Images:
    rng = _generator(seed, index)
    scene = _scene(rng)
    if scene == SCENES[0]:
        return random_crop(rng, label, size)
    return random_crop(rng, label, size, scene, rng.uniform(0.1, 0.9))


def _generator(seed: int, index: int) -> np.random.Generator:
    # The drive draws from [seed, 1..3, ...]; the first word keeps training apart from every drive.
    return np.random.default_rng([0xD4A33, seed, index])


def _scene(rng: np.random.Generator) -> str:
    return SCENES[0 if rng.random() < 1 / 3 else 1 + rng.integers(len(SCENES) - 1)]
