# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""An engine runs any run of stages, evaluates only the exits asked for, and refuses nonsense."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, make_identity_bundle
from numpy.typing import NDArray

from sparse_split_ros.data.images import ImageError
from sparse_split_ros.runtime.bundle import Bundle, BundleError, InputSpec, write_manifest
from sparse_split_ros.runtime.engine import Engine, EngineError, load_engine, softmax
from sparse_split_ros.runtime.preprocess import prepare

NONE = [None, None, None]


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp('engine'))


@pytest.fixture(scope='module')
def engine(bundle: Bundle) -> Engine:
    return load_engine(bundle)


def images(count: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def test_stage_by_stage_equals_the_whole(engine: Engine) -> None:
    whole = engine.run(images(4), 0, 2, [0.0, 0.0, 0.0], stop=False)
    features = images(4)
    for stage in range(3):
        part = engine.run(features, stage, stage, [0.0, 0.0, 0.0], stop=False)
        assert part.features is not None
        features = part.features
        np.testing.assert_allclose(part.logits[stage], whole.logits[stage], atol=1e-5)
    assert whole.features is not None
    np.testing.assert_allclose(features, whole.features, atol=1e-5)


def test_a_batch_gives_each_row_the_answer_it_gets_alone(engine: Engine) -> None:
    together = engine.run(images(5), 0, 2, [None, 0.0, 0.0], stop=False)
    for row in range(5):
        alone = engine.run(images(5)[row : row + 1], 0, 2, [None, 0.0, 0.0], stop=False)
        np.testing.assert_allclose(together.exits[2][row], alone.exits[2][0], atol=1e-5)


def test_an_exit_without_threshold_is_not_evaluated(engine: Engine) -> None:
    result = engine.run(images(), 0, 2, [None, None, 0.0], stop=False)
    assert set(result.exits) == set(result.logits) == set(result.exit_ms) == {2}
    assert set(result.stage_ms) == {0, 1, 2}


def test_a_confident_exit_ends_the_run(engine: Engine) -> None:
    result = engine.run(images(), 0, 2, [None, 0.0, 0.0])
    assert result.stopped == 1
    assert result.features is None
    assert set(result.stage_ms) == {0, 1}


def test_one_doubtful_row_keeps_the_batch_going(engine: Engine) -> None:
    x = images(8)
    confidence = engine.run(x, 0, 0, [0.0, None, None], stop=False).exits[0].max(axis=1)
    threshold = float(np.sort(confidence)[:2].mean())
    result = engine.run(x, 0, 1, [threshold, None, None])
    assert result.stopped is None
    assert result.features is not None


def test_without_stop_a_confident_exit_only_reports(engine: Engine) -> None:
    result = engine.run(images(), 0, 1, [0.0, 0.0, None], stop=False)
    assert result.stopped is None
    assert result.features is not None
    assert result.features.shape == (1, 12, 4, 4)


def test_probabilities_are_logits_over_the_temperature(engine: Engine) -> None:
    result = engine.run(images(3), 0, 0, [0.0, None, None], stop=False)
    scaled = np.exp(result.logits[0].astype(np.float64) / 1.5)
    np.testing.assert_allclose(
        result.exits[0], scaled / scaled.sum(axis=1, keepdims=True), atol=1e-6
    )


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax(np.array([[1e4, 0.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[1.0, 0.0]])


def test_head_and_tail_engines_hold_only_their_stages(bundle: Bundle, engine: Engine) -> None:
    head = load_engine(bundle, stages=range(2))
    tail = load_engine(bundle, stages=range(2, 3))
    features = head.run(images(), 0, 1, NONE).features
    assert features is not None
    coded = head.encode(features, 1)
    assert coded.shape == (1, 4, 4, 4)
    split = tail.run(tail.decode(coded, 1), 2, 2, [None, None, 0.0], stop=False)
    whole = engine.run(engine.decode(coded, 1), 2, 2, [None, None, 0.0], stop=False)
    np.testing.assert_allclose(split.logits[2], whole.logits[2], atol=1e-5)
    with pytest.raises(EngineError, match=r'cannot run stages 0 to 2: .* holds stages \[0, 1\]'):
        head.run(images(), 0, 2, NONE)
    with pytest.raises(EngineError, match='decoder 1 is not loaded'):
        head.decode(coded, 1)


def test_a_split_without_encoder_sends_the_features(tmp_path: Path) -> None:
    bundle = make_identity_bundle(tmp_path, payload=1024)
    engine = load_engine(bundle)
    x = np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)
    features = engine.run(x, 0, 0, [None, None]).features
    assert features is not None
    assert engine.encode(features, 0).nbytes == 1024
    np.testing.assert_array_equal(engine.encode(features, 0)[0, 0], x[0, 0])


@pytest.mark.parametrize(
    'x',
    [
        np.zeros((3, 16, 16), np.float32),
        np.zeros((0, 3, 16, 16), np.float32),
        np.zeros((1, 3, 16, 15), np.float32),
        np.zeros((1, 3, 16, 16), np.float64),
    ],
)
def test_a_wrong_input_is_named(engine: Engine, x: NDArray[np.float32]) -> None:
    with pytest.raises(EngineError, match=r'stage 0: expected an input \(N, 3, 16, 16\) float32'):
        engine.run(x, 0, 2, NONE)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_an_input_that_is_not_finite_is_refused(engine: Engine, value: float) -> None:
    x = images()
    x[0, 0, 0, 0] = value
    with pytest.raises(EngineError, match='stage 0: the input holds a value that is not finite'):
        engine.run(x, 0, 2, NONE)


def test_a_stage_whose_output_overflows_is_named(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r'stage 0 .* not finite'):
        engine.run(np.full((1, 3, 16, 16), 3e38, np.float32), 0, 2, NONE)


@pytest.mark.parametrize(('first', 'last'), [(1, 0), (-1, 2), (0, 3)])
def test_a_wrong_run_of_stages_is_refused(engine: Engine, first: int, last: int) -> None:
    with pytest.raises(EngineError, match='cannot run stages'):
        engine.run(images(), first, last, NONE)


def test_thresholds_must_cover_every_stage(engine: Engine) -> None:
    with pytest.raises(EngineError, match='2 thresholds given for 3 stages'):
        engine.run(images(), 0, 2, [None, None])


@pytest.mark.parametrize('threshold', ['0.7', [0.7], np.zeros(2), 10**400], ids=type)
def test_a_threshold_that_is_no_number_is_named(engine: Engine, threshold: Any) -> None:
    with pytest.raises(EngineError, match='stage 1: the threshold') as refused:
        engine.run(images(), 0, 2, [None, threshold, None])
    assert repr(threshold)[:20] in str(refused.value)


def test_unknown_engine_device_and_stages_are_named(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="unknown engine 'tflite'; choose one of"):
        load_engine(bundle, 'tflite')
    with pytest.raises(EngineError, match="unknown device 'npu'; choose one of"):
        load_engine(bundle, device='npu')
    with pytest.raises(EngineError, match=r'threads is 100000; expected 0 \(.*\) to 256'):
        load_engine(bundle, 'onnxruntime', threads=100_000)
    with pytest.raises(EngineError, match=r'stages range\(0, 4\)'):
        load_engine(bundle, stages=range(4))


def test_a_missing_provider_is_said_aloud_and_the_cpu_answers(
    bundle: Bundle, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    import onnxruntime

    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this onnxruntime has CUDA')
    with caplog.at_level(logging.WARNING):
        fallback = load_engine(bundle, device='cuda')
    assert [record.levelname for record in caplog.records] == ['WARNING']
    assert 'CUDAExecutionProvider' in caplog.text
    x = images(2)
    np.testing.assert_array_equal(
        fallback.run(x, 0, 2, [None, None, 0.0], stop=False).logits[2],
        engine.run(x, 0, 2, [None, None, 0.0], stop=False).logits[2],
    )


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (tmp_path / 'stage_1.onnx').write_bytes(b'no model')
    manifest = json.loads((tmp_path / 'manifest.json').read_text())
    manifest.pop('files')
    bundle = write_manifest(tmp_path, manifest)
    with pytest.raises(EngineError, match=r'stage_1\.onnx: onnxruntime cannot load it'):
        load_engine(bundle)


def test_a_damaged_file_is_refused_at_load(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (tmp_path / 'stage_1.onnx').write_bytes(b'changed after the bundle was opened')
    with pytest.raises(BundleError, match='SHA-256'):
        load_engine(bundle)


def test_torch_engine_agrees_with_onnx_runtime(bundle: Bundle, engine: Engine) -> None:
    pytest.importorskip('torch')
    torch_engine = load_engine(bundle, 'torch')
    x = images(6)
    ours = torch_engine.run(x, 0, 2, [0.0, 0.0, 0.0], stop=False)
    theirs = engine.run(x, 0, 2, [0.0, 0.0, 0.0], stop=False)
    for stage in range(3):
        np.testing.assert_allclose(ours.logits[stage], theirs.logits[stage], atol=1e-4)
    features = engine.run(x, 0, 1, NONE).features
    assert features is not None
    coded = engine.encode(features, 1)
    np.testing.assert_allclose(torch_engine.encode(features, 1), coded, atol=1e-4)
    np.testing.assert_allclose(torch_engine.decode(coded, 1), engine.decode(coded, 1), atol=1e-4)


SPEC = InputSpec((3, 16, 16), 'rgb', 1 / 255, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))


def test_prepare_normalises_each_channel() -> None:
    x = prepare(np.full((16, 16, 3), 255, np.uint8), SPEC)
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[0, :, 3, 3], [2.0, 3.0, 7.0], atol=1e-5)


def test_prepare_takes_the_region_of_interest_clipped_to_the_image() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[20:, 40:] = 255
    inside = prepare(image, SPEC, (40, 20, 100, 100))
    np.testing.assert_allclose(inside, prepare(image[20:, 40:], SPEC))


def test_prepare_reads_a_zero_region_as_the_whole_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    np.testing.assert_array_equal(prepare(image, SPEC, (0, 0, 0, 0)), prepare(image, SPEC))


def test_prepare_averages_when_shrinking() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[::2] = 200
    x = prepare(stripes, SPEC)
    np.testing.assert_allclose(x[0, 0], (100 / 255 - 0.5) / 0.25, atol=0.02)


@pytest.mark.parametrize('shape', [(0, 4, 3), (4, 4), (4, 4, 4)])
def test_prepare_refuses_what_is_no_rgb_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match='expected a non-empty RGB image'):
        prepare(np.zeros(shape, np.uint8), SPEC)


def test_prepare_refuses_a_region_outside_the_image() -> None:
    with pytest.raises(ImageError, match='no pixel inside the image of 8x6'):
        prepare(np.zeros((6, 8, 3), np.uint8), SPEC, (8, 0, 4, 4))
