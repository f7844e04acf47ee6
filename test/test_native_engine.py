# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The native engine answers as ONNX Runtime does, in many threads, and steps back where it must."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, make_identity_bundle
from graphs import add_graph, save_graph
from numpy.typing import NDArray

from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Engine, EngineError, choose_engine, load_engine
from sparse_split_ros.runtime.preprocess import normalise

pytest.importorskip('sparse_split_ros.native._native', reason='the native engine is not built')

from sparse_split_ros.native._native import PlanError
from sparse_split_ros.native.engine import NativeEngine, fast_int8

ALL = [0.0, 0.0, 0.0]
NONE = [None, None, None]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return add_graph(make_bundle(tmp_path_factory.mktemp('native'), channels=(24, 12, 16)))


@pytest.fixture(scope='module')
def native(bundle: Bundle) -> Engine:
    return load_engine(bundle, 'native')


@pytest.fixture(scope='module')
def reference(bundle: Bundle) -> Engine:
    return load_engine(bundle, 'onnxruntime')


def images(count: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_whole_bundle_agrees_with_onnx_runtime(
    bundle: Bundle, reference: Engine, threads: int
) -> None:
    ours = load_engine(bundle, 'native', threads=threads).run(images(3), 0, 2, ALL, stop=False)
    theirs = reference.run(images(3), 0, 2, ALL, stop=False)
    assert set(ours.logits) == set(theirs.logits) == {0, 1, 2}
    for stage in range(3):
        np.testing.assert_allclose(ours.logits[stage], theirs.logits[stage], atol=1e-4)
        np.testing.assert_allclose(ours.exits[stage], theirs.exits[stage], atol=1e-4)
    assert ours.features is not None
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-4)
    assert set(ours.stage_ms) == set(ours.exit_ms) == {0, 1, 2}


def test_stage_by_stage_equals_the_whole(native: Engine) -> None:
    whole = native.run(images(4), 0, 2, ALL, stop=False)
    features = images(4)
    for stage in range(3):
        part = native.run(features, stage, stage, ALL, stop=False)
        assert part.features is not None
        features = part.features
        np.testing.assert_array_equal(part.logits[stage], whole.logits[stage])
    np.testing.assert_array_equal(features, whole.features)


def test_encoder_and_decoder_agree_with_onnx_runtime(native: Engine, reference: Engine) -> None:
    features = reference.run(images(2), 0, 1, NONE).features
    assert features is not None
    coded = reference.encode(features, 1)
    np.testing.assert_allclose(native.encode(features, 1), coded, atol=1e-4)
    np.testing.assert_allclose(native.decode(coded, 1), reference.decode(coded, 1), atol=1e-4)


def test_a_confident_exit_ends_the_run(native: Engine) -> None:
    result = native.run(images(), 0, 2, [None, 0.0, 0.0])
    assert result.stopped == 1
    assert result.features is None
    assert set(result.exits) == set(result.logits) == set(result.exit_ms) == {1}
    assert set(result.stage_ms) == {0, 1}


def test_one_doubtful_row_keeps_the_batch_going(native: Engine) -> None:
    x = images(8)
    confidence = native.run(x, 0, 0, [0.0, None, None], stop=False).exits[0].max(axis=1)
    threshold = float(np.sort(confidence)[:2].mean())
    result = native.run(x, 0, 1, [threshold, None, None])
    assert result.stopped is None
    assert result.features is not None
    assert result.features.shape == (8, 12, 4, 4)


def test_a_threshold_that_is_no_number_is_never_reached(native: Engine) -> None:
    result = native.run(images(), 0, 2, [float('nan'), None, 0.0])
    assert result.stopped == 2
    np.testing.assert_allclose(result.exits[0].sum(), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ('threshold', 'reason'),
    [
        ('0.7', r"'0\.7': must be real number, not str"),
        ([0.7], r'\[0\.7\]: must be real number, not list'),
        (np.zeros(2), r'array\(\[0\., 0\.\]\): only '),
        (10**400, '10{30,}: int too large to convert to float'),
    ],
    ids=['str', 'list', 'array', 'int'],
)
def test_a_threshold_that_cannot_be_a_number_is_named(
    native: Engine, threshold: Any, reason: str
) -> None:
    assert isinstance(native, NativeEngine)
    turned = images().transpose(0, 1, 3, 2)
    for x in (images(), turned):
        with pytest.raises(EngineError, match=f'stage 1: the threshold {reason}'):
            native.run(x, 0, 2, [None, threshold, None])
    with pytest.raises(PlanError, match='stage 1: the threshold'):
        native.session.run(images(), 0, 2, [None, threshold, None], True)


