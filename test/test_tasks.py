# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several tasks from one frame of features: one label and one confidence for all of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from graphs import add_graph

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.frame import FeatureFrame
from sparse_split_ros.policy.decision import Route
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.plan import FixedPolicy, Plan
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.policy.tasks import judge, parts, places
from sparse_split_ros.runtime.batch import answer
from sparse_split_ros.runtime.bundle import Bundle, BundleError
from sparse_split_ros.runtime.engine import EngineError, choose_engine, load_engine, softmax
from sparse_split_ros.runtime.head import Head, compute
from sparse_split_ros.runtime.tail import Tail

TASKS = {'sign': ('stop', 'yield', 'turn'), 'weather': ('day', 'fog')}
SIZES = (3, 2)
ALL = [0.0, 0.0, 0.0]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp('tasks')
    return add_graph(make_bundle(path, classes=TASKS, bottleneck=None))


def row(sign: tuple[float, ...], weather: tuple[float, ...]) -> np.ndarray:
    return np.array([*sign, *weather], np.float32)


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 3, 16, 16)).astype(np.float32)


def test_labels_differ_where_any_task_does() -> None:
    every = [row(np.eye(3)[s], np.eye(2)[w]) for s, w in itertools.product(range(3), range(2))]
    labels, _ = judge(np.stack(every), SIZES)
    assert sorted(labels) == list(range(6))


def test_the_least_sure_task_says_how_sure_all_are() -> None:
    scores = np.stack([row((0.9, 0.1, 0), (0.4, 0.6)), row((0.5, 0.3, 0.2), (0.0, 1.0))])
    _, confidence = judge(scores, SIZES)
    assert confidence == pytest.approx([0.6, 0.5])


def test_one_task_is_judged_by_its_largest_score() -> None:
    scores = np.random.default_rng(0).random((20, 7), np.float32)
    labels, confidence = judge(scores, (7,))
    np.testing.assert_array_equal(labels, scores.argmax(1))
    np.testing.assert_array_equal(confidence, scores.max(1))


def test_places_find_the_classes_of_a_label_again() -> None:
    scores = np.random.default_rng(1).random((30, 5), np.float32)
    for each in scores:
        sign, weather = parts(each, SIZES)
        assert places(judge(each, SIZES)[0], SIZES) == [sign.argmax(), 3 + weather.argmax()]


def test_a_bundle_of_several_tasks_names_them(bundle: Bundle) -> None:
    assert bundle.tasks == TASKS
    assert bundle.classes == TASKS['sign'] + TASKS['weather']
    assert bundle.named(judge(row((0, 1, 0), (0, 1)), SIZES)[0]) == 'yield / fog'
    facts = Facts.of(bundle)
    assert (facts.classes, facts.sizes) == (5, SIZES)


def test_a_bundle_of_one_task_is_written_as_ever(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    manifest = json.loads((tmp_path / 'manifest.json').read_text())
    assert manifest['format'] == 'sparse_split_bundle/1'
    assert manifest['classes'] == list(bundle.classes) == list(bundle.tasks[''])
    assert bundle.named(3) == bundle.classes[3]


def test_older_releases_refuse_what_they_would_misread(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / 'manifest.json').read_text())
    assert manifest['format'] != 'sparse_split_bundle/1'
    assert 'classes' not in manifest


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'the weather'}, r"tasks\[1\]: name: expected a part of a topic's name"),
        ({'name': '2nd'}, 'a letter, then letters'),
        ({'name': 'a__b'}, "found 'a__b'"),
        ({'name': 'sign'}, 'two or more tasks of different names'),
        ({'classes': ['day']}, r'tasks\[1\]: classes: expected two or more different class names'),
        ({'classes': ['day', 'day']}, 'two or more different class names'),
        ({'classes': ['day', 'fog / rain']}, "no ' / '"),
    ],
)
def test_tasks_that_cannot_be_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    make_bundle(tmp_path, classes=TASKS)
    edit(tmp_path, lambda manifest: manifest['tasks'][1].update(change))
    with pytest.raises(BundleError, match=message):
        Bundle.load(tmp_path)


