# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Head and tail as processes over the middleware: right answers, and bad input costs nothing.

All tests share three processes: a head whose every frame is doubtful, a second one that reads
compressed images and a part of each, and the tail they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import make_bundle
from processes import Peer, Process, node, private_domain, ready, values_of

from sparse_split_ros import ros
from sparse_split_ros.link.codec import CodecId
from sparse_split_ros.link.frame import FEATURE_FORMAT, REPLY_FORMAT, FeatureFrame
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import octets, wire_message
from sparse_split_ros.ros import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    Header,
    Image,
    LabelInfo,
    QoSProfile,
    String,
)
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Engine, load_engine
from sparse_split_ros.runtime.preprocess import prepare

HEAD, TAIL = '/head: frames', '/tail: replies'
ROI = [4, 6, 20, 16]
SHARED = ('features', 'tail/reply', 'tail/status')
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@dataclass
class Rig:
    """The processes, the peer that is camera and listener, and the same network to compare with."""

    bundle: Bundle
    engine: Engine
    head: Process
    cropper: Process
    tail: Process
    peer: Peer

    def whole(self, image: np.ndarray, roi: list[int] | None = None) -> np.ndarray:
        """The whole network's probabilities for an RGB image."""
        x = prepare(image, self.bundle.input, roi)
        last = self.bundle.final
        row: np.ndarray = self.engine.run(x, 0, last, [None] * last + [0.0]).exits[last][0]
        return row


@pytest.fixture(scope='module')
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    bundle = make_bundle(tmp_path_factory.mktemp('nodes') / 'bundle', bottleneck=None)
    # Nothing is sure, features are not rounded, and a busy machine misses no deadline.
    common: dict[str, Any] = {'bundle': bundle.path, 'threshold': 1.0, 'codec': 'none'}
    common['deadline_ms'] = 10_000.0
    away: dict[str, str] = {'__ns': '/jpg', **{name: f'/{name}' for name in SHARED}}
    with (
        private_domain(),
        node('head', max_results=0, **common) as head,
        node('head', remap=away, image_transport='compressed', roi=ROI, **common) as cropper,
        node('tail', bundle=bundle.path) as tail,
        Peer() as peer,
    ):
        for process in (head, cropper, tail):
            ready(process)
        peer.warm_up('offboard')
        yield Rig(bundle, load_engine(bundle), head, cropper, tail, peer)
        for process in (head, cropper, tail):
            assert process.popen.poll() is None, process.output


def scores_of(message: Classification, classes: tuple[str, ...]) -> np.ndarray:
    by_name = {result.class_id: result.score for result in message.results}
    return np.array([by_name[name] for name in classes])


@pytest.mark.parametrize(
    ('stamp', 'frame_id'),
    [((7, 8), 'front'), ((2**31 - 1, 999_999_999), 'Straße/前'), ((-5, 1), ''), ((0, 0), 'zero')],
)
def test_the_header_is_the_images(rig: Rig, stamp: tuple[int, int], frame_id: str) -> None:
    classification, decision = rig.peer.ask(PICTURE, stamp, frame_id)
    header = classification.header
    assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (*stamp, frame_id)
    assert rig.peer.decisions[-1].header == header
    assert decision['route'] == 'offboard'


def test_the_answer_is_the_whole_networks_sorted_by_score(rig: Rig) -> None:
    classification, decision = rig.peer.ask(PICTURE, (1, 0))
    expected = rig.whole(PICTURE)
    np.testing.assert_allclose(scores_of(classification, rig.bundle.classes), expected, atol=1e-5)
    scores = [result.score for result in classification.results]
    assert scores == sorted(scores, reverse=True)
    assert decision['class'] == classification.results[0].class_id
    assert decision['exit'] == str(rig.bundle.final)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'rgba8'])
def test_raw_images_of_other_layouts_are_the_same_image(rig: Rig, encoding: str) -> None:
    alpha = np.full((*PICTURE.shape[:2], 1), 9, np.uint8)
    pixels = {
        'rgb8': PICTURE,
        'bgr8': np.ascontiguousarray(PICTURE[..., ::-1]),
        'rgba8': np.concatenate([PICTURE, alpha], axis=2),
    }[encoding]
    height, width, channels = pixels.shape
    rows = np.zeros((height, width * channels + 7), np.uint8)  # rows are padded
    rows[:, :-7] = pixels.reshape(height, -1)
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    message.data = octets(rows)
    before = len(rig.peer.classifications)
    rig.peer.camera.publish(message)
    assert rig.peer.wait(lambda: len(rig.peer.classifications) > before)
    got = scores_of(rig.peer.classifications[-1], rig.bundle.classes)
    np.testing.assert_allclose(got, rig.whole(PICTURE), atol=1e-5)


