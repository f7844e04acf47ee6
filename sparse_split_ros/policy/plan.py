# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy decides for one frame, and the interface every policy fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sparse_split_ros.link.estimate import Link
    from sparse_split_ros.link.frame import ReplyFrame
    from sparse_split_ros.policy.decision import Decision
    from sparse_split_ros.policy.scene import Scene

AUDIT_CODEC = 'fp16'
"""Of audits, at splits that have it: they compare with the full network, so it changes least."""


class PolicyError(ValueError):
    """Settings of a policy that a bundle cannot follow; names the value and the choices."""


@dataclass(frozen=True)
class Plan:
    """How one frame is treated.

    ``thresholds`` has one entry per stage of the network: None, its exit is not evaluated at all;
    a number, the robot answers by itself when the exit's confidence reaches it. ``codec`` names
    the coding of the features at ``split``, and ``audit_probability`` is the chance that a
    confident frame is sent as well, so that the robot learns whether it was right to be sure.
    """

    split: int
    thresholds: tuple[float | None, ...]
    codec: str
    audit_probability: float = 0.0


def shown_thresholds(thresholds: tuple[float | None, ...]) -> str:
    """Thresholds per stage for people: '-' where the exit is not evaluated."""
    return '/'.join('-' if value is None else f'{value:g}' for value in thresholds)


class Policy(Protocol):
    """Chooses a plan per frame and learns from what came of it."""

    def choose(self, scene: Scene, link: Link) -> Plan:
        """The plan for the frame that is about to be computed."""

    def observe(self, decision: Decision) -> None:
        """A frame's decision became final."""

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        """The tail's word on an audit, or too late for a decision: it teaches, nothing else."""

    def diagnostics(self) -> dict[str, object]:
        """What a person may want to know; ``feedback`` is 'ok' or why the tail is not believed."""


class FixedPolicy:
    """One split, one threshold for every exit up to it, one codec: the base line of all others."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @classmethod
    def of(
        cls, *, stages: int, exits: tuple[int, ...], split: int, threshold: float, codec: str
    ) -> FixedPolicy:
        """A fixed policy for a network of ``stages`` stages with exits after these stages.

        A ``split`` of the last stage means that everything is computed on the robot. Raises
        PolicyError when the split is no stage, or no exit would be evaluated before it.
        """
        if not 0 <= split < stages:
            raise PolicyError(
                f'split {split} is no stage of this bundle, they are 0 to {stages - 1}'
            )
        if not any(stage <= split for stage in exits):
            raise PolicyError(
                f'split {split} lies before the first exit, at stage {min(exits)}: without an exit '
                'the robot could not answer by itself'
            )
        thresholds: list[float | None] = [None] * stages
        for stage in exits:
            if stage <= split:
                thresholds[stage] = threshold
        if split == stages - 1:
            thresholds[split] = 0.0
        return cls(Plan(split, tuple(thresholds), codec))

    def choose(self, scene: Scene, link: Link) -> Plan:
        """The same plan for every frame."""
        return self.plan

    def observe(self, decision: Decision) -> None:
        """A fixed policy learns nothing."""

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        """A fixed policy learns nothing."""

    def diagnostics(self) -> dict[str, object]:
        """There is nothing to say of it that its parameters do not."""
        return {}
