# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a robot takes for each step of a frame: the clock of a replay.

A replay takes its times from one profile and never from the machine it runs on, so that two runs
are alike. A *robot* is such a profile times a factor; its figures are simulated and labelled so.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparse_split_ros.link.codec import Codec
from sparse_split_ros.policy.scene import SceneMeter
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import Engine
from sparse_split_ros.runtime.preprocess import fit, normalise
from sparse_split_ros.runtime.profile import key, measure

FORMAT = 'sparse_split_times/1'
# The name of the times that need no measurement, and their MACs in a ms.
NOMINAL = 'nominal'
_NOMINAL = 2e6
_REPEATS = 100


class RobotError(ValueError):
    """A file of times, or a factor, that describes no robot."""


@dataclass(frozen=True)
class StepTimes:
    """Median ms of each step at batch 1 on one machine.

    ``stage``, ``exit``, ``encoder`` and ``decoder`` are by stage; ``prepare`` is resizing,
    normalising and measuring the scene, ``codec`` coding the features, ``jpeg`` and ``webp``
    coding the network's input as a picture. ``origin`` says where the figures are from.
    """

    stage: Mapping[int, float]
    exit: Mapping[int, float]
    encoder: Mapping[int, float]
    decoder: Mapping[int, float]
    prepare: float
    codec: float
    jpeg: float
    webp: float
    origin: str
    fingerprint: str

    def times(self, factor: float) -> StepTimes:
        """The same on a machine this many times slower. Raises RobotError."""
        if not (math.isfinite(factor) and factor > 0):
            raise RobotError(f'robot factor {factor:g}: expected a positive number')

        def slow(values: Mapping[int, float]) -> dict[int, float]:
            return {stage: factor * ms for stage, ms in values.items()}

        return StepTimes(
            slow(self.stage), slow(self.exit), slow(self.encoder), slow(self.decoder),
            factor * self.prepare, factor * self.codec, factor * self.jpeg, factor * self.webp,
            self.origin, self.fingerprint,
        )  # fmt: skip

    @property
    def full(self) -> float:
        """The whole network without early exits, in ms."""
        return sum(self.stage.values()) + self.exit[max(self.stage)]

    @classmethod
    def nominal(cls, bundle: Bundle) -> StepTimes:
        """A made-up robot that is alike everywhere: 2 million MACs in a ms, 50 µs for the rest."""
        coded = [split for split in bundle.splits if split.encoder]
        return cls(
            {k: stage.macs / _NOMINAL for k, stage in enumerate(bundle.stages)},
            {exit_.stage: exit_.macs / _NOMINAL for exit_ in bundle.exits},
            {split.stage: split.encoder_macs / _NOMINAL for split in coded},
            {split.stage: split.decoder_macs / _NOMINAL for split in coded},
            0.05, 0.05, 0.05, 0.05, 'nominal, 2 million MACs in a ms', bundle.fingerprint.hex(),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """What :meth:`load` reads."""
        return {'format': FORMAT, **asdict(self)}

    @classmethod
    def load(cls, path: Path, bundle: Bundle) -> StepTimes:
        """Read the times of a bundle's steps; raises RobotError."""
        try:
            values = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise RobotError(f'{path}: not a readable file of times: {error}') from error
        if isinstance(values, dict) and 'engines' in values:
            raise RobotError(
                f'{path}: is of `sparse-split profile`, and a replay takes more steps than that '
                'measures: give the profile.json in the --out of an `evaluate` on that machine'
            )
        if not isinstance(values, dict) or values.get('format') != FORMAT:
            raise RobotError(f'{path}: expected a JSON object with "format": "{FORMAT}"')
        fingerprint = bundle.fingerprint.hex()
        if values.get('fingerprint') != fingerprint:
            raise RobotError(
                f'{path}: times of bundle {values.get("fingerprint")}, this one is {fingerprint}: '
                'leave --profile out to measure, or give the bundle the times belong to'
            )
        stages = set(range(len(bundle.stages)))
        coded = {split.stage for split in bundle.splits if split.encoder}
        try:
            return cls(
                _by_stage(values['stage'], stages),
                _by_stage(values['exit'], {exit_.stage for exit_ in bundle.exits}),
                _by_stage(values['encoder'], coded),
                _by_stage(values['decoder'], coded),
                _positive(values['prepare']),
                _positive(values['codec']),
                _positive(values['jpeg']),
                _positive(values['webp']),
                str(values['origin']),
                fingerprint,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RobotError(f'{path}: {error!r}, expected the times of every step') from error


def _by_stage(values: Mapping[str, Any], stages: set[int]) -> dict[int, float]:
    times = {int(stage): _positive(ms) for stage, ms in values.items()}
    if set(times) != stages:
        raise ValueError(f'times of stages {sorted(times)}, expected {sorted(stages)}')
    return times


def _positive(value: Any) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f'{value} is no time')
    return float(value)


def step_times(bundle: Bundle, engine: Engine, profile: str = '') -> StepTimes:
    """The times to replay with: of a file, nominal ones, or those this machine measured once.

    They are measured when there are none, starting from the bundle's profile.json where it has
    them, and kept in the user's cache, so that the next run has the same. Raises RobotError.
    """
    if profile == NOMINAL:
        return StepTimes.nominal(bundle)
    if profile:
        return StepTimes.load(Path(profile), bundle)
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'sparse_split_ros'
    name = f'times_{bundle.fingerprint.hex()}_{engine.name}_{platform.node()}.json'
    if (cache / name).is_file():
        return StepTimes.load(cache / name, bundle)
    times = _measured(bundle, engine)
    text = json.dumps(times.to_json(), indent=1) + '\n'
    partial = cache / f'.{name}.{os.getpid()}'
    try:
        cache.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding='utf-8')
        partial.replace(cache / name)
    except OSError as error:
        raise RobotError(
            f'{cache / name}: cannot be written ({error.strerror}); give the times by --profile'
        ) from error
    return times


