# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command that prunes a network before it is trained: `prune`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_split_ros.commands.parser import Commands, UsageError, console

if TYPE_CHECKING:
    from sparse_split_ros.networks.prune import Pruning
    from sparse_split_ros.networks.staged import StagedNetwork

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
            'single weights at zero: as large and as slow, for comparison; a density in the\n'
            'recipe stores and computes only the weights that are left.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split prune config/training/cifar10.yaml --method reconvene --target 0.1\n'
            '  sparse-split prune mine.yaml --target 0.25 --classes 12\n'
            '  sparse-split train cifar10_reconvene.yaml --data DATA'
        ),
    )
    prune.add_argument('config', metavar='CONFIG', type=Path)
    prune.add_argument('--method', choices=_METHODS, default='reconvene', help='(%(default)s)')
    prune.add_argument(
        '--target', type=float, required=True,
        help="share that may stay of all weights but the exits' last layers, 0 to 1",
    )  # fmt: skip
    prune.add_argument(
        '--multiple', type=int,
        help='channels stay in multiples of this (4; 16 where the recipe has a density)',
    )  # fmt: skip
    prune.add_argument('--classes', type=int, help='how many there are (those of the data)')
    prune.add_argument(
        '--data', type=Path,
        help='the data directory, for the classes, and for snip, which looks at 128 images',
    )  # fmt: skip
    prune.add_argument('--out', type=Path, help='the new recipe (NAME OF CONFIG_METHOD.yaml)')
    prune.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> int:
    import torch
    import yaml

    from sparse_split_ros.networks.prune import UNSTRUCTURED, prune, save_masks
    from sparse_split_ros.training.recipe import Recipe, build_network, first_batch, load_split

    for name in ('multiple', 'classes'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f'--{name} {value} is less than 1')
    asked = Recipe.load(options.config)
    if 'masks' in asked.network_arguments:
        raise UsageError(f'{options.config} is pruned already: start from the recipe it came from')
    sparse = asked.network_arguments.get('density', 1) != 1
    if sparse and options.method in UNSTRUCTURED:
        raise UsageError(
            f'{options.config} has a density, and {options.method} chooses single weights too: '
            'leave out density, or choose reconvene or precrop'
        )
    if asked.cut != asked.split and options.method in UNSTRUCTURED:
        raise UsageError(
            f'{options.config} has its bottleneck inline, where {options.method} cannot choose '
            'single weights: choose reconvene or precrop'
        )
    multiple = options.multiple or (16 if sparse else 4)
    torch.set_num_threads(asked.threads)
    # Patterns of a density are drawn on what is left.
    dense = {k: v for k, v in asked.network_arguments.items() if k != 'density'}
    # Channels are named as where the bottleneck is not inline.
    plain: dict[str, Any] = {'inline': False, 'hierarchical': False}
    recipe = replace(asked, network_arguments=dense, **plain)
    batch, classes = None, options.classes
    if classes is None or options.method == 'snip':
        training = load_split(recipe, options.data, 'train')
        if options.classes not in (None, len(training.classes)):
            raise UsageError(
                f'--classes {options.classes}: the data holds {len(training.classes)}; leave it out'
            )
        classes = len(training.classes)
        batch = first_batch(recipe, training) if options.method == 'snip' else None
    # The network that training will begin with.
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, classes, pretrained=True)
    found = prune(network, options.method, options.target, batch, recipe.seed, multiple)
    out = options.out or Path(f'{options.config.stem}_{options.method}.yaml')
    values = yaml.safe_load(options.config.read_text(encoding='utf-8'))
    values['name'] = f'{asked.name}_{options.method.replace("-", "_")}'
    arguments = values.setdefault('network_arguments', {})
    masks = out.with_name(f'{out.name}.masks.safetensors').resolve()
    if found.masks:
        arguments['masks'] = str(masks)
    else:
        arguments['channels'] = {**(arguments.get('channels') or {}), **found.channels}
    command = (
        f'sparse-split prune {options.config} --method {options.method} --target '
        f'{options.target:g} --multiple {multiple} --classes {classes}'
    )
    text = f'# {command}\n{yaml.safe_dump(values, sort_keys=False)}'
    if options.out is None and out.exists() and out.read_bytes() != text.encode():
        raise UsageError(
            f'{out} exists and says something else, which would be lost: give --out {out} to '
            'replace it, or another --out'
        )
    if found.masks:
        save_masks(masks, found.masks)
    built = build_network(replace(Recipe.from_mapping(values), **plain), classes)
    out.write_text(text, encoding='utf-8')
    _show(network, built, found)
    console().out(f'recipe: {out}', highlight=False)
    return 0


def _weights(network: StagedNetwork) -> int:
    """How many weights the layers of stages and exits have, without the zeros of masks."""
    import torch

    return sum(
        int(layer.weight.count_nonzero())
        for name, layer in network.named_modules()
        if name.startswith(('stages.', 'exits.'))
        and isinstance(getattr(layer, 'weight', None), torch.Tensor)
        and layer.weight.ndim > 1
    )


def _show(network: StagedNetwork, built: StagedNetwork, found: Pruning) -> None:
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
        "weights but the exits' last layers", f'{found.total:,}', f'{found.kept:,} ({share:.2%})'
    )
    before, after = _weights(network), _weights(built)
    table.add_row(
        'all weights of stages and exits', f'{before:,}', f'{after:,} ({after / before:.2%})'
    )
    out = console()
    out.print(table)
    out.print(f'{found.method} took {found.seconds:.1f} s', highlight=False)
