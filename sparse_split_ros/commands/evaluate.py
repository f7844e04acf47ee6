# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The commands `evaluate`, a replay in virtual time, and `record`, a live run into a bag."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparse_split_ros.commands.parser import (
    Commands,
    UsageError,
    given,
    refuse,
    refuse_for,
    writing,
)
from sparse_split_ros.commands.parser import console as to_console

if TYPE_CHECKING:
    from rich.console import Console

    from sparse_split_ros.evaluation.jobs import Request
    from sparse_split_ros.evaluation.stream import Source, Truth

_DEADLINE_MS = 100.0
_DESCRIPTION = """\
Replays recorded frames through the robot's head, a model of the link and the tail, in virtual time,
and writes what became of every frame: index.html with its pictures, decisions.csv, summary.json.
The networks really run; the link, the robot's speed and so all times are simulated. The same input
and seed give the same files, whatever the number of jobs.

SOURCE is a ROS 2 bag (mcap or sqlite3, compressed or not), a folder of such bags, a folder of
images whose folders name the classes, DATA/gtsrb/GTSRB (after `sparse-split download gtsrb`), an
.npz of images and labels, or 'drive', the drawn one.
Several sources are evaluated one by one, each from a blank start, and counted together.
"""

_EXAMPLES = """\
examples:
  sparse-split evaluate my_bag                              what the default policy makes of it
  sparse-split evaluate my_bag --baselines --jobs 2         and what else you could do instead
  sparse-split evaluate my_bag --link wifi-bad --robot 40   a bad link and a 40 times slower robot
  sparse-split evaluate photos/ --weather fog:4 --policy fixed --threshold 0.8
  sparse-split evaluate bags/ --out nightly --resume        go on after an interruption
  sparse-split evaluate --decisions flown                   score what `record` saw of a live run

docs/evaluation.md says what each figure means and how the baselines are defined.
"""


# What is asked of a live run that is over.
_OF_A_LIVE_RUN = {'decisions', 'deadline', 'labels', 'bundle', 'out', 'json', 'no_report'}


def add(commands: Commands) -> None:
    """Add `evaluate` and `record`."""
    _add_evaluate(commands)
    _add_record(commands)


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        'evaluate', help='replay bags or images in virtual time, with baselines and a report',
        description=_DESCRIPTION, epilog=_EXAMPLES,
    )  # fmt: skip
    parser.add_argument('source', metavar='SOURCE', nargs='*')
    parser.add_argument(
        '--decisions', metavar='BAG', help='score a bag of `sparse-split record` instead; only '
        '--deadline, --labels, --bundle, --out, --json and --no-report are for that',
    )  # fmt: skip
    what = parser.add_argument_group('what is compared')
    what.add_argument(
        '--policy', default='joint', metavar='NAME',
        help='the policy that the report is about (%(default)s)',
    )  # fmt: skip
    what.add_argument(
        '--policies', nargs='+', default=[], metavar='NAME', help='others beside it, some of '
        'full-local jpeg-offload webp-offload fixed branchynet splitee splitee-s isplitee joint '
        'oracle, and splitee-paired',
    )  # fmt: skip
    what.add_argument('--baselines', action='store_true', help='all of them but splitee-paired')
    what.add_argument(
        '--threshold', type=float, default=-1.0, help="for fixed and SplitEE (the bundle's)"
    )
    what.add_argument('--split', type=int, default=-1, help="for fixed (the bundle's)")
    what.add_argument('--codec', default='', help="of the features (the policy's choice)")
    what.add_argument(
        '--target-disagreement', type=float, default=0.01, metavar='SHARE',
        help='for joint: answers that may differ from the full network (%(default)s)',
    )  # fmt: skip
    what.add_argument('--cost-weights', default='latency', help='latency, balanced or frugal')
    world = parser.add_argument_group('the world')
    world.add_argument(
        '--link', default='wifi', metavar='LINK',
        help='none, ideal, ethernet, wifi, wifi-bad, lte, a .yaml or a .csv trace (%(default)s)',
    )  # fmt: skip
    world.add_argument(
        '--robot', type=float, default=1.0, metavar='FACTOR',
        help='a robot so many times slower than the profile (%(default)g)',
    )  # fmt: skip
    world.add_argument(
        '--profile', default='', metavar='FILE',
        help="step times: a profile.json of an earlier run, or 'nominal', the same on any machine "
        '(measured once on this machine)',
    )  # fmt: skip
    world.add_argument(
        '--deadline', type=float, metavar='MS',
        help=f'({_DEADLINE_MS:g} ms, with --decisions that of the run)',
    )  # fmt: skip
    world.add_argument(
        '--weather', metavar='NAME[:LEVEL]', help='put on every image, at level 1 to 5 (3)'
    )
    data = parser.add_argument_group('the data')
    data.add_argument('--limit', type=int, metavar='N', help='the first N frames of each source')
    data.add_argument(
        '--part', choices=('report', 'all'), help='of the GTSRB and of folders of labelled images: '
        'what training holds out, or all (report for the GTSRB, and for folders if the bundle was '
        'trained on one)',
    )  # fmt: skip
    data.add_argument('--topic', help='image topic of a bag with several')
    data.add_argument('--rate', type=float, default=30.0, help='Hz of what has no stamps')
    data.add_argument(
        '--labels', type=Path, metavar='FILE',
        help='.yaml or .json from class names of the source to those of the bundle, or a .csv of '
        'frame (or stamp_ns) and label',
    )  # fmt: skip
    data.add_argument(
        '--bundle', default='gtsrb32',
        help='a shipped name or a folder; with --decisions that of the run (%(default)s)',
    )  # fmt: skip
    data.add_argument('--engine', default='auto', help='(%(default)s)')
    run = parser.add_argument_group('the run')
    run.add_argument(
        '--out', type=Path, metavar='DIR', help='where the report goes (evaluation; with --json '
        'none unless given)',
    )  # fmt: skip
    run.add_argument(
        '--table', default='decisions.csv', metavar='NAME',
        help='file of the decisions, .csv or .parquet (%(default)s)',
    )  # fmt: skip
    run.add_argument('--json', action='store_true', help='print summary.json, and nothing else')
    run.add_argument('--no-report', action='store_true', help='no pictures and no page')
    run.add_argument('--seed', type=int, default=0, help='(%(default)s)')
    run.add_argument('--jobs', type=int, default=1, help='processes (%(default)s)')
    run.add_argument(
        '--scheduler', default='', metavar='ADDRESS',
        help='a Dask (tcp://host:8786) or Ray (ray://host:10001) cluster to use instead',
    )  # fmt: skip
    run.add_argument('--resume', action='store_true', help='go on with the unfinished run in --out')
    parser.set_defaults(run=partial(_evaluate, parser))


