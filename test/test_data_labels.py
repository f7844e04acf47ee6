# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A folder whose labels.csv labels its images for several tasks; what is wrong with it is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sparse_split_ros.data.bags import read_bag
from sparse_split_ros.data.folder import FolderError, load_folder
from sparse_split_ros.data.labels import LabelsError, read_labels
from sparse_split_ros.data.sources import make_bag, open_source
from sparse_split_ros.data.splits import SPLITS

COLOURS, SIZES = ('blue', 'green'), ('large', 'small')


def photos(root: Path, count: int = 12) -> Path:
    """So many images of each colour, each second one of them large, and a table of their labels."""
    lines = ['file,colour,size']
    for number in range(2 * count):
        image = np.zeros((20, 20, 3), np.uint8)
        height = 20 if number // 2 % 2 == 0 else 8
        image[:height, :, 0 if number % 2 == 0 else 1] = 50 + number
        path = root / f'scene_{number // 4}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        lines.append(f'{path.relative_to(root)},{COLOURS[number % 2]},{SIZES[number // 2 % 2]}')
    (root / 'labels.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return root


def test_images_come_with_a_label_of_each_task(tmp_path: Path) -> None:
    data = load_folder(photos(tmp_path), 'train', 16)
    assert data.tasks == {'colour': COLOURS, 'size': SIZES}
    assert data.classes == COLOURS + SIZES
    assert data.labels.shape == (len(data), 2)
    green = data.images[..., 1].mean(axis=(1, 2)) > 0
    np.testing.assert_array_equal(data.columns[0], green)
    assert set(data.combined.tolist()) == {0, 1, 2, 3}


def test_folders_are_not_torn_apart_and_every_image_falls_to_one_split(tmp_path: Path) -> None:
    photos(tmp_path)
    parts = [load_folder(tmp_path, split, 16) for split in SPLITS]
    assert sum(map(len, parts)) == 24
    levels = [set(np.unique((part.images.max(axis=(1, 2, 3)) - 50) // 4)) for part in parts]
    assert not levels[0] & levels[1] and not levels[0] & levels[2] and not levels[1] & levels[2]
    assert [len(np.unique(part.groups)) * 4 for part in parts] == [len(part) for part in parts]


def test_a_table_of_one_task_is_like_class_folders(tmp_path: Path) -> None:
    photos(tmp_path)
    table = tmp_path / 'labels.csv'
    lines = [line.rpartition(',')[0] for line in table.read_text().splitlines()]
    table.write_text('\n'.join(lines))
    data = load_folder(tmp_path, 'train', 16)
    assert data.classes == COLOURS and data.labels.ndim == 1 and data.tasks == {'': COLOURS}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('scene_0/0.png,blue,', 'line 26 is .*expected a file and a label of each task'),
        ('scene_0/0.png,blue,small,red', 'line 26 .*nothing more'),
        ('scene_0/0.png,blue,small', 'line 26 names .* again'),
        ('nowhere.png,blue,small', 'line 26: .*nowhere.png does not exist'),
        ('scene_0/../scene_0/0.png,blue,small', 'line 26 names .* again'),
        ('1.png,"blue\ngreen",small', 'line 27 is .*each in one line'),
        ('1.png,blue,"small', 'cannot be read: .*unexpected end'),
    ],
)
def test_a_line_that_labels_nothing_is_named(tmp_path: Path, line: str, message: str) -> None:
    with (photos(tmp_path) / 'labels.csv').open('a') as table:
        table.write(line + '\n')
    with pytest.raises(LabelsError, match=message):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ('header', 'message'),
    [('name,colour,size', "expected 'file'"), ('file', 'one for each task'),
     ('file,size,size', 'a name of its own'),
     ('file,size,time of day', "the column 'time of day' is no part of a topic's name")],
)  # fmt: skip
def test_columns_that_are_no_tasks_are_named(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / 'labels.csv').write_text(f'{header}\n')
    with pytest.raises(LabelsError, match=message):
        read_labels(tmp_path)


def test_a_task_of_one_class_is_refused(tmp_path: Path) -> None:
    table = photos(tmp_path) / 'labels.csv'
    table.write_text(table.read_text().replace('small', 'large'))
    with pytest.raises(FolderError, match="the task 'size' has the one class 'large'"):
        load_folder(tmp_path, 'train', 16)


def test_a_class_too_small_to_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="colour 'blue': 2 to divide"):
        load_folder(photos(tmp_path, count=4), 'train', 16)


def test_the_labels_of_further_tasks_go_through_a_bag(tmp_path: Path) -> None:
    labelled = list(open_source(photos(tmp_path / 'photos')))
    make_bag(tmp_path / 'photos', tmp_path / 'bag')
    for said, frame in zip(labelled, read_bag(tmp_path / 'bag'), strict=True):
        assert (frame.label, frame.others) == (said.label, said.others)
        assert frame.others.keys() == {'size'}


def test_the_scene_is_the_truth_of_the_weather(tmp_path: Path) -> None:
    (frame,) = open_source('drive', limit=1)
    assert frame.truths == {'weather': frame.scene}


def test_blanks_in_a_table_make_no_classes(tmp_path: Path) -> None:
    table = photos(tmp_path) / 'labels.csv'
    table.write_text(table.read_text().replace(',', ' , ').replace('small', ' small '))
    assert load_folder(tmp_path, 'train', 16).tasks == {'colour': COLOURS, 'size': SIZES}


def test_a_table_may_name_images_elsewhere(tmp_path: Path) -> None:
    plain = load_folder(photos(tmp_path / 'photos'), 'train', 16)
    (tmp_path / 'other').mkdir()
    lines = (tmp_path / 'photos' / 'labels.csv').read_text().replace('scene_', '../photos/scene_')
    (tmp_path / 'other' / 'labels.csv').write_text(lines)
    parts = [load_folder(tmp_path / 'other', split, 16) for split in SPLITS]
    assert sum(map(len, parts)) == 24 and parts[0].tasks == plain.tasks
    # Still by the folders that the images lie in.
    assert all(len(np.unique(part.groups)) * 4 == len(part) for part in parts)


def test_images_that_no_line_names_are_counted(tmp_path: Path) -> None:
    photos(tmp_path)
    for name in ('scene_0/more.png', 'loose.jpg', 'scene_1/notes.txt', 'notes.txt'):
        (tmp_path / name).write_bytes(b'')
    assert load_folder(tmp_path, 'train', 16).passed_over == {'.jpg': 1, '.png': 1, '.txt': 1}
