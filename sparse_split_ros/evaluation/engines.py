# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that compute for real and take the time of a profile.

A stage of a frame is computed once, whichever of several policies asks for it first.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparse_split_ros.evaluation.robot import StepTimes
from sparse_split_ros.evaluation.stream import View
from sparse_split_ros.policy.facts import NEVER
from sparse_split_ros.runtime.engine import Array, Engine, EngineResult


class HeadEngine:
    """The robot's engine: computes a stage of a view once, and says what the robot took for it.

    Set ``view`` before a run. ``spent_ms`` and ``macs`` add up until they are reset.
    """

    def __init__(self, engine: Engine, times: StepTimes) -> None:
        self.bundle = engine.bundle
        self.name = engine.name
        self.view: View | None = None
        self.spent_ms = 0.0
        self.macs = 0
        self._engine = engine
        self._times = times

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        """As :meth:`~sparse_split_ros.runtime.engine.StagedEngine.run`, of the view alone."""
        assert self.view is not None
        assert x is (self.view.features[first - 1] if first else self.view.x)
        exits: dict[int, Array] = {}
        logits: dict[int, Array] = {}
        stage_ms: dict[int, float] = {}
        exit_ms: dict[int, float] = {}
        stopped = None
        features = x
        for stage in range(first, last + 1):
            threshold = thresholds[stage]
            exit_ = self.bundle.exit_at(stage)
            asked = threshold is not None and exit_ is not None
            features = self._stage(self.view, features, stage, asked)
            stage_ms[stage] = self._times.stage[stage]
            self.macs += self.bundle.stages[stage].macs
            if threshold is None or exit_ is None:
                continue
            exits[stage], logits[stage] = self.view.exits[stage]
            exit_ms[stage] = self._times.exit[stage]
            self.macs += exit_.macs
            if stop and float(self.bundle.judge(exits[stage])[1].min()) >= threshold:
                stopped = stage
                break
        self.spent_ms += sum(stage_ms.values()) + sum(exit_ms.values())
        kept = None if stopped is not None else features
        return EngineResult(kept, exits, logits, stage_ms, stopped, exit_ms)

    def _stage(self, view: View, features: Array, stage: int, asked: bool) -> Array:
        """Features after a stage, its exit evaluated where it is asked for."""
        if stage not in view.features or (asked and stage not in view.exits):
            thresholds: list[float | None] = [None] * len(self.bundle.stages)
            thresholds[stage] = NEVER if asked else None
            result = self._engine.run(features, stage, stage, thresholds, stop=False)
            assert result.features is not None
            view.features[stage] = result.features
            if asked:
                view.exits[stage] = result.exits[stage], result.logits[stage]
        return view.features[stage]

    def encode(self, features: Array, split: int) -> Array:
        """Features after stage ``split`` to what travels."""
        assert self.view is not None
        if split not in self.view.coded:
            self.view.coded[split] = self._engine.encode(features, split)
        self.spent_ms += self._times.encoder.get(split, 0.0) + self._times.codec
        self.macs += self.bundle.split_at(split).encoder_macs
        return self.view.coded[split]

    def decode(self, coded: Array, split: int) -> Array:
        """What travelled back to features after stage ``split``."""
        return self._engine.decode(coded, split)

    def reset(self) -> None:
        """Begin to count anew."""
        self.spent_ms, self.macs = 0.0, 0


class TailEngine:
    """The tail's engine; ``spent_ms`` adds up what its machine took, until it is reset."""

    def __init__(self, engine: Engine, times: StepTimes) -> None:
        self.bundle = engine.bundle
        self.name = engine.name
        self.spent_ms = 0.0
        self._engine = engine
        self._times = times

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        """As :meth:`~sparse_split_ros.runtime.engine.StagedEngine.run`."""
        result = self._engine.run(x, first, last, thresholds, stop=stop)
        ran = sum(self._times.stage[stage] for stage in range(first, last + 1))
        # No gain of a batch is claimed: rows are charged one after the other.
        self.spent_ms += len(x) * (ran + sum(self._times.exit[stage] for stage in result.exits))
        return result

    def encode(self, features: Array, split: int) -> Array:
        """Features after stage ``split`` to what travels."""
        return self._engine.encode(features, split)

    def decode(self, coded: Array, split: int) -> Array:
        """What travelled back to features after stage ``split``."""
        self.spent_ms += len(coded) * (self._times.decoder.get(split, 0.0) + self._times.codec)
        return self._engine.decode(coded, split)
