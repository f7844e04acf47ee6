# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where a training run computes: one process, or one per GPU on one or several machines.

`torchrun` starts the processes and tells each its place in the environment. Without it there is
one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from sparse_split_ros.training.recipe import TrainingError

DEVICES = ('auto', 'cpu', 'cuda')
T = TypeVar('T')


@dataclass(frozen=True)
class Processes:
    """One process and its place among all that train together."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that evaluates, writes and talks."""
        return self.rank == 0

    def mean(self, value: torch.Tensor) -> float:
        """The mean over all processes of a number that each has."""
        value = value.detach().clone()
        if self.world > 1:
            dist.all_reduce(value)
        return float(value) / self.world

    def share(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, for all of them."""
        if self.world == 1:
            return make()
        made: list[T | None] = [make() if self.first else None]
        dist.broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]


@contextmanager
def processes(device: str = 'auto') -> Iterator[Processes]:
    """Join the other processes, if `torchrun` started some, and leave them at the end.

    'auto' is CUDA where there is any. Raises TrainingError for a device that is not there.
    """
    if device not in DEVICES:
        raise TrainingError(f'unknown device {device!r}; choose one of {", ".join(DEVICES)}')
    if device == 'cuda' and not torch.cuda.is_available():
        raise TrainingError("device 'cuda': this torch sees no CUDA device; choose 'cpu'")
    cuda = device != 'cpu' and torch.cuda.is_available()
    rank, world = int(os.environ.get('RANK', '0')), int(os.environ.get('WORLD_SIZE', '1'))
    local = int(os.environ.get('LOCAL_RANK', '0'))
    if cuda and local >= torch.cuda.device_count():
        raise TrainingError(
            f'process {local} of this machine has no GPU of its own, for there are '
            f'{torch.cuda.device_count()}: start torchrun with fewer, or with --device cpu'
        )
    if cuda:
        torch.cuda.set_device(local)
    place = torch.device('cuda', local) if cuda else torch.device('cpu')
    # A program that trains more than once joins the others itself.
    joins = world > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group('nccl' if cuda else 'gloo')
    try:
        yield Processes(rank, world, place)
    finally:
        if joins:
            dist.destroy_process_group()
