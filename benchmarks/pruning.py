# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pruning before training costs and saves, on networks for CIFAR-10.

    python benchmarks/pruning.py plan        seconds, stored bytes, MACs and latency
    python benchmarks/pruning.py accuracy    the same networks trained, on CIFAR-10's test set

Beside the methods of networks/prune.py there are predefined sparse networks of the same number of
weights, divided among the layers as random-erk divides them: `kernels` draws whole kernels, `taps`
single taps that 16 outputs share, and `early-taps` those with more of them in the early layers,
as synflow has, and fewer in the late ones.

Bytes are of float32 weights of the stages and the final exit; of unstructured masks in the smaller
of CSR and bit mask; patterns are drawn from a seed. Latency is of these at batch 1 on one thread,
in ONNX Runtime, where zeros cost as much as other numbers, and in our engine. Networks of
torchvision need it installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from engine import interleaved, save
from paired import gain, shares, tested
from rows import Row, show

from sparse_split_ros.networks.account import account, single_bytes
from sparse_split_ros.networks.prune import (
    METHODS,
    Pruning,
    prune,
    save_masks,
)
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.engine import Engine, load_engine
from sparse_split_ros.training.joint import fit
from sparse_split_ros.training.recipe import Recipe, first_batch, load_split

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    'ResNet-20': ('resnet20', {}),
    'half VGG-16': ('vgg16_bn', {'size': 32, 'narrow': 0.5}),
    'VGG-16': ('vgg16_bn', {'size': 32}),
    'ResNet-18': ('resnet18', {'size': 32, 'unstrided': 1}),
}
_TAPS = {'pattern': 'tap-regular', 'block_width': 1}
PREDEFINED: dict[str, dict[str, Any]] = {
    'kernels': {'pattern': 'random-regular'},
    'taps': _TAPS,
    'early-taps': _TAPS | {'erk_power': 2.0},
}
CLASSES = 10
ENGINES = ('onnxruntime', 'native')


