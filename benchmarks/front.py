# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against latency: predefined-sparse networks beside narrow dense ones of equal MACs.

    python benchmarks/front.py train --out RUNS --seeds 3     train every network, alike
    python benchmarks/front.py show RUNS --out front.png      measure latencies, table and picture

Networks are of the compact family, without early exits and bottlenecks. Those of one seed learn
side by side, from the same augmented batches by the same steps. Accuracy is that of `--split`:
`report` for the table, `select` to choose a design by. On GTSRB half of the images get weather,
and every condition of data/weather.py at level 3 is reported beside clean. Data are read from
SPARSE_SPLIT_DATA, or ../shared/data beside the repository. What is already in RUNS is not trained
again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from engine import interleaved, save

from sparse_split_ros.data import weather
from sparse_split_ros.data.augment import Augmentation, AugmentedBatches, batches
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.data.registry import load_cifar10, load_gtsrb
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.training.calibrate import interval

ROOT = Path(__file__).resolve().parent.parent
TAPS = {'pattern': 'tap-regular', 'block_width': 16}
TAPS_OF_8 = TAPS | {'block_width': 8}
TAPS_OF_1 = TAPS | {'block_width': 1}
SINGLE = {'pattern': 'random-regular'}
LATE = {'density': 1 / 4, 'keep_dense': ('stages.[0].*',)}
NETWORKS: dict[str, dict[str, Any]] = {
    'dense 64': {'widths': (64, 128, 256), 'stem': 32},
    'narrow 8': {'widths': (8, 16, 32), 'stem': 4},
    'single 16': {'widths': (16, 32, 64), 'stem': 4, 'density': 1 / 4, **SINGLE},
    'single 32': {'widths': (32, 64, 128), 'stem': 4, 'density': 1 / 16, **SINGLE},
    'tap 32 b1': {'widths': (32, 64, 128), 'stem': 4, 'density': 1 / 16, **TAPS_OF_1},
    'narrow 16': {'widths': (16, 32, 64), 'stem': 8},
    'block 32': {'widths': (32, 64, 128), 'stem': 16, 'density': 1 / 8},
    'tap 32': {'widths': (32, 64, 128), 'stem': 8, 'density': 1 / 8, **TAPS},
    'narrow 19': {'widths': (19, 38, 77), 'stem': 10},
    'narrow 22': {'widths': (22, 44, 88), 'stem': 11},
    'tap 48': {'widths': (48, 96, 192), 'stem': 12, 'density': 1 / 8, **TAPS},
    'tap 64 b8': {'widths': (64, 128, 256), 'stem': 16, 'density': 1 / 16, **TAPS_OF_8},
    'late 16': {'widths': (16, 64, 128), 'stem': 8, **TAPS_OF_8, **LATE},
    'narrow 24': {'widths': (24, 48, 96), 'stem': 16},
    'block 64': {'widths': (64, 128, 256), 'stem': 32, 'density': 1 / 8},
    'tap 64': {'widths': (64, 128, 256), 'stem': 16, 'density': 1 / 16, **TAPS},
    'late 32': {'widths': (32, 128, 256), 'stem': 16, **TAPS, **LATE},
    'narrow 32': {'widths': (32, 64, 128), 'stem': 16},
    'block 128': {'widths': (128, 256, 512), 'stem': 32, 'density': 1 / 16},
}
"""Narrow dense, block-regular, tap-regular, single kernels; named by the first stage's width.

The late ones are twice as wide after the first stage as the narrow ones are, at 1/4 there.
"""
_QUARTER = {'widths': (32, 64, 128), 'stem': 16, 'density': 1 / 4, 'keep_dense': ('stages.[01].*',)}
_HALF = _QUARTER | {'density': 1 / 2}
GRANULARITY: dict[str, dict[str, Any]] = {
    'random-regular': {**_QUARTER, 'pattern': 'random-regular'},
    'clash-free-1': {**_QUARTER, 'pattern': 'clash-free-1'},
    'n:m 1:4': {**_QUARTER, 'pattern': 'n:m', 'block_width': 4},
    **{
        f'{kind} {width}': {**_QUARTER, 'pattern': f'{kind}-regular', 'block_width': width}
        for kind in ('block', 'tap')
        for width in (4, 8, 16)
    },
}
"""The same network at the same density, 1/4 of stages 2 and 3, by patterns of every structure."""
GRANULARITY_OF_HALF: dict[str, dict[str, Any]] = {
    'random-regular half': {**_HALF, 'pattern': 'random-regular'},
    'n:m 2:4': {**_HALF, 'pattern': 'n:m', 'block_width': 4},
    'block 8 half': {**_HALF, 'pattern': 'block-regular', 'block_width': 8},
}
_ALL = NETWORKS | GRANULARITY | GRANULARITY_OF_HALF
PAIRS = (
    ('single 16', 'narrow 8'), ('single 32', 'narrow 8'), ('tap 32 b1', 'narrow 8'),
    ('tap 32 b1', 'single 32'),
    ('late 16', 'narrow 16'), ('late 32', 'narrow 32'), ('dense 64', 'late 32'),
    ('block 32', 'narrow 16'), ('tap 32', 'narrow 16'), ('tap 32', 'block 32'),
    ('tap 48', 'narrow 22'), ('tap 64 b8', 'narrow 22'), ('block 64', 'narrow 24'),
    ('tap 64', 'narrow 24'), ('tap 64', 'block 64'), ('block 128', 'narrow 32'),
    ('dense 64', 'tap 48'), ('dense 64', 'narrow 32'),
    *((name, 'random-regular') for name in list(GRANULARITY)[1:]),
    *((name, 'random-regular half') for name in list(GRANULARITY_OF_HALF)[1:]),
)  # fmt: skip
"""Of about equal MACs; what eight times fewer, and half the width, cost a dense one; structure."""
CONDITIONS = (
    'dusk', 'night', 'darkness', 'brightness', 'glare', 'fog', 'rain', 'snow', 'motion_blur',
    'sensor_noise',
)  # fmt: skip
ENGINES = ('native', 'onnxruntime')
BATCH, RATE = 128, 3e-3


