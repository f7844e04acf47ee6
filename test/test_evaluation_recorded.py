# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A live run, recorded and scored, says of every frame what its replay says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import make_bundle
from processes import Peer, Process, node, private_domain, ready
from replays import make_world, replayed

from sparse_split_ros.cli import main
from sparse_split_ros.data.bags import BagError, Frame, Recording, write_bag
from sparse_split_ros.evaluation.ledger import DECISION_KEYS
from sparse_split_ros.evaluation.recorded import score
from sparse_split_ros.evaluation.stream import Source, Truth
from sparse_split_ros.nodes.messages import named, octets
from sparse_split_ros.policy.decision import Route
from sparse_split_ros.ros import (
    Classification,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    Image,
    KeyValue,
    TimeMsg,
    serialize_message,
)
from sparse_split_ros.runtime.bundle import BundleError

FRAMES = 30
THRESHOLD = 0.6


def test_offline_and_live_agree_frame_by_frame_in_lock_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, FRAMES)
    bundle, data, _ = world
    with np.load(data) as packed:
        images, labels = packed['images'], packed['labels'].tolist()
    recorded = tmp_path / 'recorded'
    with private_domain():
        fixed = {'policy': 'fixed', 'threshold': THRESHOLD, 'deadline_ms': 2000.0}
        with (
            node('head', bundle=bundle.path, engine='onnxruntime', **fixed) as head,
            node('tail', bundle=bundle.path, engine='onnxruntime') as tail,
            Peer() as peer,
        ):
            ready(head)
            ready(tail)
            peer.warm_up('offboard', list(images))
            command = ('-m', 'sparse_split_ros.cli', 'record', str(recorded))
            with Process(*command, '--limit', str(FRAMES)) as recorder:
                recorder.wait_for('recording into')
                truth = peer.node.create_publisher(Classification, 'ground_truth', 10)
                assert peer.wait(
                    lambda: (
                        truth.get_subscription_count()
                        and peer.node.count_subscribers('decision') > 1
                        and peer.node.count_subscribers('classification') > 1
                    )
                )
                # A camera's image that never reached the head. Said for a while: that this side
                # knows the recorder does not mean that the recorder knows this side already.
                lost = Header(stamp=TimeMsg(sec=99, nanosec=0), frame_id='camera')
                for _ in range(20):
                    truth.publish(named(lost, 'class 0'))
                    time.sleep(0.05)
                for index, (image, label) in enumerate(zip(images, labels)):
                    stamp = TimeMsg(sec=100, nanosec=index * 10_000_000)
                    header = Header(stamp=stamp, frame_id='camera')
                    truth.publish(named(header, f'class {label}'))
                    peer.ask(image, (stamp.sec, stamp.nanosec))
                assert recorder.wait() == 0
    live = score(recorded)
    assert live.summary['deadline_ms'] == 2000.0
    # Also one that a replay has by itself.
    assert main(['evaluate', '--decisions', str(recorded), '--json', '--deadline', '100']) == 0
    assert json.loads(capsys.readouterr().out)['deadline_ms'] == 100.0
    assert live.summary['errors'] == []
    assert (live.summary['frames'], live.summary['answered']) == (FRAMES + 1, FRAMES)
    assert live.summary['labelled'] == FRAMES
    decided = [each for each in live.outcomes if each.route is not None]

    frames = [
        Frame(100 * 10**9 + i * 10_000_000, 'camera', image, f'class {label}')
        for i, (image, label) in enumerate(zip(images, labels))
    ]
    write_bag(tmp_path / 'played', frames)
    offline = replayed(
        world, sources=(Source(str(tmp_path / 'played')),), settings={'threshold': THRESHOLD}
    )
    both = list(zip(decided, offline.outcomes['fixed']))
    assert len(both) == FRAMES
    assert {each.route for each in decided} == {Route.LOCAL, Route.OFFBOARD}
    for there, here in both:
        assert (there.answer, there.route, there.exit) == (here.answer, here.route, here.exit)
        assert (there.label, there.payload_bytes) == (here.label, here.payload_bytes)
        # Messages carry four digits.
        assert there.confidence == pytest.approx(here.confidence, rel=1e-3)
    assert live.summary['accuracy'] == offline.summary['accuracy']
    assert live.summary['route_share'] == offline.summary['route_share']


