# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets by name: labelled bags, and GTSRB in both of its forms."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sparse_split_ros.data import bags
from sparse_split_ros.data.bags import BagError, Frame, write_bag
from sparse_split_ros.data.datasets import DatasetError
from sparse_split_ros.data.gtsrb import FILE_NAME, GtsrbError
from sparse_split_ros.data.images import ImageError
from sparse_split_ros.data.registry import SOURCES, load_bag, load_gtsrb

SPLITS = ('train', 'select', 'report')


def record(
    path: Path, labels: list[str | None], start: int = 0, size: str = '', only: int = 5
) -> None:
    """A bag of five frames under each label; the grey tells the run.

    In turn, frames are of the letters of `size` as a task of that name, the first `only` of each
    run.
    """
    frames = []
    for index, label in enumerate(label for label in labels for _ in range(5)):
        image = np.full((24, 30, 3), start + index // 5, np.uint8)
        others = {'size': size[index % len(size)]} if size and index % 5 < only else {}
        frames.append(Frame(1_000_000 * (1 + index), 'camera', image, label, others=others))
    write_bag(path, frames)


def test_frames_that_follow_one_another_stay_together(tmp_path: Path) -> None:
    record(tmp_path / 'bag', ['box', 'cup'] * 10)
    parts = {split: load_bag(tmp_path / 'bag', split, 16) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [70, 10, 20]
    runs = {split: set(part.images[:, 0, 0, 0].tolist()) for split, part in parts.items()}
    assert not runs['train'] & runs['select'] | runs['train'] & runs['report']
    assert len(set.union(*runs.values())) == 20
    train = parts['train']
    assert train.classes == ('box', 'cup')
    assert train.images.shape[1:] == (16, 16, 3)
    assert len(set(train.groups.tolist())) == 14
    # Even runs are boxes.
    np.testing.assert_array_equal(train.images[:, 0, 0, 0] % 2, train.labels)


def test_frames_without_a_label_are_counted_and_part_nothing(tmp_path: Path) -> None:
    """Where one frame in ten is labelled, neighbours still show the same thing."""
    record(tmp_path / 'bag', ['box', None, 'box', 'cup', None, 'cup'] * 3)
    parts = [load_bag(tmp_path / 'bag', split, 16) for split in SPLITS]
    assert [len(part) for part in parts] == [20, 20, 20]
    assert all(part.passed_over == {'without a label': 30} for part in parts)


def test_frames_that_lack_a_task_are_counted(tmp_path: Path) -> None:
    record(tmp_path / 'monday', ['box', 'cup'] * 10, size='ls', only=4)
    record(tmp_path / 'tuesday', ['box', 'cup'] * 4)
    [told] = load_bag(tmp_path, 'train', 16).passed_over.items()
    assert told == ('without a label of each of class, size', 20 + 40)


def test_a_bag_is_divided_alike_however_its_path_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / 'bag', ['box', 'cup'] * 10)
    whole = load_bag(tmp_path / 'bag', 'report', 16)
    monkeypatch.chdir(tmp_path / 'bag')
    for path in ('.', next(Path().glob('*.mcap')), Path('..') / 'bag'):
        np.testing.assert_array_equal(load_bag(path, 'report', 16).images, whole.images)


def test_a_folder_of_bags_is_one_data_set(tmp_path: Path) -> None:
    record(tmp_path / 'monday', ['box', 'cup', 'box', 'cup'])
    record(tmp_path / 'tuesday', ['cup', 'box'], start=50)
    parts = [load_bag(tmp_path, split, 16) for split in SPLITS]
    assert [len(part) for part in parts] == [10, 10, 10]
    storage = next((tmp_path / 'monday').glob('*.mcap'))
    with pytest.raises(DatasetError, match="'box' comes 2 times, expected at least 3"):
        load_bag(storage, 'train', 16)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        ([None], 'images of 0 labels on ground_truth, expected at least two'),
        (['box'], 'images of 1 labels on ground_truth, expected at least two'),
        (['box', 'cup', 'box', 'cup', 'box'], "the label 'cup' comes 2 times"),
    ],
)
def test_a_bag_without_enough_labels_is_refused(
    tmp_path: Path, labels: list[str | None], message: str
) -> None:
    record(tmp_path / 'bag', labels)
    with pytest.raises(DatasetError, match=message):
        load_bag(tmp_path / 'bag', 'train', 16)


def test_a_bag_labels_several_tasks(tmp_path: Path) -> None:
    record(tmp_path / 'bag', ['box', 'cup'] * 10, size='ls', only=4)
    parts = {split: load_bag(tmp_path / 'bag', split, 16) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [56, 8, 16]  # four of five have both
    for part in parts.values():
        assert part.tasks == {'class': ('box', 'cup'), 'size': ('l', 's')}
        box, size = part.columns
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] % 2, box)
        for group in set(part.groups.tolist()):
            chosen = part.groups == group
            assert len(set(box[chosen])) == 1
            run = int(part.images[chosen][0, 0, 0, 0])
            np.testing.assert_array_equal(size[chosen], (np.arange(4) + run * 5) % 2)


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        ('l', r'images of 1 labels on ground_truth/size.*one of each of class, size'),
        # Of a hundred frames five, one run, are of another size.
        ('l' * 95 + 's' * 5, "no image of size 's' falls to"),
    ],
)
def test_a_further_task_without_enough_labels_is_refused(
    tmp_path: Path, size: str, message: str
) -> None:
    record(tmp_path / 'bag', ['box', 'cup'] * 10, size=size)
    with pytest.raises(DatasetError, match=message):
        for split in SPLITS:
            load_bag(tmp_path / 'bag', split, 16)


