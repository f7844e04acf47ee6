# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A head that learns: what its decisions say, what it keeps, and tails that are not to be believed.

The tail here is the test's own, so that it can lie.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, make_level_bundle
from processes import Peer, private_domain, running_head

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.estimate import Link
from sparse_split_ros.link.frame import REPLY_FORMAT, VERSION, FeatureFrame, ReplyFrame, Status
from sparse_split_ros.nodes import policies, qos
from sparse_split_ros.nodes.head import HeadNode
from sparse_split_ros.nodes.messages import wire_message
from sparse_split_ros.nodes.parameters import HEAD
from sparse_split_ros.policy.decision import Decision
from sparse_split_ros.policy.joint import JointPolicy
from sparse_split_ros.policy.risk import Calibration
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.ros import (
    CompressedImage,
    Header,
    LabelInfo,
    Parameter,
    String,
)
from sparse_split_ros.runtime.bundle import Bundle

FRAMES = '/head: frames'
K = 40


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_level_bundle(tmp_path_factory.mktemp('policies') / 'levels', classes=K)


@pytest.fixture
def domain() -> Iterator[int]:
    with private_domain() as number:
        yield number


def running(bundle: Bundle, domain: int, **parameters: object) -> AbstractContextManager[HeadNode]:
    """A head in this process that learns."""
    return running_head(bundle, domain, **{'policy': 'joint', 'deadline_ms': 2000.0, **parameters})


class LyingTail:
    """Answers what ``says`` makes of the class it should answer."""

    def __init__(self, peer: Peer, bundle: Bundle) -> None:
        self.says: Callable[[int], int] = int
        self._bundle = bundle
        self._replies = peer.node.create_publisher(CompressedImage, 'tail/reply', qos.WIRE)
        status = peer.node.create_publisher(String, 'tail/status', qos.LATCHED)
        served = Announcement('liar', 1, (bundle.fingerprint.hex(),), VERSION)
        status.publish(String(data=served.to_json()))
        peer.node.create_timer(0.5, lambda: status.publish(String(data=served.to_json())))
        peer.listen(CompressedImage, 'features', self._answer, qos.WIRE)

    def _answer(self, message: CompressedImage) -> None:
        frame = FeatureFrame.parse(memoryview(message.data))
        level = np.frombuffer(frame.payload, np.float32).mean()
        honest = round((float(level) + 2) / 4 * (K - 1))
        scores = np.full(K, 0.01 / (K - 1), np.float32)
        scores[self.says(honest)] = 0.99
        reply = ReplyFrame(
            Status.OK, self._bundle.fingerprint, frame.session, frame.sequence, scores, 100
        )
        self._replies.publish(wire_message(reply.to_bytes(), Header(), REPLY_FORMAT))


def image(level: int) -> np.ndarray:
    """An image of this class, in full certainty."""
    return np.full((8, 8, 3), round(255 * level / (K - 1)), np.uint8)


def show(peer: Peer, objects: int, seed: int = 0) -> None:
    """Show so many objects of random classes, three frames each."""
    rng = random.Random(seed)
    for number in range(objects):
        level = rng.randrange(K)
        for _ in range(3):
            peer.ask(image(level), (number, 0))


@pytest.fixture(scope='module')
def asking(bundle: Bundle) -> Iterator[tuple[HeadNode, Peer, LyingTail]]:
    """A head that does not hold the last stage, so that it must ask, and its tail."""
    with (
        private_domain() as domain,
        running(bundle, domain, all_local=False) as head,
        Peer(domain=domain) as peer,
    ):
        tail = LyingTail(peer, bundle)
        peer.warm_up('offboard', [image(3)])
        yield head, peer, tail


def replayed() -> Callable[[int], int]:
    past: list[int] = []

    def say(honest: int) -> int:
        past.append(honest)
        return past[-20] if len(past) >= 20 else 0

    return say


def start_over(head: HeadNode) -> None:
    """A policy that has learned nothing."""
    for name in ('fixed', 'joint'):
        (result,) = head.set_parameters([Parameter('policy', value=name)])
        assert result.successful, result.reason


@pytest.mark.parametrize('kind', ['random', 'constant', 'replayed'])
def test_a_tail_that_lies_is_found_out_and_said_in_diagnostics(
    asking: tuple[HeadNode, Peer, LyingTail], kind: str
) -> None:
    head, peer, tail = asking
    tail.says = int
    start_over(head)
    show(peer, 15)
    chance = random.Random(1)
    tail.says = {
        'random': lambda honest: chance.randrange(K),
        'constant': lambda honest: 11,
        'replayed': replayed(),
    }[kind]
    show(peer, 40, seed=1)
    said = peer.diagnosed(FRAMES, lambda values: values.get('feedback', 'ok') != 'ok')
    assert 'poisoned' in said['feedback'] and said['policy'] == 'joint'


def test_an_honest_tail_is_believed(asking: tuple[HeadNode, Peer, LyingTail]) -> None:
    head, peer, tail = asking
    tail.says = int
    start_over(head)
    show(peer, 60, seed=2)
    policy = head.head.policy
    assert isinstance(policy, JointPolicy)
    assert not policy.feedback.poisoned and policy.alarms == 0


