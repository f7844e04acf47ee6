# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames from whatever is at hand: a bag, images, a video, a camera, GTSRB or the drive."""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from sparse_split_ros.data.bags import BAG_SUFFIXES, Frame, is_bag, read_bag, write_bag
from sparse_split_ros.data.datasets import DatasetError
from sparse_split_ros.data.drive import START_NS, Drive, DriveError, render_drive
from sparse_split_ros.data.files import (
    IMAGE_SUFFIXES,
    images_in,
    is_utf_8,
    named,
    natural,
    read_npz,
)
from sparse_split_ros.data.folder import is_divided
from sparse_split_ros.data.gtsrb import COLUMNS, divide_tracks, packed_of, training_files
from sparse_split_ros.data.images import ImageError, decode_file
from sparse_split_ros.data.labels import LABELS, read_labels
from sparse_split_ros.data.parts import parts_of
from sparse_split_ros.data.signs import CLASSES
from sparse_split_ros.data.splits import check_split

VIDEO_SUFFIXES = frozenset({'.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg'})


class SourceError(Exception):
    """A source of frames is missing, unreadable or of no known kind."""


def open_source(
    spec: str | os.PathLike[str],
    image_topic: str | None = None,
    *,
    split: str | None = None,
    rate: float = 30.0,
    limit: int | None = None,
    seed: int = 1,
    broken: bool = False,
) -> Iterator[Frame]:
    """Stream the frames of a source, images as (H, W, 3) uint8 RGB; grey arrays as (H, W).

    `spec` is a bag (its directory or storage file), a folder of images (whose labels are in its
    labels.csv, or the folders inside), an image, a video, a camera ('0' or '/dev/video0'), the
    GTSRB as its original images (a data directory, or gtsrb/GTSRB in it) or packed as an .npz
    (tracks one after the other, each in time order), or the word 'drive' for the drawn drive.
    `image_topic` matters to bags, `seed` to the drive; `rate` in Hz stamps what has no stamps. At
    most `limit` frames are given. `split` (train, select, report, all) is a part of the GTSRB, by
    itself report, or of a folder that training would divide, by itself all; nothing else has parts.
    Files that cannot be decoded are given as frames with an `error` if `broken` ones are wanted.

    Raises SourceError, or BagError for a bag: at once for a source that does not exist or is of no
    known kind, while reading for what is wrong inside.
    """
    if not 1e-3 <= rate <= 1e6:
        raise SourceError(f'rate {rate} Hz: expected 0.001 to 1000000')
    if limit is not None and limit < 0:
        raise SourceError(f'limit {limit} is negative')
    frames = _frames(os.fspath(spec), image_topic, split, rate, seed)
    if not broken:
        frames = map(_decoded, frames)
    return itertools.islice(frames, limit if limit is None else min(limit, sys.maxsize))


def make_bag(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    rate: float = 30.0,
    limit: int | None = None,
    seed: int = 1,
    image_topic: str | None = None,
    storage: Literal['mcap', 'sqlite3'] = 'mcap',
    progress: Callable[[int], None] | None = None,
    broken: Callable[[str], None] | None = None,
) -> int:
    """Write any source but an endless camera into a labelled bag; returns the number of frames.

    Options are those of `open_source`; a camera needs a `limit`. Files that cannot be decoded are
    passed over if `broken` is there to be told why of each. Raises SourceError or BagError, and
    then leaves no bag.
    """
    if limit is None and _is_camera(os.fspath(source)):
        raise SourceError(f'camera {source} never ends: give a limit of frames')
    if limit == 0:
        raise SourceError('a limit of 0 frames leaves nothing to write')
    frames = open_source(
        source, image_topic, split=split, rate=rate, limit=limit, seed=seed,
        broken=broken is not None,
    )  # fmt: skip
    if broken is not None:
        frames = passing_over(frames, broken)
    return write_bag(out, frames, storage, progress)


def passing_over(frames: Iterator[Frame], told: Callable[[str], None]) -> Iterator[Frame]:
    """Those of the frames that could be decoded; `told` is why of each of the others."""
    for frame in frames:
        if frame.error:
            told(frame.error)
        else:
            yield frame


def _decoded(frame: Frame) -> Frame:
    if frame.error:
        raise SourceError(frame.error)
    return frame


