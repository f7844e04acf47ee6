# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``sparse-split``: one line of error for bad input, help that teaches by example."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sparse_split_ros import __version__
from sparse_split_ros.nodes.entry import listen

if TYPE_CHECKING:
    from rich.console import Console

    from sparse_split_ros.nodes.parameters import Spec

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

_NODES = {
    'head': "the robot's node: images in, exactly one classification per accepted frame out",
    'tail': 'the offboard node: features in, answers out, for one robot or several',
    'player': 'plays a bag, images, a video, a camera or the drawn drive as a camera would',
}

_NODE_EXAMPLES = {
    'head': '-r image:=/camera/image -p threshold:=0.8',
    'tail': '-p robots:="[r1, r2]" -p threads:=4',
    'player': '-p source:=drive -p loop:=true',
}


class UsageError(ValueError):
    """The command line asks for something that cannot be done."""


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors in our form."""

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **given)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave with status 2."""
        self.exit(2, f'error: {message}; see {self.prog} --help\n')


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: done; 1: it ran, and something it checks did not hold; 2: bad input, named in one line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _NODES:
        return _guarded(lambda: _node(arguments[0], arguments[1:]))
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
    except ModuleNotFoundError as error:
        if (error.name or '').startswith('sparse_split_ros'):
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


def _missing(error: ModuleNotFoundError) -> str:
    extras = {
        'torch': 'train', 'onnx': 'train', 'safetensors': 'train', 'tqdm': 'train',
        'matplotlib': 'report', 'jinja2': 'report', 'cyclonedds': 'embedded', 'zenoh': 'embedded',
    }  # fmt: skip
    extra = extras.get((error.name or '').partition('.')[0])
    how = f"pip install 'sparse_split_ros[{extra}]'" if extra else f'pip install {error.name}'
    return f'{error.name} is not installed and this command needs it: {how}'


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog='sparse-split', description=_DESCRIPTION, epilog=_EXAMPLES)
    parser.add_argument('--version', action='version', version=f'sparse-split {__version__}')
    commands = parser.add_subparsers(metavar='COMMAND', required=True, title='commands')
    _add_demo(commands)
    _add_make_bag(commands)
    _add_bundle_commands(commands)
    _add_training_commands(commands)
    for name, text in _NODES.items():
        commands.add_parser(name, help=text)
    return parser


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
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
    status = run_demo(wanted, _console())
    if options.open:
        import webbrowser

        webbrowser.open((options.out / 'index.html').resolve().as_uri())
    return status


def _add_make_bag(commands: argparse._SubParsersAction[_Parser]) -> None:
    bag = commands.add_parser(
        'make-bag',
        help='a camera bag of images, a video, a camera, GTSRB or the drawn drive',
        description=(
            'Writes a ROS 2 bag with /image, and /ground_truth and /scene where they are known.\n'
            'SOURCE is a folder of images (folders inside it name the classes), a video, another\n'
            'bag, a camera such as /dev/video0, the packed GTSRB .npz (tracks in the order of\n'
            "time) or the word 'drive' for the drawn one."
        ),
        epilog=(
            'examples:\n'
            '  sparse-split make-bag photos/ photos.mcap\n'
            '  sparse-split make-bag gtsrb32_train.npz tracks.mcap --split report\n'
            '  sparse-split make-bag drive drive.mcap --seed 7\n'
            '  sparse-split make-bag /dev/video0 camera.mcap --limit 900'
        ),
    )
    bag.add_argument('source', metavar='SOURCE')
    bag.add_argument('out', metavar='OUT', type=Path)
    bag.add_argument('--limit', type=int, metavar='N', help='at most N frames')
    bag.add_argument(
        '--rate', type=float, default=30.0, help='Hz of what has no stamps of its own (%(default)g)'
    )
    bag.add_argument(
        '--split', default='report', choices=('train', 'select', 'report', 'all'),
        help='tracks of GTSRB (%(default)s)',
    )  # fmt: skip
    bag.add_argument('--seed', type=int, default=1, help='seed of the drive (%(default)s)')
    bag.add_argument('--topic', help='image topic of a bag with several')
    bag.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    bag.set_defaults(run=_make_bag)