def test_a_decision_says_what_was_planned_and_seen(
    asking: tuple[HeadNode, Peer, LyingTail],
) -> None:
    _, peer, _ = asking
    _, decision = peer.ask(image(5), (1, 0))
    thresholds = decision['thresholds'].split('/')
    assert len(thresholds) == 2 and thresholds[1] == '-'
    stage, confidence = decision['exits'].split()[0].split(':')
    assert stage == '0' and float(confidence) > 0.9
    assert 0 <= float(decision['audit_probability']) <= 0.1


def test_an_answer_is_published_before_it_is_learned_from(
    bundle: Bundle, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[image(3)])
        learned, published = [], threading.Event()
        observe = head.head.policy.observe

        def after_all(decision: Decision) -> None:
            learned.append(published.wait(10.0))
            observe(decision)

        monkeypatch.setattr(head.head.policy, 'observe', after_all)
        peer.ask(image(3), (1, 0))
        assert learned == []
        published.set()
        peer.ask(image(3), (2, 0))
        assert learned[0] is True, 'before the next frame is planned'


def state_file(bundle: Bundle) -> str:
    return f'head-joint-{bundle.fingerprint.hex()[:8]}.json'


def test_what_was_learned_survives_a_restart(bundle: Bundle, domain: int, tmp_path: Path) -> None:
    with (
        running(bundle, domain, policy_state=str(tmp_path)) as head,
        Peer(domain=domain) as peer,
    ):
        peer.warm_up(images=[image(3)])
        show(peer, 5)
    first = head.head.policy.state()  # type: ignore[attr-defined]
    (kept,) = tmp_path.iterdir()
    assert kept.name == state_file(bundle)
    with running(bundle, domain, policy_state=str(tmp_path)) as head:
        assert head.head.policy.state()['scenes'] == first['scenes']  # type: ignore[attr-defined]
        assert head.last_error == ''


def test_each_bundle_keeps_what_was_learned_of_it(bundle: Bundle, tmp_path: Path) -> None:
    other = make_level_bundle(tmp_path / 'bundle', classes=K + 1)
    values = {spec.name: spec.default for spec in HEAD} | {'policy': 'joint'}
    complaints: list[str] = []
    for known in (bundle, other, bundle):
        memory = policies.Memory(
            str(tmp_path / 'state'), 'head', known, threading.Lock(), complaints.append
        )
        text = memory.adopt('joint', policies.policy_of(values, known, 'native'))
        memory.close()
    assert text.endswith('policy state restored') and complaints == []


def kept(bundle: Bundle, directory: Path, node: str, **changes: object) -> str:
    """The file that a SplitEE policy of this node is kept in."""
    values = {spec.name: spec.default for spec in HEAD} | {'policy': 'splitee'} | changes
    complaints: list[str] = []
    memory = policies.Memory(str(directory), node, bundle, threading.Lock(), complaints.append)
    before = set(directory.iterdir())
    memory.adopt('splitee', policies.policy_of(values, bundle, 'native'))
    memory.close()
    assert complaints == []
    (made,) = set(directory.iterdir()) - before
    return made.name


def test_each_node_and_each_threshold_has_a_memory_of_its_own(
    bundle: Bundle, tmp_path: Path
) -> None:
    names = {
        kept(bundle, tmp_path, node, threshold=threshold)
        for node in ('/arm/left/head', '/arm_left/head')
        for threshold in (0.5, 0.9)
    }
    assert len(names) == 4