def write(bag: Recording, topic: str, message: object) -> None:
    kind = 'diagnostic_msgs/msg/DiagnosticArray'
    if isinstance(message, Classification):
        kind = 'vision_msgs/msg/Classification'
    bag.write(topic, kind, 1, bytes(serialize_message(message)))


def said(header: Header, **values: object) -> DiagnosticArray:
    held = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticArray(header=header, status=[DiagnosticStatus(values=held)])


def decide(bag: Recording, header: Header, answer: str, space: str = '') -> None:
    """A decision of a head and its answer."""
    plain = {**dict.fromkeys(DECISION_KEYS, '0'), 'route': 'local', 'reason': 'confident'}
    write(bag, f'{space}/decision', said(header, **{**plain, 'class': answer}))
    write(bag, f'{space}/classification', named(header, answer))


class Flown:
    """Writes what heads say in a run, two images dropped for each that they decide."""

    def __init__(self, bag: Recording, space: str = '') -> None:
        self.decided = 0
        self._bag, self._space = bag, space

    def decide(self, count: int) -> None:
        for _ in range(count):
            header = Header(stamp=TimeMsg(sec=self.decided), frame_id=f'{self._space}/camera')
            decide(self._bag, header, 'stop', self._space)
            self.decided += 1

    def diagnose(self, accepted: int, waiting: int = 0, **more: int) -> None:
        """What the head counted since its own start; ``waiting`` are in the mailbox."""
        counted = {
            'received': 3 * accepted + waiting,
            'accepted': accepted,
            'dropped': 2 * accepted,
        }
        message = said(Header(), **counted, **more, fingerprint='00')
        message.status[0].name = f'{self._space}/head: frames'
        write(self._bag, '/diagnostics', message)


def counts(summary: dict[str, Any]) -> tuple[int | None, ...]:
    return tuple(summary[name] for name in ('received', 'accepted', 'dropped', 'missed_frames'))


def shows(bag: Recording, camera: str, stamp: TimeMsg, colour: tuple[int, int, int]) -> None:
    """An image of one colour."""
    image = Image(
        header=Header(stamp=stamp, frame_id=camera), height=8, width=8, encoding='rgb8', step=24,
        data=octets(np.full((8, 8, 3), colour, np.uint8).tobytes()),
    )  # fmt: skip
    bag.write(f'/{camera}/image', 'sensor_msgs/msg/Image', 1, bytes(serialize_message(image)))