def _frames(
    spec: str, image_topic: str | None, split: str | None, rate: float, seed: int
) -> Iterator[Frame]:
    """Choose by what the source is; choosing fails here and not at the first frame."""
    if spec == 'drive':
        _refuse_part(spec, split)
        try:
            return render_drive(Drive(seed=seed, rate=rate))
        except DriveError as error:
            raise SourceError(str(error)) from error
    if _is_camera(spec):
        _refuse_part(spec, split)
        return _camera(spec)
    path = named(spec)
    if not spec or not path.exists():
        raise SourceError(
            f"source '{spec}' does not exist: expected a bag, a folder of images, an image, a "
            "video, a camera such as /dev/video0, the GTSRB, an .npz of images or 'drive'"
        )
    suffix = path.suffix.lower()
    if is_bag(path):
        _refuse_part(spec, split)
        return read_bag(path, image_topic)
    if path.is_dir():
        for originals in (path / 'gtsrb' / 'GTSRB', path.absolute()):
            if originals.name == 'GTSRB' and (originals / 'Training').is_dir():
                return _original_tracks(originals, split or 'report', rate)
        return _folder(path, split, rate)
    if suffix == '.npz':
        return _arrays(path, split, rate)
    _refuse_part(spec, split)
    if suffix in VIDEO_SUFFIXES:
        return _video(path, rate)
    if suffix in IMAGE_SUFFIXES:
        return iter([_decoded(_picture(path.parent, path, START_NS))])
    known = sorted(BAG_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES | {'.npz'})
    raise SourceError(f"source '{spec}' is of no known kind: expected one of {', '.join(known)}")


def _refuse_part(spec: str, split: str | None) -> None:
    """Of what has no parts, all or nothing is asked."""
    if split not in (None, 'all'):
        raise SourceError(
            f"source '{spec}' has no part '{split}': only the GTSRB and folders of labelled images "
            'have'
        )


def _is_camera(spec: str) -> bool:
    numbered = re.fullmatch(r'\d{1,3}', spec) is not None and not Path(spec).exists()
    return numbered or re.fullmatch(r'/dev/video\d+', spec) is not None


def _stamp(index: int, rate: float) -> int:
    return START_NS + round(index * 1e9 / rate)


def _rgb(bgr: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(bgr, np.uint8)[..., ::-1])


