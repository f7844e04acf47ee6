# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The joint loss and what an epoch draws, by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')

import torch.nn.functional as F  # noqa: E402
from test_training_assemble import small  # noqa: E402
from test_training_joint import RECIPE, blobs  # noqa: E402
from torch import nn  # noqa: E402

from sparse_split_ros.data.augment import AugmentedBatches  # noqa: E402
from sparse_split_ros.networks.staged import Output  # noqa: E402
from sparse_split_ros.training import joint  # noqa: E402
from sparse_split_ros.training.checkpoint import load  # noqa: E402
from sparse_split_ros.training.predict import predict  # noqa: E402
from sparse_split_ros.training.processes import Processes  # noqa: E402
from sparse_split_ros.training.recipe import input_spec  # noqa: E402

torch.set_num_threads(1)
ODD = dataclasses.replace(
    RECIPE, early_weight=0.7, distillation=0.2, distillation_temperature=3.0, label_smoothing=0.1,
    coded=0.2, distortion=0.3, batch_size=4, photometric=0.0,
)  # fmt: skip


def test_the_loss_is_that_of_the_papers() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = {k: 3 * torch.randn(5, 4, generator=generator) for k in (0, 2, 3)}
    labels = torch.tensor([0, 1, 2, 3, 0])
    target = 0.9 * F.one_hot(labels, 4) + 0.1 / 4
    hard = {k: -(target * v.log_softmax(1)).sum(1).mean() for k, v in logits.items()}
    teacher = (logits[3] / 3).softmax(1)
    soft = {
        k: 9 * (teacher * (teacher.log() - (v / 3).log_softmax(1))).sum(1).mean()
        for k, v in logits.items()
    }
    early = sum(0.8 * hard[k] + 0.2 * soft[k] for k in (0, 2))
    torch.testing.assert_close(joint.joint_loss(logits, labels, ODD), hard[3] + 0.7 * early)


def test_of_a_teacher_every_exit_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = {k: 3 * torch.randn(5, 4, generator=generator) for k in (0, 2)}
    taught = 3 * torch.randn(5, 4, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 0])
    target = 0.9 * F.one_hot(labels, 4) + 0.1 / 4
    soft = (taught / 3).softmax(1)
    each = {
        k: -0.8 * (target * v.log_softmax(1)).sum(1).mean()
        + 0.2 * 9 * (soft * (soft.log() - (v / 3).log_softmax(1))).sum(1).mean()
        for k, v in logits.items()
    }
    found = joint.joint_loss(logits, labels, ODD, taught)
    torch.testing.assert_close(found, each[2] + 0.7 * each[0])


class Watched(nn.Module):
    """Says the same of everything and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.split_stages = [0, 1, 2]
        self.bias = nn.Parameter(torch.zeros(3))
        self.splits: list[int] = []
        self.coded: list[Any] = []

    def forward(self, x: Any, split: int, coded: Any) -> Output:
        self.splits.append(split)
        self.coded.append(coded.numpy())
        assert self.training
        return Output({0: self.bias.expand(len(x), 3)}, torch.tensor(10.0))


def test_half_of_the_steps_pass_the_default_split_and_the_asked_share_of_rows_is_coded() -> None:
    data = AugmentedBatches(blobs(1600, 0), 4, 1, ODD.augmentation)
    network, losses = Watched(), []
    state: Any = SimpleNamespace(
        recipe=ODD, network=network, parallel=network, tasks={'': 'rgb'},
        group=Processes(0, 1, torch.device('cpu')), spec=input_spec(ODD, small()),
        teacher=None,
        learner=SimpleNamespace(step=lambda loss, total: losses.append((loss.item(), total))),
    )  # fmt: skip
    mean = joint._epoch(state, data, 0)
    assert np.concatenate(network.coded).mean() == pytest.approx(0.2, abs=0.03)
    shares = np.bincount(network.splits, minlength=3) / 400
    assert shares == pytest.approx([1 / 6, 2 / 3, 1 / 6], abs=0.06)  # 1 is the default
    # Cross-entropy of what says nothing, and the weighted distortion.
    expected = float(np.log(3)) + 0.3 * 10
    assert [loss for loss, _ in losses] == pytest.approx([expected] * 400, rel=1e-5)
    assert {total for _, total in losses} == {400 * ODD.epochs}
    assert mean == pytest.approx(expected, rel=1e-5)


def test_the_score_is_the_mean_of_plain_and_coded_of_the_final_exit() -> None:
    network = small()
    with torch.no_grad():  # whatever passes is lost
        network.bottleneck_at(0).decoder[1].weight.zero_()
        network.bottleneck_at(0).decoder[1].bias.zero_()
    recipe = dataclasses.replace(RECIPE, split=0)
    spec = input_spec(RECIPE, network)
    sets = {}
    for name, count, right in (('one', 60, 3), ('two', 30, 4)):
        data = blobs(count, count)
        said = predict(network, data.images, spec)[1].argmax(1)
        labels = np.where(np.arange(count) % 5 < right, said, (said + 1) % 3)
        sets[name] = dataclasses.replace(data, labels=labels)
    row = joint._score(network, sets, recipe, spec)
    shares = []
    for name, data in sets.items():
        plain = predict(network, data.images, spec)
        coded = predict(network, data.images, spec, 0)
        for stage in (0, 1):
            assert row[f'{name}_exit_{stage}'] == (plain[stage].argmax(1) == data.labels).mean()
        assert row[f'{name}_coded'] == (coded[1].argmax(1) == data.labels).mean()
        assert row[f'{name}_coded'] != row[f'{name}_exit_1'], 'or this tests nothing'
        shares += [row[f'{name}_exit_1'], row[f'{name}_coded']]
    assert (shares[0], shares[2]) == (0.6, 0.8)
    assert row['score'] == pytest.approx(np.mean(shares))


def test_the_average_is_what_is_scored_and_kept(tmp_path: Path, monkeypatch: Any) -> None:
    scored: list[dict[str, Any]] = []

    def score(network: nn.Module, *_: Any) -> dict[str, float]:
        scored.append({k: v.clone() for k, v in network.state_dict().items()})
        return {'score': 0.5}

    monkeypatch.setattr(joint, '_score', score)
    one = dataclasses.replace(RECIPE, epochs=1, batch_size=8)
    joint.fit(one, blobs(16, 0), {'s': blobs(6, 1)}, tmp_path)
    _, best = load(tmp_path / 'best')
    _, last = load(tmp_path / 'last')
    for name, value in best.items():
        assert torch.equal(value, last[f'average.{name}'])
        assert torch.equal(value, scored[0][name])
    assert not torch.equal(best['stages.0.0.0.weight'], last['network.stages.0.0.0.weight'])