def test_a_task_with_the_name_of_the_first_is_refused(tmp_path: Path) -> None:
    frame = Frame(1, 'camera', np.zeros((24, 30, 3), np.uint8), 'box', others={'class': 'cup'})
    write_bag(tmp_path / 'bag', [frame])
    with pytest.raises(DatasetError, match='holds ground_truth/class; class is what the task on'):
        load_bag(tmp_path / 'bag', 'train', 16)


def test_images_that_cannot_be_decoded_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / 'bag', ['box', 'cup'] * 10)
    good = load_bag(tmp_path / 'bag', 'train', 16)
    assert not good.passed_over
    decode, bad = bags.decode_image, itertools.cycle([False, False, True, False, False])

    def decoded(*message: Any) -> Any:
        if next(bad):
            raise ImageError('worn out')
        return decode(*message)

    monkeypatch.setattr(bags, 'decode_image', decoded)
    train = load_bag(tmp_path / 'bag', 'train', 16)
    assert len(train) == len(good) * 4 // 5
    np.testing.assert_array_equal(train.groups, np.repeat(np.arange(14), 4))
    ((why, count),) = train.passed_over.items()
    assert count == 20 and why.startswith('cannot be decoded, first bag ') and 'worn out' in why

    bad = itertools.repeat(True)
    with pytest.raises(DatasetError, match=r'of 0 labels .*; 100 cannot be decoded, first .* worn'):
        load_bag(tmp_path / 'bag', 'train', 16)


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='neither a bag nor a folder of bags'):
        load_bag(tmp_path, 'train', 16)


def originals(root: Path) -> None:
    """Ten tracks of three frames of two classes, larger frame by frame, and two test images."""
    folder = root / 'gtsrb' / 'GTSRB'
    for label in range(2):
        for track in range(10):
            for frame in range(3):
                path = folder / 'Training' / f'{label:05d}' / f'{track:05d}_{frame:05d}.ppm'
                path.parent.mkdir(parents=True, exist_ok=True)
                image = np.full((20 + frame, 18, 3), 100 * label + track, np.uint8)
                assert cv2.imwrite(str(path), image)
    test = folder / 'Final_Test' / 'Images'
    test.mkdir(parents=True)
    for index in range(2):
        assert cv2.imwrite(str(test / f'{index:05d}.ppm'), np.full((9, 9, 3), 7 + index, np.uint8))
    table = root / 'gtsrb' / 'GT-final_test.csv'
    table.write_text('Filename;Width;ClassId\n00000.ppm;9;33\n00001.ppm;9;1\n')


def packed(root: Path) -> None:
    """The same tracks as `originals`, packed."""
    label, track, frame = np.indices((2, 10, 3)).reshape(3, -1)
    images = np.empty((60, 32, 32, 3), np.uint8)
    images[:] = (100 * label + track)[:, None, None, None]
    np.savez(
        root / FILE_NAME, images=images, labels=label.astype(np.uint8),
        track=track.astype(np.uint16), frame=frame.astype(np.uint8),
    )  # fmt: skip


def test_original_and_packed_tracks_are_divided_alike(tmp_path: Path) -> None:
    for name, make in (('original', originals), ('packed', packed)):
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    for split, count in zip(SPLITS, (42, 6, 12)):
        one, other = (load_gtsrb(tmp_path / name, split) for name in ('original', 'packed'))
        assert len(one) == count
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.groups, other.groups)


def test_original_images_come_at_any_size_and_with_the_test_set(tmp_path: Path) -> None:
    originals(tmp_path)
    assert load_gtsrb(tmp_path, 'train', 64).images.shape == (42, 64, 64, 3)
    test = load_gtsrb(tmp_path, 'test', 32)
    assert test.labels.tolist() == [33, 1]
    assert test.images[:, 0, 0, 0].tolist() == [7, 8]


def test_packed_tracks_have_one_size(tmp_path: Path) -> None:
    packed(tmp_path)
    with pytest.raises(DatasetError, match='packed at 32 x 32 pixels, the network wants 64'):
        load_gtsrb(tmp_path, 'train', 64)


def test_missing_and_wrong_gtsrb_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f'no GTSRB there: expected {FILE_NAME}'):
        load_gtsrb(tmp_path, 'train')
    (tmp_path / 'gtsrb' / 'GTSRB').mkdir(parents=True)
    with pytest.raises(GtsrbError, match='no images of labels 0 to 42'):
        load_gtsrb(tmp_path, 'train')
    with pytest.raises(GtsrbError, match=r'GT-final_test\.csv: not the labels'):
        load_gtsrb(tmp_path, 'test')
    odd = tmp_path / 'gtsrb' / 'GTSRB' / 'Training' / 'stop' / '0_0.ppm'
    odd.parent.mkdir(parents=True)
    odd.touch()
    with pytest.raises(GtsrbError, match=r'expected Training/LABEL/TRACK_FRAME\.ppm'):
        load_gtsrb(tmp_path, 'train')


@pytest.mark.parametrize('name', ['bag', 'folder', 'gtsrb', 'cifar10', 'mnist', 'caltech256'])
def test_every_source_says_where_data_is_looked_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('SPARSE_SPLIT_DATA', raising=False)
    with pytest.raises(DatasetError, match='give one, or set SPARSE_SPLIT_DATA'):
        SOURCES[name](None, 'train', 32)


def test_hidden_files_beside_bags_are_passed_over(tmp_path: Path) -> None:
    record(tmp_path / 'monday', ['box', 'cup'] * 10)
    (tmp_path / '._monday.mcap').write_bytes(b'of another system')
    assert len(load_bag(tmp_path, 'train', 16)) == 70