def _make_bag(options: argparse.Namespace) -> int:
    from sparse_split_ros.data.sources import make_bag

    console = _console()
    with console.status('writing') as status:
        count = make_bag(
            options.source,
            options.out,
            split=options.split,
            rate=options.rate,
            limit=options.limit,
            seed=options.seed,
            image_topic=options.topic,
            storage=options.storage,
            progress=lambda done: status.update(f'writing {options.out}: {done} frames'),
        )
    console.print(f'{options.out}: {count} frames', highlight=False, soft_wrap=True)
    return 0


def _add_bundle_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    inspect = commands.add_parser(
        'inspect',
        help='the stage table of a bundle',
        description=(
            'Prints what each stage, exit and split of a bundle weighs, costs and achieves, after\n'
            'checking every file of it against its hash.'
        ),
        epilog='examples:\n  sparse-split inspect gtsrb32\n  sparse-split inspect runs/mine/bundle',
    )
    inspect.add_argument(
        'bundle', metavar='BUNDLE', nargs='?', default='gtsrb32',
        help='a shipped name, or a directory (%(default)s)',
    )  # fmt: skip
    inspect.set_defaults(run=_inspect)

    profile = commands.add_parser(
        'profile',
        help="measure a bundle's stage times on this machine",
        description=(
            'Measures the median time of every stage and exit at batch 1, and keeps the figures\n'
            'in profile.json beside the bundle, where inspect shows them.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split profile gtsrb32\n'
            '  sparse-split profile gtsrb32 --device cuda'
        ),
    )
    profile.add_argument(
        'bundle', metavar='BUNDLE', nargs='?', default='gtsrb32',
        help='a shipped name, or a directory (%(default)s)',
    )  # fmt: skip
    profile.add_argument('--engine', choices=('onnxruntime', 'torch'), default='onnxruntime')
    profile.add_argument('--device', choices=('cpu', 'cuda', 'tensorrt'), default='cpu')
    profile.add_argument('--threads', type=int, default=1, help='threads (%(default)s)')
    profile.add_argument('--repeats', type=int, default=200, help='runs (%(default)s)')
    profile.set_defaults(run=_profile)

    classify = commands.add_parser(
        'classify',
        help='what every exit says of some pictures',
        description=(
            'Runs the whole network on pictures of one sign each, as a detector crops them, and\n'
            'shows the answer and the confidence of every exit, and who would have answered.'
        ),
        epilog='examples:\n  sparse-split classify gtsrb32 stop.png yield.jpg',
    )
    classify.add_argument('bundle', metavar='BUNDLE', help='a shipped name, or a directory')
    classify.add_argument('images', metavar='IMAGE', nargs='+', type=Path)
    classify.add_argument(
        '--threshold', type=float, help="confidence that is enough (the bundle's own)"
    )
    classify.set_defaults(run=_classify)


