# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One network for two tasks, or one network each: accuracy, size, bytes and time on the robot.

    python benchmarks/multitask.py --data DATA --epochs 4 --seeds 1 2 3

Networks of one architecture learn on the same tracks, in the same weather: `both` tells sign and
weather from one frame of features (MTL-Split, Capogrosso et al., DAC 2024), `sign` and `weather`
one of them each. `wide` is a `both` as costly as the two others together, `offboard` one that is
wider only behind the split, where it costs the robot nothing, `exits` one whose early exits are
wider too. The epoch is chosen on the selection
tracks, and everything is reported on the report tracks, which nothing was chosen on. Differences
are of the same images, seeds averaged, with 95 % bootstrap intervals over tracks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from engine import interleaved
from rows import Row, show

from sparse_split_ros.data import weather
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.data.registry import load_gtsrb
from sparse_split_ros.evaluation.pictured import encode, wire_bytes
from sparse_split_ros.link.codec import Codec
from sparse_split_ros.link.frame import PREAMBLE_BYTES
from sparse_split_ros.policy.plan import FixedPolicy
from sparse_split_ros.policy.tasks import parts
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.head import Ticket, compute
from sparse_split_ros.runtime.preprocess import normalise
from sparse_split_ros.training.assemble import build_bundle
from sparse_split_ros.training.calibrate import interval
from sparse_split_ros.training.checkpoint import load_checkpoint
from sparse_split_ros.training.joint import fit
from sparse_split_ros.training.measure import measure
from sparse_split_ros.training.predict import predict
from sparse_split_ros.training.recipe import Recipe, input_spec, load_split

CONFIG = Path(__file__).parents[1] / 'config' / 'training' / 'gtsrb32_weather.yaml'
SHARED: dict[str, dict[str, Any]] = {
    'both': {},
    'wide': {
        'widths': (24, 48, 80), 'exit_channels': (24, 48, 48), 'encoder_channels': (24, 48, 48),
    },
    'offboard': {'widths': (16, 32, 128), 'exit_channels': (16, 32, 64)},
    'exits': {'widths': (16, 32, 128), 'exit_channels': (32, 64, 64)},
}  # fmt: skip
"""Networks for both tasks: how their arguments differ from the recipe's."""
PUBLISHED = {
    "MTL-Split's features in float32, VGG16 or ResNet18 at 224 x 224": 100_352,
    'its raw image, 224 x 224': 150_528,
}
"""Bytes a frame that Capogrosso et al. report (arXiv 2407.05982)."""
Right = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Data:
    """The three splits."""

    train: LabelledImages
    select: LabelledImages
    report: LabelledImages

    def of(self, tasks: Sequence[str]) -> Data:
        """The same images with the labels of some tasks."""
        return Data(*(only(split, tasks) for split in (self.train, self.select, self.report)))


def only(data: LabelledImages, tasks: Sequence[str]) -> LabelledImages:
    """The same images with the labels of some tasks, (N, T)."""
    columns = [list(data.tasks).index(name) for name in tasks]
    chosen = {name: data.tasks[name] for name in tasks}
    return LabelledImages.of_tasks(data.images, data.labels[:, columns], data.groups, chosen)


def trained(recipe: Recipe, data: Data, out: Path) -> Path:
    """The run in `out`, trained or trained on."""
    resume = (out / 'last.safetensors').exists()
    return fit(recipe, data.train, {recipe.dataset: data.select}, out, resume)


def tested(run: Path, report: LabelledImages) -> dict[int, Right]:
    """By exit and task, whether the network is right of each image: (N,)."""
    network, recipe, _ = load_checkpoint(run)
    logits = predict(network, report.images, input_spec(recipe, network))
    return {
        stage: {
            name: part.argmax(1) == labels
            for name, part, labels in zip(report.tasks, parts(rows, report.sizes), report.columns)
        }
        for stage, rows in logits.items()
    }


