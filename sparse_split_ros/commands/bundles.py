# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that look at a bundle: `inspect`, `profile`, `classify`, `confidences`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sparse_split_ros.commands.parser import Commands, UsageError, console


def add(commands: Commands) -> None:
    """Add `inspect`, `profile`, `classify` and `confidences`."""
    inspect = commands.add_parser(
        'inspect',
        help='the stage table of a bundle',
        description=(
            'Prints what each stage, exit and split of a bundle weighs, costs and achieves, after\n'
            'checking every file of it against its hash. k, M and G are thousands, millions and\n'
            'billions.\n\n'
            'stages, exits and splits:\n'
            '  bytes       of the ONNX file\n'
            '  MACs        multiply-adds of the part alone\n'
            '  of all      of the part and the stages before it, as a share of the whole network\n'
            '  ms          median of the part alone on this machine, on one thread and the engine\n'
            '              of auto; empty until `sparse-split profile` has measured it\n'
            '  payload     mean bytes of the coded features, without the preamble, and codec\n'
            '  accuracy    of the exit on the part of the data that is kept for the report; of\n'
            '              several tasks, of all together, and then of each by itself\n\n'
            'for one image, where the bundle says it:\n'
            '  MACs        multiply-adds\n'
            '  weights     bytes of float32 weights\n'
            '  if dense    the column to its left, of dense layers of the same shapes\n'
            '  one by one  bytes of as many weights stored one by one, in the smaller of CSR and\n'
            '              a bit mask\n'
            '  values      most bytes that are alive at one time\n'
            "  training    bytes of a training step at the recipe's batch size, an estimate\n"
            '  µJ          energy, an estimate\n'
            '  all         the sum, of values the most. It counts every exit; an answer of the\n'
            '              whole network needs the stages and the last exit alone'
        ),
        epilog='examples:\n  sparse-split inspect gtsrb32\n  sparse-split inspect bundles/mine',
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
            'Measures the median time of every stage and exit at batch 1, shows the figures, and\n'
            'keeps them in profile.json beside the bundle. inspect shows those of one thread of\n'
            'the CPU and the engine of auto.'
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
    profile.add_argument(
        '--engine', default='auto',
        choices=('auto', 'native', 'native-int8', 'onnxruntime', 'torch'),
        help='auto is native where it can (in 8 bits where the bundle records that little is '
        'lost), else onnxruntime (%(default)s)',
    )  # fmt: skip
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

    confidences = commands.add_parser(
        'confidences',
        help='a table of what every exit says of every image of a data set',
        description=(
            'Runs the whole network on labelled images and writes one line for each: its label,\n'
            'and the answer and calibrated confidence of every exit. Policies can then be studied\n'
            'without the network.\n\n'
            'columns of TABLE.csv, with names for classes:\n'
            '  image           place of the image in its split\n'
            '  track           what shows one thing, such as the frames of one sign\n'
            '  condition       weather put onto the image, with its level; day: none\n'
            '  scene           light and weather as the robot would have measured them\n'
            '  label           the truth\n'
            '  exit_K          the answer of the exit after stage K\n'
            '  confidence_K    its calibrated confidence, 0 to 1\n'
            '  coded_S         the answer of the tail behind a cut after stage S\n\n'
            'TABLE.npz holds the same as arrays, with numbers for names: label, track, condition,\n'
            'scene (N,); prediction, confidence (N, exits); coded (N, splits); stages and splits\n'
            'number the columns, conditions and scenes name the numbers; bundle is the\n'
            'fingerprint. `sparse-split simulate` reads it.'
        ),
        epilog=(
            'examples:\n'
            '  sparse-split confidences gtsrb32 DATA table.csv\n'
            '  sparse-split confidences gtsrb32 DATA fog.npz --condition fog:3 --condition fog:5\n'
            '  sparse-split confidences bundles/mine photos table.npz --split select'
        ),
    )
    confidences.add_argument('bundle', metavar='BUNDLE', help='a shipped name, or a directory')
    confidences.add_argument('data', metavar='DATA', type=Path, help='the directory of the data')
    confidences.add_argument('table', metavar='TABLE', type=Path, help='.csv or .npz to write')
    confidences.add_argument(
        '--dataset', default='', help='how DATA is laid out (as in the training of the bundle)'
    )
    confidences.add_argument(
        '--split', default='report', choices=('train', 'select', 'report'),
        help='which part of the data (%(default)s)',
    )  # fmt: skip
    confidences.add_argument(
        '--condition', action='append', default=[], metavar='NAME:LEVEL',
        help='show every image in this weather too, at level 1 to 5; can be repeated',
    )  # fmt: skip
    confidences.set_defaults(run=_confidences)


def _inspect(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect

    inspect(options.bundle, console())
    return 0


def _profile(options: argparse.Namespace) -> int:
    from sparse_split_ros.runtime.inspect import inspect
    from sparse_split_ros.runtime.profile import profile

    for name, least in (('threads', 0), ('repeats', 1)):
        if getattr(options, name) < least:
            raise UsageError(f'--{name} {getattr(options, name)} is less than {least}')
    out = console()
    with out.status('measuring'):
        times = profile(
            options.bundle, options.engine, options.device, options.threads, options.repeats
        )
    inspect(options.bundle, out, times)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from rich.markup import escape
    from rich.table import Table

    from sparse_split_ros.data.images import ImageError, decode_file
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
            image = decode_file(path.read_bytes())
        except ImageError as error:
            raise ImageError(f'{path}: {error}') from error
        x = prepare(image, bundle.input)
        result = engine.run(x, 0, bundle.final, evaluated, stop=False)
        said = {stage: bundle.judge(result.exits[stage][0]) for stage in exits}
        sure = [
            stage for stage, (_, confidence) in said.items()
            if stage <= bundle.defaults.split and confidence >= threshold
        ]  # fmt: skip
        who = f'[green]robot, exit {sure[0]}' if sure else f'[dodger_blue2]tail, exit {exits[-1]}'
        table.add_row(
            escape(path.name),
            *(f'{escape(bundle.named(label))} {share:.1%}' for label, share in said.values()),
            who,
        )
    console().print(table)
    return 0


def _confidences(options: argparse.Namespace) -> int:
    from sparse_split_ros.evaluation.confidences import confidences

    conditions = [('day', 0), *map(_condition, options.condition)]
    table = confidences(
        options.bundle, options.data, options.table, options.dataset, options.split, conditions
    )
    right = (table.prediction == table.label[:, None]).mean(axis=0)
    shown = ', '.join(f'exit {s} {r:.2%}' for s, r in zip(table.stages, right, strict=True))
    console().out(f'{len(table)} rows in {options.table}: {shown}', highlight=False)
    return 0


def _condition(text: str) -> tuple[str, int]:
    from sparse_split_ros.data.weather import CONDITIONS, LEVELS

    name, _, level = text.partition(':')
    if name not in CONDITIONS or not level.isdecimal() or not 1 <= int(level) <= LEVELS:
        raise UsageError(
            f'--condition {text!r}: expected NAME:LEVEL with level 1 to {LEVELS}, and as name one '
            f'of {", ".join(CONDITIONS)}'
        )
    return name, int(level)
