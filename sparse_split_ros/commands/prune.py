# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command that prunes a network before it is trained: `prune`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sparse_split_ros.commands.parser import Commands, UsageError, console

if TYPE_CHECKING:
    from torch import Tensor

    from sparse_split_ros.networks.prune import Pruning
    from sparse_split_ros.networks.staged import StagedNetwork
    from sparse_split_ros.training.recipe import Recipe

_BATCH = 128
_METHODS = ('reconvene', 'precrop', 'synflow', 'snip', 'random-erk')


def add(commands: Commands) -> None:
    """Add `prune`."""
    prune = commands.add_parser(
        'prune',
        help='a smaller recipe, pruned before training (needs torch)',
        description=(
            'Finds what the freshly drawn network of the recipe CONFIG can do without, within\n'
            'seconds, and writes a recipe that trains the rest. reconvene and precrop remove\n'
            'channels: the network is smaller and faster. synflow, snip and random-erk hold\n'
            'single weights at zero: the network is only stored in less.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split prune config/training/cifar10.yaml --method reconvene --target 0.1\n'
            '  sparse-split train cifar10_reconvene.yaml --data DATA'
        ),
    )
    prune.add_argument('config', metavar='CONFIG', type=Path)
    prune.add_argument('--method', choices=_METHODS, default='reconvene', help='(%(default)s)')
    prune.add_argument(
        '--target', type=float, required=True, help='share of the weights that may stay, 0 to 1'
    )
    prune.add_argument(
        '--multiple', type=int, default=4,
        help='channels stay in multiples of this; 16 where a density follows (%(default)s)',
    )  # fmt: skip
    prune.add_argument('--classes', type=int, default=10, help='how many (%(default)s)')
    prune.add_argument('--data', type=Path, help='for snip, which looks at 128 training images')
    prune.add_argument('--out', type=Path, help='the new recipe (NAME OF CONFIG_METHOD.yaml)')
    prune.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> int:
    import torch
    import yaml

    from sparse_split_ros.networks.prune import prune, save_masks
    from sparse_split_ros.training.recipe import Recipe, build_network

    for name in ('multiple', 'classes'):
        if getattr(options, name) < 1:
            raise UsageError(f'--{name} {getattr(options, name)} is less than 1')
    recipe = Recipe.load(options.config)
    out = options.out or Path(f'{options.config.stem}_{options.method}.yaml')
    torch.set_num_threads(recipe.threads)
    # Patterns of a density are drawn on what is left.
    dense = {k: v for k, v in recipe.network_arguments.items() if k != 'density'}
    recipe = replace(recipe, network_arguments=dense)
    batch, classes = None, options.classes
    if options.method == 'snip':
        batch, classes = _batch(recipe, options.data)
    # The network that training will begin with.
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, classes, pretrained=True)
    found = prune(network, options.method, options.target, batch, recipe.seed, options.multiple)
    values = yaml.safe_load(options.config.read_text(encoding='utf-8'))
    values['name'] = f'{recipe.name}_{options.method.replace("-", "_")}'
    arguments = values.setdefault('network_arguments', {})
    if found.masks:
        masks = out.with_suffix('.safetensors')
        save_masks(masks, found.masks)
        arguments['masks'] = str(masks)
    else:
        arguments['channels'] = arguments.get('channels', {}) | found.channels
    heading = (
        f'# sparse-split prune {options.config} --method {found.method} --target {found.target:g}'
    )
    out.write_text(f'{heading}\n{yaml.safe_dump(values, sort_keys=False)}', encoding='utf-8')
    _show(network, found)
    console().print(f'recipe: {out}', highlight=False, soft_wrap=True)
    return 0


def _batch(recipe: Recipe, data: Path | None) -> tuple[tuple[Tensor, Tensor], int]:
    """A batch of training images, as the network reads them, with labels; the number of classes."""
    import numpy as np
    import torch

    from sparse_split_ros.training.predict import normalise
    from sparse_split_ros.training.recipe import build_network, input_spec, load_split

    training = load_split(recipe, data, 'train')
    mean, std = training.statistics()
    recipe = replace(recipe, mean=recipe.mean or mean, std=recipe.std or std)
    chosen = np.random.default_rng(recipe.seed).permutation(len(training))[:_BATCH]
    some = training.take(chosen)
    spec = input_spec(recipe, build_network(recipe, 2))
    images = normalise(torch.from_numpy(some.images), spec)
    return (images, torch.from_numpy(some.labels)), len(training.classes)


def _show(network: StagedNetwork, found: Pruning) -> None:
    from rich.table import Table

    from sparse_split_ros.networks.channels import groups

    table = Table('what', 'of', 'stays')
    if found.masks:
        for name, mask in found.masks.items():
            table.add_row(name, f'{mask.numel():,}', f'{int(mask.sum()):,}')
    else:
        for group in groups(network):
            count = found.channels.get(group.name, group.size)
            table.add_row(f'channels of {group.name}', str(group.size), str(count))
    table.add_section()
    share = found.kept / found.total
    table.add_row(
        'weights of stages and exits', f'{found.total:,}', f'{found.kept:,} ({share:.2%})'
    )
    out = console()
    out.print(table)
    out.print(f'{found.method} took {found.seconds:.1f} s', highlight=False)