def test_one_task_alone_is_no_list_of_tasks(tmp_path: Path) -> None:
    make_bundle(tmp_path, classes=TASKS)
    edit(tmp_path, lambda manifest: manifest['tasks'].pop())
    with pytest.raises(BundleError, match='two or more tasks'):
        Bundle.load(tmp_path)


def test_every_task_has_a_temperature(tmp_path: Path) -> None:
    make_bundle(tmp_path, classes=TASKS)
    edit(tmp_path, lambda manifest: manifest['exits'][0].update(temperature=1.5))
    with pytest.raises(BundleError, match='temperature: expected a list of 2'):
        Bundle.load(tmp_path)


def edit(directory: Path, change: Any) -> None:
    path = directory / 'manifest.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize('name', ['onnxruntime', 'native', 'torch'])
def test_every_engine_answers_every_task(bundle: Bundle, name: str) -> None:
    try:
        available = choose_engine(bundle, name) == name
        engine = load_engine(bundle, name)
    except EngineError as error:
        pytest.skip(str(error))
    if not available:
        pytest.skip(f'{name} is not built')
    x = images()
    result = engine.run(x, 0, 2, ALL, stop=False)
    for stage, scores in result.exits.items():
        exit_ = bundle.exit_at(stage)
        assert exit_ is not None and len(set(exit_.temperatures)) == 2
        tasks = zip(parts(result.logits[stage], SIZES), exit_.temperatures)
        expected = np.concatenate([softmax(part, t) for part, t in tasks], axis=1)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)
    # The run ends where the least sure task of the least sure image is sure enough.
    least = float(bundle.judge(result.exits[0])[1].min())
    largest = float(result.exits[0].max(axis=1).min())
    assert least < largest
    thresholds = [[(least + largest) / 2, None, None], [least * 0.999, None, None]]
    assert [engine.run(x, 0, 2, each).stopped for each in thresholds] == [None, 0]


def test_a_row_of_a_batch_leaves_where_it_is_sure_of_every_task(bundle: Bundle) -> None:
    engine, x = load_engine(bundle, 'onnxruntime'), images(40)
    confidence = bundle.judge(engine.run(x, 0, 2, ALL, stop=False).exits[0])[1]
    threshold = float(np.median(confidence))
    left = answer(engine, x, [threshold, None, None]).stages == 0
    np.testing.assert_array_equal(left, confidence >= threshold)


@pytest.mark.parametrize('threshold', [0.0, 1.1], ids=['sure', 'doubtful'])
def test_head_and_tail_answer_all_tasks_from_one_frame(bundle: Bundle, threshold: float) -> None:
    engine = load_engine(bundle, 'onnxruntime')
    plan = Plan(1, (None, threshold, None), 'none')
    head = Head(bundle, FixedPolicy(plan), deadline=10.0, session=1)
    tail = Tail(engine)
    head.announced(Announcement('tail', 1, (bundle.fingerprint.hex(),)), 0.0)
    x = images(1)
    ticket = head.begin(0, None, Scene(), 0.0, 0.0)
    step = head.computed(ticket.sequence, compute(engine, ticket, x), 0.0)
    if step.frame is not None:
        assert FeatureFrame.parse(step.frame).split == 1
        assert tail.submit(0, None, step.frame, 0.0) is None
        (sent,) = tail.process(lambda: 0.0)
        assert sent.reply.scores.size == len(bundle.classes)
        step = head.answer(sent.reply, 0.0)
    (decision,) = step.decisions
    asked = {0.0: (Route.LOCAL, 1), 1.1: (Route.OFFBOARD, 2)}
    assert (decision.route, decision.exit) == asked[threshold]
    said = engine.run(x, 0, 2, ALL, stop=False).exits
    label, confidence = bundle.judge(said[decision.exit][0])
    assert (decision.label, decision.confidence) == (label, pytest.approx(confidence, abs=1e-5))
    first = decision.exits[0]
    assert (first.label, first.confidence) == pytest.approx(bundle.judge(said[1][0]))
