# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pruning before training costs and saves, on networks for CIFAR-10.

    python benchmarks/pruning.py plan        seconds, stored bytes, MACs and latency
    python benchmarks/pruning.py accuracy    the same networks trained, on CIFAR-10's test set

Bytes are of float32 weights of the stages and the final exit; of unstructured masks in the smaller
of CSR and bit mask. Latency is of these at batch 1 in ONNX Runtime on one thread, where zeros cost
as much as other numbers. Networks of torchvision need it installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from sparsity import interleaved

from sparse_split_ros.networks.account import account, single_bytes
from sparse_split_ros.networks.prune import (
    METHODS,
    Pruning,
    prune,
    save_masks,
)
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.training.checkpoint import load_checkpoint
from sparse_split_ros.training.joint import fit
from sparse_split_ros.training.onnx_graph import to_onnx
from sparse_split_ros.training.predict import accuracy as share_right
from sparse_split_ros.training.predict import predict
from sparse_split_ros.training.program import trace
from sparse_split_ros.training.recipe import Recipe, first_batch, input_spec, load_split

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    'ResNet-20': ('resnet20', {}),
    'half VGG-16': ('vgg16_bn', {'size': 32, 'narrow': 0.5}),
    'VGG-16': ('vgg16_bn', {'size': 32}),
    'ResNet-18': ('resnet18', {'size': 32, 'unstrided': 1}),
}
CLASSES = 10
Row = dict[str, Any]


def plan(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each network by each method at the target, before training."""
    for title in arguments.networks:
        name, options = NETWORKS[title]
        models, rows = [], []
        for method in dict.fromkeys(('dense', *arguments.methods)):
            torch.manual_seed(arguments.seed)
            network = build(name, CLASSES, **options)
            found = None if method == 'dense' else prune(network, method, arguments.target)
            if found is not None and found.channels:
                network = build(name, CLASSES, channels=found.channels, **options)
            whole = nn.Sequential(*network.stages, network.exit_at(network.exit_stages[-1]))
            rows.append(_row(title, method, network, whole, found))
            models.append(_session(whole, network.input_shape))
        latencies = interleaved(models, arguments.rounds)
        for row, latency in zip(rows, latencies):
            yield row | {'ms': latency, 'times faster': latencies[0] / latency}


def _row(
    title: str, method: str, network: StagedNetwork, whole: nn.Module, found: Pruning | None
) -> Row:
    layers = {
        name: layer.weight
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
        and name.startswith(('stages.', f'exits.{network.exit_stages[-1]}.'))
    }
    masks = {} if found is None else found.masks
    stored = sum(
        single_bytes(int(masks[name].sum()), len(weight), weight[0].numel())
        if name in masks
        else 4 * weight.numel()
        for name, weight in layers.items()
    )
    cost = account(whole, network.input_shape)
    return {
        'network': title,
        'method': method,
        'plan s': 0.0 if found is None else found.seconds,
        'weights kept': 1.0 if found is None else found.kept / found.total,
        'stored kB': stored / 1e3,
        'MMAC': cost.macs / 1e6,
    }


def _session(module: nn.Module, shape: tuple[int, int, int]) -> Callable[[], Any]:
    x = torch.randn(1, *shape)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = to_onnx(trace(module, x), 'network')
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    image = x.numpy()
    return lambda: session.run(None, {'x': image})


def accuracy(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each network by each method and seed, trained alike; accuracy of the exits on the test set.

    The best epoch is chosen on a tenth of the training part. A run that is there goes on, or is
    only looked at.
    """
    for title in arguments.networks:
        name, options = NETWORKS[title]
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            for method in arguments.methods:
                out = arguments.out / f'{title}_{method}_{seed}'.replace(' ', '_')
                recipe = _recipe(arguments, name, options, method, seed, out)
                if not (out / 'best.safetensors').exists():
                    training, selection = (
                        load_split(recipe, arguments.data, part) for part in ('train', 'select')
                    )
                    fit(recipe, training, {'select': selection}, out)
                yield {'network': title, 'method': method, 'seed': seed} | _tested(out, arguments)


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


def _tested(out: Path, arguments: argparse.Namespace) -> Row:
    network, recipe, _ = load_checkpoint(out)
    report = load_split(recipe, arguments.data, 'report')
    logits = predict(network, report.images, input_spec(recipe, network))
    return {f'exit {k}': 100 * share_right(v, report.labels) for k, v in logits.items()}


PARTS = {'plan': plan, 'accuracy': accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('what', choices=list(PARTS))
    parser.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument(
        '--methods', nargs='+', choices=('dense', *METHODS), default=None,
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
        arguments.methods = ['dense', *(method for method in METHODS if method != 'snip')]
    elif arguments.what == 'plan' and 'snip' in arguments.methods:
        parser.error('snip needs data: choose accuracy')
    torch.set_num_threads(1)
    rows: list[Row] = []
    for row in PARTS[arguments.what](arguments):
        if not rows:
            print('| ' + ' | '.join(row) + ' |\n|' + ' --- |' * len(row))
        shown = (f'{v:.4g}' if isinstance(v, float) else str(v) for v in row.values())
        print('| ' + ' | '.join(shown) + ' |', flush=True)
        rows.append(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
