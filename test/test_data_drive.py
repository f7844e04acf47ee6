# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparse_split_ros.data.bags import Frame
from sparse_split_ros.data.drive import (
    SCENES,
    Drive,
    DriveError,
    random_crop,
    render_drive,
)
from sparse_split_ros.data.signs import CLASSES

SHORT = Drive(seed=3, tracks_per_scene=2, frames_per_track=10)


@pytest.fixture(scope='module')
def frames() -> list[Frame]:
    return list(render_drive(SHORT))


def test_equal_drives_are_equal_to_the_byte(frames: list[Frame]) -> None:
    for first, second in zip(frames, render_drive(SHORT), strict=True):
        assert np.array_equal(first.image, second.image)
        assert (first.stamp_ns, first.label) == (second.stamp_ns, second.label)


def test_another_seed_is_another_drive(frames: list[Frame]) -> None:
    other = list(render_drive(replace(SHORT, seed=4)))
    assert [frame.label for frame in other] != [frame.label for frame in frames]


def test_the_scenes_come_in_order(frames: list[Frame]) -> None:
    assert list(dict.fromkeys(frame.scene for frame in frames)) == list(SCENES)
    assert len(frames) == SHORT.frames == 2 * 10 * 7


def test_stamps_are_those_of_a_30_hz_camera(frames: list[Frame]) -> None:
    gaps = np.diff([frame.stamp_ns for frame in frames])
    assert np.abs(gaps - 1e9 / 30.0).max() <= 1.0
    assert frames[0].stamp_ns == SHORT.start_ns


def test_crops_grow_over_a_track_from_16_to_128_pixels(frames: list[Frame]) -> None:
    for start in range(0, len(frames), 10):
        track = [frame.image.shape[0] for frame in frames[start : start + 10]]
        assert abs(track[0] - 16) <= 2
        assert abs(track[-1] - 128) <= 10
        assert track[-1] > 2 * track[5]  # the nearer, the faster


def test_images_are_rgb_and_a_track_keeps_its_label(frames: list[Frame]) -> None:
    for index, frame in enumerate(frames):
        assert frame.image.dtype == np.uint8
        assert frame.image.shape == (frame.image.shape[0], frame.image.shape[0], 3)
        assert frame.label in CLASSES
        assert frame.label == frames[index - index % 10].label


def test_every_class_comes_once_before_any_comes_again() -> None:
    whole = Drive(scenes=('day',), tracks_per_scene=43, frames_per_track=2, largest=24)
    assert {frame.label for frame in render_drive(whole)} == set(CLASSES)


def test_scenes_turn_smoothly_into_each_other() -> None:
    severities = [frame.severity for frame in render_drive(replace(SHORT, frames_per_track=30))]
    inside = np.array(severities).reshape(7, 60)
    assert np.abs(np.diff(inside, axis=1)).max() < 0.05
    assert inside[0].max() == 0.0  # day has no weather
    assert inside[1:].max(axis=1).min() > 0.4


def test_night_is_darker_than_day(frames: list[Frame]) -> None:
    light = {
        scene: np.mean([frame.image.mean() for frame in frames if frame.scene == scene])
        for scene in ('day', 'night')
    }
    assert light['night'] < 0.6 * light['day']


def test_progress_is_told_for_every_frame() -> None:
    told: list[tuple[int, int]] = []
    small = Drive(scenes=('day',), tracks_per_scene=1, frames_per_track=3)
    list(render_drive(small, lambda done, total: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize('scene', SCENES)
def test_a_training_crop_has_the_size_asked_for_in_every_scene(scene: str) -> None:
    crop = random_crop(np.random.default_rng(0), 7, 32, scene, 0.7)
    assert crop.shape == (32, 32, 3)
    assert crop.dtype == np.uint8


def test_training_crops_follow_the_generator() -> None:
    first, second = (random_crop(np.random.default_rng(5), 7, 32) for _ in range(2))
    rng = np.random.default_rng(5)
    random_crop(rng, 7, 32)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, random_crop(rng, 7, 32))


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        ({'scenes': ('day', 'hail')}, "'hail'"),
        ({'scenes': ()}, 'needs a scene'),
        ({'tracks_per_scene': 0}, 'needs a scene'),
        ({'frames_per_track': 1}, 'two frames'),
        ({'smallest': 200}, '200 to 128'),
        ({'rate': 0.0}, '0.0 Hz'),
        ({'severity': 1.5}, '1.5'),
        ({'seed': -1}, '-1'),
    ],
)
def test_a_drive_that_cannot_be_is_refused(change: dict, named: str) -> None:
    with pytest.raises(DriveError, match=named):
        replace(SHORT, **change)