def accuracy_rows(
    found: dict[str, list[dict[int, Right]]], report: LabelledImages
) -> Iterator[Row]:
    """For each exit and task: one network against a network of its own, by seed and in the mean."""
    shared_ones = [way for way in found if way in SHARED]
    for shared, stage in product(shared_ones, found[shared_ones[0]][0]):
        for name in report.tasks:
            both, alone = (
                100.0 * np.stack([each[stage][name] for each in found[way]])
                for way in (shared, name)
            )
            difference = (both - alone).mean(0)
            low, high = interval(difference, report.groups)
            by_seed = ', '.join(f'{a:+.2f}' for a in (both - alone).mean(1))
            yield {
                'network': shared,
                'exit': stage,
                'task': name,
                'one network for both, %': f'{both.mean():.2f}',
                'one of its own, %': f'{alone.mean():.2f}',
                'difference': f'{difference.mean():+.2f} ({low:+.2f} to {high:+.2f})',
                'by seed': by_seed,
            }


def bundle_of(run: Path, data: Data, out: Path) -> Bundle:
    """A run's bundle, calibrated on the selection tracks."""
    network, recipe, _ = load_checkpoint(run)
    out.mkdir()
    build_bundle(network, recipe, data.train, data.select, data.select, out)
    return Bundle.load(out)


def cost_row(name: str, bundles: Sequence[Bundle], reports: Sequence[dict[str, Any]]) -> Row:
    """What all `bundles` together cost on robot and wire for one image."""
    whole = [sum(part.parameters for part in (*b.stages, *b.exits)) for b in bundles]
    macs = [sum(s.macs for s in b.stages) + b.exits[-1].macs for b in bundles]
    head = [
        sum(s.macs for s in b.stages[: b.defaults.split + 1])
        + sum(e.macs for e in b.exits if e.stage <= b.defaults.split)
        + b.split_at(b.defaults.split).encoder_macs
        for b in bundles
    ]
    sizes = [PREAMBLE_BYTES + each['payload_bytes']['mean'] for each in reports]
    replies = [PREAMBLE_BYTES + 4 * len(b.classes) for b in bundles]
    sent = [1 - each['routed']['local_share'] for each in reports]
    return {
        '': name,
        'parameters': sum(whole),
        'kMAC, whole': sum(macs) / 1e3,
        'kMAC, head': sum(head) / 1e3,
        'features, bytes': sum(sizes),
        'reply, bytes': sum(replies),
        'frames sent, %': ' + '.join(f'{100 * share:.1f}' for share in sent),
        'bytes for each image': fmean(
            [sum(share * (a + b) for share, a, b in zip(sent, sizes, replies))]
        ),
    }


def head_times(bundles: dict[str, list[Bundle]], image: NDArray[np.uint8]) -> Iterator[Row]:
    """µs that a robot's head takes for one image: stages, exits, encoder and codec; one thread."""
    for engine_name in ('native', 'onnxruntime'):
        times = interleaved([_head(group, engine_name, image) for group in bundles.values()], 300)
        yield {'engine': engine_name} | {name: found['µs'] for name, found in zip(bundles, times)}


def _head(bundles: Sequence[Bundle], engine_name: str, image: NDArray[np.uint8]) -> Any:
    """A call that prepares the features of one image for the wire, with every bundle."""
    work = []
    for bundle in bundles:
        split, name = bundle.split_at(bundle.defaults.split), bundle.defaults.codec
        plan = FixedPolicy.of(
            stages=len(bundle.stages), exits=tuple(exit_.stage for exit_ in bundle.exits),
            split=split.stage, threshold=1.0, codec=name,
        ).plan  # fmt: skip
        codec = Codec.from_calibration(name, split.shape, dict(split.codecs[name]))
        ticket = Ticket(1, plan, complete=True, reachable=True)
        work.append((load_engine(bundle, engine_name), ticket, codec))
    x = normalise(image[None], bundles[0].input)

    def run() -> None:
        for engine, ticket, codec in work:
            features = compute(engine, ticket, x).features
            assert features is not None
            codec.encode(features)

    return run


