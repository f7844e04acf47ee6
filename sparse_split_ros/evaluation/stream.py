# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames of a source, made ready for the network, and what the network says of them.

Several policies are replayed on one stream: each stage is computed once per frame, whoever asks for
it first. What a step *takes* comes from a profile, so that time is virtual all the way through.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from sparse_split_ros.data import weather
from sparse_split_ros.data.bags import BagError, Frame, bags_in, count_images, is_bag
from sparse_split_ros.data.files import files_in, named
from sparse_split_ros.data.images import ImageError
from sparse_split_ros.data.pace import USUAL_RATE, Pace
from sparse_split_ros.data.sources import SourceError, open_source
from sparse_split_ros.policy.facts import NEVER
from sparse_split_ros.runtime.bundle import BETWEEN_TASKS, Bundle
from sparse_split_ros.runtime.engine import Array, Engine
from sparse_split_ros.runtime.preprocess import fit, normalise

# Frames whose full network is computed in one batch. A constant: another batch rounds otherwise.
CHUNK = 32
# The share of stamps that may be no times before it is said: rates and times hardly change by it.
_LATE = 0.01


@dataclass(frozen=True)
class Weather:
    """A condition of data/weather.py put onto every image, at one of its five levels."""

    condition: str
    level: int = 3

    @classmethod
    def parse(cls, text: str) -> Weather:
        """Of CONDITION or CONDITION:LEVEL; raises WeatherError."""
        name, _, number = text.partition(':')
        if name not in weather.CONDITIONS:
            raise weather.WeatherError(
                f'unknown condition {name!r}, choose one of {", ".join(weather.CONDITIONS)}'
            )
        if number and not (number.isdecimal() and 1 <= int(number) <= weather.LEVELS):
            raise weather.WeatherError(f'level {number!r} of {name}: expected 1 to 5')
        return cls(name, int(number or 3))

    def __str__(self) -> str:
        return f'{self.condition}:{self.level}'


@dataclass
class View:
    """One frame as replays see it.

    ``time`` in s since the first one; ``shown`` (H, W, 3) uint8 RGB at the network's size, ``x``
    (1, 3, H, W) float32; ``label`` as ``Bundle.named`` has it, '' standing for a task of which no
    truth is known. ``file`` is that of the frame, ``rejected`` an image that cannot be decoded,
    ``full`` the full network's answer. The rest remembers what was computed, by stage.
    """

    index: int
    time: float
    label: str | None
    scene: str | None
    shown: NDArray[np.uint8]
    x: Array
    file: str = ''
    rejected: bool = False
    full: int = -1
    features: dict[int, Array] = field(default_factory=dict)
    exits: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    coded: dict[int, Array] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # What was computed is large, and can be computed again.
        return {**self.__dict__, 'features': {}, 'exits': {}, 'coded': {}}


class LabelError(ValueError):
    """A file of labels that cannot be read."""


