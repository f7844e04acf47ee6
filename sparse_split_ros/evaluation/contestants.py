# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The policies and the rivals of a replay, by name.

A rival with one setting to choose (a quality, an entropy) runs once per setting, and is held to its
best: a fair opponent was tuned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from sparse_split_ros.evaluation.engines import HeadEngine
from sparse_split_ros.evaluation.pictured import PictureReplay
from sparse_split_ros.evaluation.replay import HeadReplay, Link, Replay, World
from sparse_split_ros.link.codec import Codec
from sparse_split_ros.link.estimate import Link as LinkView
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import ReplyFrame
from sparse_split_ros.policy.cost import CostModel
from sparse_split_ros.policy.decision import Decision
from sparse_split_ros.policy.factory import POLICIES, Settings, bundle_calibration, make_policy
from sparse_split_ros.policy.facts import NEVER, Facts
from sparse_split_ros.policy.plan import FixedPolicy, Plan, PolicyError
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Array, Engine
from sparse_split_ros.runtime.head import Computed, Ticket

# What is run by --baselines, in the order of the report.
BASELINES = (
    'full-local', 'jpeg-offload', 'webp-offload', 'fixed', 'branchynet', 'splitee', 'splitee-s',
    'isplitee', 'joint', 'oracle',
)  # fmt: skip
NAMES = tuple(dict.fromkeys((*BASELINES, *POLICIES)))
# Swept settings: qualities of pictures, and entropies as shares of the most possible, ln K.
SWEEPS: dict[str, tuple[float, ...]] = {
    'jpeg-offload': (30, 50, 70, 85, 95),
    'webp-offload': (10, 30, 50, 75, 90),
    'branchynet': (0.01, 0.03, 0.1, 0.2, 0.4),
}
# How much accuracy a rival may give away for being cheaper.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Contestant:
    """A way to answer frames; ``setting`` is that of a sweep, None without one.

    ``rival`` is one that the chosen policy is compared with.
    """

    name: str
    setting: float | None = None
    rival: bool = True

    @property
    def label(self) -> str:
        """Its name and its setting."""
        return self.name if self.setting is None else f'{self.name}@{self.setting:g}'

    def replay(self, world: World, link: Link, settings: Settings) -> Replay:
        """A fresh start of it. Raises PolicyError for what the bundle cannot follow."""
        bundle = world.engine.bundle
        facts = Facts.of(bundle)
        setting = self.setting or 0.0
        if self.name in ('jpeg-offload', 'webp-offload'):
            return PictureReplay(world, link, self.name.partition('-')[0], int(setting))
        if self.name == 'full-local':
            return HeadReplay(world, link, full_local(facts))
        if self.name == 'branchynet':
            step = partial(by_entropy, setting * sum(map(math.log, bundle.sizes)))
            return HeadReplay(world, link, everything_local(facts), step=step)
        if self.name == 'oracle':
            oracle = Oracle(facts, bundle, world.engine, world.costs)
            return HeadReplay(world, link, oracle, foresight=oracle)
        if self.name == 'fixed' and self.rival:
            settings = with_int8(settings, facts)
        policy = make_policy(self.name, facts, settings, bundle_calibration(bundle))
        return HeadReplay(world, link, policy)


