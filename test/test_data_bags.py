# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from sparse_split_ros.data.bags import (
    CLASSIFICATION,
    COMPRESSED,
    IMAGE,
    BagError,
    Frame,
    Recording,
    read_bag,
    read_messages,
    write_bag,
)
from sparse_split_ros.embedded.types import typestore

STAMP = 1_760_000_000_123_456_789


def make_frames(count: int = 5) -> list[Frame]:
    rng = np.random.default_rng(0)
    return [
        Frame(
            STAMP + 33_333_333 * index,
            'front',
            rng.integers(0, 256, (16 + 3 * index, 20 + index, 3), dtype=np.uint8),
            f'sign {index}',
            'rain',
            index / 10,
        )
        for index in range(count)
    ]


def same(first: Frame, second: Frame) -> bool:
    named = ('stamp_ns', 'frame_id', 'label', 'scene', 'severity')
    return np.array_equal(first.image, second.image) and all(
        getattr(first, name) == getattr(second, name) for name in named
    )


def header(stamp_ns: int) -> object:
    types = typestore().types
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    stamp = types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    return types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')


def image_message(stamp_ns: int, encoding: str, data: np.ndarray, step: int) -> object:
    height, width = data.shape[:2]
    return typestore().types[IMAGE](
        header(stamp_ns), height, width, encoding, 0, step, np.resize(data, height * step)
    )