def test_a_threshold_may_be_any_kind_of_number(native: Engine) -> None:
    for threshold in (0, np.float32(0), np.int64(0), np.zeros(()), False):
        assert native.run(images(), 0, 2, [None, threshold, None]).stopped == 1


def test_a_large_batch_stops_where_all_its_rows_are_sure(native: Engine) -> None:
    x = images(40)
    exits = native.run(x, 0, 1, [0.0, 0.0, None], stop=False).exits
    sure = {stage: float(exits[stage].max(axis=1).min()) for stage in (0, 1)}
    stopped = native.run(x, 0, 2, [sure[0] + 1e-3, sure[1], 0.0])
    assert stopped.stopped == 1
    assert stopped.features is None
    assert set(stopped.exits) == {0, 1}
    np.testing.assert_array_equal(stopped.exits[1], exits[1])
    # The row that is least sure may be in any of the groups in which rows run.
    assert native.run(x, 0, 1, [None, sure[1] + 1e-3, None]).stopped is None


def test_each_row_of_a_batch_gets_the_answer_it_gets_alone(native: Engine) -> None:
    together = native.run(images(5), 0, 2, [None, 0.0, 0.0], stop=False)
    for row in range(5):
        alone = native.run(images(5)[row : row + 1], 0, 2, [None, 0.0, 0.0], stop=False)
        np.testing.assert_array_equal(together.exits[2][row], alone.exits[2][0])


def test_many_threads_get_what_one_gets(bundle: Bundle) -> None:
    engine = load_engine(bundle, 'native', threads=2)
    batches = [images(1 + seed % 3, seed) for seed in range(40)]
    alone = [engine.run(x, 0, 2, ALL, stop=False).exits[2] for x in batches]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda x: engine.run(x, 0, 2, ALL, stop=False).exits[2], batches * 5)
        for index, answer in enumerate(answers):
            np.testing.assert_array_equal(answer, alone[index % 40])


def test_an_answer_is_not_overwritten_by_the_next(native: Engine) -> None:
    first = native.run(images(1, 1), 0, 2, ALL, stop=False)
    assert first.features is not None
    kept = first.features.copy(), first.logits[2].copy()
    native.run(images(1, 2), 0, 2, ALL, stop=False)
    np.testing.assert_array_equal(first.features, kept[0])
    np.testing.assert_array_equal(first.logits[2], kept[1])


