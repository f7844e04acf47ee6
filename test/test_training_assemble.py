# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle records, recomputed by hand: which images each figure comes from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from test_training_joint import RECIPE, blobs  # noqa: E402
from torch import nn  # noqa: E402

from sparse_split_ros.evaluation.metrics import wilson  # noqa: E402
from sparse_split_ros.link.codec import Codec, calibrate  # noqa: E402
from sparse_split_ros.networks.bottleneck import Bottleneck, Levels, quantise  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.training.assemble import _Models, build_bundle, verify  # noqa: E402
from sparse_split_ros.training.calibrate import fit_temperature  # noqa: E402
from sparse_split_ros.training.predict import normalise, predict  # noqa: E402
from sparse_split_ros.training.program import ExportError  # noqa: E402
from sparse_split_ros.training.recipe import input_spec  # noqa: E402

torch.set_num_threads(1)


def small() -> StagedNetwork:
    """Two stages of 32 x 32 pixels, a coarse cut between them."""
    torch.manual_seed(3)
    first = nn.Sequential(nn.Conv2d(3, 4, 5, 4, 2), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU())
    exits = {
        0: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        1: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    }
    made = StagedNetwork([first, second], exits, {0: Bottleneck(4, 2, 4, 2, bits=2)}, (3, 32, 32))
    with torch.no_grad():
        for linear in made.last_linears().values():
            linear.weight.mul_(20)
        made.bottleneck_at(0).decoder[1].weight.fill_(9.0)  # what comes back reaches further
    x = normalise(torch.from_numpy(blobs(48, 0).images), input_spec(RECIPE, made))
    with torch.no_grad():
        for _ in range(20):
            made.train()(x, 0)
    return made.eval()


TRAINING, SELECTION, CALIBRATION = blobs(60, 1), blobs(45, 2), blobs(30, 3)
CALIBRATION = dataclasses.replace(
    CALIBRATION, labels=np.random.default_rng(0).permutation(CALIBRATION.labels)
)
SELECTION = dataclasses.replace(SELECTION, images=SELECTION.images // 2)


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StagedNetwork, dict[str, Any], Path]:
    network, out = small(), tmp_path_factory.mktemp('bundle')
    recipe = dataclasses.replace(RECIPE, split=0, codec='int4')
    return network, build_bundle(network, recipe, TRAINING, SELECTION, CALIBRATION, out), out


def codes(network: StagedNetwork, images: np.ndarray) -> np.ndarray:
    x = normalise(torch.from_numpy(images), input_spec(RECIPE, network))
    with torch.inference_mode():
        return network.bottleneck_at(0).encoder(network.stages[0](x)).numpy()


def test_temperatures_are_of_the_calibration_images(made: Any) -> None:
    network, manifest, _ = made
    logits = predict(network, CALIBRATION.images, input_spec(RECIPE, network))
    for exit_ in manifest['exits']:
        expected = fit_temperature(logits[exit_['stage']], CALIBRATION.labels)
        assert exit_['temperature'] == pytest.approx(expected, abs=1e-4)
        right = (logits[exit_['stage']].argmax(1) == CALIBRATION.labels).mean()
        assert exit_['accuracy'] == pytest.approx(right, abs=1e-4)


def test_codecs_are_calibrated_on_training_images_and_judged_on_selection(made: Any) -> None:
    network, manifest, _ = made
    spec = input_spec(RECIPE, network)
    learned = TRAINING.images[np.random.default_rng(0).permutation(60)]
    seen = codes(network, SELECTION.images)
    (split,) = manifest['splits']
    plain = predict(network, SELECTION.images, spec)[1].argmax(1)
    for name, record in split['codecs'].items():
        params = calibrate(codes(network, learned), name, clip=0.0)
        assert {k: record[k] for k in params if k != 'dictionary'} == {
            k: v for k, v in params.items() if k != 'dictionary'
        }
        codec = Codec.from_calibration(name, seen.shape[1:], record)
        payloads = [codec.encode(row) for row in seen]
        with torch.inference_mode():
            back = torch.from_numpy(np.concatenate([codec.decode(p) for p in payloads]))
            x = network.stages[1](network.bottleneck_at(0).decoder(back))
            said = network.exit_at(1)(x).argmax(1).numpy()
        differ = int((said != plain).sum())
        assert record['disagreement'] == pytest.approx(differ / 45, abs=1e-5)
        bound = wilson(differ, 45, z=1.6449)[1]
        assert record['disagreement_bound'] == pytest.approx(bound, abs=1e-5)
        assert record['max_bytes'] == max(map(len, payloads))


def test_ranges_behind_a_cut_are_of_features_and_of_what_a_decoder_restores(made: Any) -> None:
    network, _, out = made
    order = np.random.default_rng(0).permutation(60)
    x = normalise(torch.from_numpy(TRAINING.images[order]), input_spec(RECIPE, network))
    with torch.inference_mode():
        features = network.stages[0](x)
        restored = network.bottleneck_at(0)(features)
    mixed = max(float(features[::2].max()), float(restored[1::2].max()))
    assert float(restored[1::2].max()) > 1.5 * float(features.max()), 'or this tests nothing'
    models = json.loads((out / 'graph.json').read_text())['models']
    assert models['stage_1']['input_range'] == pytest.approx(mixed, rel=1e-4)
    assert models['stage_0']['input_range'] == pytest.approx(float(x.abs().max()), rel=1e-5)


def test_a_cut_gives_back_what_its_levels_leave(tmp_path: Path) -> None:
    network = small()
    bottleneck = network.bottleneck_at(0)
    x = torch.rand(8, 4, 8, 8)
    record, restored = _Models(tmp_path, 1).write_cut(0, bottleneck, x)
    with torch.inference_mode():
        torch.testing.assert_close(restored, bottleneck(x))
        fine = bottleneck.decoder(bottleneck.encoder(x))
    assert not torch.allclose(restored, fine), 'or this tests nothing'
    assert record['shape'] == [2, 4, 4]
    assert json.dumps(record)
    record, restored = _Models(tmp_path, 1).write_cut(0, Levels(2), x)
    assert torch.equal(restored, quantise(x, 2)) and not torch.equal(restored, x)
    assert record == {'shape': [4, 8, 8]}


@pytest.mark.parametrize('part', ['encoder', 'decoder'])
def test_a_cut_that_moved_on_is_not_verified(made: Any, part: str) -> None:
    from sparse_split_ros.runtime.bundle import Bundle

    network, _, out = made
    other = small()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        getattr(other.bottleneck_at(0), part)[1].bias += 0.01
    with pytest.raises(ExportError, match='off the network'):
        verify(Bundle.load(out), other, blobs(8, 0).images)
