# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One step of the learner by hand: decay, clipping, rate and average."""

from __future__ import annotations

import dataclasses
import math

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from sparse_split_ros.training.learner import Learner  # noqa: E402
from sparse_split_ros.training.recipe import Recipe  # noqa: E402

RECIPE = Recipe('x', 'none', learning_rate=0.1, weight_decay=0.5, warmup=0.25, average=0.9)


def module() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1.0)
    return made


def nothing(of: nn.Module) -> torch.Tensor:
    """A loss without a gradient."""
    return sum(0.0 * p.sum() for p in of.parameters())


def test_weights_decay_and_biases_and_norms_do_not() -> None:
    learner = Learner(module(), dataclasses.replace(RECIPE, warmup=0.0))
    before = {k: v.clone() for k, v in learner.module.named_parameters()}
    learner.step(nothing(learner.module), 10)
    for name, now in learner.module.named_parameters():
        share = 1 - learner.rate * 0.5 if now.ndim > 1 else 1.0
        torch.testing.assert_close(now, share * before[name], msg=name)


def test_a_steep_loss_is_clipped() -> None:
    learner = Learner(module(), RECIPE)
    learner.step(1e3 * sum(p.sum() for p in learner.module.parameters()), 10)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in learner.module.parameters()))
    assert norm == pytest.approx(5.0, rel=1e-3)


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    learner, rates = Learner(module(), RECIPE), []
    for _ in range(8):
        learner.step(nothing(learner.module), 8)
        rates.append(learner.rate / 0.1)
    phases = [(step / 8 - 0.25) / 0.75 for step in range(2, 8)]
    falling = [0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * phase)) for phase in phases]
    assert rates == pytest.approx([0.01, 0.51, *falling])


def test_the_average_forgets_its_start_and_then_moves_slowly() -> None:
    learner = Learner(module(), RECIPE)
    expected = {k: v.clone() for k, v in learner.average.state_dict().items()}
    for step in range(1, 120):
        learner.module(torch.randn(4, 2, 2, 2))  # moves what BatchNorm remembers
        with torch.no_grad():
            for parameter in learner.module.parameters():
                parameter.add_(0.1)
        learner.step(nothing(learner.module), 200)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, now in learner.module.state_dict().items():
            mean = expected[name]
            expected[name] = decay * mean + (1 - decay) * now if now.is_floating_point() else now
    for name, value in learner.average.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert learner.average[1].num_batches_tracked == 119
    assert not learner.average.training