def _measured(bundle: Bundle, engine: Engine) -> StepTimes:
    stored = bundle.profile()
    of_engine = stored.get('engines', {}).get(key(engine.name, 'cpu', 1))
    here = stored.get('machine', {}).get('node') == platform.node()
    known = of_engine if of_engine and here else measure(engine, _REPEATS)

    def column(name: str) -> dict[int, float]:
        return {int(stage): float(ms) for stage, ms in known[name].items()}

    rng = np.random.default_rng(0)
    _, height, width = bundle.input.shape
    image = rng.integers(0, 256, (2 * height, 2 * width, 3), dtype=np.uint8)
    small = np.ascontiguousarray(image[:height, :width])
    meter = SceneMeter()

    def ready() -> None:
        seen = fit(image, bundle.input)
        normalise(seen, bundle.input)
        meter(seen)

    return StepTimes(
        column('stage_ms'),
        column('exit_ms'),
        column('encoder_ms'),
        column('decoder_ms'),
        _median(ready),
        _codec_ms(bundle, rng),
        _median(lambda: cv2.imencode('.jpg', small)),
        _median(lambda: cv2.imencode('.webp', small, [cv2.IMWRITE_WEBP_QUALITY, 50])),
        f'measured on {platform.node()}, {engine.name}, one thread',
        bundle.fingerprint.hex(),
    )


def _codec_ms(bundle: Bundle, rng: np.random.Generator) -> float:
    """Coding the features of the default split with the default codec, 0 without a split."""
    defaults = bundle.defaults
    split = next((split for split in bundle.splits if split.stage == defaults.split), None)
    if split is None or defaults.codec not in split.codecs:
        return 0.0
    codec = Codec.from_calibration(defaults.codec, split.shape, split.codecs[defaults.codec])
    features = np.abs(rng.normal(size=(1, *split.shape))).astype(np.float32)
    return _median(lambda: codec.encode(features))


def _median(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken), 5)
