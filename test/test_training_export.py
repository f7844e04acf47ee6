# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is exported answers as the network does, is calibrated, and says what it costs."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')

from test_training_joint import RECIPE, blobs  # noqa: E402
from torch import nn  # noqa: E402

from sparse_split_ros.link.codec import Codec  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402
from sparse_split_ros.runtime.bundle import Bundle, bundle_path  # noqa: E402
from sparse_split_ros.runtime.engine import choose_engine, load_engine, softmax  # noqa: E402
from sparse_split_ros.runtime.inspect import stage_table  # noqa: E402
from sparse_split_ros.runtime.profile import key, profile  # noqa: E402
from sparse_split_ros.training.assemble import build_bundle, verify  # noqa: E402
from sparse_split_ros.training.calibrate import (  # noqa: E402
    expected_calibration_error,
    fit_temperature,
    interval,
    reliability,
    risk_coverage,
)
from sparse_split_ros.training.export import export  # noqa: E402
from sparse_split_ros.training.measure import answers, measure  # noqa: E402
from sparse_split_ros.training.predict import accuracy, normalise, predict  # noqa: E402
from sparse_split_ros.training.program import ExportError, trace  # noqa: E402
from sparse_split_ros.training.recipe import (  # noqa: E402
    Recipe,
    TrainingError,
    input_spec,
    load_split,
)

SPARSE = {'density': 0.5, 'pattern': 'tap-regular', 'block_width': 16, 'pattern_seed': 1}


@pytest.fixture(
    scope='module',
    params=[{'widths': (8, 12, 16)}, {'widths': (16, 32, 48), **SPARSE}],
    ids=['dense', 'tap-regular'],
)
def network(request: pytest.FixtureRequest) -> StagedNetwork:
    """A network whose BatchNorms hold statistics, as after training."""
    torch.manual_seed(0)
    network = build('compact', 3, blocks=1, code_channels=(2, 4, 4), **request.param)
    images = torch.from_numpy(blobs(64, 0).images)
    spec = _spec(network)
    with torch.no_grad():
        for split in network.split_stages * 4:
            network(normalise(images, spec), split)
    return network.eval()