def test_a_compressed_image_is_answered_for_its_region_of_interest(rig: Rig) -> None:
    answers: list[Classification] = []
    camera = rig.peer.node.create_publisher(CompressedImage, '/jpg/image/compressed', qos.RESULT)
    rig.peer.listen(Classification, '/jpg/classification', answers.append)
    png = cv2.imencode('.png', np.ascontiguousarray(PICTURE[..., ::-1]))[1]
    message = CompressedImage(header=Header(frame_id='crop'), format='rgb8; png compressed')
    message.data = octets(png)

    def answered() -> bool:
        camera.publish(message)
        return rig.peer.wait(lambda: answers, 0.1)

    assert any(answered() for _ in range(100))
    assert answers[0].header.frame_id == 'crop'
    got = scores_of(answers[0], rig.bundle.classes)
    np.testing.assert_allclose(got, rig.whole(PICTURE, ROI), atol=1e-5)


def test_repeated_stamps_are_answered_each_and_said_once(rig: Rig) -> None:
    for number in range(3):
        classification, _ = rig.peer.ask(PICTURE // (number + 1), (55, 0))
        assert classification.header.stamp.sec == 55
    assert len(rig.head.wait_for('the camera repeats stamps, first (55, 0)')) == 1


def test_zero_stamps_are_said_once(rig: Rig) -> None:
    for _ in range(3):
        rig.peer.ask(PICTURE, (0, 0))
    assert len(rig.head.wait_for('the camera sends images with zero stamps')) == 1


BAD_IMAGES: list[dict[str, Any]] = [
    {},
    {'height': 0, 'width': 5, 'encoding': 'rgb8', 'step': 15},
    {'height': 2, 'width': 2, 'encoding': 'unheard-of', 'step': 6},
    {'height': 2, 'width': 2, 'encoding': 'rgb8', 'step': 6, 'data': octets(bytes(11))},
    {'height': 2**32 - 1, 'width': 2**32 - 1, 'encoding': 'rgb8', 'step': 2**32 - 1},
]


def test_each_bad_image_is_counted_named_and_costs_nothing_else(rig: Rig) -> None:
    rejected = int(rig.peer.diagnosed(HEAD)['rejected'])
    for fields in BAD_IMAGES:
        rejected += 1
        rig.peer.camera.publish(Image(**fields))
        said = rig.peer.diagnosed(HEAD, lambda values, n=rejected: int(values['rejected']) >= n)
        assert int(said['rejected']) == rejected
        assert said['last_error'].startswith('bad image: image')
        total = sum(int(said[key]) for key in ('accepted', 'dropped', 'rejected'))
        assert int(said['received']) == total
        assert rig.peer.ask(PICTURE, (3, 0))[1]['route'] == 'offboard'
    # One line in five seconds, whatever comes.
    assert 1 <= len(rig.head.having('bad image')) <= len(BAD_IMAGES)


def features(bundle: Bundle, **changes: object) -> bytes:
    values = {'split': 1, 'codec': CodecId.NONE, 'fingerprint': bundle.fingerprint, 'session': 1}
    values |= {'sequence': 1, 'payload': bytes(4 * int(np.prod(bundle.split_at(1).shape)))}
    return FeatureFrame(**{**values, **changes}).to_bytes()  # type: ignore[arg-type]


def test_malformed_features_get_a_named_status_each_and_the_tail_lives_on(rig: Rig) -> None:
    good = features(rig.bundle)
    sent = {
        'MALFORMED': [b'', b'junk', good[:-1], good[:20] + b'\xff' + good[21:], bytes(100_000)],
        'WRONG_VERSION': [good[:4] + b'\x63' + good[5:]],
        'WRONG_BUNDLE': [features(rig.bundle, fingerprint=bytes(8))],
        'WRONG_SPLIT': [features(rig.bundle, split=9)],
        'WRONG_CODEC': [features(rig.bundle, codec=CodecId.FP16_ZSTD)],
        'BAD_PAYLOAD': [
            features(rig.bundle, payload=b'123'),
            features(rig.bundle, payload=b'\xff' * 4 * int(np.prod(rig.bundle.split_at(1).shape))),
            features(rig.bundle, codec=CodecId.INT8_ZSTD, payload=b'\x00' * 50),
        ],
    }
    publisher = rig.peer.node.create_publisher(CompressedImage, 'features', qos.WIRE)
    before = rig.peer.diagnosed(TAIL)

    def heard(values: dict[str, str]) -> bool:
        publisher.publish(CompressedImage(format=FEATURE_FORMAT))
        return values['status MALFORMED'] != before['status MALFORMED']

    rig.peer.diagnosed(TAIL, heard)
    rig.peer.ask(PICTURE, (4, 0))
    before = rig.peer.diagnosed(TAIL)
    for frames in sent.values():
        for data in frames:
            publisher.publish(wire_message(data, Header(), FEATURE_FORMAT))
    bad = sum(map(len, sent.values()))
    after = rig.peer.diagnosed(
        TAIL, lambda values: int(values['received']) >= int(before['received']) + bad
    )
    counted = {key: int(after[f'status {key}']) - int(before[f'status {key}']) for key in sent}
    assert counted == {key: len(frames) for key, frames in sent.items()}
    assert after['failed'] == '0' and rig.peer.ask(PICTURE, (5, 0))[1]['route'] == 'offboard'


def test_malformed_replies_and_statuses_are_named_and_the_head_lives_on(rig: Rig) -> None:
    replies = rig.peer.node.create_publisher(CompressedImage, 'tail/reply', qos.WIRE)
    statuses = rig.peer.node.create_publisher(String, 'tail/status', qos.LATCHED)
    bad = [b'', b'junk', bytes(1000), features(rig.bundle)]
    texts = ['', 'null', '[', '{"tail": 3}', 'x' * 100_000, '{"tail": "a", "session": 0}']
    before = rig.peer.diagnosed(HEAD)

    def heard(values: dict[str, str]) -> bool:
        for data in bad:
            replies.publish(wire_message(data, Header(), REPLY_FORMAT))
        for text in texts:
            statuses.publish(String(data=text))
        grown = int(values['bad_replies']) - int(before['bad_replies'])
        return grown >= len(bad) and bool(rig.head.having('bad status'))

    rig.peer.diagnosed(HEAD, heard)
    assert rig.peer.ask(PICTURE, (6, 0))[1]['route'] == 'offboard'
    assert len(rig.head.having('bad reply: reply frame')) <= 8, 'throttled'


def test_label_info_waits_for_those_who_come_late(rig: Rig) -> None:
    infos: list[LabelInfo] = []
    rig.peer.listen(LabelInfo, 'label_info', infos.append, qos.LATCHED)
    rig.peer.listen(LabelInfo, 'tail/label_info', infos.append, qos.LATCHED)
    assert rig.peer.wait(lambda: len(infos) == 2)
    for info in infos:
        names = {entry.class_id: entry.class_name for entry in info.class_map}
        assert tuple(names[index] for index in range(len(names))) == rig.bundle.classes


def test_the_tails_copy_of_the_answer_is_published_while_somebody_listens(rig: Rig) -> None:
    copies: list[Classification] = []
    rig.peer.listen(Classification, 'tail/classification', copies.append)

    def copied() -> bool:
        rig.peer.ask(PICTURE, (9, 9), 'copy')
        return rig.peer.wait(lambda: copies, 0.05)

    assert any(copied() for _ in range(100))
    assert copies[0].header.frame_id == 'copy'
    assert copies[0].results[0].class_id == rig.peer.classifications[-1].results[0].class_id


def test_annotated_images_carry_the_header(rig: Rig) -> None:
    pictures: list[Image] = []
    rig.peer.listen(Image, 'annotated', pictures.append, QoSProfile(depth=5))

    def drawn() -> bool:
        rig.peer.ask(PICTURE, (10, 0), 'drawn')
        return rig.peer.wait(lambda: pictures, 0.05)

    assert any(drawn() for _ in range(100))
    picture = pictures[0]
    assert (picture.header.frame_id, picture.encoding) == ('drawn', 'rgb8')
    assert len(picture.data) == picture.step * picture.height > 0


def test_every_received_image_is_accepted_or_dropped_and_answered_once(rig: Rig) -> None:
    rig.peer.settle()
    before = rig.peer.diagnosed(HEAD)
    stamps = [(100, number) for number in range(200)]
    for number, stamp in enumerate(stamps):
        rig.peer.send(PICTURE, stamp)
        # Sometimes faster than the head can be, so that it must drop.
        rig.peer.wait(lambda n=number: len(rig.peer.classifications) > n, 0.003)
    rig.peer.ask(PICTURE, (99, 0))
    after = rig.peer.diagnosed(HEAD)
    received, accepted, dropped = (
        int(after[key]) - int(before[key]) for key in ('received', 'accepted', 'dropped')
    )
    assert received == accepted + dropped
    assert rig.peer.wait(lambda: len(rig.peer.classifications) >= accepted)
    answered = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in rig.peer.classifications]
    assert len(answered) == len(set(answered)) == accepted
    assert set(answered) <= {*stamps, (99, 0)}
    routes = [values_of(message)['route'] for message in rig.peer.decisions]
    assert len(routes) == accepted and set(routes) == {'offboard'}


def test_the_runtime_is_said_once_at_start(rig: Rig) -> None:
    for process in (rig.head, rig.tail):
        assert len(process.having(f'runtime: {ros.RUNTIME}')) == 1


def test_decisions_tell_where_the_time_went(rig: Rig) -> None:
    _, decision = rig.peer.ask(PICTURE, (11, 0))
    parts = [float(decision[f'{name}_ms']) for name in ('queue', 'prepare', 'compute', 'offboard')]
    assert all(part >= 0 for part in parts)
    # What is between the parts is small; four significant digits are printed.
    assert sum(parts) <= float(decision['total_ms']) * 1.01 + 0.01
    assert float(decision['tail_ms']) <= float(decision['offboard_ms'])
    assert isinstance(rig.peer.decisions[-1], DiagnosticArray)