def record(path: Path, *messages: tuple[str, str, object], plugin: str = 'MCAP') -> Path:
    """Write messages (topic, type, message) as some other recorder would."""
    store = typestore()
    with Writer(path, version=8, storage_plugin=StoragePlugin[plugin]) as writer:
        channels = {}
        for index, (topic, kind, message) in enumerate(messages):
            if topic not in channels:
                channels[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(channels[topic], STAMP + index, store.serialize_cdr(message, kind))
    return path


@pytest.mark.parametrize('compression', ['none', 'file', 'message'])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_is_written_is_read_again(tmp_path: Path, storage: str, compression: str) -> None:
    frames = make_frames()
    written = write_bag(tmp_path / 'bag', frames, storage, compression=compression)
    read = list(read_bag(tmp_path / 'bag'))
    assert written == len(read) == len(frames)
    assert all(same(one, other) for one, other in zip(frames, read))


@pytest.mark.parametrize(('storage', 'suffix'), [('mcap', '.mcap'), ('sqlite3', '.db3')])
def test_a_storage_file_without_its_directory_is_read(
    tmp_path: Path, storage: str, suffix: str
) -> None:
    write_bag(tmp_path / 'bag', make_frames(), storage)
    (file,) = (tmp_path / 'bag').glob(f'*{suffix}')
    alone = shutil.move(file, tmp_path / f'alone{suffix}')
    assert len(list(read_bag(alone))) == 5


def test_frames_without_label_and_scene_come_back_so(tmp_path: Path) -> None:
    frame = Frame(STAMP, 'front', np.zeros((8, 8, 3), np.uint8))
    write_bag(tmp_path / 'bag', [frame])
    assert same(next(read_bag(tmp_path / 'bag')), frame)


def test_a_grey_frame_comes_back_as_rgb(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    write_bag(tmp_path / 'bag', [Frame(STAMP, 'front', grey)])
    image = next(read_bag(tmp_path / 'bag')).image
    assert np.array_equal(image, np.repeat(grey[..., None], 3, axis=2))


def test_padded_bgr_rows_are_decoded(tmp_path: Path) -> None:
    message = image_message(STAMP, 'bgr8', np.zeros((2, 2, 3), np.uint8), 8)
    message.data = np.array([1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10, 11, 12, 0, 0], np.uint8)
    bag = record(tmp_path / 'bag', ('/camera/image_raw', IMAGE, message))
    image = next(read_bag(bag)).image
    assert image.tolist() == [[[3, 2, 1], [6, 5, 4]], [[9, 8, 7], [12, 11, 10]]]


def test_compressed_images_are_decoded(tmp_path: Path) -> None:
    rgb = make_frames(1)[0].image
    png = cv2.imencode('.png', rgb[..., ::-1])[1].reshape(-1)
    message = typestore().types[COMPRESSED](header(STAMP), 'png', png)
    bag = record(tmp_path / 'bag', ('/image/compressed', COMPRESSED, message))
    assert np.array_equal(next(read_bag(bag)).image, rgb)


def test_a_bag_of_humble_carries_no_definitions_and_is_read(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', make_frames(), 'sqlite3')
    (file,) = (tmp_path / 'bag').glob('*.db3')
    with sqlite3.connect(file) as database:
        tables = {row[0] for row in database.execute('SELECT name FROM sqlite_master')}
        assert 'message_definitions' in tables
        database.execute('DELETE FROM message_definitions')
    assert len(list(read_bag(tmp_path / 'bag'))) == 5


@pytest.mark.parametrize('maker', ['write_bag', 'Recording'])
def test_metadata_are_such_as_humble_reads(tmp_path: Path, maker: str) -> None:
    bag = tmp_path / 'bag'
    if maker == 'write_bag':
        write_bag(bag, make_frames())
    else:
        with Recording(bag) as recording:
            recording.write('/image', IMAGE, STAMP, bytes(8))
    metadata = yaml.safe_load((bag / 'metadata.yaml').read_text(encoding='utf-8'))
    topics = metadata['rosbag2_bagfile_information']['topics_with_message_count']
    # Where it expects a text that holds YAML, newer metadata hold a list.
    profiles = [each['topic_metadata']['offered_qos_profiles'] for each in topics]
    assert profiles and all(yaml.safe_load(each)[0]['depth'] == 10 for each in profiles)


def test_a_bag_split_into_files_is_read_in_order(tmp_path: Path) -> None:
    frames = make_frames(6)
    for part, name in ((frames[:3], 'one'), (frames[3:], 'two')):
        write_bag(tmp_path / name, part)
    bag = tmp_path / 'one'
    shutil.copy(tmp_path / 'two' / 'two.mcap', bag / 'two.mcap')
    metadata = (bag / 'metadata.yaml').read_text().replace('- one.mcap', '- one.mcap\n  - two.mcap')
    (bag / 'metadata.yaml').write_text(metadata)
    assert [frame.label for frame in read_bag(bag)] == [frame.label for frame in frames]


def test_labels_are_joined_by_stamp_whatever_the_order(tmp_path: Path) -> None:
    types = typestore().types
    kind = 'vision_msgs/msg/Classification'

    def truth(stamp: int, name: str) -> tuple[str, str, object]:
        result = types['vision_msgs/msg/ObjectHypothesis'](name, 1.0)
        return ('/front/ground_truth', kind, types[kind](header(stamp), [result]))

    pixels = np.zeros((4, 4, 3), np.uint8)
    images = [
        ('/front/image', IMAGE, image_message(STAMP + i, 'rgb8', pixels, 12)) for i in range(3)
    ]
    bag = record(tmp_path / 'bag', *images, truth(STAMP + 2, 'late'), truth(STAMP, 'early'))
    assert [frame.label for frame in read_bag(bag)] == ['early', None, 'late']


def test_what_is_said_twice_at_a_stamp_must_be_the_same(tmp_path: Path) -> None:
    frame = make_frames(1)[0]
    write_bag(tmp_path / 'same', [frame, frame])
    assert [each.label for each in read_bag(tmp_path / 'same')] == ['sign 0', 'sign 0']
    other = {'label': replace(frame, label='stop'), 'scene': replace(frame, scene='fog')}
    for topic, field, names in (
        ('ground_truth', 'label', "'sign 0' and 'stop'"),
        ('scene', 'scene', r"\('rain', 0.0\) and \('fog', 0.0\)"),
    ):
        write_bag(tmp_path / field, [frame, other[field]])
        with pytest.raises(
            BagError, match=f"{field}: '{topic}' says both {names} at .* {STAMP} ns"
        ):
            next(read_bag(tmp_path / field))


def test_frames_are_written_while_they_are_made(tmp_path: Path) -> None:
    made: list[Frame] = []

    def camera() -> Iterator[Frame]:
        for frame in make_frames(4):
            made.append(frame)
            yield frame

    told: list[tuple[int, int]] = []
    write_bag(tmp_path / 'bag', camera(), progress=lambda done: told.append((done, len(made))))
    assert told == [(1, 1), (2, 2), (3, 3), (4, 4)]


def two_cameras(path: Path) -> Path:
    pixels = np.zeros((4, 4, 3), np.uint8)
    return record(
        path,
        ('/left/image_raw', IMAGE, image_message(STAMP, 'rgb8', pixels, 12)),
        ('/right/image_raw', IMAGE, image_message(STAMP + 1, 'rgb8', pixels, 12)),
    )


def test_one_of_several_cameras_is_chosen_by_name(tmp_path: Path) -> None:
    bag = two_cameras(tmp_path / 'bag')
    assert [frame.stamp_ns for frame in read_bag(bag, 'right/image_raw')] == [STAMP + 1]


def test_several_cameras_without_a_choice_are_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'/left/image_raw, /right/image_raw'):
        list(read_bag(two_cameras(tmp_path / 'bag')))


def test_a_missing_topic_is_an_error_that_names_those_there(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', make_frames(1))
    with pytest.raises(BagError, match=r"'/rear'.*/ground_truth.*/image .*/scene"):
        list(read_bag(tmp_path / 'bag', '/rear'))


def test_a_bag_without_images_is_an_error(tmp_path: Path) -> None:
    message = typestore().types['std_msgs/msg/String']('hello')
    bag = record(tmp_path / 'bag', ('/chatter', 'std_msgs/msg/String', message))
    with pytest.raises(BagError, match=r'no image topic.*/chatter'):
        list(read_bag(bag))


def test_an_empty_image_topic_is_an_error(tmp_path: Path) -> None:
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/image', IMAGE, typestore=typestore())
    with pytest.raises(BagError, match='holds no images'):
        list(read_bag(tmp_path / 'bag'))


def test_an_image_that_cannot_be_decoded_costs_no_other(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 3), 7, np.uint8)
    kinds = ('rgb8', 'thermal12', 'rgb8')
    messages = [
        ('/image', IMAGE, image_message(STAMP + i, kind, pixels, 12))
        for i, kind in enumerate(kinds)
    ]
    first, odd, last = read_bag(record(tmp_path / 'bag', *messages))
    assert not odd.image.size and odd.stamp_ns == STAMP + 1
    assert f"/image' at {STAMP + 1} ns: " in odd.error and 'thermal12' in odd.error
    for frame in (first, last):
        assert not frame.error
        np.testing.assert_array_equal(frame.image, pixels)


def test_a_missing_bag_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='does not exist'):
        list(read_bag(tmp_path / 'nothing'))


def test_a_directory_without_metadata_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'no metadata\.yaml'):
        list(read_bag(tmp_path))


