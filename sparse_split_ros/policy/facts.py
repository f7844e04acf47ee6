# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a policy knows of a bundle: where it may cut and answer, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparse_split_ros.policy.plan import PolicyError

# A threshold no confidence reaches: the exit is evaluated and never answers by itself.
NEVER = 2.0


@dataclass(frozen=True)
class Coding:
    """One codec of one split: mean payload in bytes, and what it alone changes.

    ``disagreement`` is the share of frames whose answer differs from the uncoded network's.
    """

    bytes: float
    disagreement: float


@dataclass(frozen=True)
class Energy:
    """Joules for one frame on the robot by stage, as the exporter estimated (networks/account.py).

    They are of arithmetic and memory alone, and the same on every robot.
    """

    stages: Mapping[int, float]
    exits: Mapping[int, float]
    encoders: Mapping[int, float]

    @classmethod
    def of(cls, bundle: Any) -> Energy | None:
        """What a loaded bundle says; None where it lacks a part, as older ones do.

        Some parts by estimate and others by their time would not add up.
        """
        try:
            return cls(
                {k: _joules(stage) for k, stage in enumerate(bundle.stages)},
                {exit_.stage: _joules(exit_) for exit_ in bundle.exits},
                {split.stage: _joules(split) for split in bundle.splits if split.encoder},
            )
        except KeyError:
            return None


def _joules(part: Any) -> float:
    return float(part.account['energy_uj']) * 1e-6


@dataclass(frozen=True)
class Facts:
    """A bundle as policies see it.

    ``macs`` per stage and ``exits`` stage -> MACs of the exit there; ``codings`` split -> codec ->
    Coding. ``fingerprint`` is the bundle's, hexadecimal; learned state is bound to it. ``default``
    is the bundle's own (split, threshold, codec), ``energy`` None where it does not say. Of several
    tasks ``classes`` are all of them and ``sizes`` those of each.
    """

    fingerprint: str
    classes: int
    macs: tuple[int, ...]
    exits: Mapping[int, int]
    codings: Mapping[int, Mapping[str, Coding]] = field(default_factory=dict)
    default: tuple[int, float, str] = (0, 0.9, '')
    energy: Energy | None = None
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sizes', self.sizes or (self.classes,))
        if self.final not in self.exits:
            raise PolicyError(
                f'exits {sorted(self.exits)}: the last stage, {self.final}, must have one'
            )

    @property
    def final(self) -> int:
        """The last stage, whose exit is the network's own classifier."""
        return len(self.macs) - 1

    @property
    def stages(self) -> tuple[int, ...]:
        """The stages that have an exit, ascending; the last is :attr:`final`."""
        return tuple(sorted(self.exits))

    @property
    def splits(self) -> tuple[int, ...]:
        """The splits a robot can choose: it must be able to answer by an exit up to them."""
        first = self.stages[0]
        return tuple(split for split in sorted(self.codings) if first <= split < self.final)

    @classmethod
    def of(cls, bundle: Any) -> Facts:
        """The facts of a loaded ``runtime.bundle.Bundle``."""
        return cls(
            fingerprint=bundle.fingerprint.hex(),
            classes=len(bundle.classes),
            macs=tuple(stage.macs for stage in bundle.stages),
            exits={exit_.stage: exit_.macs for exit_ in bundle.exits},
            codings={
                split.stage: {
                    name: Coding(
                        float(record.get('mean_bytes', _raw_bytes(split.shape))),
                        float(record.get('disagreement', 0.0)),
                    )
                    for name, record in split.codecs.items()
                }
                for split in bundle.splits
            },
            default=(bundle.defaults.split, bundle.defaults.threshold, bundle.defaults.codec),
            energy=Energy.of(bundle),
            sizes=bundle.sizes,
        )


def _raw_bytes(shape: tuple[int, int, int]) -> float:
    """An unmeasured codec is taken to save nothing: fp32."""
    c, h, w = shape
    return 4.0 * c * h * w
