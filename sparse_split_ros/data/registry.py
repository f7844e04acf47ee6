# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets by name, each in three splits: `train`, `select` and `report`.

Networks learn on `train`, epochs, temperatures and thresholds are chosen on `select`, and figures
are reported on `report`. Where a data set comes with a test set, that is what is reported on, and
`select` is taken from its training part; nothing is ever chosen on a test set.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data import gtsrb, weather
from sparse_split_ros.data.bags import BagError, Frame, bags_in, read_bag
from sparse_split_ros.data.datasets import DatasetError, Images, LabelledImages, find_data
from sparse_split_ros.data.drive import SCENES
from sparse_split_ros.data.folder import load_folder, read_images
from sparse_split_ros.data.images import resize_to
from sparse_split_ros.data.public import load_caltech256, load_cifar10, load_cifar100, load_mnist
from sparse_split_ros.data.signs import CLASSES
from sparse_split_ros.data.sources import passing_over
from sparse_split_ros.data.splits import SPLITS, check_split, divide

_FIRST = 'class'
"""The name of the first of several tasks of a bag, which names the others only."""
Source = Callable[[str | os.PathLike[str] | None, str, int], LabelledImages]
"""Loads one split of what lies in a directory (SPARSE_SPLIT_DATA for None) at size x size pixels.

Raises a ValueError or BagError that says what is missing or wrong.
"""


def load_gtsrb(data: str | os.PathLike[str] | None, split: str, size: int = 32) -> LabelledImages:
    """One split of the GTSRB's training tracks: the packed file, or the original images.

    Both have the same images and are divided alike. The original images, as `sparse-split download
    gtsrb` leaves them, come at any size, and with the split 'test', the competition's test set.
    """
    folder = find_data(data)
    originals = folder / 'gtsrb' / 'GTSRB'
    if originals.is_dir():
        return _original_gtsrb(originals, split, size)
    if folder.is_dir() and not (folder / gtsrb.FILE_NAME).exists():
        raise DatasetError(
            f'{folder}: no GTSRB there: expected {gtsrb.FILE_NAME}, or the images that '
            '"sparse-split download gtsrb" leaves'
        )
    if size != 32:
        raise DatasetError(
            f'GTSRB is packed at 32 x 32 pixels, the network wants {size}: "sparse-split download '
            'gtsrb" gives the images at their own size'
        )
    packed = gtsrb.load_packed(folder)
    chosen = packed.indices(split)
    groups = _track_groups(packed.labels[chosen], packed.tracks[chosen])
    return LabelledImages(packed.images[chosen], packed.labels[chosen], groups, CLASSES)


def _original_gtsrb(folder: Path, split: str, size: int) -> LabelledImages:
    if split == 'test':
        files, labels = gtsrb.test_files(folder)
        tracks = np.arange(len(files))
    else:
        files, labels, tracks = gtsrb.training_files(folder)
        chosen = gtsrb.divide_tracks(labels, tracks) == check_split(split)
        files = [file for file, wanted in zip(files, chosen) if wanted]
        labels, tracks = labels[chosen], tracks[chosen]
    images = read_images(files, size)
    return LabelledImages(images, labels, _track_groups(labels, tracks), CLASSES)