@pytest.fixture(scope='module')
def bundle(network: StagedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp('exported')
    recipe = dataclasses.replace(RECIPE, codec='int4')
    build_bundle(network, recipe, blobs(96, 1), blobs(48, 2), blobs(48, 3), directory)
    return Bundle.load(directory)


def _spec(network: StagedNetwork):  # type: ignore[no-untyped-def]
    return input_spec(RECIPE, network)


def test_bundle_answers_as_the_network_does(network: StagedNetwork, bundle: Bundle) -> None:
    assert verify(bundle, network, blobs(200, 5).images) <= 1e-4


def test_coded_answers_agree_with_the_quantiser_in_training(
    network: StagedNetwork, bundle: Bundle
) -> None:
    data = blobs(48, 6)
    report = measure(bundle, data)
    trained = predict(network, data.images, bundle.input, bundle.defaults.split)
    expected = accuracy(trained[bundle.final], data.labels)
    # A code on the edge of two levels may fall to either side.
    assert report['coded']['accuracy'] == pytest.approx(expected, abs=0.05)


def test_a_network_that_moved_on_is_not_verified(network: StagedNetwork, bundle: Bundle) -> None:
    import copy

    other = copy.deepcopy(network)
    linear = other.exit_at(0).linear
    with torch.no_grad():
        linear.bias += 0.01
    with pytest.raises(ExportError, match='off the network'):
        verify(bundle, other, blobs(8, 0).images)


def test_answers_that_are_no_numbers_are_not_verified(
    network: StagedNetwork, bundle: Bundle
) -> None:
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.last_linears()['exits.1.linear'].bias.fill_(float('nan'))
    with pytest.raises(ExportError, match='the bundle answers nan off the network'):
        verify(bundle, broken, blobs(8, 0).images)


def test_a_bundle_is_verified_in_batches_that_fit_into_memory(
    network: StagedNetwork, bundle: Bundle
) -> None:
    watched, sizes = copy.deepcopy(network), []
    watched.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    verify(bundle, watched, blobs(300, 0).images)
    assert set(sizes) == {256, 44}


def test_a_bundle_is_measured_in_batches_that_fit_into_memory(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, sizes = load_engine(bundle), []
    run = engine.run

    def watched(x: Any, *arguments: Any, **named: Any) -> Any:
        sizes.append(len(x))
        return run(x, *arguments, **named)

    monkeypatch.setattr(engine, 'run', watched)
    said = answers(engine, blobs(300, 0).images)
    assert len(said.coded) == len(said.payloads) == 300
    assert set(sizes) == {256, 44}


def test_batch_norm_is_folded_away(bundle: Bundle) -> None:
    for name in (name for name in bundle.files if name.endswith('.onnx')):
        graph = onnx.load_model_from_string(bundle.read(name)).graph
        assert 'BatchNormalization' not in {node.op_type for node in graph.node}


def test_torch_engine_runs_what_is_exported(bundle: Bundle) -> None:
    x = normalise(torch.from_numpy(blobs(8, 7).images), bundle.input).contiguous().numpy()
    ours, theirs = load_engine(bundle, 'torch'), load_engine(bundle)
    thresholds = [0.0] * 4
    one = ours.run(x, 0, 3, thresholds, stop=False)
    two = theirs.run(x, 0, 3, thresholds, stop=False)
    for stage in range(4):
        np.testing.assert_allclose(one.logits[stage], two.logits[stage], atol=1e-4)
    features = theirs.run(x, 0, 1, thresholds, stop=False).features
    assert features is not None
    coded = theirs.encode(features, 1)
    np.testing.assert_allclose(ours.encode(features, 1), coded, atol=1e-4)
    np.testing.assert_allclose(ours.decode(coded, 1), theirs.decode(coded, 1), atol=1e-4)


def test_every_codec_of_the_manifest_can_be_built_and_keeps_its_size(bundle: Bundle) -> None:
    for split in bundle.splits:
        x = np.random.default_rng(0).random((1, *split.shape)).astype(np.float32)
        for name, params in split.codecs.items():
            codec = Codec.from_calibration(name, split.shape, dict(params))
            assert codec.decode(codec.encode(x)).shape == x.shape
            assert 0 <= params['disagreement'] <= params['disagreement_bound'] <= 1


def test_stage_table_has_a_row_for_every_part(bundle: Bundle) -> None:
    assert stage_table(bundle).row_count == 4 + 4 + 3


def test_profile_is_kept_beside_the_bundle(bundle: Bundle) -> None:
    before = bundle.fingerprint
    times = profile(bundle.path, repeats=3)
    assert set(times['stage_ms']) == {'0', '1', '2', '3'}
    assert set(times['encoder_ms']) == {'0', '1', '2'}
    kept = Bundle.load(bundle.path)
    assert kept.fingerprint == before
    stored = kept.profile()['engines'][key(choose_engine(kept), 'cpu', 1)]
    assert stored['stage_ms'] == times['stage_ms']


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (4000, 4)).astype(np.float32)
    probabilities = softmax(logits)
    labels = np.array([rng.choice(4, p=p / p.sum()) for p in probabilities.astype(np.float64)])
    own = fit_temperature(logits, labels)
    assert own == pytest.approx(1.0, rel=0.1)
    for factor in (0.1, 3.0):
        assert fit_temperature(logits * factor, labels) == pytest.approx(factor * own, rel=2e-3)


def test_calibration_error_is_the_gap_by_hand() -> None:
    confidence = np.array([0.6, 0.6, 0.9, 0.9])
    correct = np.array([True, False, True, True])
    error = expected_calibration_error(confidence, correct, bins=2)
    assert error == pytest.approx((0.1 + 0.1) / 2)


def test_reliability_has_bins_of_equal_mass() -> None:
    confidence = np.linspace(0.5, 1, 30)
    points = reliability(confidence, confidence > 0.7, bins=4)
    assert sorted(count for _, _, count in points) == [7, 7, 8, 8]
    assert points[0][1] == 0
    assert points[-1][1] == 1


def test_risk_and_coverage_by_hand() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, False, True, True])
    area, excess = risk_coverage(confidence, correct)
    assert area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    # In the best order the one error comes last.
    assert excess == pytest.approx(area - (1 / 4) / 4)
    assert risk_coverage(confidence, np.sort(correct)[::-1])[1] == pytest.approx(0)
    area, excess = risk_coverage(confidence, np.array([True, False, False, True]))
    assert area - excess == pytest.approx((1 / 3 + 2 / 4) / 4)


