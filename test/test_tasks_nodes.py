# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several tasks over the middleware: topics and scores of each, live and replayed."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle
from processes import BLACK, Peer, Process, node, private_domain, ready
from replays import replayed, write_times
from test_nodes_messages import decision

from sparse_split_ros.data.bags import Frame, write_bag
from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.evaluation.recorded import score
from sparse_split_ros.evaluation.stream import Source
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import annotate, labels_of, named
from sparse_split_ros.policy.decision import Route
from sparse_split_ros.policy.tasks import parts
from sparse_split_ros.ros import Classification, Header, LabelInfo, TimeMsg
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.preprocess import prepare

TASKS = {'sign': ('stop', 'yield', 'turn'), 'weather': ('day', 'fog')}
FRAMES = 12
FURTHER = ('classification/weather', 'tail/classification/weather')


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / 'bundle', classes=TASKS, bottleneck=None)


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [*rng.integers(0, 256, (FRAMES, 16, 16, 3), dtype=np.uint8)]


def answers(bundle: Bundle) -> list[tuple[str, str]]:
    """What the whole network says of the pictures, task by task."""
    engine, last = load_engine(bundle, 'onnxruntime'), bundle.final
    found = []
    for image in pictures():
        x = prepare(image, bundle.input)
        row = engine.run(x, 0, last, [None] * last + [0.0]).exits[last][0]
        sign, weather = (int(part.argmax()) for part in parts(row, bundle.sizes))
        found.append((TASKS['sign'][sign], TASKS['weather'][weather]))
    return found


def truths() -> list[tuple[str, str]]:
    """Made up: every second sign is a stop, every third weather fog."""
    return [(TASKS['sign'][i % 2], TASKS['weather'][i % 3 == 0]) for i in range(FRAMES)]


def by_task(bundle: Bundle) -> dict[str, float]:
    pairs = list(zip(answers(bundle), truths()))
    return {
        name: sum(said[at] == true[at] for said, true in pairs) / FRAMES
        for at, name in enumerate(TASKS)
    }


def test_every_task_has_its_topics_and_its_score(bundle: Bundle, tmp_path: Path) -> None:
    common = {'bundle': bundle.path, 'engine': 'onnxruntime'}
    doubtful = {'policy': 'fixed', 'threshold': 1.0, 'codec': 'none', 'deadline_ms': 10_000.0}
    heard: dict[str, list[Classification]] = {topic: [] for topic in FURTHER}
    infos: dict[str, LabelInfo] = {}
    with (
        private_domain(),
        node('head', **common, **doubtful) as head,
        node('tail', **common) as tail,
        Peer() as peer,
    ):
        ready(head)
        ready(tail)
        for topic, messages in heard.items():
            peer.listen(Classification, topic, messages.append)
        for topic in ('label_info', 'label_info/weather', 'tail/label_info/weather'):
            peer.listen(
                LabelInfo, topic, lambda said, topic=topic: infos.update({topic: said}), qos.LATCHED
            )
        peer.warm_up('offboard', pictures())
        assert peer.wait(lambda: len(infos) == 3)
        names = {
            topic: [each.class_name for each in info.class_map] for topic, info in infos.items()
        }
        assert names.pop('label_info') == list(TASKS['sign'])
        assert all(each == list(TASKS['weather']) for each in names.values())
        command = ('-m', 'sparse_split_ros.cli', 'record', str(tmp_path / 'bag'))
        with Process(*command, '--tasks', 'weather', '--limit', str(FRAMES)) as recorder:
            recorder.wait_for('recording into')
            true = [
                peer.node.create_publisher(Classification, topic, 10)
                for topic in ('ground_truth', 'ground_truth/weather')
            ]
            listening = ('decision', 'classification', 'classification/weather')
            assert peer.wait(
                lambda: (
                    all(each.get_subscription_count() for each in true)
                    and all(peer.node.count_subscribers(topic) > 1 for topic in listening)
                )
            )
            # What the head says next, the recorder hears: the names of its tasks.
            peer.diagnosed('/head: frames')
            for messages in heard.values():
                messages.clear()
            for index, (image, labels) in enumerate(zip(pictures(), truths())):
                header = Header(stamp=TimeMsg(sec=100 + index), frame_id='camera')
                for publisher, label in zip(true, labels):
                    publisher.publish(named(header, label))
                time.sleep(0.02)  # the truth is to be in the bag before the last decision ends it
                sign, decision = peer.ask(image, (100 + index, 0))
                said = answers(bundle)[index]
                assert (decision['class'], decision['class/weather']) == said
                assert sign.results[0].class_id == said[0]
                assert decision['route'] == 'offboard'
            assert recorder.wait() == 0
        assert peer.wait(lambda: all(len(messages) == FRAMES for messages in heard.values()))
        expected = [weather for _, weather in answers(bundle)]
        for messages in heard.values():
            assert [each.results[0].class_id for each in messages] == expected
            assert all(
                sum(each.score for each in message.results) == pytest.approx(1.0, abs=1e-4)
                for message in messages
            )
    for named_bundle in ('', str(bundle.path)):
        live = score(tmp_path / 'bag', bundle=named_bundle)
        assert live.summary['errors'] == []
        assert live.summary['accuracy_by_task'] == pytest.approx(by_task(bundle))