def _inspect(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect

    inspect(options.bundle, _console())
    return 0


def _profile(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect
    from sparse_split_ros.runtime.profile import profile

    for name, least in (('threads', 0), ('repeats', 1)):
        if getattr(options, name) < least:
            raise UsageError(f'--{name} {getattr(options, name)} is less than {least}')
    console = _console()
    with console.status('measuring'):
        profile(options.bundle, options.engine, options.device, options.threads, options.repeats)
    inspect(options.bundle, console)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from rich.table import Table

    from sparse_split_ros.data.images import ImageError, decode_compressed
    from sparse_split_ros.runtime.bundle import Bundle, bundle_path
    from sparse_split_ros.runtime.engine import load_engine
    from sparse_split_ros.runtime.preprocess import prepare

    bundle = Bundle.load(bundle_path(options.bundle))
    threshold = bundle.defaults.threshold if options.threshold is None else options.threshold
    if not 0 <= threshold <= 1:
        raise UsageError(f'--threshold {threshold:g} is outside 0 to 1')
    engine = load_engine(bundle)
    exits = [exit_.stage for exit_ in bundle.exits]
    evaluated = [0.0 if stage in exits else None for stage in range(bundle.final + 1)]
    table = Table('picture', *(f'exit {stage}' for stage in exits), 'who answers')
    for path in options.images:
        try:
            image = decode_compressed(path.read_bytes())
        except ImageError as error:
            raise ImageError(f'{path}: {error}') from error
        x = prepare(image, bundle.input)
        result = engine.run(x, 0, bundle.final, evaluated, stop=False)
        scores = {stage: result.exits[stage][0] for stage in exits}
        sure = [
            stage for stage in exits
            if stage <= bundle.defaults.split and scores[stage].max() >= threshold
        ]  # fmt: skip
        who = f'[green]robot, exit {sure[0]}' if sure else f'[dodger_blue2]tail, exit {exits[-1]}'
        table.add_row(
            path.name,
            *(f'{bundle.classes[s.argmax()]} {s.max():.1%}' for s in scores.values()),
            who,
        )
    _console().print(table)
    return 0


def _add_training_commands(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser(
        'train',
        help='train a network by a recipe (needs torch)',
        description=(
            'Trains all stages and exits jointly by the recipe CONFIG, a YAML file, and writes\n'
            'checkpoints and a log.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split train config/training/own_classes.yaml --data photos --out runs/mine\n'
            '  sparse-split train config/training/gtsrb32.yaml --data DATA --out runs/gtsrb32\n'
            '  sparse-split train config/training/gtsrb32.yaml --out runs/gtsrb32 --resume'
        ),
    )
    train.add_argument('config', metavar='CONFIG', type=Path)
    train.add_argument('--out', type=Path, help='run directory (runs/NAME OF CONFIG)')
    train.add_argument(
        '--data', type=Path,
        help='data directory, or your folder of class folders (SPARSE_SPLIT_DATA)',
    )  # fmt: skip
    train.add_argument('--resume', action='store_true', help='go on where it stopped')
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
    best = train(options.config, out, options.data, options.resume)
    _console().print(f'best checkpoint: {best}', highlight=False, soft_wrap=True)
    return 0


def _export(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect
    from sparse_split_ros.training.export import export

    bundle = export(options.checkpoint, options.bundle, options.data)
    inspect(bundle.path, _console())
    return 0


def _node(name: str, arguments: list[str]) -> int:
    """Start a node with ROS arguments, or show its parameters."""
    if '--help' in arguments or '-h' in arguments:
        _print_node_help(name)
        return 0
    if arguments and arguments[0] != '--ros-args':
        raise UsageError(
            f'{arguments[0]!r} is unknown, expected ROS arguments such as --ros-args -p '
            f"NAME:=VALUE; see 'sparse-split {name} --help'"
        )
    # Signals are heard before the long imports, as in the executables of the nodes.
    listen()
    status: int = import_module(f'sparse_split_ros.nodes.{name}').main(arguments)
    return status


def _print_node_help(name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    parameters = import_module('sparse_split_ros.nodes.parameters')
    specs: Sequence[Spec] = getattr(parameters, name.upper())
    print(f'usage: sparse-split {name} [--ros-args -p NAME:=VALUE ... -r FROM:=TO ...]\n')
    print(f'{_NODES[name][0].upper()}{_NODES[name][1:]}.\n')
    table = Table('parameter', 'default', 'meaning', box=None, padding=(0, 2, 0, 0))
    for spec in specs:
        choices = f' ({", ".join(map(repr, spec.choices))})' if spec.choices else ''
        live = ' *' if spec.live else ''
        table.add_row(spec.name + live, repr(spec.default), Text(spec.description + choices))
    _console().print(table)
    if any(spec.live for spec in specs):
        print('\n* can be set while it runs, with ros2 param set (needs ROS 2)')
    print(f'\nexample:\n  sparse-split {name} --ros-args {_NODE_EXAMPLES[name]}')


def _console() -> Console:
    from rich.console import Console

    return Console()


if __name__ == '__main__':
    raise SystemExit(main())
