# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hierarchical training against training in one place: what it costs in accuracy, saves in time.

    python benchmarks/hierarchical.py accuracy    both ways, the same network, CIFAR-10's test set
    python benchmarks/hierarchical.py time        two processes over a shaped link (root, Linux)

`accuracy` trains a network with the bottleneck of split 1 inline: by gradients through all of it
(`joint`), and without any across the cut (`hierarchical`). `time` trains VGG-16 and ResNet-18, edge
and cloud in network namespaces, a core each, the link as slow as `--mbit` says: hierarchically, and
by sending images to a cloud that trains everything, while the next batch is on its way. Beside it
stands what `sparse-split cut` expects.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import numpy as np
import torch
from outage import HEAD, TAIL, network
from paired import Right, gain, shares, tested
from rows import Row, show

from sparse_split_ros.data.augment import AugmentedBatches, batches
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.training import hierarchical, joint, messages, remote
from sparse_split_ros.training.cuts import Cut, Place, Whole, measure
from sparse_split_ros.training.learner import Learner
from sparse_split_ros.training.line import call, called, place
from sparse_split_ros.training.predict import normalise
from sparse_split_ros.training.recipe import Recipe, build_network, input_spec, load_split

SMALL = Recipe(
    name='small', dataset='cifar10', network_arguments={'widths': (16, 32, 64), 'stem': 16},
    flip=True, photometric=0.25, coded=1.0, inline=True, threads=1,
)  # fmt: skip
NETWORKS = {
    'VGG-16': ('vgg16_bn', {'size': 32}),
    'ResNet-18': ('resnet18', {'size': 32, 'unstrided': 1}),
}
CLASSES = 10
ADDRESS = '10.99.0.2:5600'


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Both ways for each seed, then their means; a tenth of the training part chooses the epoch."""
    seeds: dict[str, list[Right]] = {'joint': [], 'hierarchical': []}
    for seed in range(options.seed, options.seed + options.seeds):
        first = None
        for way, found in seeds.items():
            recipe = replace(
                SMALL, seed=seed, epochs=options.epochs, hierarchical=way == 'hierarchical'
            )
            out = options.out / f'{way}_{seed}'
            training, selection = (
                load_split(recipe, options.data, part) for part in ('train', 'select')
            )
            fit = hierarchical.fit if recipe.hierarchical else joint.fit
            begun = (out / 'last.safetensors').exists()
            fit(recipe, training, {'select': selection}, out, resume=begun)
            _, report, right = tested(out, options.data, recipe.cut)
            first = first or right
            found.append(right)
            over = {'over joint': gain(right, first, report)}
            yield {'way': way, 'seed': seed} | shares(right) | over
    # An image is as right as the share of seeds that were right of it.
    mean = {
        way: {stage: np.mean([right[stage] for right in each], 0) for stage in each[0]}
        for way, each in seeds.items()
    }
    for way, right in mean.items():
        over = {'over joint': gain(right, mean['joint'], report)}
        yield {'way': way, 'seed': 'mean'} | shares(right) | over


def timing(options: argparse.Namespace) -> Iterator[Row]:
    """Each network at each rate, both ways, in two namespaces; what the model says beside it."""
    if sys.platform != 'linux' or os.geteuid():
        sys.exit('time needs root and Linux, for the shaped link')
    for title in options.networks:
        plain = recipe_of(title, options)
        whole, cuts = measure(plain, CLASSES, 3)
        for mbit in options.mbit:
            place = Place(1.0, mbit)
            cut = min(cuts, key=place.ms)
            row: Row = {'network': title, 'Mbit/s': mbit, 'split': cut.split, 'bytes': cut.bytes}
            with network(), tempfile.TemporaryDirectory() as folder:
                shape('rate', f'{mbit}mbit', 'burst', '32kb', 'latency', '200ms')
                for way, expected in (
                    ('images', place.whole_ms(whole)), ('hierarchical', place.ms(cut))
                ):  # fmt: skip
                    row[f'{way} ms'] = both(options, title, way, cut.split, Path(folder) / way)
                    row[f'{way}, expected'] = expected
            row['saved'] = f'{100 * (1 - row["hierarchical ms"] / row["images ms"]):.0f} %'
            yield row | {'saved if waited for, by the model': _saved(place, cut, whole)}


def _saved(place: Place, cut: Cut, whole: Whole) -> str:
    return f'{100 * (1 - place.waiting_ms(cut) / place.whole_waiting_ms(whole)):.0f} %'


def shape(*words: str) -> None:
    """Make both ends of the link between the namespaces slow."""
    for name in (HEAD, TAIL):
        command = ['tc', 'qdisc', 'add', 'dev', 'wire', 'root', 'tbf', *words]
        subprocess.run(['ip', 'netns', 'exec', name, *command], check=True)


def both(options: argparse.Namespace, title: str, way: str, split: int, folder: Path) -> float:
    """Run edge and cloud on a core each; ms between two images at the cloud, in the long run."""
    folder.mkdir()
    running = []
    for core, (side, name) in enumerate((('edge', HEAD), ('cloud', TAIL))):
        words = ['--side', side, '--way', way, '--split', split, '--out', folder / side]
        words += ['--networks', title, '--steps', options.steps, '--batch', options.batch]
        command = ['ip', 'netns', 'exec', name, 'taskset', '-c', core, sys.executable, __file__]
        running.append(subprocess.Popen([*map(str, command), 'time', *map(str, words)]))
    statuses = [child.wait() for child in running]
    if any(statuses):
        sys.exit(f'{title}, {way}: a side failed')
    moments = json.loads((folder / 'cloud' / 'moments.json').read_text())
    # The first steps fill what waits on the way.
    half = len(moments) // 2
    seconds = (moments[-1] - moments[half]) / (len(moments) - 1 - half)
    return 1e3 * seconds / options.batch


def recipe_of(title: str, options: argparse.Namespace) -> Recipe:
    """A network as CIFAR-10 trains it, for one epoch of as many steps as are timed."""
    name, arguments = NETWORKS[title]
    return Recipe(
        name='timed', dataset='cifar10', network=name, network_arguments=arguments, epochs=1,
        batch_size=options.batch, threads=1, workers=0, flip=True, photometric=0.25,
        split=options.split, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    )  # fmt: skip


def one_side(options: argparse.Namespace) -> None:
    """Be the edge or the cloud of a timed run, and write when each step of the cloud ended."""
    options.out.mkdir(parents=True)
    recipe = recipe_of(options.networks[0], options)
    moments: list[float] = []
    rng = np.random.default_rng(0)
    count = options.steps * options.batch
    pictures = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    noise = LabelledImages(
        pictures, np.arange(count) % CLASSES, np.arange(count), tuple(map(str, range(CLASSES)))
    )
    if options.way == 'hierarchical':
        recipe = replace(recipe, hierarchical=True)
        learn = hierarchical.Cloud.learn

        def timed(cloud: hierarchical.Cloud, batch: messages.Batch) -> None:
            learn(cloud, batch)
            moments.append(time.monotonic())

        hierarchical.Cloud.learn = timed  # type: ignore[method-assign]
        if options.side == 'edge':
            few = noise.take(np.arange(16))
            remote.at_the_edge(recipe, noise, {'few': few}, options.out, ADDRESS)
        else:
            remote.in_the_cloud(recipe, options.out, ADDRESS)
    elif options.side == 'edge':
        torch.set_num_threads(1)
        with call(*place(ADDRESS)) as line, line.sending() as send:
            data = AugmentedBatches(noise, options.batch, 0, recipe.augmentation)
            for step, (images, labels) in enumerate(batches(data, 0, 0)):
                # As raw bytes, which is what a camera gives.
                batch = messages.Batch(0, step, images.flatten(1), labels)
                send(messages.to_bytes(batch))
    else:
        torch.set_num_threads(1)
        whole = build_network(recipe, CLASSES)
        spec = input_spec(recipe, whole)
        learner = Learner(whole, recipe)
        with called(*place(ADDRESS)) as line:
            for _ in range(options.steps):
                batch = messages.parse(line.take())
                assert isinstance(batch, messages.Batch)
                x = normalise(batch.codes.view(-1, 32, 32, 3), spec)
                with torch.autocast('cpu', torch.bfloat16):
                    said = whole(x)
                learner.step(joint.joint_loss(said.logits, batch.labels, recipe), options.steps)
                moments.append(time.monotonic())
    (options.out / 'moments.json').write_text(json.dumps(moments))


PARTS = {'accuracy': accuracy, 'time': timing}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('what', choices=list(PARTS))
    parser.add_argument('--seed', type=int, default=1, help='the first seed (accuracy)')
    parser.add_argument('--seeds', type=int, default=3, help='how many (accuracy)')
    parser.add_argument('--epochs', type=int, default=6, help='(accuracy)')
    parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument('--mbit', nargs='+', type=float, default=[1, 2, 10], help='(time)')
    parser.add_argument('--steps', type=int, default=16, help='of a timed run')
    parser.add_argument('--batch', type=int, default=32, help='images of a step (time)')
    parser.add_argument('--data', type=Path, help='data directory (SPARSE_SPLIT_DATA)')
    parser.add_argument('--out', type=Path, default=Path('runs/hierarchical'))
    parser.add_argument('--json', type=Path, help='write the rows to this file too')
    for name in ('--side', '--way'):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument('--split', type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.side:
        one_side(options)
    else:
        show(PARTS[options.what](options), options.json)


if __name__ == '__main__':
    main()
