# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command that fetches public data sets: `download`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, console


def add(commands: Commands) -> None:
    """Add `download`."""
    download = commands.add_parser(
        'download',
        help='fetch a public data set (needs torchvision)',
        description=(
            'Downloads caltech256, cifar10, cifar100, gtsrb or mnist into a data directory, where\n'
            "a recipe with that 'dataset' finds it. What is there already is not fetched again."
        ),
        epilog=(
            'examples:\n'
            '  sparse-split download cifar10 --data DATA\n'
            '  sparse-split train config/training/cifar10.yaml --data DATA'
        ),
    )
    download.add_argument('name', metavar='NAME')
    download.add_argument('--data', type=Path, required=True, help='data directory')
    download.set_defaults(run=_download)


def _download(options: argparse.Namespace) -> int:
    from sparse_split_ros.data.public import download

    download(options.name, options.data)
    console().out(f'{options.name} is in {options.data}', highlight=False)
    return 0
