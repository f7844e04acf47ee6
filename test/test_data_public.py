# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Public data sets: their forms, splits that leave the test set alone, and what is refused."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sparse_split_ros import vision
from sparse_split_ros.cli import main
from sparse_split_ros.data.datasets import DatasetError, LabelledImages
from sparse_split_ros.data.folder import FolderError
from sparse_split_ros.data.public import (
    CIFAR10_JPEG,
    MNIST_PACKED,
    download,
    load_caltech256,
    load_cifar10,
    load_cifar100,
    load_mnist,
    selected,
)

CLASSES = ('cat', 'frog', 'ship')
SPLITS = ('train', 'select', 'report')


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('SPARSE_SPLIT_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def datasets() -> Any:
    """torchvision's data sets; the test is skipped where torchvision is not installed."""
    pytest.importorskip('torch')
    try:
        return vision.torchvision().datasets
    except vision.VisionError as error:
        pytest.skip(str(error))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the address under which it is served."""
    (tmp_path / 'server').mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'server'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield tmp_path / 'server', f'http://127.0.0.1:{http.server_port}'
        http.shutdown()
        thread.join()


def png(value: int, side: int = 32) -> bytes:
    """A flat grey image."""
    return cv2.imencode('.png', np.full((side, side, 3), value, np.uint8))[1].tobytes()


def pictures() -> dict[str, bytes]:
    """Ten training and four test images of each class, told apart by their grey."""
    return {
        f'{part}/{name}/{index}.png': png(80 * label + 20 * (part == 'test') + index)
        for part, count in (('train', 10), ('test', 4))
        for label, name in enumerate(CLASSES)
        for index in range(count)
    }


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, 'w:xz') as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f'cifar10/{name}')
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def unpack(directory: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)


def greys(data: LabelledImages) -> list[tuple[int, int]]:
    """Label and grey of every image, sorted."""
    return sorted(zip(data.labels.tolist(), data.images[:, 0, 0, 0].tolist()))


def test_an_archive_and_its_unpacked_folder_are_divided_alike(tmp_path: Path) -> None:
    (tmp_path / 'archive').mkdir()
    pack(tmp_path / 'archive' / CIFAR10_JPEG, pictures())
    unpack(tmp_path / 'folder', pictures())
    for split, count in zip(SPLITS, (27, 3, 12)):
        packed = load_cifar10(tmp_path / 'archive', split, 32)
        unpacked = load_cifar10(tmp_path / 'folder', split, 32)
        assert packed.classes == unpacked.classes == CLASSES
        assert len(packed) == count
        assert greys(packed) == greys(unpacked)
        assert packed.origin == CIFAR10_JPEG


def test_only_report_holds_test_images(tmp_path: Path) -> None:
    unpack(tmp_path, pictures())
    seen = {split: greys(load_cifar10(tmp_path, split, 32)) for split in SPLITS}
    assert seen['report'] == [
        (label, 80 * label + 20 + index) for label in range(3) for index in range(4)
    ]
    assert sorted(seen['train'] + seen['select']) == [
        (label, 80 * label + index) for label in range(3) for index in range(10)
    ]


def test_a_folder_with_val_selects_on_it(tmp_path: Path) -> None:
    unpack(tmp_path, pictures())
    unpack(tmp_path, {f'val/{name}/0.png': png(7) for name in CLASSES})
    assert greys(load_cifar10(tmp_path, 'select', 32)) == [(0, 7), (1, 7), (2, 7)]
    assert len(load_cifar10(tmp_path, 'train', 32)) == 30


def test_an_archive_is_decoded_once(tmp_path: Path, cache: Path) -> None:
    pack(tmp_path / CIFAR10_JPEG, pictures())
    load_cifar10(tmp_path, 'train', 32)
    (kept,) = cache.iterdir()
    written = kept.stat().st_mtime_ns
    assert load_cifar10(tmp_path, 'train', 16).images.shape == (27, 16, 16, 3)
    assert kept.stat().st_mtime_ns == written


def test_another_archive_of_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    pack(tmp_path / CIFAR10_JPEG, pictures())
    assert len(load_cifar10(tmp_path, 'report', 32)) == 12
    pack(tmp_path / CIFAR10_JPEG, {k: v for k, v in pictures().items() if not k.endswith('3.png')})
    assert len(load_cifar10(tmp_path, 'report', 32)) == 9


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'train/cat/0.png': b'no image', 'test/cat/0.png': png(0)}, 'cat/0.png: not a readable'),
        ({'train/cat/0.png': png(0), 'test/cat/0.png': png(0, 16)}, 'expected images of one size'),
        ({'train/cat/0.png': png(0), 'test/frog/0.png': png(0)}, 'no image of cat in test'),
        ({'readme.txt': b''}, 'expected images of one size'),
    ],
)
def test_an_archive_with_something_else_is_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    pack(tmp_path / CIFAR10_JPEG, files)
    with pytest.raises((DatasetError, FolderError), match=message):
        load_cifar10(tmp_path, 'report', 32)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    pack(tmp_path / CIFAR10_JPEG, pictures())
    whole = (tmp_path / CIFAR10_JPEG).read_bytes()
    (tmp_path / CIFAR10_JPEG).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match='not a readable archive'):
        load_cifar10(tmp_path, 'train', 32)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, cache: Path) -> None:
    pack(tmp_path / CIFAR10_JPEG, pictures())
    cache.write_text('not a directory')
    with pytest.raises(DatasetError, match='SPARSE_SPLIT_CACHE names another directory'):
        load_cifar10(tmp_path, 'train', 32)


def test_train_and_test_of_other_classes_are_refused(tmp_path: Path) -> None:
    unpack(tmp_path, pictures() | {'test/dog/0.png': png(1)})
    with pytest.raises(FolderError, match='train and test differ in the classes dog'):
        load_cifar10(tmp_path, 'train', 32)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for part, count in (('train', 200), ('test', 50)):
        columns[f'{part}_images'] = rng.integers(1, 256, (count, 28, 28), dtype=np.uint8)
        columns[f'{part}_labels'] = (np.arange(count) % 10).astype(np.uint8)
    np.savez(tmp_path / MNIST_PACKED, **columns)
    return tmp_path


def test_mnist_comes_native_padded_or_resized(digits: Path) -> None:
    native, padded, large = (load_mnist(digits, 'report', size).images for size in (28, 32, 64))
    assert native.shape == (50, 28, 28, 3)
    np.testing.assert_array_equal(padded[:, 2:30, 2:30], native)
    assert not padded[:, [0, 1, 30, 31]].any()
    assert not padded[:, :, [0, 1, 30, 31]].any()
    assert large.shape == (50, 64, 64, 3)


def test_mnist_keeps_a_tenth_of_each_digit_to_select(digits: Path) -> None:
    parts = {split: load_mnist(digits, split, 28) for split in SPLITS}
    assert np.bincount(parts['select'].labels).tolist() == [2] * 10
    assert np.bincount(parts['train'].labels).tolist() == [18] * 10
    assert not set(parts['train'].groups) & set(parts['select'].groups)


def test_the_selection_is_committed() -> None:
    # Numbers that a change of the seed or of the hash would move.
    assert np.flatnonzero(selected(np.zeros(60, np.int64))).tolist() == [7, 9, 16, 32, 43, 48]


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({}, 'no packed MNIST file: expected train_images, train_labels'),
        (
            {'train_images': np.zeros((3, 8, 8), np.uint8), 'train_labels': [0, 1, 2]},
            r'\(3, 8, 8\)',
        ),
        (
            {'train_images': np.zeros((20, 28, 28), np.uint8), 'train_labels': [0, 12] * 10},
            'labels from 0 to 12 for 10 classes',
        ),
    ],
)
def test_a_wrong_mnist_file_is_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / MNIST_PACKED, **columns)
    with pytest.raises(DatasetError, match=message):
        load_mnist(tmp_path, 'train', 28)


@pytest.mark.parametrize('load', [load_cifar10, load_cifar100, load_mnist])
def test_missing_data_says_what_is_looked_for(tmp_path: Path, load: Any) -> None:
    with pytest.raises(DatasetError, match=r'no \S+ there: expected .*sparse-split download'):
        load(tmp_path, 'train', 32)


@pytest.mark.parametrize('load', [load_cifar10, load_mnist])
def test_an_unknown_split_is_named(digits: Path, load: Any) -> None:
    pack(digits / CIFAR10_JPEG, pictures())
    with pytest.raises(DatasetError, match="unknown split 'test': expected one of train"):
        load(digits, 'test', 32)


def test_caltech_is_divided_as_a_folder_of_one_s_own(tmp_path: Path) -> None:
    names = ('001.ak47', '002.american-flag')
    unpack(
        tmp_path / '256_ObjectCategories',
        {f'{name}/{i}.jpg': png(i, 20 + i) for name in names for i in range(10)},
    )
    parts = [load_caltech256(tmp_path, split, 24) for split in SPLITS]
    assert [len(part) for part in parts] == [14, 2, 4]
    assert parts[0].classes == names


def test_cifar_is_downloaded_and_read_by_torchvision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    datasets: Any,
    server: tuple[Path, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    pixels = {
        name: rng.integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
        for name in ('data_batch_1', 'test_batch')
    }
    files = {
        name: pickle.dumps({'data': rows.reshape(40, -1), 'labels': [i % 10 for i in range(40)]})
        for name, rows in pixels.items()
    }
    files['batches.meta'] = pickle.dumps({'label_names': [f'class {i}' for i in range(10)]})
    archive = server[0] / 'cifar-10-python.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f'cifar-10-batches-py/{name}')
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    cifar = datasets.CIFAR10
    monkeypatch.setattr(cifar, 'url', f'{server[1]}/{archive.name}')
    monkeypatch.setattr(cifar, 'tgz_md5', hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar, 'train_list', [['data_batch_1', md5['data_batch_1']]])
    monkeypatch.setattr(cifar, 'test_list', [['test_batch', md5['test_batch']]])
    meta = {'filename': 'batches.meta', 'key': 'label_names', 'md5': md5['batches.meta']}
    monkeypatch.setattr(cifar, 'meta', meta)
    data = tmp_path / 'data'
    assert main(['download', 'cifar10', '--data', str(data)]) == 0
    assert f'cifar10 is in {data}' in capsys.readouterr().out
    report = load_cifar10(data, 'report', 32)
    np.testing.assert_array_equal(report.images, pixels['test_batch'].transpose(0, 2, 3, 1))
    assert report.classes[3] == 'class 3'
    assert [len(load_cifar10(data, split, 32)) for split in SPLITS] == [30, 10, 40]
    (data / 'cifar-10-batches-py' / 'data_batch_1').write_bytes(b'tampered')
    with pytest.raises(DatasetError, match='CIFAR10 is not whole'):
        load_cifar10(data, 'train', 32)


def test_mnist_is_downloaded_and_read_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Any, server: tuple[Path, str]
) -> None:
    resources = []
    for part, count in (('train', 40), ('t10k', 20)):
        images = np.full((count, 28, 28), count, np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (('images-idx3', images), ('labels-idx1', labels)):
            shape = b''.join(side.to_bytes(4, 'big') for side in values.shape)
            file = server[0] / f'{part}-{kind}-ubyte.gz'
            file.write_bytes(
                gzip.compress(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())
            )
            resources.append((file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, 'mirrors', [f'{server[1]}/'])
    monkeypatch.setattr(datasets.MNIST, 'resources', resources)
    download('mnist', tmp_path / 'data')
    assert [len(load_mnist(tmp_path / 'data', split, 28)) for split in SPLITS] == [30, 10, 20]
    assert load_mnist(tmp_path / 'data', 'report', 28).images.max() == 20


def test_a_download_that_fails_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datasets: Any, server: tuple[Path, str]
) -> None:
    monkeypatch.setattr(datasets.CIFAR10, 'url', f'{server[1]}/nothing.tar.gz')
    with pytest.raises(DatasetError, match='cifar10 cannot be downloaded'):
        download('cifar10', tmp_path / 'data')


def test_an_unknown_download_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unknown data set 'imagenet'; choose one of caltech256"):
        download('imagenet', tmp_path)


def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    pack(tmp_path / CIFAR10_JPEG, pictures())
    whole = load_cifar10(tmp_path, 'train', 32)
    [kept] = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(load_cifar10(tmp_path, 'train', 32).images, whole.images)
    kept.unlink()
    np.savez(kept, images=whole.images)
    np.testing.assert_array_equal(load_cifar10(tmp_path, 'train', 32).images, whole.images)


def test_an_archive_is_divided_as_the_folder_that_it_unpacks_to(tmp_path: Path) -> None:
    files = {
        name.replace('/cat/', f'/cat/of {index % 4}/'): data
        for index, (name, data) in enumerate(pictures().items())
    }
    files['train/cat/of 0/._0.png'] = files['train/ship/Thumbs.db'] = b'of another system'
    pack(tmp_path / CIFAR10_JPEG, files)
    unpack(tmp_path / 'unpacked', files)
    for split in SPLITS:
        packed = load_cifar10(tmp_path / CIFAR10_JPEG, split, 32)
        folder = load_cifar10(tmp_path / 'unpacked', split, 32)
        assert greys(packed) == greys(folder)
        assert len(set(packed.groups.tolist())) == len(set(folder.groups.tolist()))


def test_an_incomplete_mnist_is_refused(tmp_path: Path, datasets: Any) -> None:
    (tmp_path / 'MNIST').mkdir()
    with pytest.raises(DatasetError, match='MNIST is not whole'):
        load_mnist(tmp_path, 'train', 28)
