# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A part of a labelled folder, as a source of frames, is what training takes for that part."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sparse_split_ros.cli import main
from sparse_split_ros.data.bags import Frame, read_bag, write_bag
from sparse_split_ros.data.folder import load_folder
from sparse_split_ros.data.labels import LABELS
from sparse_split_ros.data.sources import SourceError, open_source
from sparse_split_ros.data.splits import SPLITS

CLASSES = ('cup', 'plate')
SIDE = 8


def save(path: Path, shade: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((SIDE, SIDE, 3), shade, np.uint8))
    return str(path)


def class_folders(root: Path, count: int = 12) -> Path:
    """So many images of each class, the first two of which belong together."""
    for label, name in enumerate(CLASSES):
        for number in range(count):
            group = 'drive/' if number < 2 else ''
            save(root / name / f'{group}{number}.png', 100 * label + number)
    return root


def divided(root: Path) -> Path:
    for part, shade in (('train', 0), ('test', 30)):
        for label, name in enumerate(CLASSES):
            for number in range(5):
                save(root / part / name / f'{number}.png', 100 * label + shade + number)
    return root


def labelled(root: Path) -> Path:
    """Folders of two images each, some of which are of both classes."""
    lines = ['file,kind,state']
    for number in range(24):
        file = f'scene_{number // 2}/{number}.png'
        save(root / file, number)
        lines.append(f'{file},{CLASSES[number // 3 % 2]},{("full", "empty")[number % 2]}')
    (root / LABELS).write_text('\n'.join(lines))
    return root


@pytest.mark.parametrize('make', [class_folders, divided, labelled])
@pytest.mark.parametrize('split', SPLITS)
def test_a_part_of_a_folder_is_that_of_training(tmp_path: Path, make, split: str) -> None:
    root = make(tmp_path)
    data = load_folder(root, split, SIDE)
    rows = data.labels.reshape(len(data), -1)
    names = list(data.tasks.values())
    trained = sorted(
        (int(image[0, 0, 0]), *(classes[at] for classes, at in zip(names, row)))
        for image, row in zip(data.images, rows)
    )
    given = [
        (int(frame.image[0, 0, 0]), frame.label, *frame.others.values())
        for frame in open_source(root, split=split)
    ]
    assert sorted(given) == trained and trained


def test_a_folder_is_given_whole_by_itself(tmp_path: Path) -> None:
    shades = [int(frame.image[0, 0, 0]) for frame in open_source(class_folders(tmp_path))]
    assert len(shades) == 24
    assert [int(f.image[0, 0, 0]) for f in open_source(tmp_path, split='all')] == shades
    report = [int(f.image[0, 0, 0]) for f in open_source(tmp_path, split='report')]
    assert report == [shade for shade in shades if shade in report], 'in another order'


def test_what_has_no_parts_says_so(tmp_path: Path) -> None:
    image = tmp_path / 'plain' / '0.png'
    save(image, 0)
    write_bag(tmp_path / 'bag', [Frame(1, 'camera', np.zeros((4, 4, 3), np.uint8))])
    np.savez(tmp_path / 'images.npz', images=np.zeros((3, 4, 4), np.uint8))
    for source in (image, image.parent, tmp_path / 'bag', tmp_path / 'images.npz', 'drive', '0'):
        with pytest.raises(SourceError, match='has no part'):
            next(open_source(source, split='train'))
    for name in ('bag', 'images.npz'):
        assert next(open_source(tmp_path / name, split='all')).image.any() == 0


def test_a_table_of_images_elsewhere_has_no_parts_and_is_given_whole(tmp_path: Path) -> None:
    file = save(tmp_path / 'elsewhere.png', 7)
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / LABELS).write_text(f'file,kind\n{file},cup\n')
    (frame,) = open_source(tmp_path / 'photos')
    assert frame.label == 'cup'
    with pytest.raises(SourceError, match='photos has no parts'):
        open_source(tmp_path / 'photos', split='report')


def test_make_bag_takes_the_part_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = class_folders(tmp_path / 'photos')
    for split, count in (('report', 4), ('all', 24)):
        assert main(['make-bag', str(photos), str(tmp_path / split), '--split', split]) == 0
        assert sum(1 for _ in read_bag(tmp_path / split)) == count
    few = class_folders(tmp_path / 'few', count=1)
    assert main(['make-bag', str(few), str(tmp_path / 'no'), '--split', 'report']) == 2
    assert 'few has no parts' in capsys.readouterr().err and not (tmp_path / 'no').exists()
