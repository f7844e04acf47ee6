# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``sparse-split``: one line of error for bad input, help that teaches by example."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from sparse_split_ros import __version__
from sparse_split_ros.commands import (
    bags,
    bundles,
    demo,
    download,
    evaluate,
    nodes,
    prune,
    simulate,
    training,
)
from sparse_split_ros.commands.parser import Parser

_DESCRIPTION = """\
A perception node that knows when to think on the robot and when to ask for help.

A robot runs the head of a classifier with early exits and answers the frames it is sure of.
The features of a doubtful frame travel over a ROS 2 topic to a tail on another machine, which
finishes the network and sends the answer back. Every frame gets an answer in time, tail or not.
"""

_EXAMPLES = """\
examples:
  sparse-split demo                         see all of it on this machine, and a report
  sparse-split inspect gtsrb32              what the shipped network weighs, costs and achieves
  sparse-split classify gtsrb32 sign.png    what every exit says of a picture

on two machines (on ROS 2 also: ros2 launch sparse_split_ros split.launch.py role:=head):
  sparse-split tail                         on the strong one
  sparse-split head                         on the robot
  sparse-split player --ros-args -p source:=drive

'sparse-split COMMAND --help' says more about each.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: done; 1: it ran, and something it checks did not hold; 2: bad input, named in one line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # where it is not of UTF-8
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in nodes.NODES:
        return _guarded(lambda: nodes.run_node(arguments[0], arguments[1:]))
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    return _guarded(lambda: command(options))


def _guarded(command: Callable[[], int]) -> int:
    """Turn the errors a person can mend into one line, and leave faults of ours as they are."""
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; let no flush at exit complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        if not error.name or error.name.startswith('sparse_split_ros'):
            raise
        print(f'error: {_missing(error)}', file=sys.stderr)
        return 2
    except OSError as error:
        about = f'{error.filename}: {error.strerror}' if error.filename else str(error)
        print(f'error: {about}', file=sys.stderr)
        return 2
    except Exception as error:
        # Every layer of ours has its own class of errors, whose message is meant to be read.
        if not type(error).__module__.startswith('sparse_split_ros.'):
            raise
        print(f'error: {error}', file=sys.stderr)
        return 2


def _missing(error: ImportError) -> str:
    extras = {
        'torch': 'train', 'onnx': 'train', 'safetensors': 'train', 'tqdm': 'train',
        'torchvision': 'vision', 'matplotlib': 'report', 'jinja2': 'report', 'joblib': 'report',
        'cyclonedds': 'embedded', 'zenoh': 'embedded',
    }  # fmt: skip
    # Distributions that are called otherwise than what they bring; cv2 and yaml are strangers'.
    called = {'cv2': 'opencv-python-headless', 'yaml': 'PyYAML'}
    module = (error.name or '').partition('.')[0]
    how = f'pip install {called.get(module, module)}'
    if extra := extras.get(module):
        how = f"pip install '.[{extra}]' in the source tree of sparse_split_ros"
    if not isinstance(error, ModuleNotFoundError):
        return f'{error}: {module} is too old, or broken: {how} --upgrade'
    return f'{error.name} is not installed and this command needs it: {how}'


def _parser() -> Parser:
    parser = Parser(prog='sparse-split', description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument('--version', action='version', version=f'sparse-split {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True, title='commands')
    for group in (demo, bags, bundles, evaluate, simulate, download, training, prune, nodes):
        group.add(commands)
    return parser


if __name__ == '__main__':
    raise SystemExit(main())
