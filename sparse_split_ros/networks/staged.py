# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A network in stages, with exits after some of them and bottlenecks at cuts between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparse_split_ros.networks.bottleneck import Bottleneck, Levels


@dataclass(frozen=True)
class Output:
    """Logits (N, K) per exit, by stage, and what the bottleneck in use lost."""

    logits: dict[int, Tensor]
    distortion: Tensor | None
    """Mean squared error of the restored features, in units of their mean square."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while, and then each of its parts back."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


class StagedNetwork(nn.Module):
    """Stages 0 to L-1, features to features; exits read a stage's features; the last always exists.

    `exits` and `bottlenecks` are given by the stage they stand after. `input_shape` is (C, H, W).
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        exits: Mapping[int, nn.Module],
        bottlenecks: Mapping[int, Bottleneck],
        input_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        last = len(stages) - 1
        if last not in exits or any(not 0 <= stage <= last for stage in exits):
            raise ValueError(
                f'exits after {sorted(exits)}: stages are 0 to {last}, {last} needs one'
            )
        if any(not 0 <= stage < last for stage in bottlenecks):
            raise ValueError(
                f'bottlenecks after {sorted(bottlenecks)}: cuts are after 0 to {last - 1}'
            )
        self.input_shape = input_shape
        self.stages = nn.ModuleList(stages)
        self.exits = nn.ModuleDict({str(stage): exits[stage] for stage in sorted(exits)})
        self.bottlenecks = nn.ModuleDict({str(s): bottlenecks[s] for s in sorted(bottlenecks)})

    @property
    def exit_stages(self) -> list[int]:
        """The stages with an exit, the final one last."""
        return [int(stage) for stage in self.exits]

    @property
    def split_stages(self) -> list[int]:
        """The stages after which a bottleneck stands."""
        return [int(stage) for stage in self.bottlenecks]

    def exit_at(self, stage: int) -> nn.Module:
        """The exit after `stage`."""
        return self.exits[str(stage)]

    def bottleneck_at(self, stage: int) -> Bottleneck:
        """The bottleneck after `stage`."""
        bottleneck = self.bottlenecks[str(stage)]
        assert isinstance(bottleneck, Bottleneck)
        return bottleneck

    def last_linears(self) -> dict[str, nn.Linear]:
        """The linear layer of each exit that gives its logits, by name."""
        found = {}
        for stage, exit_ in self.exits.items():
            linears = [item for item in exit_.named_modules() if isinstance(item[1], nn.Linear)]
            found.update({f'exits.{stage}.{name}': layer for name, layer in linears[-1:]})
        return found

    def forward(self, x: Tensor, split: int | None = None, coded: Tensor | None = None) -> Output:
        """Run every stage and exit on x (N, C, H, W).

        With `split`, features pass the bottleneck there; `coded` (N,) bool says which rows do (all
        without it). The exit at the split reads the features as the head has them, before the
        bottleneck.
        """
        logits: dict[int, Tensor] = {}
        distortion = None
        for stage, body in enumerate(self.stages):
            x = body(x)
            if str(stage) in self.exits:
                logits[stage] = self.exit_at(stage)(x)
            if stage == split:
                restored = self.bottleneck_at(stage)(x)
                target = x.detach()
                distortion = (restored - target).square().mean() / target.square().mean()
                chosen = None if coded is None else coded.view(-1, 1, 1, 1)
                x = restored if chosen is None else torch.where(chosen, restored, x)
        return Output(logits, distortion)


def inlined(network: StagedNetwork, split: int) -> StagedNetwork:
    """The same modules with the bottleneck of `split` in line, and no other cut.

    Its encoder becomes stage split + 1, its decoder the start of the stage behind, and the one cut
    lies between them. So the stages behind it always read codes, even where all is computed in one
    place. Raises ValueError without a bottleneck there.
    """
    if split not in network.split_stages:
        raise ValueError(f'split {split}: bottlenecks stand after {network.split_stages}')
    bottleneck = network.bottleneck_at(split)
    before, after = list(network.stages[: split + 1]), list(network.stages[split + 1 :])
    behind = nn.Sequential(bottleneck.decoder, after[0])
    stages = [*before, bottleneck.encoder, behind, *after[1:]]
    exits = {stage + (stage > split): network.exit_at(stage) for stage in network.exit_stages}
    return StagedNetwork(stages, exits, {split + 1: Levels(bottleneck.bits)}, network.input_shape)
