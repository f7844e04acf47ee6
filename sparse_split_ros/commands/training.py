# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the workshop: `train` and `export`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, console, writing


def add(commands: Commands) -> None:
    """Add `train` and `export`."""
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
            '  torchrun --nproc-per-node 4 -m sparse_split_ros.cli train CONFIG --data DATA'
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
    train.set_defaults(run=_train)

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
    from sparse_split_ros.training.joint import train

    out = options.out or Path('runs') / options.config.stem
    with writing(out, 'last.safetensors'):
        best = train(options.config, out, options.data, options.resume, options.device)
    if os.environ.get('RANK', '0') == '0':  # torchrun starts several of us
        console().out(f'best checkpoint: {best}', highlight=False)
    return 0


def _export(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect
    from sparse_split_ros.training.export import export

    with writing(options.bundle):
        bundle = export(options.checkpoint, options.bundle, options.data)
    inspect(bundle.path, console())
    return 0