def _track_groups(labels: NDArray[np.int64], tracks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tracks are numbered within a class."""
    return labels * 100_000 + tracks


def load_gtsrb_weather(
    data: str | os.PathLike[str] | None, split: str, size: int = 32
) -> LabelledImages:
    """One split of the GTSRB with two tasks, `sign` and the `weather` that is put onto the image.

    Of images to train on it is day, for their weather is put on anew in every epoch. Each of the
    other tracks has one of the scenes of the drawn drive, all as often, at a severity of 0.1 to
    0.8.
    """
    signs = load_gtsrb(data, split, size)
    images, scenes = signs.images, np.zeros(len(signs), np.int64)
    if split != 'train':
        tracks, track = np.unique(signs.groups, return_inverse=True)
        rng = np.random.default_rng([*split.encode()])
        scene = rng.permutation(np.arange(len(tracks)) % len(SCENES))
        severity = rng.uniform(0.1, 0.8, len(tracks))
        scenes = scene[track]
        images = np.stack([
            weather.apply(SCENES[scene[t]], image, severity[t], rng, np.random.default_rng(t))
            for t, image in zip(track.tolist(), images)
        ])  # fmt: skip
    labels = np.stack([signs.labels, scenes], axis=1)
    tasks = {'sign': signs.classes, weather.TASK: SCENES}
    return LabelledImages.of_tasks(images, labels, signs.groups, tasks)


def load_bag(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of a labelled bag, or of all bags in a folder.

    Labels are the classifications on `ground_truth`, and those of further tasks on
    `ground_truth/NAME`; images without one of each are passed over, and so are those that cannot be
    decoded. Frames with the same label of the first task, and no other label between them, are one
    group, as they may show the same thing.
    """
    check_split(split)
    root = find_data(data)
    runs: dict[str, list[tuple[dict[str, str], Images]]] = {}
    broken: list[str] = []
    passed_over: Counter[str] = Counter()
    for bag in _bags(root):
        for run, said, image in _labelled(passing_over(read_bag(bag), broken.append), bag, size):
            if said:
                runs.setdefault(run, []).append((said, image))
            else:
                passed_over['without a label'] += 1
    if broken:
        passed_over[f'cannot be decoded, first {broken[0]}'] = len(broken)
    further = {name for run in runs.values() for said, _ in run for name in said} - {_FIRST}
    names = [_FIRST, *sorted(further)]
    whole = {run: [f for f in its if len(f[0]) == len(names)] for run, its in runs.items()}
    kept = {run: its for run, its in whole.items() if its}
    if lacking := sum(map(len, runs.values())) - sum(map(len, kept.values())):
        passed_over[f'without a label of each of {", ".join(names)}'] = lacking
    tasks = {}
    for name in names:
        found = sorted({said[name] for run in kept.values() for said, _ in run})
        topic = 'ground_truth' if name == _FIRST else f'ground_truth/{name}'
        if len(found) < 2:
            raise DatasetError(
                f'{root}: images of {len(found)} labels on {topic}, expected at least two; a label '
                'is a vision_msgs/Classification with the stamp of its image'
                + (f', and an image has one of each of {", ".join(names)}' if further else '')
                + ''.join(f'; {count} {why}' for why, count in passed_over.items())
            )
        tasks[name] = tuple(found)
    chosen: list[str] = []
    for name in tasks[_FIRST]:
        of_class = [run for run, its in kept.items() if its[0][0][_FIRST] == name]
        if len(of_class) < len(SPLITS):
            raise DatasetError(
                f'{root}: the label {name!r} comes {len(of_class)} times, expected at least 3, '
                f'one for each of {", ".join(SPLITS)}, and other labels in between: record more'
            )
        chosen += divide(of_class, split)
    labels, images = zip(*(frame for run in chosen for frame in kept[run]))
    groups = np.repeat(np.arange(len(chosen)), [len(kept[run]) for run in chosen])
    try:
        made = LabelledImages.of_labels(np.stack(images), labels, groups, tasks)
        return replace(made, passed_over=passed_over)
    except DatasetError as error:
        raise DatasetError(f'{root}: {error} falls to {split}: record more') from error


def _bags(root: Path) -> list[Path]:
    if root.is_file() or (root / 'metadata.yaml').exists():
        return [root]
    if not (bags := bags_in(root)):
        raise BagError(f'{root}: neither a bag nor a folder of bags')
    return bags


def _labelled(
    frames: Iterator[Frame], bag: Path, size: int
) -> Iterator[tuple[str, dict[str, str], Images]]:
    """The name of its group, the labels, if there are some, and the image of every frame."""
    # The same however its path is typed.
    whole = Path(os.path.abspath(bag))
    if whole.is_file() and (whole.parent / 'metadata.yaml').exists():
        whole = whole.parent
    run, before = 0, None
    for frame in frames:
        if frame.label is not None:
            run += frame.label != before
            before = frame.label
        if _FIRST in frame.others:
            raise DatasetError(
                f'{bag}: holds ground_truth/{_FIRST}; {_FIRST} is what the task on ground_truth is '
                'called, so give the other another name'
            )
        said = {} if frame.label is None else {_FIRST: frame.label, **frame.others}
        yield f'{whole.name}/{run}', said, resize_to(frame.image, size, size)


SOURCES: dict[str, Source] = {
    'bag': load_bag,
    'caltech256': load_caltech256,
    'cifar10': load_cifar10,
    'cifar100': load_cifar100,
    'folder': load_folder,
    'gtsrb': load_gtsrb,
    'gtsrb_weather': load_gtsrb_weather,
    'mnist': load_mnist,
}
