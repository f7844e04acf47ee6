# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparse_split_ros.data.signs import CLASSES, SignError, draw_sign


def on_grey(class_id: int, size: int = 32) -> np.ndarray:
    sign = draw_sign(class_id, size).astype(np.float32)
    alpha = sign[..., 3:] / 255.0
    return sign[..., :3] * alpha + 128.0 * (1.0 - alpha)


def colour_at(class_id: int, x: float, y: float) -> np.ndarray:
    return draw_sign(class_id, 128)[int(y * 128), int(x * 128)].astype(int)


def test_there_are_43_classes_with_distinct_names() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 43


@pytest.mark.parametrize('size', [16, 32, 128])
def test_a_sign_has_the_size_asked_for(size: int) -> None:
    for class_id in range(43):
        sign = draw_sign(class_id, size)
        assert sign.shape == (size, size, 4)
        assert sign.dtype == np.uint8


def test_every_pair_of_classes_differs_at_32_pixels() -> None:
    drawn = [on_grey(class_id) for class_id in range(43)]
    for first, second in itertools.combinations(range(43), 2):
        difference = np.abs(drawn[first] - drawn[second]).mean()
        assert difference > 1.5, (CLASSES[first], CLASSES[second], difference)


def test_the_corners_outside_a_sign_are_transparent() -> None:
    for class_id in set(range(43)) - {13}:  # the yield sign reaches the upper corners
        assert draw_sign(class_id, 64)[0, 0, 3] == 0


@pytest.mark.parametrize('class_id', [0, 1, 9, 13, 15, 18, 27])
def test_prohibitions_and_warnings_have_a_red_border(class_id: int) -> None:
    sign = draw_sign(class_id, 128).astype(int)
    red = (sign[..., 0] > 150) & (sign[..., 1] < 80) & (sign[..., 2] < 80) & (sign[..., 3] > 0)
    assert red.mean() > 0.08


@pytest.mark.parametrize('class_id', range(33, 41))
def test_orders_are_blue_discs(class_id: int) -> None:
    red, _, blue, alpha = colour_at(class_id, 0.5, 0.06)
    assert blue > red + 80
    assert alpha == 255


@pytest.mark.parametrize(
    ('left', 'right'), [(19, 20), (34, 33), (37, 36), (39, 38)], ids=lambda i: CLASSES[i]
)
def test_left_and_right_are_mirror_images(left: int, right: int) -> None:
    mirrored = on_grey(left, 64)[:, ::-1]
    assert np.abs(mirrored - on_grey(right, 64)).mean() < 1.0  # pixel grids are not symmetric


def test_a_drawing_cannot_be_changed_by_its_user() -> None:
    with pytest.raises(ValueError, match='read-only'):
        draw_sign(0, 32)[0, 0] = 0


@pytest.mark.parametrize(
    ('class_id', 'size', 'named'), [(43, 32, '43'), (-1, 32, '-1'), (0, 4, '4'), (0, 9999, '9999')]
)
def test_what_cannot_be_drawn_is_named(class_id: int, size: int, named: str) -> None:
    with pytest.raises(SignError, match=named):
        draw_sign(class_id, size)
