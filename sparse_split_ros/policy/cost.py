# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an answer costs: measured on this robot and this link, or the papers' abstract units."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparse_split_ros.link.estimate import Link, TailState
from sparse_split_ros.link.frame import PREAMBLE_BYTES
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.plan import PolicyError

# Until a stage was measured: MACs per ms of one slow core, and of the tail.
_MACS_PER_MS = 2e6
_TAIL_MACS_PER_MS = 8e6
# Until the link was measured.
_RTT_MS = 10.0
_GAIN = 1 / 32
_OVERHEAD, _SIZE = 0, 1


@dataclass(frozen=True)
class Weights:
    """What counts, in ms of latency: cost = ms·latency + kilobyte·kB sent + joule·J on the robot.

    ``miss`` is charged, in deadlines, for an answer that is late or had to do without the tail:
    nothing is promised for it.
    """

    ms: float = 1.0
    kilobyte: float = 0.0
    joule: float = 0.0
    miss: float = 1.0

    def __post_init__(self) -> None:
        values = (self.ms, self.kilobyte, self.joule, self.miss)
        if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values[:3]):
            raise PolicyError(f'cost weights {values}: expected numbers >= 0, and not all zero')


# Fixed beforehand; results are reported at all three.
WEIGHTS: dict[str, Weights] = {
    'latency': Weights(),
    'balanced': Weights(ms=1.0, kilobyte=5.0, joule=100.0),
    'frugal': Weights(ms=0.2, kilobyte=20.0, joule=400.0),
}


@dataclass(frozen=True)
class AbstractCosts:
    """The units of SplitEE and I-SplitEE: λ per layer, o per offload, μ to weigh both.

    ``depth`` is the number of layers behind each arm, the last arm being the whole network.
    """

    depth: tuple[float, ...]
    per_layer: float = 0.1
    offload: float = 0.5
    mu: float = 1.0

    @classmethod
    def splitee(cls, arms: int, offload: float = 0.5) -> AbstractCosts:
        """One layer per arm (arXiv 2309.09195)."""
        return cls(tuple(float(arm + 1) for arm in range(arms)), offload=offload)

    @classmethod
    def i_splitee(cls, arms: int, offload: float = 0.5) -> AbstractCosts:
        """Three layers per arm and one more behind the last (arXiv 2401.10541, its code)."""
        return cls((*(3.0 * (arm + 1) for arm in range(arms - 1)), 3.0 * (arms - 1) + 1), 0.1,
                   offload)  # fmt: skip

    def local(self, arm: int, confidence: float) -> float:
        """R = C_i − μ·λ·depth of a frame that stays."""
        return confidence - self.mu * self.per_layer * self.depth[arm]

    def offloaded(self, arm: int, final_confidence: float) -> float:
        """R = C_L − μ·(λ·depth + o) of a frame that leaves."""
        return final_confidence - self.mu * (self.per_layer * self.depth[arm] + self.offload)

    def spent(self, arm: int, left: bool) -> float:
        """The cost alone."""
        return self.per_layer * self.depth[arm] + self.offload * left

    @property
    def scale(self) -> float:
        """The widest a reward can swing at one arm."""
        return 1.0 + self.mu * self.offload


