# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a network says of images, on whichever device it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.policy.tasks import parts
from sparse_split_ros.runtime.bundle import InputSpec


def rows_at_once(height: int, width: int) -> int:
    """How many images of a size go through a network at once: 256 of 32 x 32, fewer larger ones."""
    return max(8, min(256, (256 << 10) // (height * width)))


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in channels-last memory."""
    mean = torch.tensor(spec.mean, device=images.device)
    std = torch.tensor(spec.std, device=images.device)
    return ((images.float() * spec.scale - mean) / std).permute(0, 3, 1, 2)


@torch.inference_mode()
def predict(
    network: StagedNetwork, images: NDArray[np.uint8], spec: InputSpec, split: int | None = None
) -> dict[int, NDArray[np.float32]]:
    """Logits (N, K) of every exit for images (N, H, W, 3), all coded at `split` if given."""
    network.eval()
    device = next(network.parameters()).device
    rows: dict[int, list[NDArray[np.float32]]] = {stage: [] for stage in network.exit_stages}
    step = rows_at_once(*images.shape[1:3])
    for first in range(0, len(images), step):
        batch = torch.from_numpy(images[first : first + step]).to(device)
        x = normalise(batch, spec)
        for stage, logits in network(x, split).logits.items():
            rows[stage].append(logits.cpu().numpy())
    return {stage: np.concatenate(parts) for stage, parts in rows.items()}


def accuracies(
    logits: NDArray[np.float32],
    columns: Iterable[NDArray[np.int64]],
    tasks: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """Share of right rows of each task, by its name.

    `logits` (N, K) are of all tasks side by side, `columns` the labels (N,) of each.
    """
    said = parts(logits, [len(classes) for classes in tasks.values()])
    return {name: accuracy(*task) for name, *task in zip(tasks, said, columns)}


def scored(
    name: str,
    logits: Mapping[int, NDArray[np.float32]],
    columns: Sequence[NDArray[np.int64]],
    tasks: Mapping[str, Sequence[str]],
) -> dict[str, float]:
    """NAME_exit_STAGE: the mean accuracy of the tasks; NAME_TASK: each one's at the last exit.

    `logits` (N, K) are by stage; a single task without a name has no row of its own.
    """
    right = {stage: accuracies(rows, columns, tasks) for stage, rows in logits.items()}
    row = {f'{name}_exit_{stage}': fmean(each.values()) for stage, each in right.items()}
    return row | {f'{name}_{task}': share for task, share in right[max(right)].items() if task}


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of the rows of logits (N, K) whose largest is the label."""
    return float((logits.argmax(1) == labels).mean())