def test_a_recording_that_was_cut_off_says_how_to_save_it(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', make_frames(1))
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    with pytest.raises(BagError, match=r'cut off; `mcap recover .*bag/bag\.mcap'):
        list(read_bag(tmp_path / 'bag'))


def test_a_storage_file_that_was_cut_off_says_how_to_save_it(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', make_frames(9))
    file = tmp_path / 'bag' / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BagError, match=r'not readable: .*; `mcap recover .*bag\.mcap'):
        list(read_bag(file))


def test_a_ros_1_bag_is_an_error_that_says_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / 'old.bag').write_bytes(b'#ROSBAG V2.0\n')
    with pytest.raises(BagError, match='rosbags-convert'):
        list(read_bag(tmp_path / 'old.bag'))


@pytest.mark.parametrize('compression', ['none', 'file', 'message'])
@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_truncated_bag_is_one_error_wherever_it_is_cut(
    tmp_path: Path, storage: str, compression: str
) -> None:
    write_bag(tmp_path / 'bag', make_frames(), storage, compression=compression)
    (file,) = (f for f in (tmp_path / 'bag').iterdir() if f.name != 'metadata.yaml')
    whole = file.read_bytes()
    for share in (0.0, 0.1, 0.35, 0.6, 0.9):
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BagError, match='bag'):
            list(read_bag(tmp_path / 'bag'))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_flipped_bytes_never_raise_anything_else(tmp_path: Path, storage: str) -> None:
    write_bag(tmp_path / 'bag', make_frames(), storage)
    rng = np.random.default_rng(1)
    errors = 0
    for file in sorted((tmp_path / 'bag').iterdir()):
        whole = file.read_bytes()
        for _ in range(25):
            broken = bytearray(whole)
            for at in rng.integers(0, len(broken), 12):
                broken[at] = rng.integers(256)
            file.write_bytes(broken)
            try:
                list(read_bag(tmp_path / 'bag'))
            except BagError:
                errors += 1
        file.write_bytes(whole)
    assert errors > 0
    assert len(list(read_bag(tmp_path / 'bag'))) == 5


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ('name: /image', 'name: [/image]'),
        ('name: /image', 'name:'),
        ('type: sensor_msgs/msg/Image', 'type: {a: 1}'),
        ('message_count: 2', 'message_count: many'),
    ],
)
def test_metadata_of_other_kinds_are_one_error(tmp_path: Path, before: str, after: str) -> None:
    write_bag(tmp_path / 'bag', make_frames(2))
    metadata = tmp_path / 'bag' / 'metadata.yaml'
    text = metadata.read_text()
    assert before in text
    metadata.write_text(text.replace(before, after))
    with pytest.raises(BagError, match=r'bag .*bag is not readable: '):
        list(read_bag(tmp_path / 'bag'))