def test_a_slow_disk_does_not_hold_up_the_end(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()

    def slow(*_: object) -> str:
        written.wait(10.0)
        return ''

    monkeypatch.setattr(policies.StateKeeper, 'save', slow)
    memory = policies.Memory(str(tmp_path), 'head', bundle, threading.Lock(), pytest.fail)
    values = {spec.name: spec.default for spec in HEAD} | {'policy': 'joint'}
    memory.adopt('joint', policies.policy_of(values, bundle, 'native'))
    closing = threading.Thread(target=memory.close, daemon=True)
    closing.start()
    closing.join(5.0)
    assert not closing.is_alive()
    written.set()


def test_a_policy_that_cannot_say_what_it_learned_ends_nothing(
    bundle: Bundle, domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: JointPolicy) -> dict[str, Any]:
        raise KeyError('no state')

    monkeypatch.setattr(JointPolicy, 'state', broken)
    with running(bundle, domain, policy_state=str(tmp_path)) as head:
        (result,) = head.set_parameters([Parameter('policy', value='fixed')])
        assert result.successful, result.reason
        assert "state raised KeyError: 'no state'" in head.last_error
    assert list(tmp_path.iterdir()) == []


def test_diagnostics_warn_while_a_policy_raises(
    bundle: Bundle, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError('no plan')

    with running(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[image(3)])
        monkeypatch.setattr(head.head.policy, 'choose', broken)
        peer.ask(image(3), (1, 0))
        said = peer.diagnosed(FRAMES, lambda values: int(values['policy_faults']) > 0)
        assert said['message'].startswith('the policy raised: policy choose: KeyError')
        said = peer.diagnosed(FRAMES, lambda values: 'raised' not in values['message'])
        assert int(said['policy_faults']) > 0, 'nothing new'


def test_impossible_confidences_are_said_once(
    bundle: Bundle, domain: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with running(bundle, domain) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[image(3)])
        policy = head.head.policy
        assert isinstance(policy, JointPolicy)
        for rejected in (1, 2):
            policy.rejected = rejected
            wanted = str(rejected)
            peer.diagnosed(FRAMES, lambda values, n=wanted: values['policy_rejected'] == n)
    assert capfd.readouterr().err.count('no number from 0 to 1') == 1


def test_a_replay_teaches_nothing_that_is_kept(bundle: Bundle, domain: int, tmp_path: Path) -> None:
    with running(bundle, domain, policy_state=str(tmp_path), use_sim_time=True) as head:
        assert head.get_parameter('use_sim_time').value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kind', ['corrupt', 'foreign'])
def test_a_state_that_does_not_fit_is_refused_and_the_robot_still_answers(
    bundle: Bundle, domain: int, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / state_file(bundle)
    record = {'format': 'sparse_split_policy/1', 'policy': 'joint', 'fingerprint': '00' * 8}
    file.write_text('{' if kind == 'corrupt' else json.dumps({**record, 'state': {}}))
    with (
        running(bundle, domain, policy_state=str(tmp_path)) as head,
        Peer(domain=domain) as peer,
    ):
        assert 'refused' in head.last_error
        assert ('fingerprint' in head.last_error) == (kind == 'foreign')
        peer.warm_up(images=[image(3)])
    assert {path.name for path in tmp_path.iterdir()} == {file.name, f'{file.name}.refused'}


def test_auto_is_joint_where_calibration_is_and_nobody_argues(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, object] = {'policy': 'auto', 'split': -1, 'threshold': -1.0}
    assert policies.chosen(values, bundle) == 'fixed'
    monkeypatch.setattr(policies, 'bundle_calibration', lambda bundle: Calibration({}))
    assert policies.chosen(values, bundle) == 'joint'
    assert policies.chosen({**values, 'threshold': 0.9}, bundle) == 'fixed'
    assert policies.chosen({**values, 'policy': 'splitee'}, bundle) == 'splitee'


def test_a_bundle_of_one_exit_answers_all_itself(domain: int, tmp_path: Path) -> None:
    alone = make_bundle(tmp_path / 'bundle', exits=(), classes=5)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with running(alone, domain, all_local=False) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[picture])
        _, decision = peer.ask(picture, (1, 0))
        assert (decision['route'], decision['exit']) == ('local', str(alone.final))
        assert head.last_error == ''


@pytest.mark.parametrize(('exits', 'split'), [((), 2), ((1,), 1)])
def test_a_bundle_whose_own_split_cannot_be_has_another(
    tmp_path: Path, exits: tuple[int, ...], split: int
) -> None:
    late = make_bundle(tmp_path, exits=exits, split=0)
    values = {spec.name: spec.default for spec in HEAD}
    for all_local in (True, False):
        policy = policies.policy_of({**values, 'all_local': all_local}, late, 'native')
        assert policy.choose(Scene(), Link()).split == split


def test_a_robot_made_slower_says_so_and_is(bundle: Bundle, domain: int) -> None:
    with running(bundle, domain, robot_profile=100.0) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[image(3)])
        _, decision = peer.ask(image(3), (1, 0))
        assert float(decision['total_ms']) >= float(decision['compute_ms'])
        # Two stages and an exit take some 50 us here.
        assert float(decision['compute_ms']) > 1.0
        assert sum(head.head.policy.costs.stage_ms) > 0.5  # type: ignore[attr-defined]
        assert peer.diagnosed(FRAMES)['simulated_slowdown'] == '100'


def test_label_info_names_the_threshold_that_is_in_use(bundle: Bundle, domain: int) -> None:
    shown: list[float] = []
    with running(bundle, domain, policy='fixed', threshold=0.75) as head, Peer() as peer:
        peer.listen(LabelInfo, 'label_info', lambda it: shown.append(it.threshold), qos.LATCHED)
        assert peer.wait(lambda: shown == [0.75])
        head.set_parameters([Parameter('threshold', value=0.5)])
        assert peer.wait(lambda: shown == [0.75, 0.5])


@pytest.mark.parametrize('policy', ['splitee', 'splitee-s', 'isplitee'])
def test_the_published_policies_run_and_count_their_plays(
    bundle: Bundle, domain: int, policy: str
) -> None:
    with running(bundle, domain, policy=policy) as head, Peer(domain=domain) as peer:
        peer.warm_up(images=[image(3)])
        for number in range(10):
            peer.ask(image(number), (number, 0))
        plays = str(head.head.policy.diagnostics()['plays']).split('/')
        assert sum(map(float, plays)) >= 10
