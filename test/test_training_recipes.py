# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every recipe that is shipped can be trained: its network, its cut, its data and its weather."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip('torch')

from sparse_split_ros import vision  # noqa: E402
from sparse_split_ros.data.registry import SOURCES  # noqa: E402
from sparse_split_ros.networks.zoo import NETWORKS  # noqa: E402
from sparse_split_ros.training.recipe import SHIPPED_CODECS, Recipe, build_network, input_spec  # noqa: E402

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / 'config' / 'training').glob('*.yaml'))


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


def test_every_key_is_documented_with_its_default() -> None:
    lines = (ROOT / 'docs' / 'recipes.md').read_text(encoding='utf-8').splitlines()
    rows = [line.strip('| ').split(' | ') for line in lines if line.startswith('| `')]
    told = {key.strip('`'): yaml.safe_load(default.strip('`')) for key, default, _ in rows}
    known = Recipe('', '').plain()
    needed = [
        item.name for item in fields(Recipe) if MISSING is item.default is item.default_factory
    ]
    assert list(told) == list(known)
    assert told == known | dict.fromkeys(needed, 'needed')


def test_every_value_that_is_a_name_is_documented() -> None:
    text = (ROOT / 'docs' / 'recipes.md').read_text(encoding='utf-8')
    names = (*SOURCES, *NETWORKS, *SHIPPED_CODECS)
    assert not [name for name in names if f'`{name}`' not in text]