def test_equal_confidences_have_one_risk() -> None:
    correct = np.array([True, False, True, False])
    same = np.full(4, 0.5)
    assert risk_coverage(same, correct)[0] == pytest.approx(0.5)
    assert risk_coverage(same, correct[::-1])[0] == pytest.approx(0.5)


def test_interval_is_wider_when_whole_tracks_fail() -> None:
    correct = np.repeat([True, False, True, True], 25)
    by_track = interval(correct, np.repeat(np.arange(4), 25))
    by_frame = interval(correct, np.arange(100))
    assert by_track[1] - by_track[0] > 2 * (by_frame[1] - by_frame[0])
    assert by_frame[0] < 0.75 < by_frame[1]


def test_an_interval_holds_the_mean_in_95_of_100_and_counts_groups_by_their_size() -> None:
    low, high = interval(np.arange(2000) % 2 == 0, np.arange(2000))
    # Of independent values 1.96 standard errors either way.
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.25 / 2000), rel=0.08)
    differences, groups = (
        np.repeat([-1.0, 0.5], [10, 90]),
        np.repeat(np.arange(11), [1] * 10 + [90]),
    )
    low, high = interval(differences, groups)
    assert low < differences.mean() < high and high > 0.4


def test_an_operation_without_counterpart_is_named() -> None:
    with pytest.raises(ExportError, match='Softplus'):
        trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Softplus()), torch.zeros(1, 3, 4, 4))


def test_an_exported_bundle_replaces_the_old_one_only_when_all_is_well(tmp_path: Path) -> None:
    target = tmp_path / 'bundle'
    target.mkdir()
    (target / 'manifest.json').write_text('kept')
    with pytest.raises(TrainingError):
        export(tmp_path / 'no_checkpoint', target, tmp_path)
    assert (target / 'manifest.json').read_text() == 'kept'


def test_shipped_bundle_keeps_its_promises() -> None:
    bundle = Bundle.load(bundle_path('gtsrb32'))
    assert sum(file.stat().st_size for file in bundle.path.glob('*.onnx')) <= 3e6
    report = bundle.training['report']
    exits = report['gtsrb']['exits']
    assert exits[str(bundle.final)]['accuracy'] >= 0.95
    assert exits['0']['accuracy'] >= 0.90
    assert report['drive']['scenes']['day']['exits'][str(bundle.final)]['accuracy'] >= 0.85
    whole = sum(stage.macs for stage in bundle.stages)
    split = bundle.split_at(bundle.defaults.split)
    head = sum(stage.macs for stage in bundle.stages[: split.stage + 1]) + split.encoder_macs
    assert head <= 0.30 * whole
    assert split.codecs[bundle.defaults.codec]['mean_bytes'] <= 256


def test_shipped_bundle_reads_real_signs() -> None:
    beside = Path(__file__).parents[2] / 'shared' / 'data'
    data = os.environ.get('SPARSE_SPLIT_DATA') or (beside if beside.is_dir() else None)
    if data is None:
        pytest.skip('no GTSRB: set SPARSE_SPLIT_DATA')
    bundle = Bundle.load(bundle_path('gtsrb32'))
    recipe = Recipe(name='check', dataset='gtsrb')
    held_out = load_split(recipe, data, 'report')
    some = np.random.default_rng(0).permutation(len(held_out))[:600]
    report = measure(bundle, held_out.take(some))
    assert report['exits'][str(bundle.final)]['accuracy'] >= 0.95
