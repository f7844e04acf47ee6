# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the workshop: `train`, `cut` and `export`."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, UsageError, console, writing


def add(commands: Commands) -> None:
    """Add `train`, `cut` and `export`."""
    train = commands.add_parser(
        'train',
        help='train a network by a recipe (needs torch)',
        description=(
            'Trains all stages and exits jointly by the recipe CONFIG, a YAML file, and writes\n'
            'checkpoints, a log, and a picture of its curves.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split train config/training/own_classes.yaml --data photos --out runs/mine\n'
            '  sparse-split train config/training/gtsrb32.yaml --data DATA --out runs/gtsrb32\n'
            '  sparse-split train config/training/gtsrb32.yaml --out runs/gtsrb32 --resume\n'
            'on four GPUs, or on several machines with --nnodes:\n'
            '  torchrun --nproc-per-node 4 -m sparse_split_ros.cli train CONFIG --data DATA\n'
            'a recipe with hierarchical: true, the images staying on the machine that has them:\n'
            '  sparse-split train CONFIG --cloud 5600                        there\n'
            '  sparse-split train CONFIG --edge THERE:5600 --data photos     here'
        ),
    )
    train.add_argument('config', metavar='CONFIG', type=Path)
    train.add_argument('--out', type=Path, help='run directory (runs/NAME OF CONFIG)')
    train.add_argument(
        '--data', type=Path,
        help='data directory, or your folder of class folders or with labels.csv '
        '(SPARSE_SPLIT_DATA)',
    )  # fmt: skip
    train.add_argument('--resume', action='store_true', help='go on where it stopped')
    train.add_argument(
        '--device', choices=('auto', 'cpu', 'cuda'), default='auto',
        help='where to compute; auto is a GPU if there is one (%(default)s)',
    )  # fmt: skip
    sides = train.add_mutually_exclusive_group()
    sides.add_argument(
        '--edge', metavar='HOST:PORT',
        help='train what lies before the split, and send coded features to the cloud there',
    )  # fmt: skip
    sides.add_argument(
        '--cloud', metavar='[HOST:]PORT',
        help='train what lies behind it, and keep the whole network; needs no data',
    )  # fmt: skip
    train.set_defaults(run=_train)

    cut = commands.add_parser(
        'cut',
        help='where to cut a network that two machines train (needs torch)',
        description=(
            'Times the steps of a recipe here, and says for every cut how long a hierarchical\n'
            'training takes: as long as the slowest of edge, link and cloud. This machine stands\n'
            'for the cloud, and for an edge that is so many times slower.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split cut config/training/own_classes.yaml --slower 10 --mbit 5\n'
            '  sparse-split cut config/training/cifar10.yaml --classes 10 --slower 1 --mbit 100'
        ),
    )
    cut.add_argument('config', metavar='CONFIG', type=Path)
    cut.add_argument(
        '--slower', type=float, default=8.0, help='the edge against this machine (%(default)s)'
    )
    cut.add_argument('--mbit', type=float, default=10.0, help='of the link, Mbit/s (%(default)s)')
    cut.add_argument('--classes', type=int, default=10, help='how many (%(default)s)')
    cut.add_argument('--rounds', type=int, default=5, help='steps that are timed (%(default)s)')
    cut.set_defaults(run=_cut)

    export = commands.add_parser(
        'export',
        help='make a bundle of a checkpoint (needs torch)',
        description=(
            'Calibrates a checkpoint, writes its bundle, and proves that the bundle answers as\n'
            'the network does. An older bundle is replaced only when all is well.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split export runs/mine bundles/mine --data photos\n'
            '  sparse-split export runs/gtsrb32/best.safetensors models/gtsrb32 --data DATA'
        ),
    )
    export.add_argument('checkpoint', metavar='CHECKPOINT', type=Path)
    export.add_argument('bundle', metavar='BUNDLE', type=Path)
    export.add_argument('--data', type=Path, help='the data of the training (SPARSE_SPLIT_DATA)')
    export.set_defaults(run=_export)


def _train(options: argparse.Namespace) -> int:
    from sparse_split_ros.training.train import train

    out = options.out or Path('runs') / options.config.stem
    with writing(out, 'edge.safetensors' if options.edge else 'last.safetensors'):
        best = train(
            options.config, out, options.data, options.resume, options.device,
            options.edge, options.cloud,
        )  # fmt: skip
    if best is None:
        console().out(f'what was learned is kept by the cloud at {options.edge}', highlight=False)
    elif os.environ.get('RANK', '0') == '0':  # torchrun starts several of us
        console().out(f'best checkpoint: {best}', highlight=False)
    return 0


def _cut(options: argparse.Namespace) -> int:
    from rich.table import Table

    from sparse_split_ros.training.cuts import Place, measure
    from sparse_split_ros.training.recipe import Recipe

    for name in ('slower', 'mbit', 'classes', 'rounds'):
        if not 0 < getattr(options, name) < math.inf:
            raise UsageError(f'--{name} is {getattr(options, name)}, expected a number above 0')
    place = Place(options.slower, options.mbit)
    whole, cuts = measure(Recipe.load(options.config), options.classes, options.rounds)
    table = Table('cut after stage', 'bytes', 'edge', 'link', 'cloud', 'in all', box=None)
    for column in table.columns[1:]:
        column.justify = 'right'
    rows = [
        (f'{cut.split}', cut.bytes, place.edge_ms(cut), place.link_ms(cut), cut.cloud_ms)
        for cut in cuts
    ]
    rows.append(('none: images sent', whole.bytes, 0.0, place.link_ms(whole), whole.ms))
    for name, size, *parts in rows:
        table.add_row(name, f'{size:.0f}', *(f'{ms:.3f}' for ms in (*parts, max(parts))))
    out = console()
    out.print('ms of each image of a training:')
    out.print(table)
    best = min(cuts, key=place.ms)
    ratio = place.whole_ms(whole) / place.ms(best)
    faster = (
        f'{ratio:.1f} times faster than' if ratio >= 1 else f'{1 / ratio:.1f} times slower than'
    )
    out.print(f'split: {best.split} is the fastest cut, {faster} sending images', highlight=False)
    return 0


def _export(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect
    from sparse_split_ros.training.export import export

    with writing(options.bundle):
        bundle = export(options.checkpoint, options.bundle, options.data)
    inspect(bundle.path, console())
    return 0
