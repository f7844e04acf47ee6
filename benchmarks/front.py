# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against latency: predefined-sparse networks beside narrow dense ones of equal MACs.

    python benchmarks/front.py train --out RUNS --seeds 3     train every network on GTSRB, alike
    python benchmarks/front.py show RUNS --out front.png      measure latencies, table and picture

Networks are of the compact family, without early exits and bottlenecks, trained by the same steps
on the same augmented batches; accuracy is the report tracks', clean and under every condition of
data/weather.py at level 3. GTSRB is read from SPARSE_SPLIT_DATA, or ../shared/data beside the
repository. A run that is already in RUNS is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
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
from sparse_split_ros.data.registry import load_gtsrb
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.engine import load_engine

ROOT = Path(__file__).resolve().parent.parent
NETWORKS: dict[str, dict[str, Any]] = {
    'narrow 16': {'widths': (16, 32, 64), 'stem': 8},
    'sparse 32': {'widths': (32, 64, 128), 'stem': 16, 'density': 1 / 8},
    'narrow 24': {'widths': (24, 48, 96), 'stem': 16},
    'sparse 64': {'widths': (64, 128, 256), 'stem': 32, 'density': 1 / 8},
    'narrow 32': {'widths': (32, 64, 128), 'stem': 16},
    'sparse 128': {'widths': (128, 256, 512), 'stem': 32, 'density': 1 / 16},
}
"""In pairs of about equal MACs; the first number of a name is the width of the first stage."""
CONDITIONS = (
    'dusk', 'night', 'darkness', 'brightness', 'glare', 'fog', 'rain', 'snow', 'motion_blur',
    'sensor_noise',
)  # fmt: skip
ENGINES = ('native', 'onnxruntime')
BATCH, RATE, DECAY = 128, 3e-3, 0.02
MEAN, STD = (0.342, 0.314, 0.322), (0.278, 0.267, 0.272)


def network_of(name: str, seed: int) -> nn.Sequential:
    """Stages and final exit; weights and pattern are drawn from `seed`."""
    torch.manual_seed(seed)
    staged = build('compact', 43, **NETWORKS[name], pattern_seed=seed)
    return nn.Sequential(*staged.stages, staged.exit_at(staged.exit_stages[-1]))


def train(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = os.environ.get('SPARSE_SPLIT_DATA') or ROOT.parent / 'shared' / 'data'
    training, report = load_gtsrb(data, 'train'), load_gtsrb(data, 'report')
    some = report.take(np.arange(0, len(report), 5))
    changed: dict[str, NDArray[np.uint8]] = {}
    for name in weather.CONDITIONS:
        rng = np.random.default_rng(0)
        rows = [weather.apply(name, image, weather.level(3), rng) for image in some.images]
        changed[name] = np.stack(rows)
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        how = Augmentation(0.4, CONDITIONS)
        source = AugmentedBatches(training, BATCH, seed, how)
        for name in NETWORKS:
            path = arguments.out / f'{name.replace(" ", "_")}_{seed}'
            if path.with_suffix('.json').exists():
                continue
            start = time.monotonic()
            network = _fit(network_of(name, seed), source, arguments.epochs, f'{name}, seed {seed}')
            right = _right(network, report.images, report.labels)
            conditions = {
                k: float(_right(network, images, some.labels).mean())
                for k, images in changed.items()
            }
            torch.save(network.state_dict(), path.with_suffix('.pt'))
            row = {'network': name, 'seed': seed, 'epochs': arguments.epochs}
            row |= {'clean': float(right.mean()), 'conditions': conditions}
            row |= {'train_s': round(time.monotonic() - start)}
            np.savez_compressed(path.with_suffix('.npz'), right=right, groups=report.groups)
            path.with_suffix('.json').write_text(json.dumps(row, indent=1))
            mean = np.mean(list(conditions.values()))
            tqdm.write(f'{name}, seed {seed}: clean {right.mean():.2%}, conditions {mean:.2%}')


def _fit(network: nn.Sequential, source: AugmentedBatches, epochs: int, what: str) -> nn.Sequential:
    network = network.to(memory_format=torch.channels_last).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{'params': decayed}, {'params': free, 'weight_decay': 0.0}], RATE, weight_decay=DECAY
    )
    total, step = epochs * len(source), 0
    for epoch in range(epochs):
        for images, labels in tqdm(batches(source, epoch, 1), what, len(source), mininterval=10):
            phase = step / total
            rate = min(phase / 0.1 + 0.01, 0.5 * (1 + math.cos(math.pi * phase)))
            for group in optimiser.param_groups:
                group['lr'] = RATE * rate
            with torch.autocast('cpu', torch.bfloat16):
                logits = network(_normalised(images))
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
            step += 1
    return network.eval()