def plan(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each network by each method at the target, before training."""
    for title in arguments.networks:
        name, options = NETWORKS[title]
        rows, runs = [], []
        with tempfile.TemporaryDirectory() as folder:
            for method in dict.fromkeys(('dense', *arguments.methods)):
                torch.manual_seed(arguments.seed)
                predefined = _predefined(method, arguments.target, arguments.seed)
                network = build(name, CLASSES, **options, **predefined)
                found = prune(network, method, arguments.target) if method in METHODS else None
                if found is not None and found.channels:
                    network = build(name, CLASSES, channels=found.channels, **options)
                rows.append(_row(title, method, network, found))
                bundle = save(network.eval(), Path(folder) / method)
                runs += [partial(_run, load_engine(bundle, engine)) for engine in ENGINES]
            medians = [spread['µs'] / 1e3 for spread in interleaved(runs, arguments.rounds)]
        for row, times in zip(rows, zip(medians[::2], medians[1::2])):
            for engine, ms, dense in zip(ENGINES, times, medians):
                row |= {f'{engine} ms': ms, f'{engine} times faster': dense / ms}
            yield row | {'weights kept': row['weights kept'] / rows[0]['weights kept']}


def _predefined(method: str, target: float, seed: int) -> Row:
    """The network's arguments of a predefined sparse one."""
    if method not in PREDEFINED:
        return {}
    erk = {'density': target, 'allocation': 'erk', 'keep_dense': ['bottlenecks.*']}
    return erk | {'pattern_seed': seed} | PREDEFINED[method]


def _row(title: str, method: str, network: StagedNetwork, found: Pruning | None) -> Row:
    final = network.exit_stages[-1]
    masks = {} if found is None else found.masks
    kept = stored = 0
    for name, layer in network.named_modules():
        weight = getattr(layer, 'weight', None)
        if not isinstance(weight, Tensor) or weight.ndim < 2 or not weight.requires_grad:
            continue
        count = int(masks[name].sum()) if name in masks else weight.numel()
        if name.startswith(('stages.', 'exits.')) and name not in network.last_linears():
            kept += count
        if name.startswith(('stages.', f'exits.{final}.')):
            rows, columns = len(weight), weight[0].numel()
            stored += single_bytes(count, rows, columns) if name in masks else 4 * count
    whole = nn.Sequential(*network.stages, network.exit_at(final))
    return {
        'network': title,
        'method': method,
        'plan s': 0.0 if found is None else found.seconds,
        'weights kept': kept,
        'stored kB': stored / 1e3,
        'MMAC': account(whole, network.input_shape).macs / 1e6,
    }


def _run(engine: Engine) -> None:
    image = np.zeros((1, *engine.bundle.input.shape), np.float32)
    last = len(engine.bundle.stages) - 1
    engine.run(image, 0, last, [*[None] * last, 0.0])


def accuracy(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each network by each method and seed, trained alike; accuracy of the exits on the test set.

    The best epoch is chosen on a tenth of the training part. A run that is there goes on, or is
    only looked at. The final exit is held against that of the first method, image by image.
    """
    for title in arguments.networks:
        name, options = NETWORKS[title]
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            first = None
            for method in arguments.methods:
                out = arguments.out / f'{title}_{method}_{seed}'.replace(' ', '_')
                recipe = _recipe(arguments, name, options, method, seed, out)
                training, selection = (
                    load_split(recipe, arguments.data, part) for part in ('train', 'select')
                )
                begun = (out / 'last.safetensors').exists()
                fit(recipe, training, {'select': selection}, out, resume=begun)
                _, report, right = tested(out, arguments.data)
                first = first or right
                over = {f'over {arguments.methods[0]}': gain(right, first, report)}
                about = {'network': title, 'method': method, 'seed': seed}
                yield about | shares(right) | over


def _recipe(
    arguments: argparse.Namespace,
    name: str,
    options: dict[str, Any],
    method: str,
    seed: int,
    out: Path,
) -> Recipe:
    recipe = Recipe(
        name=out.name, dataset='cifar10', network=name, network_arguments=options, seed=seed,
        epochs=arguments.epochs, threads=arguments.threads, flip=True, photometric=0.3,
        label_smoothing=0.1, weight_decay=0.05,
    )  # fmt: skip
    if method == 'dense':
        return recipe
    if predefined := _predefined(method, arguments.target, seed):
        return replace(recipe, network_arguments=options | predefined)
    torch.manual_seed(seed)
    network = build(name, CLASSES, **options)
    batch = None
    if method == 'snip':
        batch = first_batch(recipe, load_split(recipe, arguments.data, 'train'))
    found = prune(network, method, arguments.target, batch, seed)
    if found.channels:
        return replace(recipe, network_arguments={**options, 'channels': found.channels})
    out.parent.mkdir(parents=True, exist_ok=True)
    masks = out.parent / f'{out.name}.masks.safetensors'
    save_masks(masks, found.masks)
    return replace(recipe, network_arguments={**options, 'masks': str(masks)})


PARTS = {'plan': plan, 'accuracy': accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('what', choices=list(PARTS))
    parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        '--methods', nargs='+', choices=('dense', *METHODS, *PREDEFINED), default=None,
        help='all but snip without it; dense is unpruned',
    )  # fmt: skip
    parser.add_argument('--target', type=float, default=1 / 16.21, help='share of the weights')
    parser.add_argument('--seed', type=int, default=0, help='the first seed')
    parser.add_argument('--seeds', type=int, default=3, help='how many (accuracy)')
    parser.add_argument('--epochs', type=int, default=30)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--rounds', type=int, default=30, help='runs of each model (plan)')
    parser.add_argument('--data', type=Path, help='data directory (SPARSE_SPLIT_DATA)')
    parser.add_argument('--out', type=Path, default=Path('runs/pruning'))
    parser.add_argument('--json', type=Path, help='write the rows to this file too')
    arguments = parser.parse_args()
    if arguments.methods is None:
        # snip needs data, and random-erk and synflow stand for what it gives.
        arguments.methods = ['dense', *METHODS, *PREDEFINED]
        arguments.methods.remove('snip')
    elif arguments.what == 'plan' and 'snip' in arguments.methods:
        parser.error('snip needs data: choose accuracy')
    torch.set_num_threads(1)
    show(PARTS[arguments.what](arguments), arguments.json)


if __name__ == '__main__':
    main()