@dataclass(frozen=True)
class Truth:
    """What a user knows of the labels: other ``names`` of classes, and labels by frame or stamp."""

    names: Mapping[str, str] = field(default_factory=dict)
    by_frame: Mapping[int, str] = field(default_factory=dict)
    by_stamp: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Of a .yaml or .json mapping of names, or a .csv of ``frame`` or ``stamp_ns``, ``label``.

        Raises LabelError.
        """
        try:
            text = path.read_text(encoding='utf-8-sig')  # with a byte order mark, as Excel has it
            if path.suffix == '.csv':
                rows = list(csv.DictReader(io.StringIO(text)))
                if not rows:
                    raise ValueError('no row')
                key = 'stamp_ns' if 'stamp_ns' in rows[0] else 'frame'
                labels = {int(row[key]): row['label'] for row in rows}
                return cls(by_stamp=labels) if key == 'stamp_ns' else cls(by_frame=labels)
            # Names as they are written: 00014 is not 12, and no is not False.
            names = yaml.load(text, yaml.BaseLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
            reason = ' '.join(str(error).split())
            raise LabelError(f'{path}: not a readable file of labels: {reason}') from error
        except (KeyError, TypeError, ValueError) as error:
            raise LabelError(
                f'{path}: expected the columns label and frame or stamp_ns ({error!r})'
            ) from error
        if not isinstance(names, dict):
            raise LabelError(f'{path}: expected a mapping from class names to class names')
        return cls(names={str(name): str(other) for name, other in names.items()})

    def of(self, index: int, stamp_ns: int, label: str | None) -> str | None:
        """The label of a frame that has this one by itself, None where nobody knows it."""
        label = self.by_frame.get(index, self.by_stamp.get(stamp_ns, label))
        return None if label is None else self.names.get(label, label)


def streams_in(spec: str) -> list[str]:
    """The bags of a folder of bags, in order of name; any other source is itself."""
    path = named(spec)
    if not path.is_dir() or (path / 'metadata.yaml').exists():
        return [spec]
    return [str(bag) for bag in bags_in(path)] or [spec]


@dataclass(frozen=True)
class Source:
    """Where the frames of one stream come from, and what is done to them.

    ``rate`` in Hz paces what has no stamps, ``part`` is the split of ``open_source``. Raises
    SourceError for a rate or limit that is not positive.
    """

    spec: str
    topic: str | None = None
    rate: float = USUAL_RATE
    limit: int | None = None
    weather: Weather | None = None
    truth: Truth = field(default_factory=Truth)
    seed: int = 1
    part: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise SourceError(f'rate {self.rate:g} Hz, expected a positive number')
        if self.limit is not None and self.limit < 1:
            raise SourceError(f'limit of {self.limit} frames, expected 1 or more')

    @property
    def name(self) -> str:
        """The last part of its path, of the folder's own for '.'."""
        return named(self.spec).absolute().name

    def holds(self, folder: Path) -> bool:
        """Whether what is written there would be read as a part of it."""
        path = named(self.spec)
        return path.is_dir() and folder.resolve().is_relative_to(path.resolve())

    def count(self) -> int | None:
        """How many frames there will be, as far as that is known beforehand."""
        path = named(self.spec)
        known = self.limit
        if is_bag(path):
            try:
                held = count_images(path, self.topic)
            except BagError:
                return None  # said when it is read
            known = held if known is None else min(known, held)
        return known

    def frames(self) -> Iterator[Frame]:
        """The frames as a camera would give them. Raises SourceError or BagError."""
        frames = open_source(
            self.spec, self.topic, split=self.part, rate=self.rate, limit=self.limit,
            seed=self.seed, broken=True,
        )  # fmt: skip
        return frames if self.weather is None else map(self._weathered, itertools.count(), frames)

    def _weathered(self, index: int, frame: Frame) -> Frame:
        assert self.weather is not None
        if frame.error:
            return frame
        rng = np.random.default_rng([self.seed, index])
        # The place of the sun and the banks of fog stay for a while: here, for a second.
        lasting = np.random.default_rng([self.seed, 1_000_000 + frame.stamp_ns // 10**9])
        image = frame.image if frame.image.ndim == 3 else np.stack([frame.image] * 3, 2)
        changed = weather.apply(
            self.weather.condition, image, weather.level(self.weather.level), rng, lasting
        )
        return replace(
            frame,
            image=changed,
            scene=self.weather.condition,
            severity=weather.level(self.weather.level),
            # What shows the weather shows another now; the scene says which.
            others={task: said for task, said in frame.others.items() if task != weather.TASK},
        )

    def fingerprint(self) -> str:
        """SHA-256 of the files read, 16 hexadecimal digits; of the seed for the drawn drive."""
        digest = hashlib.sha256()
        path = named(self.spec)
        if not path.exists():
            digest.update(f'{self.spec}/{self.seed}/{self.rate}'.encode())
            return digest.hexdigest()[:16]
        for file in sorted(files_in(path)) if path.is_dir() else [path]:
            # The bytes of a name that is not UTF-8 as they are.
            digest.update(str(file.relative_to(path)).encode(errors='surrogateescape'))
            with file.open('rb') as data:
                while block := data.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()[:16]


class Stream:
    """The views of one source, in chunks. After its end ``problem`` says what cut it short."""

    def __init__(self, source: Source, bundle: Bundle, engine: Engine) -> None:
        self.problem = ''
        self.unknown_labels: dict[str, int] = {}
        self._source = source
        self._bundle = bundle
        self._engine = engine

    def chunks(self, skip: int = 0) -> Iterator[list[View]]:
        """All views but the first ``skip``, which is a multiple of CHUNK.

        Raises SourceError or BagError when there is no frame at all; a source that breaks later
        ends there.
        """
        views: list[View] = []
        for view in self._views():
            if view.index < skip:
                continue
            views.append(view)
            if len(views) == CHUNK:
                self._complete(views)
                yield views
                views = []
        if views:
            self._complete(views)
            yield views

    def _views(self) -> Iterator[View]:
        spec, pace, index = self._source.spec, Pace(self._source.rate), -1
        broken: list[str] = []
        problems: list[str] = []
        held: list[tuple[int, float, Frame]] = []
        try:
            for index, frame in enumerate(self._source.frames()):
                held.append((index, pace.time(frame.stamp_ns), frame))
                if frame.error:
                    broken.append(frame.error)
                if len(broken) > index:
                    continue  # perhaps there is nothing to evaluate at all
                for each in held:
                    yield self._view(*each)
                held.clear()
        except (BagError, SourceError, ImageError) as error:
            if index < 0:
                raise
            problems.append(f'{spec}: after {index + 1} frames: {error}')
        if index < 0:
            raise SourceError(f'{spec} holds no frames')
        if len(broken) > index:
            raise SourceError(f'{spec}: none of {index + 1} images can be read, first {broken[0]}')
        if broken:
            problems.append(
                f'{spec}: {len(broken)} of {index + 1} images are rejected, first {broken[0]}'
            )
        # A few late stamps are every camera's, and who says a rate knows.
        if pace.guessed > _LATE * (index + 1) and self._source.rate == USUAL_RATE:
            problems.append(
                f'{spec}: {pace.guessed} of {index + 1} stamps stand still, run back or jump by '
                f'more than an hour, and come at {self._source.rate:g} Hz: say by --rate how fast '
                'they came'
            )
        self.problem = '; '.join(problems)

    def _view(self, index: int, time: float, frame: Frame) -> View:
        image = frame.image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, 2)
        # In the place of what cannot be decoded stands a black image, which no replay looks at.
        image = np.zeros((1, 1, 3), np.uint8) if frame.error else image
        shown = fit(image, self._bundle.input)
        x = normalise(shown, self._bundle.input)
        label = self._label(frame, index)
        return View(
            index, time, label, frame.scene, shown, x, frame.file, rejected=bool(frame.error)
        )

    def _label(self, frame: Frame, index: int) -> str | None:
        """The class of the bundle that a source means; what is none is counted."""
        name = self._source.truth.of(index, frame.stamp_ns, frame.label)
        return label_meant(name, frame.truths, self._bundle.tasks, self.unknown_labels)

    def _complete(self, views: Sequence[View]) -> None:
        x = np.concatenate([view.x for view in views])
        labels, _ = self._bundle.judge(full_network(self._engine, x))
        for view, answer in zip(views, labels):
            view.full = int(answer)


def label_meant(
    label: str | None,
    others: Mapping[str, str],
    tasks: Mapping[str, Sequence[str] | None],
    unknown: dict[str, int],
) -> str | None:
    """The classes that the labels of a frame's tasks mean, named as `Bundle.named` does it.

    ``label`` is of the first task, ``others`` are those of others by name. A task without one is
    '' in it, and None is said where no task has one. What is no class is counted as ``unknown``;
    without classes, labels are taken as they are.
    """
    meant = []
    for number, (task, classes) in enumerate(tasks.items()):
        said = label if number == 0 and label is not None else others.get(task)
        found = said if said is None or classes is None else class_meant(said, classes)
        if said is not None and found is None:
            unknown[said] = unknown.get(said, 0) + 1
        meant.append(found or '')
    return BETWEEN_TASKS.join(meant) if any(meant) else None


def class_meant(label: str, classes: Sequence[str]) -> str | None:
    """The class that a label means, by name or by its number; None for no class."""
    if label in classes:
        return label
    return classes[int(label)] if label.isdecimal() and int(label) < len(classes) else None


def full_network(engine: Engine, x: Array) -> Array:
    """Class probabilities (N, K) of the whole network for inputs (N, 3, H, W) float32."""
    final = engine.bundle.final
    thresholds: list[float | None] = [None] * final + [NEVER]
    return engine.run(x, 0, final, thresholds, stop=False).exits[final]
