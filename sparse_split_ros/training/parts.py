# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two parts that a cut makes of a network in hierarchical training, and the edge's loss."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sized
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from sparse_split_ros.networks.bottleneck import quantise
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.training.joint import tasks_loss
from sparse_split_ros.training.recipe import Recipe, TrainingError


class _Seen(NamedTuple):
    """What the edge makes of a batch."""

    codes: Tensor
    logits: dict[int, Tensor]
    mirrored: Tensor | None
    """Logits of the mirror; like `distortion`, of training only."""
    distortion: Tensor | None


class EdgePart(nn.Module):
    """The stages up to the cut, the last of them the encoder, and their exits.

    Parameters have the names that they have in the whole network, but for those of the mirror.
    """

    def __init__(self, network: StagedNetwork, cut: int) -> None:
        super().__init__()
        self.bits = network.bottleneck_at(cut).bits
        self.stages = nn.ModuleList(network.stages[: cut + 1])
        stages = [stage for stage in network.exit_stages if stage < cut]
        if cut - 1 not in stages:
            raise TrainingError(
                f'recipe: no exit stands at split {cut - 1}, for the edge to learn from'
            )
        self.exits = nn.ModuleDict({str(stage): network.exit_at(stage) for stage in stages})
        decoder = network.stages[cut + 1][0]  # type: ignore[index]
        self.mirror = nn.ModuleList(copy.deepcopy([decoder, network.exit_at(cut - 1)]))

    def forward(self, x: Tensor) -> _Seen:
        """What a step needs of x (N, C, H, W)."""
        logits = {}
        features = x
        for stage, body in enumerate(self.stages):
            features, x = x, body(x)
            if str(stage) in self.exits:
                logits[stage] = self.exits[str(stage)](x)
        codes = quantise(x, self.bits)
        if not self.training:
            return _Seen(codes, logits, None, None)
        restored, target = self.mirror[0](codes), features.detach()
        distortion = (restored - target).square().mean() / target.square().mean()
        return _Seen(codes, logits, self.mirror[1](restored), distortion)


class CloudPart(nn.Module):
    """The stages behind the cut, the first of them with the decoder, and their exits."""

    def __init__(self, network: StagedNetwork, cut: int) -> None:
        super().__init__()
        stages = {str(k): stage for k, stage in enumerate(network.stages) if k > cut}
        self.stages = nn.ModuleDict(stages)
        self.exits = nn.ModuleDict(
            {str(stage): network.exit_at(stage) for stage in network.exit_stages if stage > cut}
        )

    def forward(self, codes: Tensor) -> dict[int, Tensor]:
        """Logits (N, K) of each exit, of codes (N, C, H, W) as they travelled."""
        x, logits = codes, {}
        for stage, body in self.stages.items():
            x = body(x)
            if stage in self.exits:
                logits[int(stage)] = self.exits[stage](x)
        return logits


def edge_loss(seen: _Seen, labels: Tensor, tasks: Mapping[str, Sized], recipe: Recipe) -> Tensor:
    """The loss of the edge's exits, and of its mirror: classes and features out of the codes."""
    assert seen.mirrored is not None and seen.distortion is not None
    plain = replace(recipe, label_smoothing=0.0)
    return (
        tasks_loss(seen.logits, labels, tasks, recipe)
        + tasks_loss({0: seen.mirrored}, labels, tasks, plain)
        + recipe.distortion * seen.distortion.float()
    )