@dataclass(frozen=True)
class Task:
    """A data set, and what every network that learns it has in common."""

    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    weight_decay: float
    label_smoothing: float

    def normalised(self, images: Tensor) -> Tensor:
        """Images (N, H, W, 3) uint8 as (N, 3, H, W) float32, channels last in memory."""
        scaled = (images.float() / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        return scaled.permute(0, 3, 1, 2)


TASKS = {
    'gtsrb': Task(
        43, (0.342, 0.314, 0.322), (0.278, 0.267, 0.272), Augmentation(0.4, CONDITIONS), 0.02, 0.05
    ),
    'cifar10': Task(
        10, (0.491, 0.482, 0.447), (0.247, 0.243, 0.262),
        Augmentation(flip=True, photometric=0.3), 0.05, 0.1,
    ),
}  # fmt: skip


def network_of(name: str, classes: int, seed: int) -> nn.Sequential:
    """Stages and final exit; weights and pattern are drawn from `seed`."""
    torch.manual_seed(seed)
    staged = build('compact', classes, **_ALL[name], pattern_seed=seed)
    return nn.Sequential(*staged.stages, staged.exit_at(staged.exit_stages[-1]))


def _load(dataset: str, split: str) -> LabelledImages:
    data = os.environ.get('SPARSE_SPLIT_DATA') or ROOT.parent / 'shared' / 'data'
    return load_gtsrb(data, split) if dataset == 'gtsrb' else load_cifar10(data, split, 32)


def train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset, task = arguments.dataset, TASKS[arguments.dataset]
    training, asked = _load(dataset, 'train'), _load(dataset, arguments.split)
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        paths = {
            name: arguments.out / f'{dataset}_{name}_{seed}.npz' for name in arguments.networks
        }
        networks = {
            name: network_of(name, task.classes, seed)
            for name, path in paths.items()
            if not path.exists()
        }
        if not networks:
            continue
        source = AugmentedBatches(training, BATCH, seed, task.augmentation)
        fitted = _fit(networks, source, arguments.epochs, task, f'{dataset}, seed {seed}')
        for name, network in networks.items():
            right = {'clean': _right(network, task, asked.images, asked.labels)}
            if dataset == 'gtsrb':
                right |= dict(_in_weather(network, task, asked))
            about = {'dataset': dataset, 'network': name, 'seed': seed, 'split': arguments.split}
            about |= {'epochs': arguments.epochs, **fitted[name]}
            np.savez_compressed(paths[name], groups=asked.groups, about=json.dumps(about), **right)
            shares = ', '.join(f'{k} {v.mean():.2%}' for k, v in right.items())
            tqdm.write(f'{name}, seed {seed}: {shares}')


def _in_weather(
    network: nn.Sequential, task: Task, images: LabelledImages
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Every condition at level 3, on every fifth image."""
    some = images.take(np.arange(0, len(images), 5))
    for name in weather.CONDITIONS:
        rng = np.random.default_rng(0)
        rows = [weather.apply(name, image, weather.level(3), rng) for image in some.images]
        yield name, _right(network, task, np.stack(rows), some.labels)


def _fit(
    networks: Mapping[str, nn.Sequential],
    source: AugmentedBatches,
    epochs: int,
    task: Task,
    what: str,
) -> dict[str, dict[str, float]]:
    """Train all on the same batches; the seconds that each took, its mean loss at the end."""
    optimisers = {}
    for name, network in networks.items():
        network.to(memory_format=torch.channels_last).train()
        decayed = [p for p in network.parameters() if p.ndim > 1]
        free = [p for p in network.parameters() if p.ndim <= 1]
        optimisers[name] = torch.optim.AdamW(
            [{'params': decayed}, {'params': free, 'weight_decay': 0.0}],
            RATE,
            weight_decay=task.weight_decay,
        )
    seconds, losses = dict.fromkeys(networks, 0.0), dict.fromkeys(networks, 0.0)
    total, step = epochs * len(source), 0
    with tqdm(desc=what, total=total, mininterval=10) as progress:
        for epoch in range(epochs):
            for images, labels in batches(source, epoch, 1):
                x, phase = task.normalised(images), step / total
                rate = RATE * min(phase / 0.1 + 0.01, 0.5 * (1 + math.cos(math.pi * phase)))
                for name, network in networks.items():
                    before = time.perf_counter()
                    loss = _step(network, optimisers[name], rate, x, labels, task.label_smoothing)
                    losses[name] += loss / len(source) if epoch == epochs - 1 else 0
                    seconds[name] += time.perf_counter() - before
                step += 1
                progress.update()
    for network in networks.values():
        network.eval()
    return {name: {'seconds': round(seconds[name]), 'loss': losses[name]} for name in networks}


def _step(
    network: nn.Sequential,
    optimiser: torch.optim.Optimizer,
    rate: float,
    x: Tensor,
    labels: Tensor,
    smoothing: float,
) -> float:
    for group in optimiser.param_groups:
        group['lr'] = rate
    with torch.autocast('cpu', torch.bfloat16):
        logits = network(x)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return loss.item()


@torch.inference_mode()
def _right(
    network: nn.Sequential, task: Task, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    parts = [network(task.normalised(part)) for part in torch.from_numpy(images).split(256)]
    return np.asarray(torch.cat(parts).argmax(1).numpy() == labels)


@dataclass
class Found:
    """The results of one network on one data set: a row per seed."""

    seeds: list[int]
    clean: NDArray[np.float64]
    """(seeds, N): 1 where the answer is right."""
    groups: NDArray[np.int64]
    hard: NDArray[np.float64]
    """(seeds,): mean accuracy over the conditions, where there are some."""


def _read(folder: Path) -> dict[str, dict[str, Found]]:
    """What is in a folder of results, by data set and network."""
    found: dict[str, dict[str, list[Any]]] = {}
    for path in sorted(folder.glob('*.npz')):
        arrays = dict(np.load(path))
        about = json.loads(str(arrays.pop('about')))
        found.setdefault(about['dataset'], {}).setdefault(about['network'], []).append(
            (about['seed'], arrays)
        )
    if not found:
        raise SystemExit(f'{folder} holds no results: run `front.py train` first')
    return {
        dataset: {name: _found(rows) for name, rows in networks.items()}
        for dataset, networks in found.items()
    }


def _found(rows: list[tuple[int, dict[str, NDArray[Any]]]]) -> Found:
    rows.sort(key=lambda row: row[0])
    names = [name for name in rows[0][1] if name not in ('clean', 'groups')]
    hard = [[float(arrays[name].mean()) for name in names] for _, arrays in rows]
    return Found(
        [seed for seed, _ in rows],
        np.stack([arrays['clean'] for _, arrays in rows]).astype(float),
        rows[0][1]['groups'],
        np.array(hard).mean(axis=1) if names else np.full(len(rows), np.nan),
    )


def gain(of: Found, over: Found) -> tuple[float, float, float, list[float]]:
    """Points of accuracy of one network over another: mean, 95 % interval, and seed by seed.

    The interval is a paired bootstrap over tracks of the mean over the seeds that both have.
    """
    both = [seed for seed in of.seeds if seed in over.seeds]
    mine = of.clean[[of.seeds.index(seed) for seed in both]]
    difference = mine - over.clean[[over.seeds.index(seed) for seed in both]]
    low, high = interval(difference.mean(axis=0), of.groups)
    by_seed = [100 * float(row.mean()) for row in difference]
    return 100 * float(difference.mean()), 100 * low, 100 * high, by_seed


def show(arguments: argparse.Namespace) -> None:
    """A row and a point per network: its accuracy over the seeds, its latency side by side."""
    found = _read(arguments.runs)
    names = [name for name in _ALL if any(name in networks for networks in found.values())]
    macs, times = _latencies(names, arguments.rounds)
    rows: dict[str, list[dict[str, Any]]] = {}
    for dataset, networks in found.items():
        print(f'{dataset}:')
        for name in sorted(networks, key=macs.__getitem__):
            clean = 100 * networks[name].clean.mean(axis=1)
            row = {'network': name, 'seeds': len(clean), 'MMAC': macs[name] / 1e6}
            row |= {'clean': clean.mean(), 'least': clean.min(), 'most': clean.max()}
            row |= {'conditions': 100 * networks[name].hard.mean()}
            row |= {f'{engine} µs': times[name, engine] for engine in ENGINES}
            rows.setdefault(dataset, []).append(row)
            cells = (f'{k} {v:.2f}' if isinstance(v, float) else f'{v}' for k, v in row.items())
            print('  ' + '  '.join(cells))
        for one, other in PAIRS:
            if one in networks and other in networks:
                mean, low, high, by_seed = gain(networks[one], networks[other])
                seeds = ', '.join(f'{value:+.2f}' for value in by_seed)
                print(f'  {one} over {other}: {mean:+.2f} ({low:+.2f} to {high:+.2f}); {seeds}')
    _picture(rows, arguments.out)


def _latencies(
    names: list[str], rounds: int
) -> tuple[dict[str, int], dict[tuple[str, str], float]]:
    """MACs of the networks, and medians of their microseconds a frame by network and engine."""
    calls, macs = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(names):
            network = build('compact', 43, **_ALL[name]).eval()
            bundle = save(network, Path(directory, str(number)))
            macs[name] = sum(s.macs for s in bundle.stages) + bundle.exits[-1].macs
            x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
            for engine in ENGINES:
                run = load_engine(bundle, engine).run
                asked: list[float | None] = [None] * bundle.final + [0.0]
                calls[name, engine] = partial(run, x, 0, bundle.final, asked, stop=False)
        spreads = interleaved(list(calls.values()), rounds)
    return macs, {key: spread['µs'] for key, spread in zip(calls, spreads)}


def _picture(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(tables), 4.5), layout='constrained')
    for axes, (dataset, rows) in zip(
        figure.subplots(1, len(tables), squeeze=False)[0], tables.items()
    ):
        for family, colour in (
            ('late', 'tab:red'), ('tap', 'tab:green'), ('block', 'tab:orange'),
            ('narrow', 'tab:blue'),
        ):  # fmt: skip
            for engine, style in (('native', 'o-'), ('onnxruntime', 's:')):
                front = [row for row in rows if row['network'] in NETWORKS]
                own = [row for row in front if row['network'].startswith(family)]
                if not own:
                    continue
                latency, middle = (
                    [row[f'{engine} µs'] for row in own],
                    [row['clean'] for row in own],
                )
                spread = [[row['clean'] - row['least'] for row in own],
                          [row['most'] - row['clean'] for row in own]]  # fmt: skip
                label = f'{family}, {engine}'
                axes.errorbar(
                    latency, middle, spread, fmt=style, color=colour, capsize=3, label=label
                )
        axes.set(
            xscale='log', xlabel='µs a frame, one thread, batch 1', ylabel='accuracy, %',
            title=f'{dataset}: predefined sparse and narrow dense',
        )  # fmt: skip
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser('train')
    training.add_argument('--out', type=Path, required=True)
    training.add_argument('--dataset', choices=TASKS, default='gtsrb')
    training.add_argument('--networks', nargs='+', choices=_ALL, default=list(NETWORKS))
    training.add_argument('--split', choices=('select', 'report'), default='report')
    training.add_argument('--seed', type=int, default=1, help='the first')
    training.add_argument('--seeds', type=int, default=3)
    training.add_argument('--epochs', type=int, default=10)
    training.set_defaults(run=train)
    showing = commands.add_parser('show')
    showing.add_argument('runs', type=Path)
    showing.add_argument('--out', type=Path, default=Path('front.png'))
    showing.add_argument('--rounds', type=int, default=60)
    showing.set_defaults(run=show)
    options = parser.parse_args()
    options.run(options)


if __name__ == '__main__':
    main()
