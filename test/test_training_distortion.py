# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the distortion's gradient goes: into what restores, not into what is restored."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from test_training_joint import RECIPE  # noqa: E402

from sparse_split_ros.networks.bottleneck import quantise  # noqa: E402
from sparse_split_ros.training.parts import EdgePart  # noqa: E402
from sparse_split_ros.training.recipe import build_network  # noqa: E402

torch.set_num_threads(1)


def relative(restored: Any, target: Any) -> Any:
    target = target.detach()
    return (restored - target).square().mean() / target.square().mean()


def gradients(loss: Any, module: Any) -> list[Any]:
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    assert any(gradient is not None for gradient in found)
    return list(found)


def test_the_features_do_not_move_towards_what_is_restored() -> None:
    torch.manual_seed(0)
    network = build_network(RECIPE, 3).eval()  # as BatchNorm, so that both passes are alike
    x = torch.randn(4, 3, 32, 32)
    distortion = network(x, 1).distortion
    features = network.stages[1](network.stages[0](x))
    expected = relative(network.bottleneck_at(1)(features), features)
    torch.testing.assert_close(distortion, expected)
    for one, other in zip(
        gradients(distortion, network.stages[:2]), gradients(expected, network.stages[:2])
    ):
        torch.testing.assert_close(one, other)


def test_nor_do_the_edge_s() -> None:
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, hierarchical=True)
    network = build_network(recipe, 3)
    edge = EdgePart(network, recipe.cut)
    for part in edge.modules():
        if isinstance(part, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.Dropout)):
            part.eval()
    x = torch.randn(4, 3, 32, 32)
    seen = edge(x)
    features = edge.stages[1](edge.stages[0](x))
    codes = quantise(edge.stages[2](features), edge.bits)
    torch.testing.assert_close(seen.codes, codes)
    expected = relative(edge.mirror[0](codes), features)
    torch.testing.assert_close(seen.distortion, expected)
    for one, other in zip(
        gradients(seen.distortion, edge.stages), gradients(expected, edge.stages)
    ):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(seen.mirrored, edge.mirror[1](edge.mirror[0](codes)))
    assert set(seen.logits) == {0, 1}
