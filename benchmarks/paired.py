# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Trained networks on the same images, the report split: what each keeps of the first one.

    python benchmarks/paired.py runs/dense runs/sparse --data DATA
    python benchmarks/paired.py runs/sparse_1 runs/sparse_2 --over runs/dense_1 runs/dense_2

With `--over`, runs of several seeds are held against as many others, seed by seed and in the mean,
whose interval is of each image's mean: it knows how far images differ, not how far seeds do. MACs
and bytes are of the stages and the final exit.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, show
from torch import nn

from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.networks.account import account
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.training.calibrate import interval
from sparse_split_ros.training.checkpoint import load_checkpoint
from sparse_split_ros.training.predict import predict
from sparse_split_ros.training.recipe import input_spec, load_split

Right = dict[int, NDArray]


def tested(
    run: Path, data: str | os.PathLike[str] | None, split: int | None = None
) -> tuple[StagedNetwork, LabelledImages, Right]:
    """A run's network, the report split, and by exit (N,) bool whether it is right.

    With `split`, all is coded there.
    """
    network, recipe, _ = load_checkpoint(run)
    report = load_split(recipe, data, 'report')
    logits = predict(network, report.images, input_spec(recipe, network), split)
    return network, report, {k: v.argmax(1) == report.labels for k, v in logits.items()}


def shares(right: Right) -> Row:
    """The accuracy of every exit in per cent."""
    return {f'exit {stage}': 100 * float(values.mean()) for stage, values in right.items()}


def gain(right: Right, first: Right, images: LabelledImages) -> str:
    """Points of the final exit over another's, with a 95 % bootstrap interval over tracks."""
    points = 100.0 * right[max(right)] - 100.0 * first[max(first)]
    low, high = interval(points, images.groups)
    return f'{points.mean():+.2f} ({low:+.2f} to {high:+.2f})'


def compared(runs: list[Path], data: Path | None) -> Iterator[Row]:
    """A row for each run."""
    first: Right = {}
    for run in runs:
        network, report, right = tested(run, data)
        first = first or right
        whole = nn.Sequential(*network.stages, network.exit_at(network.exit_stages[-1]))
        cost = account(whole, network.input_shape)
        costs = {'MMAC': cost.macs / 1e6, 'kB': cost.stored_bytes / 1e3}
        over = {f'over {runs[0].name}': gain(right, first, report)}
        yield {'run': run.name} | costs | shares(right) | over


def seed_by_seed(runs: list[Path], others: list[Path], data: Path | None) -> Iterator[Row]:
    """A row for each pair, and one for their mean."""
    rights: list[Right] = []
    firsts: list[Right] = []
    for run, other in zip(runs, others, strict=True):
        _, report, right = tested(run, data)
        _, _, first = tested(other, data)
        rights.append(right)
        firsts.append(first)
        yield {'run': run.name} | shares(right) | {'over': other.name} | _over(right, first, report)
    mean, first = averaged(rights), averaged(firsts)
    name = f'mean of {len(runs)}'
    yield {'run': name} | shares(mean) | {'over': name} | _over(mean, first, report)


def averaged(rights: list[Right]) -> Right:
    """By exit (N,): in how many of the runs each image is right, as a share."""
    return {stage: np.mean([right[stage] for right in rights], axis=0) for stage in rights[0]}


def _over(right: Right, first: Right, images: LabelledImages) -> Row:
    final = shares(first)[f'exit {max(first)}']
    return {'its final exit': final, 'points': gain(right, first, images)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', type=Path, nargs='+', help='run directories or checkpoints')
    parser.add_argument('--data', type=Path, help='data directory (SPARSE_SPLIT_DATA)')
    parser.add_argument('--over', type=Path, nargs='+', help='as many others, seed by seed')
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.over:
        show(compared(options.runs, options.data))
    elif len(options.over) != len(options.runs):
        parser.error(f'--over names {len(options.over)} runs, expected {len(options.runs)}')
    else:
        show(seed_by_seed(options.runs, options.over, options.data))


if __name__ == '__main__':
    main()
