# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sparse_split_ros.data.bags import BagError, read_bag
from sparse_split_ros.data.gtsrb import GtsrbError, divide_tracks, load_packed
from sparse_split_ros.data.signs import CLASSES
from sparse_split_ros.data.sources import SourceError, make_bag, open_source

DATA = Path(
    os.environ.get('SPARSE_SPLIT_DATA', Path(__file__).resolve().parents[2] / 'shared' / 'data')
)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two classes of ten tracks of three frames, stored in an order that is not that of time."""
    rows = [(label, track, frame) for label in (3, 7) for track in range(10) for frame in range(3)]
    order = np.random.default_rng(0).permutation(len(rows))
    label, track, frame = np.array(rows)[order].T
    images = np.zeros((len(rows), 8, 8, 3), np.uint8)
    images[:, 0, 0] = np.stack([label, track, frame], axis=1)
    file = tmp_path / 'gtsrb.npz'
    np.savez(
        file, images=images, labels=label.astype(np.uint8), track=track.astype(np.uint16),
        frame=frame.astype(np.uint8),
    )  # fmt: skip
    return file


def save(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((6, 9, 3), (0, 0, shade), np.uint8))


def test_a_folder_of_class_folders_gives_labels_in_natural_order(tmp_path: Path) -> None:
    for name, shade in (('stop/10.png', 10), ('stop/2.png', 2), ('yield/1.png', 1)):
        save(tmp_path / name, shade)
    (tmp_path / 'stop' / 'notes.txt').write_text('not an image')
    frames = list(open_source(tmp_path))
    assert [(frame.label, int(frame.image[0, 0, 0])) for frame in frames] == [
        ('stop', 2),
        ('stop', 10),
        ('yield', 1),
    ]


def test_images_in_the_folder_itself_have_no_label(tmp_path: Path) -> None:
    save(tmp_path / 'one.jpg', 200)
    assert next(open_source(tmp_path)).label is None


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    save(tmp_path / 'stop' / '1.png', 1)
    save(tmp_path / '.thumbnails' / '1.png', 2)
    # What macOS leaves beside every file on a foreign disk.
    (tmp_path / 'stop' / '._1.png').write_bytes(b'\0\5\26\7' + bytes(100))
    assert [frame.label for frame in open_source(tmp_path)] == ['stop']


def test_a_class_may_be_a_link_to_its_folder(tmp_path: Path) -> None:
    save(tmp_path / 'elsewhere' / 'a' / '1.png', 1)
    save(tmp_path / 'photos' / 'yield' / '1.png', 2)
    (tmp_path / 'photos' / 'stop').symlink_to(tmp_path / 'elsewhere')
    assert [frame.label for frame in open_source(tmp_path / 'photos')] == ['stop', 'yield']


def test_stamps_follow_the_rate(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f'{index}.png', index)
    stamps = [frame.stamp_ns for frame in open_source(tmp_path, rate=10.0)]
    assert np.diff(stamps).tolist() == [100_000_000] * 2


def test_a_single_image_is_one_frame(tmp_path: Path) -> None:
    save(tmp_path / 'one.png', 77)
    (frame,) = open_source(tmp_path / 'one.png')
    assert frame.image[0, 0].tolist() == [77, 0, 0]


def test_a_video_is_read_at_its_own_pace(tmp_path: Path) -> None:
    file = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 25.0, (32, 24))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no MJPEG')
    for shade in (0, 100, 200):
        writer.write(np.full((24, 32, 3), (0, 0, shade), np.uint8))
    writer.release()
    frames = list(open_source(file))
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [40_000_000] * 2
    assert frames[2].image[12, 16, 0] > 180  # red stays red


def test_tracks_come_one_after_the_other_in_time_order(packed: Path) -> None:
    keys = [tuple(frame.image[0, 0]) for frame in open_source(packed, split='all')]
    assert keys == sorted(keys)
    assert len(keys) == 60


def test_the_splits_share_no_track(packed: Path) -> None:
    tracks = {
        split: {tuple(frame.image[0, 0, :2]) for frame in open_source(packed, split=split)}
        for split in ('train', 'select', 'report')
    }
    assert [len(tracks[split]) for split in tracks] == [14, 2, 4]
    assert len(set.union(*tracks.values())) == 20


def test_labels_of_tracks_are_the_names_of_the_classes(packed: Path) -> None:
    assert {frame.label for frame in open_source(packed)} == {CLASSES[3], CLASSES[7]}


@pytest.mark.parametrize('inside', ['', 'gtsrb/GTSRB'])
def test_the_original_tracks_are_a_source(tmp_path: Path, inside: str) -> None:
    for track in range(10):
        for frame in range(2):
            folder = tmp_path / 'gtsrb' / 'GTSRB' / 'Training' / '00007'
            save(folder / f'{track:05d}_{frame:05d}.ppm', 10 * track + frame)
    shown = {
        split: [int(f.image[0, 0, 0]) for f in open_source(tmp_path / inside, split=split)]
        for split in ('train', 'select', 'report', 'all')
    }
    assert {split: len(seen) for split, seen in shown.items()} == {
        'train': 14, 'select': 2, 'report': 4, 'all': 20,
    }  # fmt: skip
    assert all(seen == sorted(seen) for seen in shown.values())
    assert {frame.label for frame in open_source(tmp_path / inside)} == {CLASSES[7]}
    with pytest.raises(SourceError, match="unknown split 'most'"):
        open_source(tmp_path / inside, split='most')


def test_the_division_does_not_depend_on_the_order_of_the_rows() -> None:
    labels, tracks = np.repeat([1, 2], 30), np.tile(np.repeat(np.arange(10), 3), 2)
    order = np.random.default_rng(1).permutation(60)
    assert np.array_equal(
        divide_tracks(labels, tracks)[order], divide_tracks(labels[order], tracks[order])
    )


def test_the_committed_division_stays_as_it_is() -> None:
    # A change here moves report tracks into training, and old results lose their meaning.
    splits = divide_tracks(np.zeros(10, int), np.arange(10))
    assert ''.join(split[0] for split in splits) == 'ttttttsrtr'


def test_another_seed_divides_otherwise() -> None:
    labels, tracks = np.zeros(40, int), np.arange(40)
    assert not np.array_equal(divide_tracks(labels, tracks), divide_tracks(labels, tracks, 1))


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(GtsrbError, match='same length'):
        divide_tracks([1, 2], [1])


@pytest.mark.skipif(not (DATA / 'gtsrb32_train.npz').exists(), reason='GTSRB is not here')
def test_the_real_tracks_divide_as_planned() -> None:
    data = load_packed(DATA)
    shares = [
        len(data.indices(split)) / len(data.labels) for split in ('train', 'select', 'report')
    ]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    for split in ('train', 'select', 'report'):
        assert set(data.labels[data.indices(split)]) == set(range(43))


def test_the_drive_is_a_source() -> None:
    frames = list(open_source('drive', limit=2, seed=5))
    assert len(frames) == 2
    assert frames[0].scene == 'day'


def test_a_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SourceError, match='camera 97'):
        next(open_source('97'))


def test_make_bag_writes_a_labelled_bag(packed: Path, tmp_path: Path) -> None:
    assert make_bag(packed, tmp_path / 'bag', split='select', limit=4, rate=10.0) == 4
    frames = list(read_bag(tmp_path / 'bag'))
    assert frames[0].label in (CLASSES[3], CLASSES[7])
    assert frames[1].stamp_ns - frames[0].stamp_ns == 100_000_000


def test_a_bag_is_a_source(packed: Path, tmp_path: Path) -> None:
    make_bag(packed, tmp_path / 'bag', limit=3)
    assert len(list(open_source(tmp_path / 'bag'))) == 3


def test_an_endless_camera_needs_a_limit(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='limit'):
        make_bag('0', tmp_path / 'bag')


def test_a_missing_source_is_an_error_at_once() -> None:
    with pytest.raises(SourceError, match=r"'nowhere' does not exist.*camera such as /dev/video0"):
        open_source('nowhere')


def test_a_file_of_no_known_kind_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('hello')
    with pytest.raises(SourceError, match='no known kind'):
        open_source(tmp_path / 'notes.txt')


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match='no images'):
        open_source(tmp_path)


@pytest.mark.parametrize('suffix', ['.bmp', '.ppm', '.webp', '.tif'])
def test_every_kind_of_image_that_is_looked_for_can_be_read(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f'one{suffix}'), np.full((8, 6, 3), 90, np.uint8))
    (frame,) = open_source(tmp_path)
    assert frame.image.shape == (8, 6, 3)


def test_an_unreadable_image_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / 'broken.png').write_bytes(b'not a picture')
    with pytest.raises(SourceError, match=r'broken\.png'):
        list(open_source(tmp_path))


def test_an_unreadable_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'broken.mp4').write_bytes(b'not a film')
    with pytest.raises(SourceError, match=r'broken\.mp4'):
        list(open_source(tmp_path / 'broken.mp4'))


def test_an_unknown_split_is_an_error_that_names_it(packed: Path) -> None:
    with pytest.raises(SourceError, match="'holdout'"):
        open_source(packed, split='holdout')


def test_a_label_that_is_not_utf_8_is_an_error_at_once(tmp_path: Path) -> None:
    save(tmp_path / 'cafe' / 'one.png', 1)
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9'))
    try:
        (tmp_path / 'cafe').rename(folder)
    except OSError:
        pytest.skip('this file system takes no such name')
    with pytest.raises(SourceError, match=r"b'caf\\xe9' in it is a label and not UTF-8: rename it"):
        open_source(tmp_path)
    assert next(open_source(folder)).label is None


def test_a_video_whose_name_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.mp4'))
    try:
        file.touch()
    except OSError:
        pytest.skip('this file system takes no such name')
    with pytest.raises(SourceError, match='not UTF-8: rename it'):
        next(open_source(file))


def broken_arrays(change: Callable[[bytearray], None]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, images=np.random.default_rng(0).integers(
        0, 256, (4, 8, 8, 3), np.uint8))  # fmt: skip
    data = bytearray(file.getvalue())
    change(data)
    return bytes(data)


def other_bytes(data: bytearray) -> None:
    half = len(data) // 2
    data[half : half + 10] = b'\xff' * 10


def other_method(data: bytearray) -> None:
    for entry, method in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
        data[data.index(entry) + method] = 99


def encrypted(data: bytearray) -> None:
    for entry, flags in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
        data[data.index(entry) + flags] |= 1


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'PK\x03\x04 broken',
        b'not numpy',
        *map(broken_arrays, (other_bytes, other_method, encrypted)),
    ],
    ids=['empty', 'no zip', 'text', 'other bytes', 'other method', 'encrypted'],
)
def test_an_unreadable_packed_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'broken.npz').write_bytes(content)
    with pytest.raises(SourceError, match=r'broken\.npz'):
        open_source(tmp_path / 'broken.npz')


def test_a_label_without_a_class_is_an_error(tmp_path: Path) -> None:
    one = np.ones(1, np.uint8)
    np.savez(
        tmp_path / 'other.npz', images=np.zeros((1, 8, 8, 3), np.uint8), labels=one * 43,
        track=one, frame=one,
    )  # fmt: skip
    with pytest.raises(SourceError, match='43'):
        open_source(tmp_path / 'other.npz')


@pytest.mark.parametrize('rate', [0.0, -1.0, float('nan'), 1e-300, 1e12])
def test_a_rate_must_be_that_of_a_camera(rate: float) -> None:
    with pytest.raises(SourceError, match='rate'):
        open_source('drive', rate=rate)


def test_a_damaged_bag_stays_a_bag_error(tmp_path: Path) -> None:
    (tmp_path / 'broken.mcap').write_bytes(b'not a bag')
    with pytest.raises(BagError, match=r'broken\.mcap'):
        list(open_source(tmp_path / 'broken.mcap'))


def test_a_link_that_leads_back_gives_no_image_twice(tmp_path: Path) -> None:
    folder, other = tmp_path / 'photos', tmp_path / 'elsewhere'
    for directory in (folder / 'stop', other):
        directory.mkdir(parents=True)
        cv2.imwrite(str(directory / 'a.png'), np.zeros((8, 8, 3), np.uint8))
    (folder / 'latest').symlink_to('.')
    (folder / 'stop' / 'up').symlink_to('..')
    (folder / 'yield').symlink_to(other)
    assert [frame.label for frame in open_source(folder)] == ['stop', 'yield']


def test_a_linked_folder_gives_its_images_once(tmp_path: Path) -> None:
    save(tmp_path / 'stop' / 'sign' / '1.png', 1)
    (tmp_path / 'stop' / 'again').symlink_to('sign')
    assert [frame.file for frame in open_source(tmp_path)] == ['stop/sign/1.png']


def test_a_folder_that_is_divided_already_has_the_classes_below(tmp_path: Path) -> None:
    for part in ('train', 'test'):
        for name in ('stop', 'yield'):
            save(tmp_path / part / name / 'sign' / '1.png', 1)
    save(tmp_path / 'train' / 'loose.png', 2)
    whole = [(frame.file, frame.label) for frame in open_source(tmp_path)]
    assert whole == [
        ('test/stop/sign/1.png', 'stop'),
        ('test/yield/sign/1.png', 'yield'),
        ('train/loose.png', None),
        ('train/stop/sign/1.png', 'stop'),
        ('train/yield/sign/1.png', 'yield'),
    ]


def test_a_path_that_exists_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / '7' / '01.png', 1)
    save(tmp_path / '7' / '1.png', 2)
    monkeypatch.chdir(tmp_path)
    assert [frame.file for frame in open_source('7')] == ['01.png', '1.png']


@pytest.mark.parametrize('spec', ['~nobody-of-this-name/x', '20240101123000', ''])
def test_what_does_not_exist_is_one_error(spec: str) -> None:
    with pytest.raises(SourceError, match=f"source '{spec}' does not exist"):
        open_source(spec)


@pytest.mark.parametrize('labels', [['cat', 'dog'], np.array([b'cat', b'dog'])])
def test_labels_of_arrays_are_text(tmp_path: Path, labels: object) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    np.savez(tmp_path / 'a.npz', images=images, labels=labels)
    assert [frame.label for frame in open_source(tmp_path / 'a.npz')] == ['cat', 'dog']
    classes = np.array(['cat', 'dog'], np.asarray(labels).dtype)
    np.savez(tmp_path / 'b.npz', images=images, labels=[1, 0], classes=classes)
    assert [frame.label for frame in open_source(tmp_path / 'b.npz')] == ['dog', 'cat']


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        ({'labels': [0.0, 1.0]}, 'labels are float64, expected class numbers or names'),
        ({'labels': [0, 1], 'classes': [['a', 'b']]}, r'an array of shape \(1, 2\)'),
        ({'labels': [0, 1], 'classes': 'ab'}, r'an array of shape \(\)'),
        ({'track': [0, 1], 'labels': [0, 1]}, 'lacks frame'),
        ({'track': [0, 1], 'frame': [0, 1], 'labels': ['a', 'b']}, 'labels is <U1'),
        ({'track': [0, 1], 'frame': [0, 1], 'labels': 3}, r'labels is int64 \(\)'),
        ({'track': [0, 1], 'frame': [0, 1], 'labels': [-1, 3]}, 'label -1 is outside'),
    ],
)
def test_arrays_that_are_no_labels_are_named(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    np.savez(tmp_path / 'a.npz', images=np.zeros((2, 8, 8, 3), np.uint8), **columns)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / 'a.npz')


def test_a_single_array_named_as_several_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / 'a.npz').open('wb') as file:
        np.save(file, np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(SourceError, match=r'a\.npz is not a readable \.npz'):
        open_source(tmp_path / 'a.npz')
