# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The packed GTSRB training set: reading it, and dividing its tracks once for everyone.

Frames of one physical sign look alike, so the benchmark is divided by track and never by frame
(Stallkamp et al., "Man vs. computer", Neural Networks 32, 2012, section 2.2).
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparse_split_ros.data.datasets import DatasetError
from sparse_split_ros.data.files import read_npz
from sparse_split_ros.data.splits import REPORT_SHARE, SELECT_SHARE, SPLIT_SEED, check_split

FILE_NAME = 'gtsrb32_train.npz'
COLUMNS = ('images', 'labels', 'track', 'frame')
"""What the packed file holds."""


class GtsrbError(DatasetError):
    """The packed GTSRB file is missing, unreadable or not what it should be."""


@dataclass(frozen=True)
class PackedGtsrb:
    """The packed training images.

    `images` (N, 32, 32, 3) uint8 RGB, `labels` (N,) class 0..42, `tracks` (N,) track within the
    class, `frames` (N,) position in the track (0 is the farthest).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    tracks: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Indices of the frames of one split, tracks one after the other, each in time order."""
        if split != 'all':
            check_split(split)
        order = np.lexsort((self.frames, self.tracks, self.labels))
        if split == 'all':
            return order
        return np.asarray(order[divide_tracks(self.labels, self.tracks)[order] == split])


def divide_tracks(
    labels: npt.ArrayLike, tracks: npt.ArrayLike, seed: int = SPLIT_SEED
) -> npt.NDArray[np.str_]:
    """Name the split, 'train', 'select' or 'report', of every frame.

    `labels` and `tracks` are (N,) integers; a track is known by its label and its number. Within
    a class the tracks are ordered by a hash, which no release of numpy can reshuffle; the first
    20 % report, the next 10 % (at least one) select and calibrate, and the rest train.
    """
    label_column = np.asarray(labels, dtype=np.int64)
    track_column = np.asarray(tracks, dtype=np.int64)
    if label_column.ndim != 1 or label_column.shape != track_column.shape:
        raise GtsrbError(
            f'labels {label_column.shape} and tracks {track_column.shape} must be two '
            'one-dimensional arrays of the same length'
        )
    splits = np.full(label_column.shape, 'train', dtype='<U6')
    for label in np.unique(label_column):
        mine = label_column == label
        numbers = [int(track) for track in np.unique(track_column[mine])]
        numbers.sort(key=lambda track: _rank(seed, int(label), track))
        report = max(1, round(REPORT_SHARE * len(numbers)))
        select = max(1, round(SELECT_SHARE * len(numbers)))
        splits[mine & np.isin(track_column, numbers[:report])] = 'report'
        splits[mine & np.isin(track_column, numbers[report : report + select])] = 'select'
    return splits


def training_files(
    root: str | os.PathLike[str],
) -> tuple[list[Path], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Files, labels (N,) and tracks (N,) of the original training images below `root`.

    They lie in Training/LABEL/TRACK_FRAME.ppm; tracks come one after the other, in time order.
    Raises GtsrbError.
    """
    files = sorted(Path(root).glob('Training/*/*_*.ppm'))
    try:
        numbers = [(int(f.parent.name), int(f.stem.partition('_')[0])) for f in files]
    except ValueError as error:
        raise GtsrbError(f'{root}: expected Training/LABEL/TRACK_FRAME.ppm: {error}') from error
    if not files or not 0 <= numbers[-1][0] <= 42:
        raise GtsrbError(f'{root}: no images of labels 0 to 42 in Training/LABEL/TRACK_FRAME.ppm')
    labels, tracks = np.array(numbers, np.int64).T
    return files, labels, tracks


def test_files(root: str | os.PathLike[str]) -> tuple[list[Path], npt.NDArray[np.int64]]:
    """Files and labels (N,) of the competition's test images below `root`. Raises GtsrbError."""
    table = Path(root).parent / 'GT-final_test.csv'
    images = Path(root) / 'Final_Test' / 'Images'
    try:
        with table.open(newline='', encoding='utf-8') as file:
            rows = [
                (row['Filename'], int(row['ClassId']))
                for row in csv.DictReader(file, delimiter=';')
            ]
    except (OSError, ValueError, KeyError) as error:
        raise GtsrbError(f'{table}: not the labels of the test images: {error}') from error
    return [images / name for name, _ in rows], np.array([label for _, label in rows], np.int64)


def load_packed(path: str | os.PathLike[str]) -> PackedGtsrb:
    """Read the packed file, or the file of that name in a folder. Raises DatasetError."""
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    return packed_of(file, read_npz(file, COLUMNS))


def packed_of(file: Path, columns: Mapping[str, npt.NDArray]) -> PackedGtsrb:
    """The images that the columns of a packed `file` are. Raises GtsrbError."""
    if missing := [name for name in COLUMNS if name not in columns]:
        raise GtsrbError(f'{file} is no packed GTSRB file: it lacks {", ".join(missing)}')
    images = columns['images']
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
        raise GtsrbError(
            f'{file}: images are {images.dtype} {images.shape}, expected uint8 (N, H, W, 3)'
        )
    for name in COLUMNS[1:]:
        column = columns[name]
        if column.shape != (len(images),) or not np.issubdtype(column.dtype, np.integer):
            raise GtsrbError(
                f'{file}: {name} is {column.dtype} {column.shape}, expected {len(images)} integers'
            )
    labels = columns['labels'].astype(np.int64)
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label <= 42:
            raise GtsrbError(f'{file}: label {label} is outside 0..42')
    return PackedGtsrb(
        images, labels, columns['track'].astype(np.int64), columns['frame'].astype(np.int64)
    )


def _rank(seed: int, label: int, track: int) -> bytes:
    return hashlib.sha256(f'{seed}/{label}/{track}'.encode()).digest()