def test_labels_of_a_live_run_are_classes_of_its_bundle_or_not_known(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / 'bundle', classes=3)
    shown = (('class 1', '1'), ('2', 'class 2'), ('owl', 'class 0'))
    plain = {**dict.fromkeys(DECISION_KEYS, '0'), 'route': 'local', 'reason': 'confident'}
    counted = {'received': 3, 'accepted': 3, 'fingerprint': bundle.fingerprint.hex()}
    with Recording(tmp_path / 'bag') as bag:
        write(bag, '/diagnostics', said(Header(), **counted))
        for sec, (label, answer) in enumerate(shown):
            header = Header(stamp=TimeMsg(sec=sec), frame_id='camera')
            write(bag, '/ground_truth', named(header, label))
            name = bundle.classes[int(answer)] if answer.isdecimal() else answer
            write(bag, '/decision', said(header, **{**plain, 'class': name}))
            write(bag, '/classification', named(header, answer))
    known = score(tmp_path / 'bag', bundle=str(bundle.path)).summary
    assert (known['labelled'], known['accuracy'], known['errors']) == (2, 1.0, [])
    assert known['unknown_labels'] == {'owl': 1}
    with pytest.raises(BundleError, match="no bundle 'typo'"):
        score(tmp_path / 'bag', bundle='typo')
    other = score(tmp_path / 'bag', bundle='gtsrb32').summary
    assert (other['labelled'], other['unknown_labels']) == (3, None)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A recorded run of three frames, answered stop, yield, stop."""
    with Recording(tmp_path / 'bag') as bag:
        for sec, answer in enumerate(('stop', 'yield', 'stop')):
            decide(bag, Header(stamp=TimeMsg(sec=sec, nanosec=5), frame_id='camera'), answer)
    return tmp_path / 'bag'


@pytest.mark.parametrize(
    ('name', 'text', 'known', 'right'),
    [
        ('frames.csv', 'frame,label\n0,stop\n2,yield\n', 2, 0.5),
        ('stamps.csv', 'stamp_ns,label\n1000000005,yield\n', 1, 1.0),
    ],
)
def test_a_live_run_takes_its_labels_from_a_file(
    unlabelled: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, known: int,
    right: float,
) -> None:  # fmt: skip
    labels = unlabelled.parent / name
    labels.write_text(text)
    command = ['evaluate', '--decisions', str(unlabelled), '--labels', str(labels), '--json']
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary['labelled'], summary['accuracy']) == (known, right)


def test_what_the_head_dropped_is_counted_without_a_truth(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        for sec in range(3):
            decide(bag, Header(stamp=TimeMsg(sec=sec), frame_id='camera'), 'stop')
        counted = {'received': 5, 'accepted': 3, 'dropped': 2, 'fingerprint': '00'}
        write(bag, '/diagnostics', said(Header(), **counted))
    summary = score(tmp_path / 'bag').summary
    assert summary['errors'] == []
    assert {name: summary[name] for name in ('frames', 'received', 'dropped', 'missed_frames')} == {
        'frames': 5, 'received': 5, 'dropped': 2, 'missed_frames': 2,
    }  # fmt: skip


@pytest.mark.parametrize('task', ['room', 'scene', 'ground_truth', 'classification', 'decision'])
def test_a_task_may_be_called_as_a_topic_of_ours(tmp_path: Path, task: str) -> None:
    plain = {**dict.fromkeys(DECISION_KEYS, '0'), 'route': 'local', 'reason': 'confident'}
    answers = {'class': 'stop', f'class/{task}': 'hall'}
    header = Header(stamp=TimeMsg(sec=1), frame_id='camera')
    with Recording(tmp_path / 'bag') as bag:
        write(bag, '/ground_truth', named(header, 'stop'))
        write(bag, f'/ground_truth/{task}', named(header, 'kitchen'))
        write(bag, '/classification', named(header, 'stop'))
        write(bag, f'/classification/{task}', named(header, 'hall'))
        write(bag, '/scene', named(header, 'day'))
        write(bag, '/decision', said(header, **{**plain, **answers, 'tasks': f'sign {task}'}))
    summary = score(tmp_path / 'bag').summary
    assert summary['accuracy_by_task'] == {'sign': 1.0, task: 0.0}
    assert list(summary['accuracy_by_scene']) == ['day']
    assert summary['errors'] == []


def test_drops_are_counted_though_the_recording_ends_after_the_last_diagnostics(
    tmp_path: Path,
) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.diagnose(0)
        flown.decide(10)
        flown.diagnose(10, waiting=1)
        flown.decide(3)
    summary = score(tmp_path / 'bag').summary
    assert (counts(summary), summary['errors']) == ((20 + 13, 13, 20, 20), [])


def test_frames_undecided_at_the_end_of_a_recording_are_left_out(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.decide(10)
        # Two travel, the worker has a third.
        flown.diagnose(13, in_flight=2)
    summary = score(tmp_path / 'bag').summary
    assert (counts(summary), summary['errors']) == ((26 + 10, 10, 26, 26), [])


def test_of_a_head_that_ran_before_only_what_is_recorded_counts(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.decide(1)
        flown.diagnose(1000)
        flown.decide(20)
        flown.diagnose(1020)
        flown.decide(2)
    summary = score(tmp_path / 'bag').summary
    assert (counts(summary), summary['errors']) == ((40 + 23, 23, 40, 40), [])


@pytest.mark.parametrize('before', [0, 1000])
def test_a_head_that_is_started_anew_counts_on(tmp_path: Path, before: int) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.diagnose(before)
        flown.decide(10)
        flown.diagnose(before + 10)
        for accepted in (5, 10):
            flown.decide(5)
            flown.diagnose(accepted)
    summary = score(tmp_path / 'bag').summary
    assert (counts(summary), summary['errors']) == ((40 + 20, 20, 40, 40), [])


def test_heads_of_one_recording_are_counted_together(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        late, whole = Flown(bag, '/r1'), Flown(bag, '/r2')
        late.diagnose(1000)
        for accepted in (10, 20):
            late.decide(10)
            whole.decide(10)
            late.diagnose(1000 + accepted)
            whole.diagnose(accepted)
    summary = score(tmp_path / 'bag').summary
    assert (counts(summary), summary['errors']) == ((80 + 40, 40, 80, 80), [])


def test_a_head_whose_decisions_are_not_recorded_is_not_counted(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown, other = Flown(bag, '/r1'), Flown(bag, '/r2')
        flown.decide(10)
        flown.diagnose(10)
        other.diagnose(500)
    assert counts(score(tmp_path / 'bag').summary) == (30, 10, 20, 20)


def test_a_head_is_known_by_itself_where_its_decisions_are_remapped(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        Flown(bag, '/elsewhere').decide(10)
        Flown(bag, '/r1').diagnose(10)
    assert counts(score(tmp_path / 'bag').summary) == (30, 10, 20, 20)


def test_frames_that_failed_are_counted_and_an_error(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.decide(10)
        flown.diagnose(12, failed=2)
        flown.decide(1)
    summary = score(tmp_path / 'bag').summary
    assert (summary['accepted'], summary['failed']) == (13, 2)
    assert summary['errors'] == ['11 answers to 13 accepted frames, 2 of which failed']


def test_images_that_a_head_lost_are_an_error(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        flown.decide(10)
        flown.diagnose(10, waiting=7)
    (error,) = score(tmp_path / 'bag').summary['errors']
    assert error == 'the head received 37 images and accounts for 30'


@pytest.mark.parametrize('accepted', [(), (1000,), (1000, 2000)])
def test_drops_that_cannot_be_told_are_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], accepted: tuple[int, ...]
) -> None:
    with Recording(tmp_path / 'bag') as bag:
        flown = Flown(bag)
        for count in accepted:
            flown.decide(5)
            flown.diagnose(count)
        flown.decide(5)
    out = str(tmp_path / 'out')
    assert main(['evaluate', '--decisions', str(tmp_path / 'bag'), '--out', out]) == 0
    told = capsys.readouterr()
    assert 'unknown received' in told.out and 'unknown dropped' in told.out
    assert 'dropped is not known' in told.err
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert counts(summary) == (None, flown.decided, None, 0)
    assert summary['rejected'] is None and summary['failed'] is None


def test_labels_of_a_live_run_can_be_named_otherwise(tmp_path: Path) -> None:
    with Recording(tmp_path / 'bag') as bag:
        header = Header(stamp=TimeMsg(sec=1), frame_id='camera')
        write(bag, '/ground_truth', named(header, 'STOP'))
        decide(bag, header, 'stop')
    assert score(tmp_path / 'bag').summary['accuracy'] == 0.0
    assert score(tmp_path / 'bag', truth=Truth({'STOP': 'stop'})).summary['accuracy'] == 1.0


@pytest.mark.parametrize(
    'options',
    [['--link', 'lte'], ['--baselines'], ['--seed', '3'], ['--table', 'a.csv'], ['--limit', '1']],
)
def test_options_of_a_replay_are_refused_for_a_live_run(
    unlabelled: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(['evaluate', '--decisions', str(unlabelled), '--json', *options]) == 2
    error = f'error: {options[0]} is for a replay and not for --decisions'
    assert capsys.readouterr().err.strip() == error


@pytest.mark.parametrize('deadline', ['nan', 'inf', '-1'])
def test_a_deadline_of_a_live_run_is_a_time(
    unlabelled: Path, capsys: pytest.CaptureFixture[str], deadline: str
) -> None:
    command = ['evaluate', '--decisions', str(unlabelled), '--json', '--deadline', deadline]
    assert main(command) == 2
    assert f'--deadline {deadline} ms, expected a positive' in capsys.readouterr().err


def test_a_live_run_without_a_report_has_its_figures(unlabelled: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    assert main(['evaluate', '--decisions', str(unlabelled), '--out', str(out), '--no-report']) == 0
    assert [path.name for path in out.iterdir()] == ['summary.json']


def test_frames_of_two_cameras_with_one_header_are_an_error(tmp_path: Path) -> None:
    plain = {**dict.fromkeys(DECISION_KEYS, '0'), 'route': 'local', 'reason': 'confident'}
    header = Header(stamp=TimeMsg(sec=7), frame_id='camera')
    with Recording(tmp_path / 'bag') as bag:
        for source in ('0', '1'):
            values = [KeyValue(key=key, value=value)
                      for key, value in {**plain, 'source': source}.items()]  # fmt: skip
            decision = DiagnosticArray(header=header, status=[DiagnosticStatus(values=values)])
            bag.write(
                '/decision', 'diagnostic_msgs/msg/DiagnosticArray', 1,
                bytes(serialize_message(decision)),
            )  # fmt: skip
    errors = score(tmp_path / 'bag').summary['errors']
    assert any('1 decisions have stamp and frame_id of another' in each for each in errors)


def test_the_report_shows_the_images_of_every_camera(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    pytest.importorskip('jinja2')
    from sparse_split_ros.evaluation.compared import write_recorded

    colours = {'front': (255, 0, 0), 'left': (0, 0, 255)}
    with Recording(tmp_path / 'bag') as bag:
        # Overtaken before the head took it up: it has no decision.
        shows(bag, 'front', TimeMsg(sec=1), (0, 255, 0))
        for sec in range(2, 22):
            stamp = TimeMsg(sec=sec)
            for camera, colour in colours.items():
                shows(bag, camera, stamp, colour)
                decide(bag, Header(stamp=stamp, frame_id=camera), 'stop')
    write_recorded(score(tmp_path / 'bag'), tmp_path / 'bag', tmp_path / 'out')
    drawn = cv2.imread(str(tmp_path / 'out' / 'drive.png'))[..., ::-1]
    areas = [int((drawn == colour).all(2).sum()) for colour in ((255, 0, 0), (0, 0, 255))]
    assert min(areas) > 0.9 * max(areas) > 10_000
    assert not (drawn == (0, 255, 0)).all(2).any()


def test_the_worst_frames_of_a_live_run_are_among_its_images(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    pytest.importorskip('jinja2')
    from sparse_split_ros.evaluation.compared import write_recorded

    with Recording(tmp_path / 'bag') as bag:
        for index in range(1001):
            header = Header(stamp=TimeMsg(sec=index), frame_id='front')
            write(bag, '/ground_truth', named(header, 'yield' if index == 501 else 'stop'))
            decide(bag, header, 'stop')
            if index == 501:
                shows(bag, 'front', header.stamp, (9, 9, 9))
    page = write_recorded(score(tmp_path / 'bag'), tmp_path / 'bag', tmp_path / 'out')
    assert 'frame 501' in page.read_text('utf-8')


def test_a_bag_without_decisions_says_how_to_make_one(tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', [Frame(1, 'camera', np.zeros((8, 8, 3), np.uint8), 'stop')])
    with pytest.raises(BagError, match='sparse-split record'):
        score(tmp_path / 'bag')


@pytest.mark.parametrize(
    ('name', 'value'),
    [('route', 'north'), ('total_ms', 'fast'), ('offboard_ms', 'nan'), ('exit', '1.5')],
)
def test_a_decision_that_cannot_be_read_is_named(tmp_path: Path, name: str, value: str) -> None:
    plain = {**dict.fromkeys(DECISION_KEYS, '0'), 'route': 'local', 'reason': 'confident'}
    with Recording(tmp_path / 'bag') as bag:
        header = Header(stamp=TimeMsg(sec=7), frame_id='camera')
        write(bag, '/decision', said(header, **{**plain, name: value}))
    with pytest.raises(BagError, match=rf'stamp 7\.000000000 .*{value}.* not of this head'):
        score(tmp_path / 'bag')


@pytest.mark.parametrize('damage', [{'accepted': 'many'}, {'deadline_ms': 'nan'}])
def test_numbers_that_are_none_are_named(tmp_path: Path, damage: dict[str, str]) -> None:
    with Recording(tmp_path / 'bag') as bag:
        decide(bag, Header(stamp=TimeMsg(sec=7), frame_id='camera'), 'stop')
        write(
            bag, '/diagnostics', said(Header(), **{'accepted': '1', 'fingerprint': '00', **damage})
        )
    with pytest.raises(BagError, match=r'many|deadline_ms is nan'):
        score(tmp_path / 'bag')


def test_a_decision_topic_of_somebody_else_is_named(tmp_path: Path) -> None:
    status = DiagnosticStatus(values=[KeyValue(key='route', value='north')])
    foreign = DiagnosticArray(header=Header(stamp=TimeMsg(sec=7, nanosec=5)), status=[status])
    with Recording(tmp_path / 'bag') as bag:
        bag.write(
            '/planner/decision', 'diagnostic_msgs/msg/DiagnosticArray', 1,
            bytes(serialize_message(foreign)),
        )  # fmt: skip
    with pytest.raises(BagError, match=r'stamp 7\.000000005 has no .*total_ms.*/planner/decision'):
        score(tmp_path / 'bag')
