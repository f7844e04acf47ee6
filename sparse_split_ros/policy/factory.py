# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Policies by name, from a bundle's facts and one set of settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sparse_split_ros.policy.bandit import INDICES
from sparse_split_ros.policy.cost import WEIGHTS, CostModel, Weights
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.joint import JointPolicy
from sparse_split_ros.policy.plan import FixedPolicy, Policy, PolicyError
from sparse_split_ros.policy.risk import Calibration
from sparse_split_ros.policy.splitee import LEARNERS, SplitEEPolicy, make_learner, splits_and_final

_POWER_GAIN = 0.1
READS: dict[str, tuple[str, ...]] = {
    'joint': ('codec', 'target_disagreement', 'audit_budget'),
    'fixed': ('split', 'threshold', 'codec'),
    **dict.fromkeys(LEARNERS, ('threshold', 'codec', 'index')),
}
"""The policies by name, and which settings each takes notice of; others are refused with it."""
POLICIES = tuple(READS)


@dataclass(frozen=True)
class Settings:
    """What a user sets; a negative ``split`` or ``threshold`` and an empty ``codec``: the bundle's.

    ``weights`` names one of cost.WEIGHTS. ``stage_ms`` and ``exit_ms`` are this machine's profile,
    ``profile`` studies a robot that many times slower. ``all_local`` tells whether the robot holds
    every stage. ``index`` is the bandit's, for the SplitEE family. Raises PolicyError for a
    threshold above 1 and for what is not finite.
    """

    split: int = -1
    threshold: float = -1.0
    codec: str = ''
    target_disagreement: float = 0.01
    weights: str = 'latency'
    audit_budget: float = 0.02
    deadline_ms: float = 100.0
    all_local: bool = True
    profile: float = 1.0
    index: str = 'ucb1'
    seed: int = 0
    stage_ms: Mapping[int, float] = field(default_factory=dict)
    exit_ms: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('threshold', 'target_disagreement', 'audit_budget'):
            if not math.isfinite(getattr(self, name)):
                raise PolicyError(f'{name} is {getattr(self, name)}, expected a finite number')
        if self.threshold > 1.0:
            raise PolicyError(
                f"threshold {self.threshold:g}, expected 0 to 1, or less for the bundle's own"
            )

    def cost_weights(self) -> Weights:
        """The weights by their name. Raises PolicyError."""
        if self.weights not in WEIGHTS:
            raise PolicyError(
                f'unknown cost_weights {self.weights!r}, choose one of {", ".join(WEIGHTS)}'
            )
        return WEIGHTS[self.weights]

    def costs(self, facts: Facts) -> CostModel:
        """The cost model of these settings."""
        return CostModel(
            facts, self.cost_weights(), deadline_ms=self.deadline_ms, profile=self.profile,
            stage_ms=self.stage_ms, exit_ms=self.exit_ms,
        )  # fmt: skip


def make_policy(
    name: str, facts: Facts, settings: Settings, calibration: Calibration | None = None
) -> Policy:
    """The policy called ``name``; raises PolicyError for what the bundle cannot follow.

    A bundle with its final exit alone leaves nothing to decide on the robot: every policy but
    ``fixed`` then computes everything locally or, where it may not, says so.
    """
    if name not in POLICIES:
        raise PolicyError(f'unknown policy {name!r}, choose one of {", ".join(POLICIES)}')
    if settings.index not in INDICES:
        raise PolicyError(f'unknown index {settings.index!r}, choose one of {", ".join(INDICES)}')
    if name == 'fixed':
        return _fixed(facts, settings)
    if settings.codec:
        facts = _with_codec(facts, settings.codec)
    if name == 'joint':
        return JointPolicy(
            facts, settings.costs(facts), target=settings.target_disagreement,
            calibration=calibration, audit_share=settings.audit_budget,
            audit_burst=min(1.0, 5 * settings.audit_budget), all_local=settings.all_local,
            seed=settings.seed,
        )  # fmt: skip
    if not settings.all_local and facts.splits:
        raise PolicyError(
            f'the arms of {name} include the whole network on the robot: it needs all_local'
        )
    threshold = None if settings.threshold < 0 else settings.threshold
    if threshold is None and name != 'isplitee':
        threshold = facts.default[1]
    if name not in LEARNERS:
        raise PolicyError(f'policy {name!r} is in READS, and make_policy has no branch for it')
    arms = splits_and_final(facts)
    learner = make_learner(name, len(arms), threshold=threshold, index=settings.index)
    return SplitEEPolicy(facts, learner)


def readers(setting: str) -> tuple[str, ...]:
    """The policies that take notice of a setting."""
    return tuple(name for name, read in READS.items() if setting in read)


def _with_codec(facts: Facts, codec: str) -> Facts:
    """The facts with this codec alone, at the splits that have it."""
    codings = {
        split: {codec: known[codec]} for split, known in facts.codings.items() if codec in known
    }
    if not codings:
        known = sorted({name for names in facts.codings.values() for name in names})
        raise PolicyError(
            f'codec {codec!r} is not calibrated in this bundle, choose one of {known}'
        )
    return replace(facts, codings=codings)


def _fixed(facts: Facts, settings: Settings) -> FixedPolicy:
    split, threshold, codec = facts.default
    if split not in (*facts.splits, facts.final):
        # The bundle's own split lies before its first exit, and nobody asked for it.
        split = (facts.splits or (facts.final,))[-1]
    split = split if settings.split < 0 else settings.split
    codec = settings.codec or codec
    if split != facts.final:
        if split not in facts.codings:
            raise PolicyError(
                f'no split after stage {split}, choose one of {sorted(facts.codings)} or '
                f'{facts.final} for all local'
            )
        if codec not in facts.codings[split]:
            raise PolicyError(
                f'codec {codec!r} is not calibrated for split {split}, choose one of '
                f'{sorted(facts.codings[split])}'
            )
    elif not settings.all_local and facts.splits:
        raise PolicyError(
            f'split {split} is the last stage, which a robot without all_local does not hold'
        )
    return FixedPolicy.of(
        stages=len(facts.macs), exits=facts.stages, split=split,
        threshold=threshold if settings.threshold < 0 else settings.threshold, codec=codec,
    )  # fmt: skip


def apply_live(policy: Policy, settings: Settings) -> None:
    """Bring live settings to a policy that keeps what it learned. Raises PolicyError."""
    if not (math.isfinite(settings.deadline_ms) and settings.deadline_ms > 0):
        raise PolicyError(f'deadline_ms {settings.deadline_ms}, expected a positive number')
    if isinstance(policy, JointPolicy):
        policy.change(
            target=settings.target_disagreement, weights=settings.cost_weights(),
            deadline_ms=settings.deadline_ms, audit_share=settings.audit_budget,
        )  # fmt: skip


def apply_power(policy: Policy, watts: float) -> None:
    """What the robot draws now, for policies that weigh energy."""
    if isinstance(policy, JointPolicy) and math.isfinite(watts) and watts >= 0:
        # A second's reading is one of many loads; costs follow slowly.
        policy.costs.watts += _POWER_GAIN * (watts - policy.costs.watts)


def bundle_calibration(bundle: Any) -> Calibration | None:
    """The calibration in a bundle's training record, under ``calibration``; None without one."""
    value = bundle.training.get('calibration')
    return None if value is None else Calibration.from_json(value)
