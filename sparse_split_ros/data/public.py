# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Public data sets in the forms they are found in, and their download.

Labels keep the order of the data set. A tenth of the official training part is the split `select`,
drawn by a committed seed within each class; the official test set is the split `report`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.datasets import (
    DatasetError,
    Images,
    LabelledImages,
    cache_directory,
    find_data,
)
from sparse_split_ros.data.files import IMAGE_SUFFIXES, is_hidden, read_npz, write_npz
from sparse_split_ros.data.folder import load_folder
from sparse_split_ros.data.images import ImageError, decode_file, resize_to
from sparse_split_ros.data.splits import SELECT_SHARE, SPLIT_SEED, check_split, divide
from sparse_split_ros.vision import torchvision

CIFAR10_JPEG = 'cifar10_jpeg.tar.xz'
"""CIFAR-10 as JPEG files of quality 75: lossy, so figures on it are not those of CIFAR-10."""
MNIST_PACKED = 'mnist.npz'
_DIGITS = tuple('0123456789')


def load_cifar10(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of CIFAR-10: the original, the JPEG archive, or a folder with train and test."""
    folder = find_data(data)
    if (folder / 'cifar-10-batches-py').is_dir():
        return _from_torchvision('CIFAR10', folder, split, size)
    archive = folder if folder.is_file() else folder / CIFAR10_JPEG
    if archive.exists():
        return _packed(archive, split, size)
    return _divided_folder('CIFAR-10', folder, split, size, f'cifar-10-batches-py, {CIFAR10_JPEG}')


def load_cifar100(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of CIFAR-100: the original, or a folder with train and test."""
    folder = find_data(data)
    if (folder / 'cifar-100-python').is_dir():
        return _from_torchvision('CIFAR100', folder, split, size)
    return _divided_folder('CIFAR-100', folder, split, size, 'cifar-100-python')


def load_mnist(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of MNIST in three equal channels: 28 x 28 pixels, or with a border of 2 as 32 x 32.

    A larger `size` is the image with its border, resized.
    """
    folder = find_data(data)
    packed = folder if folder.is_file() else folder / MNIST_PACKED
    if packed.exists():
        images, labels = _packed_mnist(packed, _official(split))
    elif (folder / 'MNIST').is_dir():
        found = _found('MNIST', folder, split)
        images, labels = found.data.numpy(), found.targets.numpy().astype(np.int64)
    else:
        raise DatasetError(
            f'{folder}: no MNIST there: expected {MNIST_PACKED}, or what "sparse-split download '
            'mnist" leaves'
        )
    if size != images.shape[1]:
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    coloured = np.repeat(images[..., None], 3, axis=3)
    return _of_split(coloured, labels, _DIGITS, split, size)


def load_caltech256(data: str | os.PathLike[str] | None, split: str, size: int) -> LabelledImages:
    """One split of Caltech-256, which has no test set: divided as a folder of one's own is.

    The folder `256_ObjectCategories` is looked for; clutter is its last class.
    """
    folder = find_data(data)
    places = (folder / 'caltech256' / '256_ObjectCategories', folder / '256_ObjectCategories')
    return load_folder(next((p for p in places if p.is_dir()), folder), split, size)


def download(name: str, directory: str | os.PathLike[str]) -> None:
    """Download the data set `name` into `directory` with torchvision.

    Raises DatasetError for a name that is none of DOWNLOADS and when the download fails,
    VisionError without torchvision.
    """
    if name not in DOWNLOADS:
        raise DatasetError(f'unknown data set {name!r}; choose one of {", ".join(DOWNLOADS)}')
    datasets = torchvision().datasets
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        DOWNLOADS[name](datasets, directory)
    except (
        OSError, EOFError, RuntimeError, http.client.HTTPException, tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise DatasetError(f'{name} cannot be downloaded to {directory}: {error}') from error


def _download_gtsrb(datasets: Any, directory: str | os.PathLike[str]) -> None:
    for part in ('train', 'test'):
        datasets.GTSRB(directory, split=part, download=True)


DOWNLOADS: dict[str, Callable[[Any, str | os.PathLike[str]], object]] = {
    'caltech256': lambda datasets, to: datasets.Caltech256(to, download=True),
    'cifar10': lambda datasets, to: datasets.CIFAR10(to, download=True),
    'cifar100': lambda datasets, to: datasets.CIFAR100(to, download=True),
    'gtsrb': _download_gtsrb,
    'mnist': lambda datasets, to: datasets.MNIST(to, download=True),
}


def _official(split: str) -> str:
    """The official part that a split is of. Raises DatasetError."""
    return 'test' if check_split(split) == 'report' else 'train'


def _of_split(
    images: Images,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    split: str,
    size: int,
    origin: str = '',
) -> LabelledImages:
    """A split of an official part, at size x size pixels."""
    numbers = np.arange(len(labels))
    if split != 'report':
        numbers = numbers[selected(labels) == (split == 'select')]
    return LabelledImages(_sized(images[numbers], size), labels[numbers], numbers, classes, origin)


def _sized(images: Images, size: int) -> Images:
    """The images (N, H, W, 3) at size x size pixels."""
    if images.shape[1:3] == (size, size):
        return images
    return np.stack([resize_to(image, size, size) for image in images])


def selected(labels: NDArray[np.int64], seed: int = SPLIT_SEED) -> NDArray[np.bool_]:
    """Which images (N,) of an official training part are the split `select`: 10 % of each class.

    They are ordered by a hash, which no release of numpy can reshuffle.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        ranks = [hashlib.sha256(f'{seed}/{label}/{i}'.encode()).digest() for i in range(len(own))]
        count = max(1, round(SELECT_SHARE * len(own)))
        chosen[own[sorted(range(len(own)), key=ranks.__getitem__)[:count]]] = True
    return chosen


def _from_torchvision(name: str, folder: Path, split: str, size: int) -> LabelledImages:
    """CIFAR in its original form; torchvision compares its hashes before it unpickles anything."""
    found = _found(name, folder, split)
    labels = np.asarray(found.targets, np.int64)
    return _of_split(found.data, labels, tuple(found.classes), split, size)


def _found(name: str, folder: Path, split: str) -> Any:
    """The official part that a split is of, as torchvision reads it. Raises DatasetError."""
    part = _official(split)
    try:
        return getattr(torchvision().datasets, name)(folder, train=part == 'train')
    except (RuntimeError, OSError) as error:
        raise DatasetError(f'{folder}: {name} is not whole: {error}') from error


def _divided_folder(name: str, folder: Path, split: str, size: int, forms: str) -> LabelledImages:
    if not all((folder / part).is_dir() for part in ('train', 'test')):
        raise DatasetError(
            f'{folder}: no {name} there: expected {forms}, or folders train and test of class '
            f'folders; "sparse-split download {name.lower().replace("-", "")}" fetches it'
        )
    return load_folder(folder, split, size)


def _packed(archive: Path, split: str, size: int) -> LabelledImages:
    """A folder with train and test in a tar archive, divided as it would be unpacked.

    Its images are decoded once, and kept below `cache_directory`.
    """
    official = _official(split)
    images, names = _unpacked(archive)
    files: dict[tuple[str, str], dict[str, list[int]]] = {}
    for index, name in enumerate(names):
        part, label, inside = name.split('/', 2)
        # As in a folder, what lies in one folder of a class stays together.
        group = inside.partition('/')[0]
        files.setdefault((part, label), {}).setdefault(group, []).append(index)
    classes = sorted({label for _, label in files})
    rows: list[tuple[int, int, int]] = []
    for number, label in enumerate(classes):
        own = files.get((official, label))
        if own is None:
            raise DatasetError(f'{archive}: no image of {label} in {official}')
        for group in own if split == 'report' else divide(own, split, 0):
            rows += [(index, number, own[group][0]) for index in own[group]]
    numbers, labels, groups = np.array(rows, np.int64).T
    some = _sized(images[numbers], size)
    return LabelledImages(some, labels, groups, tuple(classes), archive.name)


def _unpacked(archive: Path) -> tuple[Images, list[str]]:
    """What `_decode` gives, from below `cache_directory` where it is kept."""
    kept = cache_directory() / f'{_digest(archive)}.npz'
    if kept.exists():
        with contextlib.suppress(DatasetError):  # a damaged one is made anew
            arrays = read_npz(kept, ('images', 'names'))
            if len(arrays) == 2:
                return arrays['images'], arrays['names'].tolist()
    images, names = _decode(archive)
    try:
        write_npz(kept, images=images, names=np.array(names))
    except OSError as error:
        raise DatasetError(
            f'{kept}: cannot be written ({error}); SPARSE_SPLIT_CACHE names another directory'
        ) from error
    return images, names


def _digest(path: Path) -> str:
    with path.open('rb') as file:
        return f'{path.name.partition(".")[0]}-{_sha256(file)[:16]}'


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _decode(archive: Path) -> tuple[Images, list[str]]:
    """All images of an archive, and their names as PART/CLASS/FILE, FILE perhaps in folders."""
    images: list[Images] = []
    names = []
    try:
        # Nothing is written under the names in the archive, so they can do no harm.
        with tarfile.open(archive) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                name = _name_inside(Path(member.name))
                if file is None or name is None:
                    continue
                try:
                    images.append(decode_file(file.read()))
                except ImageError as error:
                    raise DatasetError(
                        f'{archive}: {member.name}: not a readable image: {error}'
                    ) from error
                names.append(name)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
        raise DatasetError(f'{archive}: not a readable archive: {error}') from error
    if len({image.shape for image in images}) != 1:
        raise DatasetError(
            f'{archive}: expected images of one size in train/CLASS and test/CLASS, found sizes '
            f'{sorted({image.shape[:2] for image in images})}'
        )
    return np.stack(images), names


def _name_inside(path: Path) -> str | None:
    """PART/CLASS/FILE of an image, None for what would be passed over in a folder."""
    at = next((i for i, each in enumerate(path.parts) if each in ('train', 'test')), None)
    inside = () if at is None else path.parts[at:]
    hidden = any(is_hidden(Path(each)) for each in inside)
    if len(inside) < 3 or hidden or path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    return '/'.join(inside)


def _packed_mnist(path: Path, part: str) -> tuple[Images, NDArray[np.int64]]:
    columns = read_npz(path, (f'{part}_images', f'{part}_labels'))
    if len(columns) < 2:
        raise DatasetError(f'{path}: no packed MNIST file: expected {part}_images, {part}_labels')
    images, labels = columns.values()
    if labels.ndim != 1 or images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise DatasetError(
            f'{path}: images are {images.dtype} {images.shape}, labels {labels.shape}, expected '
            'uint8 (N, 28, 28) and (N,)'
        )
    return images, labels.astype(np.int64)
