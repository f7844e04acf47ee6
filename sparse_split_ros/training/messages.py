# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What travels between the two sides of a hierarchical training, and as which bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from sparse_split_ros.training.learner import under
from sparse_split_ros.training.log import Row
from sparse_split_ros.training.recipe import TrainingError


@dataclass(frozen=True)
class Batch:
    """What travels for one step: codes (N, bytes) uint8 as packed, labels (N,) or (N, T) int64."""

    epoch: int
    step: int
    codes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Report:
    """What travels after an epoch: the selection sets, coded, and what the edge has to say."""

    epoch: int
    row: Row
    codes: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]


@dataclass(frozen=True)
class Weights:
    """What travels at the end: the edge's part of the network, averaged, as of the best epoch."""

    epoch: int
    tensors: Mapping[str, Tensor]


Message: TypeAlias = Batch | Report | Weights


def check_labels(labels: Tensor, tasks: Mapping[str, Sized]) -> None:
    """Raise TrainingError unless labels (N,) or (N, T), N > 0, name classes of each of T tasks."""
    columns = labels.unbind(1) if labels.ndim == 2 else [labels]
    if not len(labels) or labels.ndim > 2 or len(columns) != len(tasks):
        raise TrainingError(f'labels {tuple(labels.shape)} came, expected {len(tasks)} of an image')
    for column, classes in zip(columns, tasks.values()):
        low, high = column.aminmax()
        if not 0 <= low <= high < len(classes):
            raise TrainingError(
                f'labels {int(low)} to {int(high)} came, expected 0 to {len(classes) - 1}'
            )


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes (N, C, H, W) in [0, 1] on 2^bits levels as bytes (N, B) uint8: two each if they fit."""
    levels = (codes.float() * ((1 << bits) - 1)).round().to(torch.uint8).flatten(1).cpu()
    if bits > 4:
        return levels
    levels = F.pad(levels, (0, levels.shape[1] % 2))
    return levels[:, ::2] | levels[:, 1::2] << 4


def unpack(packed: Tensor, shape: tuple[int, int, int], bits: int) -> Tensor:
    """Codes (N, *shape) float32 of what `pack` made. Raises TrainingError for another size."""
    count = math.prod(shape)
    wanted = count if bits > 4 else -(-count // 2)
    if packed.shape[1] != wanted:
        raise TrainingError(f'codes of {packed.shape[1]} bytes came, {shape} needs {wanted}')
    if bits <= 4:
        packed = torch.stack([packed & 0x0F, packed >> 4], dim=2).flatten(1)[:, :count]
    return packed.float().view(-1, *shape) / ((1 << bits) - 1)


def to_bytes(message: Message) -> bytes:
    """What travels: tensors, and the rest as JSON in one of them."""
    about: dict[str, Any] = {'kind': type(message).__name__, 'epoch': message.epoch}
    if isinstance(message, Batch):
        about['step'] = message.step
        tensors = {'codes': message.codes, 'labels': message.labels.to(torch.int32)}
    elif isinstance(message, Report):
        about['row'] = message.row
        tensors = {f'codes/{name}': tensor for name, tensor in message.codes.items()}
        tensors |= {f'labels/{name}': tensor for name, tensor in message.labels.items()}
    else:
        tensors = {f'weights/{name}': tensor for name, tensor in message.tensors.items()}
    words = np.frombuffer(json.dumps(about).encode(), np.uint8).copy()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save({**tensors, 'about': torch.from_numpy(words)}))


def parse(data: bytes) -> Message:
    """What `to_bytes` was given. Raises TrainingError for anything else."""
    try:
        tensors = safetensors.torch.load(data)
        about = json.loads(bytes(tensors.pop('about').numpy()))
        kind, epoch = about['kind'], about['epoch']
        if not isinstance(epoch, int):
            raise TypeError(f'epoch {epoch!r}')
        if kind == 'Batch':
            rows = _rows(tensors['codes'], tensors['labels'])
            return Batch(epoch, about['step'], rows, tensors['labels'].long())
        if kind == 'Weights':
            return Weights(epoch, under(tensors, 'weights/'))
        codes, labels_of = under(tensors, 'codes/'), under(tensors, 'labels/')
        for name, rows in codes.items():
            _rows(rows, labels_of[name])
        row = {key: float(value) for key, value in about['row'].items()}
        return Report(epoch, row, codes, {name: labels_of[name].long() for name in codes})
    except (
        SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
        RuntimeError,  # of torch, and of too many brackets
    ) as error:  # fmt: skip
        raise TrainingError(
            f'{len(data)} bytes came that are no message of the edge: {error!r}'
        ) from error


def _rows(codes: Tensor, labels: Tensor) -> Tensor:
    whole = labels.dtype in (torch.int32, torch.int64)
    if codes.dtype != torch.uint8 or codes.ndim != 2 or not whole or len(labels) != len(codes):
        raise ValueError(
            f'codes {tuple(codes.shape)} {codes.dtype} with labels {tuple(labels.shape)} '
            f'{labels.dtype}'
        )
    return codes