class CostModel:
    """Expected and charged costs of ways to answer, in ms equivalents.

    Stage and exit times are running means of what was measured on this robot, from MACs until then.
    ``profile`` multiplies them, to study a robot that many times slower: such figures are simulated
    and have to be labelled so. Energy is the bundle's estimate; ``watts``, what the robot draws
    while it computes, counts where there is none, or once it was set to a reading.
    ``joules_per_byte`` is the radio's.
    """

    def __init__(
        self,
        facts: Facts,
        weights: Weights = WEIGHTS['latency'],
        *,
        deadline_ms: float = 100.0,
        profile: float = 1.0,
        overhead_ms: float = 0.0,
        watts: float = 5.0,
        joules_per_byte: float = 1e-6,
        stage_ms: Mapping[int, float] | None = None,
        exit_ms: Mapping[int, float] | None = None,
    ) -> None:
        for name, value in (('deadline_ms', deadline_ms), ('profile', profile)):
            if not (math.isfinite(value) and value > 0):
                raise PolicyError(f'{name} is {value}, expected a positive number')
        self.weights = weights
        self.deadline_ms = deadline_ms
        self.profile = profile
        self.overhead_ms = overhead_ms
        self._watts = watts
        self._energy = facts.energy
        self.joules_per_byte = joules_per_byte
        self._facts = facts
        macs = facts.macs
        self.stage_ms = [profile * macs[k] / _MACS_PER_MS for k in range(len(macs))]
        self.exit_ms = {k: profile * count / _MACS_PER_MS for k, count in facts.exits.items()}
        self.tail_ms = {
            split: sum(macs[split + 1 :]) / _TAIL_MACS_PER_MS for split in facts.codings
        }
        # Encoder and codec, per split.
        self.encode_ms = dict.fromkeys(facts.codings, 0.0)
        # The size the link's round-trip time was measured with.
        self._size = math.nan
        # How often each was measured; until then it is a guess.
        self._stages: Counter[int] = Counter()
        self._exits: Counter[int] = Counter()
        self._encoders: Counter[int] = Counter()
        self._tails: Counter[int] = Counter()
        self._others: Counter[int] = Counter()
        for stage, ms in (stage_ms or {}).items():
            self.stage_ms[stage] = profile * ms
        for stage, ms in (exit_ms or {}).items():
            self.exit_ms[stage] = profile * ms

    @property
    def watts(self) -> float:
        """What the robot draws while it computes; a reading goes before any estimate."""
        return self._watts

    @watts.setter
    def watts(self, reading: float) -> None:
        self._watts, self._energy = reading, None

    def measured(self, stage_ms: Mapping[int, float], exit_ms: Mapping[int, float]) -> None:
        """A frame's stages and exits took this long on the robot, its profile included."""
        for stage, ms in stage_ms.items():
            self.stage_ms[stage] = _mean(self._stages, stage, self.stage_ms[stage], ms)
        for stage, ms in exit_ms.items():
            self.exit_ms[stage] = _mean(self._exits, stage, self.exit_ms[stage], ms)

    def around(self, overhead_ms: float, split: int | None, encode_ms: float) -> None:
        """A frame waited and was prepared for so long; coding it for ``split`` took so long.

        A split that is not known is that of a plan from before a change of parameters.
        """
        self.overhead_ms = _mean(self._others, _OVERHEAD, self.overhead_ms, overhead_ms)
        if split in self.encode_ms:
            self.encode_ms[split] = _mean(self._encoders, split, self.encode_ms[split], encode_ms)

    def answered(self, split: int, payload_bytes: int, tail_ms: float) -> None:
        """The tail answered a frame of this size after working on it for so long."""
        if split in self.tail_ms:
            self.tail_ms[split] = _mean(self._tails, split, self.tail_ms[split], tail_ms)
        self._size = _mean(self._others, _SIZE, self._size, payload_bytes)

    def compute_ms(self, stop: int, evaluated: tuple[int, ...]) -> float:
        """Time on the robot for the stages up to ``stop`` and these exits up to it."""
        exits = sum(self.exit_ms[stage] for stage in evaluated if stage <= stop)
        return self.overhead_ms + sum(self.stage_ms[: stop + 1]) + exits

    def local(self, stop: int, evaluated: tuple[int, ...]) -> float:
        """Expected cost of an answer by the exit at ``stop``."""
        ms = self.compute_ms(stop, evaluated)
        joules = self.joules(ms, range(stop + 1), (exit_ for exit_ in evaluated if exit_ <= stop))
        return self.charge(ms, 0.0, joules, missed=ms > self.deadline_ms)

    def offload(
        self,
        split: int,
        codec: str,
        compute_ms: float,
        link: Link,
        evaluated: tuple[int, ...] = (),
    ) -> float:
        """Expected cost of asking the tail after this much time on the robot and these exits.

        A frame that is lost or expected too late costs what a miss costs.
        """
        payload = self._facts.codings[split][codec].bytes + PREAMBLE_BYTES
        compute_ms += self.encode_ms[split]
        joules = self.joules(compute_ms, range(split + 1), evaluated, split)
        if link.state is not TailState.UP:
            return self.charge(compute_ms, 0.0, joules, missed=True)
        rtt = _RTT_MS if math.isnan(link.rtt_ms) else link.rtt_ms
        if not (math.isnan(link.goodput) or math.isnan(self._size)):
            rtt = max(0.5, rtt + (payload - self._size) / link.goodput * 1e3)
        jitter = rtt / 2 if math.isnan(link.jitter_ms) else link.jitter_ms
        total = compute_ms + self.tail_ms[split] + rtt
        loss = 0.0 if math.isnan(link.loss) else link.loss
        late = _late(self.deadline_ms - total, jitter)
        miss = loss + (1 - loss) * late
        return (1 - miss) * self.charge(total, payload, joules, missed=False) + (
            miss * self.charge(self.deadline_ms, payload, joules, missed=True)
        )

    def joules(
        self,
        compute_ms: float,
        stages: Iterable[int],
        exits: Iterable[int],
        encoder: int | None = None,
    ) -> float:
        """What the robot spends on these stages and exits and a split's encoder in this time."""
        energy = self._energy
        if energy is None:
            return self._watts * compute_ms / 1e3
        joules = sum(energy.stages[stage] for stage in stages)
        joules += sum(energy.exits[stage] for stage in exits)
        return joules + (0.0 if encoder is None else energy.encoders.get(encoder, 0.0))

    def charge(self, latency_ms: float, sent_bytes: float, joules: float, *, missed: bool) -> float:
        """What one frame cost, expected or real; ``joules`` without what sending took."""
        weights = self.weights
        joules += self.joules_per_byte * sent_bytes
        cost = weights.ms * latency_ms + weights.kilobyte * sent_bytes / 1e3
        cost += weights.joule * joules
        return cost + weights.ms * weights.miss * self.deadline_ms * missed


