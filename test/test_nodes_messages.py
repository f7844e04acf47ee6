# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run-time objects as messages, and messages as images."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest

from sparse_split_ros.nodes.messages import (
    Labels,
    annotate,
    decision_message,
    image_message,
    image_of,
    named,
    octets,
)
from sparse_split_ros.policy.decision import Decision, Reason, Route, Times
from sparse_split_ros.policy.plan import Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.ros import CompressedImage, DiagnosticStatus, Header, serialize_message

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
NAMES = ('stop', 'yield', 'no entry')
SCORES = np.array([0.2, 0.7, 0.1], np.float32)


def decision(route: Route = Route.OFFBOARD) -> Decision:
    return Decision(
        7, 0, None, route, Reason.ANSWERED, 2, SCORES, 0.7, 0.9,
        Plan(1, (0.9, 0.9, None), 'int8'), Scene('rain'), 300, False, Times(total=12.5),
    )  # fmt: skip


@pytest.mark.parametrize('image', [RGB, RGB[:, ::2], np.ascontiguousarray(RGB[::-1])])
def test_an_rgb_image_survives_its_message(image: np.ndarray) -> None:
    np.testing.assert_array_equal(image_of(image_message(image, Header())), image)


def test_a_grey_image_is_sent_as_one_channel() -> None:
    message = image_message(RGB[..., 0], Header())
    assert (message.encoding, message.step, len(message.data)) == ('mono8', 7, 35)
    np.testing.assert_array_equal(image_of(message), np.repeat(RGB[..., :1], 3, axis=2))


def test_a_compressed_message_is_decoded() -> None:
    png = cv2.imencode('.png', np.ascontiguousarray(RGB[..., ::-1]))[1]
    message = CompressedImage(format='png', data=octets(png))
    np.testing.assert_array_equal(image_of(message), RGB)


@pytest.mark.parametrize('data', [b'\x00\xff', memoryview(b'\x00\xff'), np.array([0, 255], 'u1')])
def test_bytes_become_the_array_that_messages_keep(data: bytes) -> None:
    assert octets(data) == array('B', [0, 255])


@pytest.mark.parametrize(('limit', 'expected'), [(0, [1, 0, 2]), (2, [1, 0]), (9, [1, 0, 2])])
@pytest.mark.parametrize('by_index', [False, True])
def test_classes_come_sorted_by_score_and_by_name_or_index(
    limit: int, expected: list[int], by_index: bool
) -> None:
    message = Labels(NAMES, by_index).classification(Header(), SCORES, limit)
    ids = [str(index) if by_index else NAMES[index] for index in expected]
    assert [result.class_id for result in message.results] == ids
    assert [result.score for result in message.results] == [float(SCORES[i]) for i in expected]


def test_equal_scores_keep_the_order_of_the_classes() -> None:
    message = Labels(NAMES).classification(Header(), np.full(3, 1 / 3, np.float32), 0)
    assert [result.class_id for result in message.results] == list(NAMES)


def test_label_info_holds_every_class() -> None:
    info = Labels(NAMES).info(0.5)
    assert [(c.class_id, c.class_name) for c in info.class_map] == list(enumerate(NAMES))
    assert info.threshold == 0.5


def test_a_truth_is_one_sure_class() -> None:
    message = named(Header(frame_id='a'), 'stop')
    assert [(r.class_id, r.score) for r in message.results] == [('stop', 1.0)]


@pytest.mark.parametrize('route', Route)
def test_a_decision_tells_its_route_and_warns_of_a_fallback(route: Route) -> None:
    message = decision_message(decision(route), Header(), Labels(NAMES))
    values = {pair.key: pair.value for pair in message.status[0].values}
    wanted = {'route': route.value, 'reason': 'answered', 'class': 'yield', 'split': '1'}
    wanted |= {'codec': 'int8', 'payload_bytes': '300', 'scene': 'rain', 'total_ms': '12.5'}
    assert wanted.items() <= values.items()
    fell = route is Route.FALLBACK
    assert message.status[0].level == (DiagnosticStatus.WARN if fell else DiagnosticStatus.OK)
    serialize_message(message)


@pytest.mark.parametrize('size', [(1, 1), (16, 16), (40, 300), (640, 480)])
def test_an_annotated_image_has_room_for_its_words(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    picture = annotate(image, decision(), Labels(NAMES))
    assert picture.dtype == np.uint8 and picture.shape[1] >= 256
    scale = (picture.shape[0] - 44) // size[0]
    assert picture[scale * size[0] :].any() and not picture[: scale * size[0]].any()


@pytest.mark.parametrize(
    ('size', 'shown'),
    [((1080, 1920), (360, 640)), ((3840, 2160), (640, 360)), ((1, 4000), (1, 640))],
)
def test_a_large_image_is_annotated_small(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = np.full((*size, 3), 9, np.uint8)
    height, width = annotate(image, decision(), Labels(NAMES)).shape[:2]
    assert (height - 44, width) == shown