@pytest.mark.parametrize('name', ['a#b', 'a?b', 'a%20b'])
def test_a_path_that_sqlite_takes_for_another_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BagError, match=r"the path of a sqlite3 bag cannot hold '[#?%]"):
        write_bag(tmp_path / name, make_frames(1), 'sqlite3')
    assert list(tmp_path.iterdir()) == []
    write_bag(tmp_path / 'bag', make_frames(1), 'sqlite3')
    (tmp_path / 'bag').rename(tmp_path / name)
    for path in (tmp_path / name, tmp_path / name / 'bag.db3'):
        with pytest.raises(BagError, match=r"the path of a sqlite3 bag cannot hold '[#?%]"):
            list(read_bag(path))


@pytest.mark.parametrize(
    ('name', 'storage'),
    [('a b', 'sqlite3'), ('100%', 'sqlite3'), ('ä', 'sqlite3'), ('a#b', 'mcap')],
)
def test_other_paths_are_written_and_read(tmp_path: Path, name: str, storage: str) -> None:
    write_bag(tmp_path / name, make_frames(2), storage)
    assert len(list(read_bag(tmp_path / name))) == 2


def test_an_existing_bag_is_not_overwritten(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', make_frames(2))
    with pytest.raises(BagError, match='exists already'):
        write_bag(tmp_path / 'bag', make_frames(3))
    assert len(list(read_bag(tmp_path / 'bag'))) == 2


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing() -> Iterator[Frame]:
        yield make_frames(1)[0]
        raise RuntimeError('the camera fell off')

    with pytest.raises(RuntimeError, match='fell off'):
        write_bag(tmp_path / 'bag', failing())
    assert list(tmp_path.iterdir()) == []


def test_no_frames_make_no_bag(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='no frames'):
        write_bag(tmp_path / 'bag', [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('frame', 'named'),
    [
        (Frame(STAMP, 'c', np.zeros((4, 4, 3))), 'float64'),
        (Frame(STAMP, 'c', np.zeros((4, 4, 4), np.uint8)), r'4, 4, 4'),
        (Frame(-1, 'c', np.zeros((4, 4, 3), np.uint8)), '-1 ns'),
    ],
)
def test_a_frame_that_cannot_be_written_is_named(tmp_path: Path, frame: Frame, named: str) -> None:
    with pytest.raises(BagError, match=named):
        write_bag(tmp_path / 'bag', [frame])


def test_an_unknown_storage_is_named(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="'zip'"):
        write_bag(tmp_path / 'bag', make_frames(1), 'zip')


def test_the_most_probable_hypothesis_is_the_label(tmp_path: Path) -> None:
    types, image = typestore().types, np.zeros((4, 4, 3), np.uint8)
    results = [
        types['vision_msgs/msg/ObjectHypothesis'](class_id=name, score=score)
        for name, score in (('cat', 0.1), ('fox', math.nan), ('dog', 0.9), ('cow', 0.9))
    ]
    bag = record(
        tmp_path / 'bag',
        ('/ground_truth', CLASSIFICATION, types[CLASSIFICATION](header(STAMP), results)),
        ('/image', IMAGE, image_message(STAMP, 'rgb8', image, 12)),
    )
    assert [frame.label for frame in read_bag(bag)] == ['dog']


@pytest.mark.parametrize('stamps', [[5, 4, 3, 2, 1], [0] * 5, [1, 2, 4, 3, 5]])
def test_frames_stay_in_their_order_whatever_their_stamps(
    tmp_path: Path, stamps: list[int]
) -> None:
    images = [np.full((4, 4, 3), index, np.uint8) for index in range(5)]
    frames = [Frame(s * 10**8, 'camera', image) for s, image in zip(stamps, images)]
    write_bag(tmp_path / 'bag', frames)
    found = list(read_bag(tmp_path / 'bag'))
    assert [frame.stamp_ns // 10**8 for frame in found] == stamps
    assert [frame.image[0, 0, 0] for frame in found] == [0, 1, 2, 3, 4]
    received = [time for _, _, time, _ in read_messages(tmp_path / 'bag', [IMAGE])]
    assert all(1e7 <= step <= 2e8 for step in np.diff(received))


def test_frames_with_times_for_stamps_are_received_at_them(tmp_path: Path) -> None:
    frames = make_frames()
    write_bag(tmp_path / 'bag', frames)
    received = [time for _, _, time, _ in read_messages(tmp_path / 'bag', [IMAGE])]
    assert received == [frame.stamp_ns for frame in frames]
