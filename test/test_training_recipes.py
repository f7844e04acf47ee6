# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every recipe that is shipped can be trained: its network, its cut, its data and its weather."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip('torch')

from sparse_split_ros import vision  # noqa: E402
from sparse_split_ros.data.registry import SOURCES  # noqa: E402
from sparse_split_ros.networks.zoo import NETWORKS  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, build_network, input_spec  # noqa: E402

RECIPES = sorted((Path(__file__).parents[1] / 'config' / 'training').glob('*.yaml'))


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_trained(path: Path) -> None:
    recipe = Recipe.load(path)
    if recipe.network not in NETWORKS:
        try:
            vision.torchvision()
        except vision.VisionError as error:
            pytest.skip(str(error))
    assert recipe.name == path.stem
    assert recipe.dataset in SOURCES
    assert 0 <= recipe.augmentation.weather <= 1
    network = build_network(recipe, 10).eval()
    assert recipe.cut in network.split_stages
    if recipe.mean is not None:
        assert input_spec(recipe, network).shape == network.input_shape
    logits = network(torch.zeros(1, *network.input_shape), recipe.cut).logits
    assert set(logits) == set(network.exit_stages)
