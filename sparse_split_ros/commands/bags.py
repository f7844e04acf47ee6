# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command `make-bag`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, console


def add(commands: Commands) -> None:
    """Add `make-bag`."""
    bag = commands.add_parser(
        'make-bag',
        help='a camera bag of images, a video, a camera, GTSRB or the drawn drive',
        description=(
            'Writes a ROS 2 bag with /image, and /ground_truth and /scene where they are known.\n'
            'SOURCE is a folder of images (folders inside it name the classes), a video, another\n'
            'bag, a camera such as /dev/video0, the GTSRB as `sparse-split download gtsrb` left\n'
            'it in DATA (tracks in the order of time), an .npz of images and labels, or the word\n'
            "'drive' for the drawn one."
        ),
        epilog=(
            'examples:\n'
            '  sparse-split make-bag photos/ my_bag\n'
            '  sparse-split make-bag photos/ unseen --split report\n'
            '  sparse-split make-bag DATA/gtsrb/GTSRB tracks --split report\n'
            '  sparse-split make-bag drive my_drive --seed 7\n'
            '  sparse-split make-bag /dev/video0 flight --limit 900'
        ),
    )
    bag.add_argument('source', metavar='SOURCE')
    bag.add_argument('out', metavar='OUT', type=Path, help='the bag, a new folder')
    bag.add_argument('--limit', type=int, metavar='N', help='at most N frames')
    bag.add_argument(
        '--rate', type=float, default=30.0, help='Hz of what has no stamps of its own (%(default)g)'
    )
    bag.add_argument(
        '--split', choices=('train', 'select', 'report', 'all'),
        help='part of the GTSRB (report), or of a folder as training divides it (all)',
    )  # fmt: skip
    bag.add_argument('--seed', type=int, default=1, help='seed of the drive (%(default)s)')
    bag.add_argument('--topic', help='image topic of a bag with several')
    bag.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    bag.set_defaults(run=_make_bag)


def _make_bag(options: argparse.Namespace) -> int:
    from sparse_split_ros.data.sources import make_bag

    out = console()
    with out.status('writing') as status:
        count = make_bag(
            options.source,
            options.out,
            split=options.split,
            rate=options.rate,
            limit=options.limit,
            seed=options.seed,
            image_topic=options.topic,
            storage=options.storage,
            broken=lambda error: print(f'{error}: passed over', file=sys.stderr),
            progress=lambda done: status.update(f'writing {options.out}: {done} frames'),
        )
    out.out(f'{options.out}: {count} frames', highlight=False)
    return 0