def _mean(measured: Counter[int], key: int, mean: float, value: float) -> float:
    """The running mean after another value; the first replaces a guess, the next count alike."""
    if not 0 <= value < math.inf:
        return mean
    measured[key] += 1
    if measured[key] == 1:
        return value
    # One preempted frame must not move a mean that decisions hang on.
    most = 4 * mean + 1.0
    gain = max(_GAIN, 1 / measured[key])
    return mean + gain * ((value if value < most else most) - mean)


def _late(slack_ms: float, jitter_ms: float) -> float:
    """P(late) of a time whose mean lies ``slack_ms`` before the deadline, logistic in its jitter.

    A logistic of scale s has mean deviation 2·ln 2·s, and the link's jitter is a mean deviation.
    """
    x = slack_ms / max(jitter_ms / (2 * math.log(2)), 0.25)
    return 1 / (1 + math.exp(min(max(x, -30.0), 30.0)))


class PowerReading:
    """The board's input power from Jetson's INA sensors, where Linux shows one; None elsewhere.

    Reads the first ``inaXXXX`` device's ``in1_input`` (mV) and ``curr1_input`` (mA). Not yet run on
    a Jetson.
    """

    def __init__(self, root: str | Path = '/sys/class/hwmon') -> None:
        self._volts: Path | None = None
        self._amperes: Path | None = None
        for device in sorted(Path(root).glob('hwmon*')):
            volts, amperes = device / 'in1_input', device / 'curr1_input'
            try:
                known = (device / 'name').read_text(encoding='ascii').startswith('ina')
            except (OSError, ValueError):
                continue
            if known and volts.is_file() and amperes.is_file():
                self._volts, self._amperes = volts, amperes
                return

    def watts(self) -> float | None:
        """The power drawn now in W, None without a sensor or when it cannot be read."""
        if self._volts is None or self._amperes is None:
            return None
        try:
            return int(self._volts.read_text()) * int(self._amperes.read_text()) / 1e6
        except (OSError, ValueError):
            return None