def wire_rows(both: dict[str, Any], bundle: Bundle, report: LabelledImages) -> Iterator[Row]:
    """Bytes of one image by other ways to send it once for all tasks."""
    c, h, w = bundle.stages[bundle.defaults.split].output_shape
    some = report.images[:: max(1, len(report) // 500)]
    yield {'what travels once, for all tasks': 'our frame of features, preamble included',
           'bytes': PREAMBLE_BYTES + both['payload_bytes']['mean']}  # fmt: skip
    yield {'what travels once, for all tasks': f'the same features in float32, {c} x {h} x {w}',
           'bytes': float(4 * c * h * w)}  # fmt: skip
    for kind, quality in (('jpeg', 90), ('jpeg', 50), ('webp', 50)):
        size = fmean(wire_bytes(encode(image, kind, quality), kind) for image in some)
        yield {'what travels once, for all tasks': f'the 32 x 32 image, {kind} at {quality}',
               'bytes': PREAMBLE_BYTES + size}  # fmt: skip
    yield {'what travels once, for all tasks': 'the 32 x 32 image, raw',
           'bytes': float(report.images[0].nbytes)}  # fmt: skip
    for name, size in PUBLISHED.items():
        yield {'what travels once, for all tasks': name, 'bytes': float(size)}


def severity_rows(bundle: Bundle, signs: LabelledImages) -> Iterator[Row]:
    """How often one network for both is right of each task, by how heavy the weather is."""
    engine, last = load_engine(bundle), bundle.final
    weathers = bundle.tasks[weather.TASK]
    some = signs.take(np.arange(0, len(signs), 5))
    for level in range(5):
        rng = np.random.default_rng(level)
        chosen = (
            np.arange(len(some)) % (len(weathers) - 1) + 1 if level else np.zeros(len(some), int)
        )
        images = [
            weather.apply(weathers[which], image, level / weather.LEVELS, rng)
            for which, image in zip(chosen.tolist(), some.images)
        ]
        x = normalise(np.stack(images), bundle.input)
        scores = engine.run(x, 0, last, [None] * last + [0.0], stop=False).exits[last]
        sign, seen = (part.argmax(1) for part in parts(scores, bundle.sizes))
        yield {
            'weather put on': f'level {level} of 5' if level else 'none: day',
            'sign, %': f'{100 * (sign == some.labels).mean():.1f}',
            'weather, %': f'{100 * (seen == chosen).mean():.1f}',
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--data', type=Path, help='data directory (SPARSE_SPLIT_DATA)')
    parser.add_argument('--config', type=Path, default=CONFIG, help='the recipe (%(default)s)')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument(
        '--shared',
        nargs='+',
        choices=list(SHARED),
        default=['both', 'wide'],
        help='the networks for both tasks, beside one for each (%(default)s)',
    )
    parser.add_argument(
        '--set',
        type=yaml.safe_load,
        default={},
        metavar='YAML',
        help="what else differs from the recipe, such as '{average: 0.998}'",
    )
    parser.add_argument('--out', type=Path, default=Path('runs/multitask'), help='the runs')
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    options = parser.parse_args()
    differing = {'drawn': 0, 'task_weights': {}, **options.set, 'epochs': options.epochs}
    base = replace(Recipe.load(options.config), **differing)
    torch.set_num_threads(base.threads)
    data = Data(*(load_split(base, options.data, split) for split in ('train', 'select', 'report')))
    names = list(data.report.tasks)
    shared = dict.fromkeys(options.shared, data.of(names))
    ways = shared | {name: data.of([name]) for name in names}
    runs: dict[str, list[Path]] = {way: [] for way in ways}
    found: dict[str, list[dict[int, Right]]] = {way: [] for way in ways}
    for seed in options.seeds:
        for way, its in ways.items():
            arguments = {**base.network_arguments, **SHARED.get(way, {})}
            recipe = replace(base, seed=seed, network_arguments=arguments)
            if way in names:
                recipe = replace(recipe, task_weights={})
            runs[way].append(trained(recipe, its, options.out / f'{way}_{seed}'))
            found[way].append(tested(runs[way][-1], its.report))
    show(accuracy_rows(found, data.report))
    if 'both' not in ways:
        return
    with tempfile.TemporaryDirectory() as folder:
        bundles = {
            way: bundle_of(runs[way][0], ways[way], Path(folder) / way) for way in ('both', *names)
        }
        reports = {way: measure(bundle, ways[way].report) for way, bundle in bundles.items()}
        print()
        show([
            cost_row('one bundle for both', [bundles['both']], [reports['both']]),
            cost_row('two bundles', [bundles[n] for n in names], [reports[n] for n in names]),
        ])  # fmt: skip
        print()
        groups = {'one bundle for both': [bundles['both']],
                  'two bundles': [bundles[name] for name in names]}  # fmt: skip
        show(head_times(groups, data.report.images[0]))
        print()
        show(wire_rows(reports['both'], bundles['both'], data.report))
        if weather.TASK in names:
            print()
            show(severity_rows(bundles['both'], load_gtsrb(options.data, 'report')))
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