def test_a_replay_scores_every_task_whose_truth_is_known(bundle: Bundle, tmp_path: Path) -> None:
    known = [
        Frame(10**9 + i * 10**8, 'camera', image, sign, others={'weather': weather})
        for i, (image, (sign, weather)) in enumerate(zip(pictures(), truths()))
    ]
    times = write_times(tmp_path / 'times.json', bundle)
    write_bag(tmp_path / 'both', known)
    write_bag(tmp_path / 'signs', [Frame(f.stamp_ns, 'camera', f.image, f.label) for f in known])
    found = {}
    for name in ('both', 'signs'):
        source = (Source(str(tmp_path / name)),)
        world = (bundle, tmp_path, times)
        found[name] = replayed(world, 'full-local', 'branchynet', 'oracle', sources=source)
        assert found[name].problems == []
    expected = by_task(bundle)
    summary = found['both'].summary
    assert summary['accuracy_by_task'] == pytest.approx(expected)
    right = [said == true for said, true in zip(answers(bundle), truths())]
    assert summary['accuracy'] == pytest.approx(sum(right) / FRAMES)
    assert summary['disagreement'] == summary['baselines']['oracle']['disagreement'] == 0
    alone = found['signs'].summary
    assert alone['accuracy_by_task'] == {'sign': pytest.approx(expected['sign']), 'weather': None}
    assert alone['accuracy'] == pytest.approx(expected['sign'])


def test_a_picture_shows_the_answer_of_every_task() -> None:
    labels = labels_of(TASKS, by_index=False)
    assert [each.suffix for each in labels] == ['', '/weather']
    shown = [
        annotate(BLACK, replace(decision(), scores=np.array(scores, np.float32)), *labels)
        for scores in ((0.9, 0.1, 0, 0.8, 0.2), (0.9, 0.1, 0, 0.2, 0.8), (0.1, 0.9, 0, 0.8, 0.2))
    ]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(shown, 2))


def outcome(answer: str | None, label: str | None) -> Outcome:
    return Outcome(0, 0.0, label=label, answer=answer, route=Route.LOCAL)


@pytest.mark.parametrize(
    ('answer', 'label', 'correct'),
    [
        ('stop / fog', 'stop / fog', True),
        ('stop / fog', 'stop / day', False),
        ('stop / fog', 'stop / ', True),
        ('stop / fog', ' / day', False),
        ('left / right', 'left / right', True),
        ('left', 'left / right', False),
        (None, 'stop / ', False),
        ('stop / fog', None, None),
    ],
)
def test_an_answer_is_right_as_far_as_the_truth_is_known(
    answer: str | None, label: str | None, correct: bool | None
) -> None:
    assert outcome(answer, label).correct is correct
