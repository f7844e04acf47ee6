# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where to cut a network that edge and cloud train together: what each cut costs in time.

Sepehri et al., arXiv 2303.02384, choose the cut by a model of the run time, in which a batch is
waited for: T = forward(edge) + max(backward(edge), link + cloud), and link + cloud(all) where the
images are sent. Here nothing is waited for (training/remote.py): T is what the slowest of edge,
link and cloud takes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_split_ros.networks.staged import Output
from sparse_split_ros.training.learner import Learner
from sparse_split_ros.training.messages import pack
from sparse_split_ros.training.parts import CloudPart, EdgePart, edge_loss
from sparse_split_ros.training.recipe import Recipe, build_network

_LABEL_BYTES = 4
_MANY = 1 << 20
"""Steps of a training of which a few are timed."""


@dataclass(frozen=True)
class Cut:
    """What one image costs when the network is cut after `split`: ms here, and bytes."""

    split: int
    forward_ms: float
    backward_ms: float
    """Of the edge, with its step."""
    cloud_ms: float
    bytes: float


@dataclass(frozen=True)
class Whole:
    """What one image costs a cloud that trains everything, and the image itself."""

    ms: float
    bytes: float


@dataclass(frozen=True)
class Place:
    """An edge that computes `slower` times slower than this machine, the cloud, and their link."""

    slower: float
    mbit_s: float

    def edge_ms(self, cut: Cut) -> float:
        """The edge's time for an image."""
        return self.slower * (cut.forward_ms + cut.backward_ms)

    def link_ms(self, what: Cut | Whole) -> float:
        """The link's time for an image, as features or whole."""
        return what.bytes * 8e-3 / self.mbit_s

    def ms(self, cut: Cut) -> float:
        """Time between two images when edge, link and cloud all work."""
        return max(self.edge_ms(cut), self.link_ms(cut), cut.cloud_ms)

    def waiting_ms(self, cut: Cut) -> float:
        """The same when a batch has to be through before the next begins, as published."""
        offboard = self.link_ms(cut) + cut.cloud_ms
        return self.slower * cut.forward_ms + max(self.slower * cut.backward_ms, offboard)

    def whole_ms(self, whole: Whole) -> float:
        """Time between two images that are sent whole, the cloud computing beside the link."""
        return max(self.link_ms(whole), whole.ms)

    def whole_waiting_ms(self, whole: Whole) -> float:
        """The same when a batch has to be through, as published."""
        return self.link_ms(whole) + whole.ms


def measure(recipe: Recipe, classes: int, rounds: int = 5) -> tuple[Whole, list[Cut]]:
    """Time steps of a recipe's network here, whole and at each of its cuts, on one batch of noise.

    Medians of `rounds` steps. Raises TrainingError.
    """
    torch.set_num_threads(recipe.threads)
    recipe = replace(recipe, teacher=None)  # which costs the edge nothing
    network = build_network(replace(recipe, hierarchical=False, inline=False), classes)
    shape = network.input_shape
    x = torch.randn(recipe.batch_size, *shape).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(recipe.batch_size) % classes
    mixed = recipe.precision == 'bfloat16'
    cuts = [
        _cut(replace(recipe, split=split, hierarchical=True), classes, x, labels, rounds)
        for split in network.split_stages
    ]
    learner: Learner[Any] = Learner(network, recipe)
    whole = median(_step(learner, x, labels, mixed) for _ in range(rounds))
    return Whole(1e3 * whole / len(x), math.prod(shape) + _LABEL_BYTES), cuts


def _cut(recipe: Recipe, classes: int, x: Tensor, labels: Tensor, rounds: int) -> Cut:
    network = build_network(recipe, classes)
    edge = Learner(EdgePart(network, recipe.cut), recipe)
    cloud = Learner(CloudPart(network, recipe.cut), recipe)
    mixed = recipe.precision == 'bfloat16'
    times: list[tuple[float, float, float]] = []
    size = 0
    for _ in range(rounds):
        start = time.perf_counter()
        with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
            seen = edge.module(x)
        middle = time.perf_counter()
        edge.step(edge_loss(seen, labels, {'': range(classes)}, recipe), _MANY)
        end = time.perf_counter()
        codes = seen.codes.detach().float()
        size = pack(codes, edge.module.bits).shape[1]
        times.append((middle - start, end - middle, _step(cloud, codes, labels, mixed)))
    forward, backward, behind = (1e3 * median(column) / len(x) for column in zip(*times))
    return Cut(recipe.split, forward, backward, behind, size + _LABEL_BYTES)


def _step(learner: Learner[Any], x: Tensor, labels: Tensor, mixed: bool) -> float:
    """Seconds of one step on what the learner's module reads."""
    start = time.perf_counter()
    with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
        said = learner.module(x)
    logits = said.logits if isinstance(said, Output) else said
    learner.step(_loss(list(logits.values()), labels), _MANY)
    return time.perf_counter() - start


def _loss(said: Sequence[Tensor], labels: Tensor) -> Tensor:
    return torch.stack([F.cross_entropy(values.float(), labels) for values in said]).sum()