def test_an_image_that_is_not_contiguous_is_read_rightly(native: Engine) -> None:
    x = images()
    turned = np.ascontiguousarray(x.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(
        native.run(turned, 0, 2, ALL, stop=False).logits[2],
        native.run(x, 0, 2, ALL, stop=False).logits[2],
    )


def test_head_and_tail_engines_hold_only_their_stages(bundle: Bundle, native: Engine) -> None:
    head = load_engine(bundle, 'native', stages=range(2))
    tail = load_engine(bundle, 'native', stages=range(2, 3))
    features = head.run(images(), 0, 1, NONE).features
    assert features is not None
    coded = head.encode(features, 1)
    split = tail.run(tail.decode(coded, 1), 2, 2, [None, None, 0.0], stop=False)
    whole = native.run(native.decode(coded, 1), 2, 2, [None, None, 0.0], stop=False)
    np.testing.assert_allclose(split.logits[2], whole.logits[2], atol=1e-5)
    with pytest.raises(EngineError, match=r'cannot run stages 0 to 2: .* holds stages \[0, 1\]'):
        head.run(images(), 0, 2, NONE)
    with pytest.raises(EngineError, match='decoder 1 is not loaded'):
        head.decode(coded, 1)


def test_a_stage_that_changes_nothing_costs_nothing(tmp_path: Path) -> None:
    bundle = add_graph(make_identity_bundle(tmp_path, payload=1024))
    x = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    results = [
        load_engine(bundle, name).run(x, 0, 1, [None, 0.0], stop=False)
        for name in ('native', 'onnxruntime')
    ]
    np.testing.assert_allclose(results[0].features, results[1].features, atol=1e-6)
    np.testing.assert_allclose(results[0].logits[1], results[1].logits[1], atol=1e-5)


@pytest.mark.parametrize(
    'x',
    [
        np.zeros((3, 16, 16), np.float32),
        np.zeros((0, 3, 16, 16), np.float32),
        np.zeros((1, 3, 16, 15), np.float32),
        np.zeros((1, 3, 16, 16), np.float64),
    ],
)
def test_a_wrong_input_is_named(native: Engine, x: NDArray[np.float32]) -> None:
    with pytest.raises(EngineError, match=r'stage 0: expected an input \(N, 3, 16, 16\) float32'):
        native.run(x, 0, 2, NONE)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('place', [(0, 0, 0, 0), (0, 2, 15, 15), (0, 1, 7, 3)])
def test_an_input_that_is_not_finite_is_refused(
    native: Engine, value: float, place: tuple[int, ...]
) -> None:
    x = images()
    x[place] = value
    with pytest.raises(
        EngineError, match=r'stage 0 .*: the input holds a value that is not finite'
    ):
        native.run(x, 0, 2, NONE)
    native.run(images(), 0, 2, NONE)


def test_a_stage_whose_output_overflows_is_named(native: Engine) -> None:
    with pytest.raises(EngineError, match=r'stage 0 \(stage_0.onnx\) gave .* not finite'):
        native.run(np.full((1, 3, 16, 16), 3e38, np.float32), 0, 2, NONE)


def test_thresholds_must_cover_every_stage(native: Engine) -> None:
    with pytest.raises(EngineError, match='2 thresholds given for 3 stages'):
        native.run(images(), 0, 2, [None, None])


def test_auto_is_native_where_it_can_be(bundle: Bundle) -> None:
    assert choose_engine(bundle) == load_engine(bundle).name == 'native'
    assert choose_engine(bundle, 'auto', 'cuda') == 'onnxruntime'


def test_a_bundle_without_a_graph_runs_in_onnx_runtime(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load_engine(bundle).name == 'onnxruntime'
        assert not caplog.records
        assert load_engine(bundle, 'native').name == 'onnxruntime'
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert "bundle 'synthetic' has no graph" in caplog.text


def test_an_install_without_the_extension_runs_in_onnx_runtime(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, 'sparse_split_ros.native.engine', None)
    with caplog.at_level(logging.WARNING):
        assert load_engine(bundle, 'native').name == 'onnxruntime'
    assert 'its module cannot be loaded' in caplog.text


@pytest.fixture
def partly(bundle: Bundle, tmp_path: Path) -> Iterator[Bundle]:
    """A bundle whose stage 1 begins with an operation of the future."""
    other = add_graph(make_bundle(tmp_path, channels=(24, 12, 16)))
    graph = json.loads((other.path / 'graph.json').read_text())
    graph['models']['stage_1']['operations'][0]['op'] = 'attention'
    weights = (other.path / 'weights.safetensors').read_bytes()
    yield save_graph(other, json.dumps(graph).encode(), weights)


def test_a_model_that_lacks_a_kernel_runs_in_onnx_runtime_alone(
    partly: Bundle, reference: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = load_engine(partly, 'native')
        for _ in range(3):
            mixed = engine.run(images(2), 0, 2, ALL, stop=False)
    assert [record.getMessage() for record in caplog.records] == [
        'stage_1.onnx runs in ONNX Runtime: graph.json: stage_1: operation 0 (attention): no kernel'
    ]
    assert isinstance(engine, NativeEngine)
    assert 'stage_1.onnx' not in engine.plan.models
    assert {'stage_0.onnx', 'stage_2.onnx', 'exit_1.onnx'} <= set(engine.plan.models)
    whole = reference.run(images(2), 0, 2, ALL, stop=False)
    for stage in range(3):
        np.testing.assert_allclose(mixed.logits[stage], whole.logits[stage], atol=1e-4)


def test_an_empty_graph_is_all_onnx_runtime(tmp_path: Path) -> None:
    bundle = add_graph(make_bundle(tmp_path))
    graph = json.loads((bundle.path / 'graph.json').read_text())
    for model in graph['models'].values():
        for operation in model['operations']:
            operation['op'] = 'attention'
    weights = (bundle.path / 'weights.safetensors').read_bytes()
    bundle = save_graph(bundle, json.dumps(graph).encode(), weights)
    x = images()
    np.testing.assert_allclose(
        load_engine(bundle, 'native').run(x, 0, 2, ALL, stop=False).logits[2],
        load_engine(bundle, 'onnxruntime').run(x, 0, 2, ALL, stop=False).logits[2],
    )


def test_eight_bits_say_nearly_the_same(tmp_path: Path, reference: Engine) -> None:
    """Ranges are those of these images, so only rounding remains: 1/255 of a range per layer."""
    x = images(16)
    bundle = add_graph(make_bundle(tmp_path, channels=(24, 12, 16)))
    graph = json.loads((bundle.path / 'graph.json').read_text())
    measured = reference.run(x, 0, 2, ALL, stop=False)
    features: NDArray[np.float32] = x
    for stage in range(3):
        model = graph['models'][f'stage_{stage}']
        model['input_range'] = float(np.abs(features).max())
        answer = reference.run(features, stage, stage, NONE).features
        assert answer is not None
        features = answer
        for operation in model['operations']:
            operation['range'] = float(np.abs(features).max())
    weights = (bundle.path / 'weights.safetensors').read_bytes()
    ranged = save_graph(bundle, json.dumps(graph).encode(), weights)
    engine = load_engine(ranged, 'native-int8')
    assert engine.name == 'native-int8'
    assert isinstance(engine, NativeEngine)
    steps = engine.plan.program.steps(engine.plan.models['stage_1.onnx'])
    assert [name.split()[0] for name, _, _ in steps] == ['quantise', 'int8', 'max']
    ours = engine.run(x, 0, 2, ALL, stop=False)
    for stage in range(3):
        error = np.abs(ours.logits[stage] - measured.logits[stage]).max()
        assert 0 < error < 0.03 * np.abs(measured.logits[stage]).max()


def test_auto_is_int8_where_the_record_says_that_it_loses_nothing(bundle: Bundle) -> None:
    def chosen(*lost: float, **other: object) -> str:
        exits = {
            str(stage): {'native': 0.9, 'native-int8': 0.9 - share}
            for stage, share in enumerate(lost)
        }
        record = {'int8': {'selection': exits, **other}}
        return choose_engine(replace(bundle, training=record))

    will_do = 'native-int8' if fast_int8() else 'native'
    assert chosen(0.0, -0.01, 0.0019) == will_do
    assert chosen(0.0, 0.0, 0.0021) == 'native'
    assert chosen(0.0, 0.0) == 'native'
    assert chosen(0.0, 0.0, 0.0, weather={}) == 'native'
    assert chosen(0.0, 0.0, 0.0, weather=[0]) == 'native'
    assert choose_engine(replace(bundle, training={'int8': {}})) == 'native'
    with_record = replace(bundle, training={'int8': {'selection': None}})
    assert choose_engine(with_record, 'native') == choose_engine(with_record) == 'native'


def test_the_record_counts_what_each_engine_gets_right(bundle: Bundle, native: Engine) -> None:
    pytest.importorskip('torch')
    from sparse_split_ros.training.measure import beside_int8

    pictures = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), np.uint8)
    x = normalise(pictures, bundle.input)
    labels = native.run(x, 0, 2, ALL, stop=False).exits[1].argmax(axis=1).astype(np.int64)
    labels[:10] = (labels[:10] + 1) % len(bundle.classes)
    data = LabelledImages(pictures, labels, np.arange(50), bundle.classes)
    record = beside_int8(bundle, {'selection': data})
    assert list(record['selection']) == ['0', '1', '2']
    assert record['selection']['1']['native'] == 0.8
    in_int8 = load_engine(bundle, 'native-int8').run(x, 0, 2, ALL, stop=False).exits
    for stage in range(3):
        right = float((in_int8[stage].argmax(axis=1) == labels).mean())
        assert record['selection'][str(stage)]['native-int8'] == pytest.approx(right, abs=1e-5)
