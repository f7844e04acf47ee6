# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command `demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, console, writing


def add(commands: Commands) -> None:
    """Add `demo`."""
    demo = commands.add_parser(
        'demo',
        help='the whole system on this machine: a drive in, answers and a report out',
        description=(
            'Plays a drawn drive, 43 German traffic signs through day, dusk, night, glare, fog,\n'
            'rain and snow, into a head and a tail that run as two processes on this machine\n'
            'alone, in a domain of their own. Half way the tail is killed and started again, so\n'
            'that you see the robot answer without it. Then it writes index.html (open it in a\n'
            'browser), its pictures and summary.json.\n\n'
            'Exit status 1 means that an accepted frame got no answer or more than one, or that\n'
            'a process did not end in order.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split demo --open              show the report in a browser at the end\n'
            '  sparse-split demo --rate 3            three times as fast\n'
            '  sparse-split demo --no-kill --frames 300\n'
            '  sparse-split demo --drive my_bag      your own camera bag, with or without labels'
        ),
    )
    demo.add_argument(
        '--drive', type=Path, metavar='BAG',
        help='the bag to play, rendered if it is not there; default: a rendered one in the cache',
    )  # fmt: skip
    demo.add_argument(
        '--bundle', default='gtsrb32', help='a shipped bundle or a directory (%(default)s)'
    )
    demo.add_argument(
        '--out', type=Path, default=Path('report'), metavar='DIR',
        help='where the report goes (%(default)s)',
    )  # fmt: skip
    demo.add_argument(
        '--rate', type=float, metavar='X',
        help='speed against real time; default: 1, or more if that would take over 45 s',
    )  # fmt: skip
    demo.add_argument(
        '--frames', type=int, default=0, metavar='N', help='play the first N only (all)'
    )
    demo.add_argument(
        '--seed', type=int, default=1, help='seed of the drive, if rendered (%(default)s)'
    )
    demo.add_argument('--no-kill', action='store_true', help='let the tail live')
    demo.add_argument('--open', action='store_true', help='open the report in a browser')
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    from sparse_split_ros.demo import Options, run_demo

    wanted = Options(
        drive=options.drive,
        out=options.out,
        bundle=options.bundle,
        rate=options.rate,
        frames=options.frames,
        seed=options.seed,
        kill=not options.no_kill,
    )
    with writing(options.out):
        status = run_demo(wanted, console())
    if options.open:
        import webbrowser

        webbrowser.open((options.out / 'index.html').resolve().as_uri())
    return status