@torch.inference_mode()
def _right(
    network: nn.Sequential, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    parts = [network(_normalised(part)) for part in torch.from_numpy(images).split(256)]
    return np.asarray(torch.cat(parts).argmax(1).numpy() == labels)


def _normalised(images: Tensor) -> Tensor:
    scaled = images.float() / 255
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def show(arguments: argparse.Namespace) -> None:
    """A row and a point per network: its accuracy over the seeds, its latency side by side."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(arguments.runs.glob('*.json')):
        row = json.loads(path.read_text())
        found.setdefault(row['network'], []).append(row)
    if not found:
        raise SystemExit(f'{arguments.runs} holds no results: run `front.py train` first')
    calls, macs = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for number, name in enumerate(found):
            network = build('compact', 43, **NETWORKS[name]).eval()
            bundle = save(network, Path(directory, str(number)))
            macs[name] = sum(s.macs for s in bundle.stages) + bundle.exits[-1].macs
            x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
            for engine in ENGINES:
                run = load_engine(bundle, engine).run
                asked: list[float | None] = [None] * bundle.final + [0.0]
                calls[name, engine] = partial(run, x, 0, bundle.final, asked, stop=False)
        times = dict(zip(calls, interleaved(list(calls.values()), arguments.rounds)))
    rows = []
    for name, runs in found.items():
        clean = [100 * run['clean'] for run in runs]
        hard = [100 * float(np.mean(list(run['conditions'].values()))) for run in runs]
        row = {'network': name, 'seeds': len(runs), 'MMAC': macs[name] / 1e6}
        row |= {'clean': np.mean(clean), 'least': min(clean), 'most': max(clean)}
        row |= {'conditions': np.mean(hard)}
        row |= {f'{engine} µs': times[name, engine]['µs'] for engine in ENGINES}
        rows.append(row)
    rows.sort(key=lambda row: row['MMAC'])
    for row in rows:
        print('  '.join(f'{k} {v:.2f}' if isinstance(v, float) else f'{v}' for k, v in row.items()))
    _picture(rows, arguments.out)


def _picture(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for family, colour in (('sparse', 'tab:orange'), ('narrow', 'tab:blue')):
        for engine, style in (('native', 'o-'), ('onnxruntime', 's:')):
            own = [row for row in rows if row['network'].startswith(family)]
            latency, middle = [row[f'{engine} µs'] for row in own], [row['clean'] for row in own]
            spread = [[row['clean'] - row['least'] for row in own],
                      [row['most'] - row['clean'] for row in own]]  # fmt: skip
            label = f'{family}, {engine}'
            axes.errorbar(latency, middle, spread, fmt=style, color=colour, capsize=3, label=label)
    axes.set(
        xscale='log', xlabel='µs a frame, one thread, batch 1',
        ylabel='accuracy on the report tracks, %', title='Predefined sparse and narrow dense',
    )  # fmt: skip
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser('train')
    training.add_argument('--out', type=Path, required=True)
    training.add_argument('--seed', type=int, default=1)
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
