# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics of head and tail: what goes wrong is said while it does."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from bundles import make_bundle
from processes import BLACK, Peer, private_domain, running_head

from sparse_split_ros import ros
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.nodes.head import HeadNode
from sparse_split_ros.nodes.messages import image_message
from sparse_split_ros.nodes.tail import TailNode
from sparse_split_ros.ros import DiagnosticArray, DiagnosticStatus, Header, Image, Parameter
from sparse_split_ros.runtime.bundle import Bundle

FRAMES = '/head: frames'


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('diagnostics') / 'bundle')


@pytest.fixture
def domain() -> Iterator[int]:
    with private_domain() as number:
        yield number


def said_by(node: HeadNode | TailNode, monkeypatch: pytest.MonkeyPatch) -> DiagnosticStatus:
    """What a node that nobody spins says of itself now."""
    said: list[DiagnosticArray] = []
    with monkeypatch.context() as patch:
        patch.setattr(node._diagnostics, 'publish', said.append)
        node._diagnose()
    status: DiagnosticStatus = said[0].status[0]
    return status


def test_images_that_get_no_answer_are_a_warning_and_without_any_answer_an_error(
    bundle: Bundle, domain: int
) -> None:
    depth = Image(
        header=Header(), height=8, width=8, encoding='16UC1', step=16, data=np.zeros(128, np.uint8)
    )
    with running_head(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up()
        peer.camera.publish(depth)
        said = peer.diagnosed(FRAMES, lambda values: int(values['rejected']) > 0)
        assert said['message'].startswith('1 images got no answer, ')
        assert '16UC1' in said['message']
        said = peer.diagnosed(FRAMES, lambda values: 'no answer' not in values['message'])
        assert said['rejected'] == '1', 'once it is past it is no trouble'
        head.rejected += 2
        said = peer.diagnosed(FRAMES, lambda values: 'no answer' in values['message'])
        assert said['message'].startswith('2 images got no answer, 0 did')


def test_a_camera_that_falls_silent_beside_another_is_named(bundle: Bundle, domain: int) -> None:
    with (
        running_head(bundle, domain, cameras=['front', 'rear'], no_image_warning_s=1.0) as head,
        Peer(domain=domain) as peer,
    ):
        camera = peer.node.create_publisher(Image, 'front/image', 10)
        until = time.monotonic() + 20
        text = ''
        while 'rear/image' not in text and time.monotonic() < until:
            camera.publish(image_message(BLACK, Header()))
            peer.pause(0.05)
            text = peer.diagnostics.get(FRAMES, {}).get('message', '')
            if 'front/image' in text:  # before the two had met
                text = ''
        assert text.startswith('no image for') and '/rear/image: 0 publishers' in text
        assert head.received > 0


def test_a_rate_above_that_of_one_camera_is_told(bundle: Bundle, domain: int) -> None:
    with running_head(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up()
        now = time.monotonic()
        head._started = now - 60
        head._recent.extend((now, 1.0) for _ in range(1000))
        said = peer.diagnosed(FRAMES, lambda values: float(values['frame_rate_hz']) > 0)
        assert float(said['frame_rate_hz']) >= 200


def test_a_tail_that_comes_and_goes_is_not_said_each_time_but_at_last(
    bundle: Bundle, domain: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_head(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up()
        capfd.readouterr()
        for state in [TailState.UP, TailState.DOWN] * 50:
            head.head.tracker._state = state
            head._say_state()
        head.head.tracker._state = TailState.FOREIGN
        head.head.tracker.objection = 'of another bundle'
        peer.diagnosed(FRAMES, lambda values: values['last_error'] == 'of another bundle')
    lines = [line for line in capfd.readouterr().err.splitlines() if 'answering from' in line]
    assert len(lines) <= 2 and 'of another bundle' in lines[-1]


def test_a_tail_that_cannot_keep_up_warns(
    bundle: Bundle, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ros.Context()
    ros.init(args=[], context=context, domain_id=domain)
    tail = TailNode(
        context=context, parameter_overrides=[Parameter('bundle', value=str(bundle.path))]
    )
    assert said_by(tail, monkeypatch).message == 'running'
    tail.tail.counts.overrun += 3
    said = said_by(tail, monkeypatch)
    assert said.level == DiagnosticStatus.WARN and said.message.startswith('3 frames came too late')
    said = said_by(tail, monkeypatch)
    assert (said.level, said.message) == (DiagnosticStatus.OK, 'running')
    tail.stop()
    tail.destroy_node()
    context.try_shutdown()
