# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes as commands: `head`, `tail` and `player` take ROS arguments, not options of ours."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING

from sparse_split_ros.commands.parser import Commands, UsageError, console
from sparse_split_ros.nodes.entry import listen

if TYPE_CHECKING:
    from sparse_split_ros.nodes.parameters import Spec

NODES = {
    'head': "the robot's node: images in, exactly one classification per accepted frame out",
    'tail': 'the offboard node: features in, answers out, for one robot or several',
    'player': 'plays a bag, images, a video, a camera or the drawn drive as a camera would',
}

_EXAMPLES = {
    'head': '-r image:=/camera/image -p threshold:=0.8',
    'tail': '-p robots:="[r1, r2]" -p threads:=4',
    'player': '-p source:=drive -p loop:=true',
}


def add(commands: Commands) -> None:
    """Name the nodes in the help; `run_node` reads their arguments."""
    for name, text in NODES.items():
        commands.add_parser(name, help=text)


def run_node(name: str, arguments: list[str]) -> int:
    """Start a node with ROS arguments, or show its parameters."""
    if '--help' in arguments or '-h' in arguments:
        _print_help(name)
        return 0
    if arguments and arguments[0] != '--ros-args':
        raise UsageError(
            f'{arguments[0]!r} is unknown, expected ROS arguments such as --ros-args -p '
            f"NAME:=VALUE; see 'sparse-split {name} --help'"
        )
    # Signals are heard before the long imports, as in the executables of the nodes.
    listen()
    _check_parameters(name, arguments)
    status: int = import_module(f'sparse_split_ros.nodes.{name}').main(arguments)
    return status


def _check_parameters(name: str, arguments: Sequence[str]) -> None:
    """Refuse a parameter that is none: ROS 2 itself takes no notice of a misspelt name."""
    from sparse_split_ros.nodes.parameters import unknown

    for flag, text in pairwise(arguments):
        parameter, is_set, _ = text.partition(':=')
        if flag not in ('-p', '--param') or not is_set:
            continue
        # Its name, perhaps behind the name of the node.
        for strange in unknown([parameter.rpartition(':')[2]], _specs(name)):
            raise UsageError(f"unknown parameter {strange}; see 'sparse-split {name} --help'")


def _specs(name: str) -> Sequence[Spec]:
    specs: Sequence[Spec] = getattr(
        import_module('sparse_split_ros.nodes.parameters'), name.upper()
    )
    return specs


def _print_help(name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    specs = _specs(name)
    print(f'usage: sparse-split {name} [--ros-args -p NAME:=VALUE ... -r FROM:=TO ...]\n')
    print(f'{NODES[name][0].upper()}{NODES[name][1:]}.\n')
    table = Table('parameter', 'default', 'meaning', box=None, padding=(0, 2, 0, 0))
    for spec in specs:
        choices = f' ({", ".join(map(repr, spec.choices))})' if spec.choices else ''
        live = ' *' if spec.live else ''
        table.add_row(spec.name + live, repr(spec.default), Text(spec.description + choices))
    console().print(table)
    if any(spec.live for spec in specs):
        print('\n* can be set while it runs, with ros2 param set (needs ROS 2)')
    print(f'\nexample:\n  sparse-split {name} --ros-args {_EXAMPLES[name]}')