def _load(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return decode_file(path.read_bytes())
    except (OSError, ImageError) as error:
        raise SourceError(f'image {_printable(path)} cannot be read: {error}') from error


def _picture(
    root: Path,
    file: Path,
    stamp: int,
    label: str | None = None,
    others: Mapping[str, str] | None = None,
) -> Frame:
    """A file below `root` as a frame. One that cannot be decoded costs none of the others."""
    try:
        image, error = _load(file), ''
    except SourceError as reason:
        image, error = np.empty((0, 0, 3), np.uint8), str(reason)
    name = _printable(file.relative_to(root) if file.is_relative_to(root) else file)
    return Frame(stamp, 'camera', image, label, others=others or {}, file=name, error=error)


def _printable(path: Path) -> str:
    """A name as no line, table or file in UTF-8 takes harm of."""
    return ''.join(each if each.isprintable() else ascii(each)[1:-1] for each in str(path))


def _folder(path: Path, split: str | None, rate: float) -> Iterator[Frame]:
    try:
        chosen = None if split in (None, 'all') else _part(path, split or '')
        if (path / LABELS).is_file():
            return _labelled(path, chosen, rate)
        files = sorted(images_in(path), key=lambda file: natural(str(file)))
        # Below train and test lie the class folders.
        depth = 1 if is_divided(path) else 0
    except DatasetError as error:
        raise SourceError(str(error)) from error
    if not files:
        raise SourceError(
            f'folder {path} holds no images ({", ".join(sorted(IMAGE_SUFFIXES))}) and no bag'
        )
    if chosen is None:
        rows = [(file, _folder_label(path, file, depth)) for file in files]
    else:
        rows = [(file, chosen[file]) for file in files if file in chosen]
    return (
        _picture(path, file, _stamp(index, rate), label) for index, (file, label) in enumerate(rows)
    )


def _part(path: Path, split: str) -> dict[Path, str]:
    """The images of one part of a folder, with their classes. Raises DatasetError."""
    check_split(split)
    return {file: label for file, (part, label) in parts_of(path).items() if part == split}


def _labelled(path: Path, chosen: Container[Path] | None, rate: float) -> Iterator[Frame]:
    """The images of a folder with a `labels.csv`, or the chosen ones, in the order of its lines."""
    rows = [
        (file, list(said.items()))
        for file, said in read_labels(path).items()
        if chosen is None or file in chosen
    ]
    return (
        _picture(path, file, _stamp(index, rate), first[1], dict(others))
        for index, (file, (first, *others)) in enumerate(rows)
    )


def _folder_label(root: Path, file: Path, depth: int) -> str | None:
    """The name of the folder that many folders below `root`, if the file lies in one."""
    folders = file.relative_to(root).parts[:-1]
    if len(folders) <= depth:
        return None
    label = folders[depth]
    if not is_utf_8(label):  # which no message can hold
        raise SourceError(
            f'folder {root}: the name {os.fsencode(label)!r} in it is a label and not UTF-8: '
            'rename it'
        )
    return label


def _arrays(path: Path, split: str | None, rate: float) -> Iterator[Frame]:
    """The packed GTSRB, or `images` (N, H, W[, 3]) uint8, RGB or grey, with `labels` (N,) or none.

    Labels are class numbers, or names; `classes`, if it is there, names the numbers.
    """
    try:
        columns = read_npz(path, {*COLUMNS, 'classes'})
    except DatasetError as error:
        raise SourceError(str(error)) from error
    if 'track' in columns:
        return _tracks(path, columns, split or 'report', rate)
    _refuse_part(str(path), split)
    images, labels = columns.get('images'), columns.get('labels')
    if images is None or images.dtype != np.uint8 or not images.size or not (
        images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    ):  # fmt: skip
        found = 'none' if images is None else f'{images.dtype} {images.shape}'
        raise SourceError(f"{path}: expected 'images' (N, H, W, 3) uint8, found {found}")
    if labels is not None and labels.shape != (len(images),):
        raise SourceError(f'{path}: {len(images)} images, but labels of shape {labels.shape}')
    if labels is not None and labels.dtype.kind not in 'iuUS':
        raise SourceError(f'{path}: labels are {labels.dtype}, expected class numbers or names')
    names = columns.get('classes')
    if names is not None and labels is not None:
        if names.ndim != 1 or labels.dtype.kind not in 'iu' or not (
            labels.min() >= 0 and labels.max() < len(names)
        ):  # fmt: skip
            raise SourceError(
                f'{path}: labels are no numbers of its classes, an array of shape {names.shape}'
            )
        labels = names[labels]
    if labels is not None and labels.dtype.kind == 'S':
        labels = np.char.decode(labels, 'utf-8', 'backslashreplace')
    return (
        Frame(_stamp(i, rate), 'camera', image, None if labels is None else str(labels[i]))
        for i, image in enumerate(images)
    )


def _tracks(
    path: Path, columns: Mapping[str, npt.NDArray], split: str, rate: float
) -> Iterator[Frame]:
    try:
        packed = packed_of(path, columns)
        order = packed.indices(split)
    except DatasetError as error:
        raise SourceError(str(error)) from error
    if not len(order):
        raise SourceError(f"{path} has no frames in its split '{split}'")
    return (
        Frame(_stamp(index, rate), 'camera', packed.images[at], CLASSES[packed.labels[at]])
        for index, at in enumerate(order)
    )


def _original_tracks(path: Path, split: str, rate: float) -> Iterator[Frame]:
    try:
        files, labels, tracks = training_files(path)
        chosen = np.ones(len(files), bool)
        if split != 'all':
            chosen = divide_tracks(labels, tracks) == check_split(split)
    except DatasetError as error:
        raise SourceError(str(error)) from error
    if not chosen.any():
        raise SourceError(f"{path} has no frames in its split '{split}'")
    return (
        _picture(path, files[at], _stamp(index, rate), CLASSES[labels[at]])
        for index, at in enumerate(np.flatnonzero(chosen))
    )


def _video(path: Path, rate: float) -> Iterator[Frame]:
    if not is_utf_8(str(path)):  # which ends OpenCV, and us
        raise SourceError(f'video {os.fsencode(path)!r}: its name is not UTF-8: rename it')
    capture = cv2.VideoCapture(str(path))
    count = 0
    try:
        if not capture.isOpened():
            raise SourceError(f'video {path} cannot be opened: no decoder, or not a video')
        recorded = capture.get(cv2.CAP_PROP_FPS)
        pace = recorded if math.isfinite(recorded) and recorded > 0.0 else rate
        while True:
            good, image = capture.read()
            if not good:
                break
            yield Frame(_stamp(count, pace), 'camera', _rgb(image))
            count += 1
        if count == 0:
            raise SourceError(f'video {path} holds no frame that can be decoded')
    finally:
        capture.release()


def _camera(spec: str) -> Iterator[Frame]:
    capture = cv2.VideoCapture(int(re.sub(r'\D', '', spec)))
    try:
        if not capture.isOpened():
            raise SourceError(f'camera {spec} cannot be opened: is it there, and not in use?')
        # One frame in the driver's queue at most: late pictures are worth nothing.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        while True:
            good, image = capture.read()
            if not good:
                raise SourceError(f'camera {spec} stopped giving frames')
            yield Frame(time.time_ns(), 'camera', _rgb(image))
    finally:
        capture.release()