def contestants(names: Sequence[str]) -> list[Contestant]:
    """Every name with every setting it is swept over, the first being the chosen one.

    Raises PolicyError for an unknown name.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise PolicyError(f'unknown policy {unknown[0]!r}, choose one of {", ".join(NAMES)}')
    return [
        Contestant(name, setting, rival=name != names[0])
        for name in dict.fromkeys(names)
        for setting in SWEEPS.get(name, (None,))
    ]


def best(figures: Sequence[dict[str, Any]]) -> int:
    """Which of a sweep's summaries to hold a rival to.

    The cheapest of those within TOLERANCE of the sweep's best accuracy (of its best agreement with
    the full network where the truth is not known).
    """

    def worth(figure: dict[str, Any]) -> float:
        if figure['accuracy'] is not None:
            return float(figure['accuracy'])
        return 1.0 - float(figure['disagreement'] or 0.0)

    top = max(map(worth, figures))
    near = [i for i, figure in enumerate(figures) if worth(figure) >= top - TOLERANCE]
    return min(near, key=lambda i: (figures[i]['cost_mean'] or 0.0, i))


def with_int8(settings: Settings, facts: Facts) -> Settings:
    """The settings of the rival `fixed`: plain int8 at its split, where the bundle has it."""
    split = facts.default[0] if settings.split < 0 else settings.split
    known = facts.codings.get(split, {})
    return replace(settings, codec='int8') if 'int8' in known and not settings.codec else settings


def full_local(facts: Facts) -> FixedPolicy:
    """The whole network on the robot, no exit before its own."""
    thresholds: list[float | None] = [None] * facts.final + [0.0]
    return FixedPolicy(Plan(facts.final, tuple(thresholds), ''))


def everything_local(facts: Facts) -> FixedPolicy:
    """The whole network on the robot, all exits evaluated."""
    thresholds = [0.0 if stage in facts.exits else None for stage in range(facts.final + 1)]
    return FixedPolicy(Plan(facts.final, tuple(thresholds), ''))


def by_entropy(
    limit: float, engine: Engine, ticket: Ticket, x: Array, prepare_ms: float = 0.0
) -> Computed:
    """Run stages until an exit's entropy is at most ``limit`` nats (BranchyNet, ICPR 2016).

    As runtime.head.compute, where the confidence decides.
    """
    asked = [stage for stage, value in enumerate(ticket.plan.thresholds) if value is not None]
    stage_ms: dict[int, float] = {}
    exit_ms: dict[int, float] = {}
    said: dict[int, Array] = {}
    features, first = x, 0
    for stage in asked:
        thresholds: list[float | None] = [None] * len(ticket.plan.thresholds)
        thresholds[stage] = NEVER
        result = engine.run(features, first, stage, thresholds, stop=False)
        stage_ms |= result.stage_ms
        exit_ms |= result.exit_ms
        said[stage] = result.exits[stage][0]
        if stage == asked[-1] or entropy(said[stage]) <= limit:
            break
        assert result.features is not None, 'nothing stops this run'
        features, first = result.features, stage + 1
    return Computed(said, stage, None, prepare_ms, 0.0, stage_ms, exit_ms)


def entropy(probabilities: Array) -> float:
    """The entropy of (K,) class probabilities in nats; of several tasks, of all answers at once."""
    p = np.clip(probabilities.astype(np.float64), 1e-12, 1.0)
    return float(-(p * np.log(p)).sum())


class Oracle:
    """Plans the cheapest way to say what the full network says, knowing every exit and the tail.

    It knows the link no better than any head, and pays for what it uses alone. Somewhere on the
    robot an answer that agrees always exists: the full network's own.
    """

    def __init__(self, facts: Facts, bundle: Bundle, engine: Engine, costs: CostModel) -> None:
        self._facts = facts
        self._costs = costs
        self._engine = engine
        self._names = {
            split: min(facts.codings[split], key=lambda name: facts.codings[split][name].bytes)
            for split in facts.splits
        }
        self._codecs = {
            split: Codec.from_calibration(
                name, bundle.split_at(split).shape, bundle.split_at(split).codecs[name]
            )
            for split, name in self._names.items()
        }
        self._seen: HeadEngine | None = None

    def look(self, engine: HeadEngine) -> None:
        """The frame that is planned next."""
        self._seen = engine

    def choose(self, scene: Scene, link: LinkView) -> Plan:
        """The cheapest plan whose answer is the full network's."""
        options = [(self._costs.local(k, (k,)), k, '') for k in self._facts.stages]
        if link.state is TailState.UP:
            for split, codec in self._names.items():
                # The head needs an exit to fall back to.
                exits = (self._nearest(split),)
                spent = self._costs.compute_ms(split, exits)
                cost = self._costs.offload(split, codec, spent, link, exits)
                options.append((cost, split, codec))
        for _, stage, codec in sorted(options):
            if codec and self._offboard(stage):
                return self._plan(stage, self._nearest(stage), NEVER, codec)
            if not codec and self._local(stage):
                # Only where features can be coded may a lost tail be probed with them.
                split = stage if stage in self._names else self._facts.final
                return self._plan(split, stage, 0.0, self._names.get(stage, ''))
        return self._plan(self._facts.final, self._facts.final, 0.0, '')

    def observe(self, decision: Decision) -> None:
        """Nothing is left to learn."""

    def observe_reply(self, sequence: int, reply: ReplyFrame, late: bool) -> None:
        """Nothing is left to learn."""

    def diagnostics(self) -> dict[str, object]:
        """Nothing to tell."""
        return {}

    def _nearest(self, split: int) -> int:
        return max(stage for stage in self._facts.stages if stage <= split)

    def _plan(self, split: int, exit_: int, threshold: float, codec: str) -> Plan:
        thresholds: list[float | None] = [None] * (self._facts.final + 1)
        thresholds[exit_] = threshold
        return Plan(split, tuple(thresholds), codec)

    def _local(self, stage: int) -> bool:
        engine, view = self._frame()
        plan = self._plan(stage, stage, NEVER, '')
        said = engine.run(view.x, 0, stage, plan.thresholds, stop=False).exits[stage]
        return bool(engine.bundle.judge(said[0])[0] == view.full)

    def _offboard(self, split: int) -> bool:
        engine, view = self._frame()
        nothing: list[float | None] = [None] * (self._facts.final + 1)
        features = engine.run(view.x, 0, split, nothing, stop=False).features
        assert features is not None
        codec = self._codecs[split]
        travelled = codec.decode(codec.encode(engine.encode(features, split)))
        last = [*nothing[:-1], NEVER]
        decoded = self._engine.decode(travelled, split)
        said = self._engine.run(decoded, split + 1, self._facts.final, last, stop=False)
        answer, _ = self._engine.bundle.judge(said.exits[self._facts.final][0])
        return bool(answer == view.full)

    def _frame(self) -> tuple[HeadEngine, Any]:
        assert self._seen is not None and self._seen.view is not None, 'look comes before choose'
        return self._seen, self._seen.view