def _evaluate(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    console = to_console(stderr=options.json)
    out = options.out
    if out is None and not options.json:
        out = Path('evaluation')
    if options.deadline is not None and not 0 < options.deadline < math.inf:
        raise UsageError(f'--deadline {options.deadline:g} ms, expected a positive number')
    asked = given(parser, options) - {'source'}
    if options.decisions:
        if options.source:
            raise UsageError(f'--decisions and the SOURCE {options.source[0]}: give one of them')
        refuse(asked - _OF_A_LIVE_RUN, 'is for a replay and not for --decisions')
        return _score(options, out, console)
    if not options.source:
        raise UsageError('name a SOURCE, or a bag of decisions by --decisions')
    if options.jobs < 1:
        raise UsageError(f'--jobs {options.jobs} is less than 1')
    if out is None:
        refuse(asked & {'resume', 'table'}, 'needs the --out where that file or run is')
    from sparse_split_ros.evaluation.output import PARTS, PLAN, clear, reserved

    request = _request(options, asked, console)
    report = out is not None and not options.no_report
    if report:
        # Before minutes of work of which no report could be drawn.
        from sparse_split_ros.evaluation.compared import write_evaluation
    with reserved(out):
        with writing(out, f'{PARTS}/{PLAN}'):
            result = _replay(request, options, out, console)
        if out is not None:
            clear(out, {options.table, 'profile.json', 'summary.json'})
        if options.json:
            print(json.dumps(result.summary, indent=1, allow_nan=False, ensure_ascii=False))
        else:
            from sparse_split_ros.evaluation.tables import rivals_table, summary_table

            console.print(summary_table(result.summary))
            console.print()
            console.print(rivals_table(result.summary))
            console.print(f'{result.fps:,.0f} frames a second', highlight=False)
        if out is not None and report:
            with console.status('drawing the report'), writing(out):
                page = write_evaluation(result, request.sources, out)
            console.out(f'report: {page}', highlight=False)
    _tell_labels(result.summary, options.labels)
    for problem in result.problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if result.problems else 0


def _request(options: argparse.Namespace, asked: Collection[str], console: Console) -> Request:
    from sparse_split_ros.evaluation.contestants import BASELINES
    from sparse_split_ros.evaluation.jobs import Request
    from sparse_split_ros.policy.factory import Settings, readers

    others = [*options.policies, *(BASELINES if options.baselines else ())]
    names = tuple(dict.fromkeys((options.policy, *others)))
    told = ('split', 'threshold', 'codec', 'target_disagreement')
    refuse_for(asked, names, {setting: readers(setting) for setting in told})
    settings = Settings(
        split=options.split,
        threshold=options.threshold,
        codec=options.codec,
        target_disagreement=options.target_disagreement,
        weights=options.cost_weights,
        deadline_ms=_DEADLINE_MS if options.deadline is None else options.deadline,
    )
    return Request(
        _sources(options, console), names, options.bundle, options.engine, options.link,
        options.robot, options.profile, settings, options.seed,
    )  # fmt: skip


def _sources(options: argparse.Namespace, console: Console) -> tuple[Source, ...]:
    from sparse_split_ros.data.bags import is_bag
    from sparse_split_ros.data.files import named
    from sparse_split_ros.evaluation.stream import Source, Weather, streams_in

    weather = Weather.parse(options.weather) if options.weather else None
    specs = [spec for source in options.source for spec in streams_in(source)]
    if options.topic is not None and not any(is_bag(named(spec)) for spec in specs):
        raise UsageError(f'--topic is for a bag, not {", ".join(options.source)}')
    truth = _truth(options)
    return tuple(
        Source(
            spec, options.topic, options.rate, options.limit, weather, truth,
            # The drawn drive of seed 0 is that of the demo.
            options.seed + 1, _part(spec, options, console),
        )
        for spec in specs
    )  # fmt: skip


def _part(spec: str, options: argparse.Namespace, console: Console) -> str | None:
    """The part of a source to take: of a folder that training divides, what it holds out."""
    from sparse_split_ros.data.bags import is_bag
    from sparse_split_ros.data.datasets import DatasetError
    from sparse_split_ros.data.files import named
    from sparse_split_ros.data.parts import parts_of
    from sparse_split_ros.runtime.bundle import Bundle, bundle_path

    part: str | None = options.part
    path = named(spec)
    if part is not None or not path.is_dir() or is_bag(path):
        return part
    recipe = Bundle.load(bundle_path(options.bundle)).training.get('recipe', {})
    if recipe.get('dataset') != 'folder':
        return None
    try:
        splits = [split for split, _ in parts_of(path).values()]
    except DatasetError:  # nothing was trained on it as it is
        return None
    console.out(
        f'{spec}: {splits.count("report")} of {len(splits)} images; the others are for training '
        'and choosing (--part all takes them too)',
        highlight=False,
    )
    return 'report'


def _truth(options: argparse.Namespace) -> Truth:
    from sparse_split_ros.evaluation.stream import Truth

    return Truth() if options.labels is None else Truth.load(options.labels)


def _replay(
    request: Request, options: argparse.Namespace, out: Path | None, console: Console
) -> Any:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sparse_split_ros.evaluation.contestants import contestants
    from sparse_split_ros.evaluation.evaluate import evaluate

    known = [source.count() for source in request.sources]
    ways = len(contestants(request.policies))
    total = None if None in known else ways * sum(count or 0 for count in known)
    of = '' if total is None else f' of {total:,}'
    columns = (
        TextColumn('replaying'), BarColumn(), TextColumn('{task.completed:,.0f}' + of + ' frames'),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        # Releases of rich before 12.3 know no task without a total.
        task = progress.add_task('', total=total or 0, start=total is not None)
        return evaluate(
            request, out, decisions=options.table, jobs=options.jobs, scheduler=options.scheduler,
            resume=options.resume, progress=lambda done: progress.update(task, completed=done),
        )  # fmt: skip


def _tell_labels(summary: Mapping[str, Any], file: Path | None) -> None:
    """Say what of the truth was of no use, as an accuracy without it looks like any other."""
    if unknown := summary['unknown_labels']:
        names = ', '.join(repr(name) for name in list(unknown)[:3])
        print(
            f'{sum(unknown.values())} frames have labels that are no class of the bundle, such as '
            f'{names}, and count as unlabelled: say by --labels what they mean',
            file=sys.stderr,
        )
    elif file is not None and not summary['labelled']:
        print(f'{file}: none of its labels is of a frame', file=sys.stderr)


def _score(options: argparse.Namespace, out: Path | None, console: Console) -> int:
    from sparse_split_ros.evaluation.jobs import to_json
    from sparse_split_ros.evaluation.output import clear, reserved
    from sparse_split_ros.evaluation.recorded import score
    from sparse_split_ros.evaluation.tables import summary_table

    bag = Path(options.decisions)
    live = score(bag, options.deadline, options.bundle, _truth(options))
    if options.json:
        print(json.dumps(live.summary, indent=1, allow_nan=False, ensure_ascii=False))
    else:
        console.print(summary_table(live.summary))
    if out is not None:
        with reserved(out), writing(out):
            clear(out, ())
            (out / 'summary.json').write_text(to_json(live.summary), encoding='utf-8')
            if not options.no_report:
                from sparse_split_ros.evaluation.compared import write_recorded

                page = write_recorded(live, bag, out)
                console.out(f'report: {page}', highlight=False)
    if live.summary['unknown_labels'] is None and live.summary['labelled']:
        print(
            'labels are not held against the classes: name the bundle of the run by --bundle',
            file=sys.stderr,
        )
    if live.summary['dropped'] is None:
        print(
            f'{bag}: what the head dropped is not known, as /diagnostics are missing or do not fit '
            'the decisions: record both, from the start of the head',
            file=sys.stderr,
        )
    _tell_labels(live.summary, options.labels)
    for problem in live.summary['errors']:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if live.summary['errors'] else 0


def _add_record(commands: Commands) -> None:
    parser = commands.add_parser(
        'record', help='record what a running head decides, to be scored by evaluate --decisions',
        description=(
            'Listens to decision, classification, ground_truth, scene and /diagnostics and writes\n'
            'them into a bag until Ctrl-C. Where the head has cameras, an image_transport or\n'
            'remapped topics, say the same here; ROS arguments go behind --ros-args.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split record flown                        until Ctrl-C\n'
            '  sparse-split record flown --images --limit 900\n'
            '  sparse-split record flown --images --ros-args -r image:=/camera/image_raw\n'
            '  sparse-split record flown --cameras front left\n'
            '  sparse-split record flown --tasks weather\n'
            '  sparse-split record flown --ros-args -r __ns:=/robot_1\n'
            '  sparse-split evaluate --decisions flown'
        ),
    )  # fmt: skip
    parser.add_argument('out', metavar='OUT', type=Path, help='the bag, a new folder')
    cameras = parser.add_mutually_exclusive_group()
    cameras.add_argument(
        '--cameras', nargs='+', default=[''], metavar='NAME',
        help="the head's cameras, where they have names",
    )  # fmt: skip
    cameras.add_argument(
        '--head-parameters', metavar='FILE', help="the head's parameter file, which names them"
    )
    parser.add_argument(
        '--tasks', nargs='+', default=[], metavar='NAME',
        help="the bundle's tasks beside the first, where it has several",
    )  # fmt: skip
    parser.add_argument('--images', action='store_true', help='the images too')
    parser.add_argument(
        '--image-transport', choices=('raw', 'compressed'), default='raw',
        help='which image topic that is (%(default)s)',
    )  # fmt: skip
    parser.add_argument('--limit', type=int, default=0, metavar='N', help='stop after N decisions')
    parser.add_argument(
        '--idle', type=float, default=0.0, metavar='S', help='stop S s after the last decision'
    )
    parser.add_argument('--ros-args', nargs=argparse.REMAINDER, default=[], dest='ros_args')
    parser.set_defaults(run=_record)


def _cameras(options: argparse.Namespace) -> tuple[str, ...]:
    """The cameras of a head in this namespace."""
    if options.head_parameters is None:
        return tuple(options.cameras)
    from sparse_split_ros.embedded.names import Arguments

    said = Arguments.parse([
        '--ros-args', *options.ros_args, '--params-file', options.head_parameters
    ])  # fmt: skip
    _, namespace = said.node_identity('recorder', '/')
    return tuple(said.parameters_of('head', namespace).get('cameras', ['']))


def _record(options: argparse.Namespace) -> int:
    from sparse_split_ros.nodes.recorder import RecorderOptions, record

    for name in ('limit', 'idle'):
        value = getattr(options, name)
        if not 0 <= value < math.inf:
            raise UsageError(f'--{name} {value:g}, expected a number from 0')
    wanted = RecorderOptions(
        options.out, _cameras(options), options.images, options.image_transport,
        options.limit, options.idle, tuple(options.tasks),
    )  # fmt: skip
    return record(wanted, ['--ros-args', *options.ros_args] if options.ros_args else [])
