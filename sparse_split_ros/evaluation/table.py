# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Confidence tables: what every exit says of every image, so that policies can be replayed fast."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data import weather
from sparse_split_ros.data.files import read_npz
from sparse_split_ros.policy.facts import NEVER, Coding, Facts
from sparse_split_ros.policy.scene import SCENES, SceneMeter
from sparse_split_ros.runtime.preprocess import normalise, resize

if TYPE_CHECKING:
    from sparse_split_ros.runtime.engine import Engine

FORMAT = 'sparse_split_table/1'
_NAMES = ('stages', 'splits', 'conditions', 'scenes')
_COLUMNS = ('label', 'track', 'condition', 'scene', 'prediction', 'confidence', 'coded')


class TableError(ValueError):
    """A confidence table is unreadable, or its columns do not fit together."""


@dataclass(frozen=True)
class ConfidenceTable:
    """One row per image and condition, N rows; E exits, the last being the network's own.

    ``label`` (N,) the truth; ``track`` (N,) what must not be torn apart when rows are shuffled;
    ``condition`` (N,) index into ``conditions``; ``scene`` (N,) index into ``scenes``, the scene as
    measured on the image. ``stages`` are the E stages with an exit, ``prediction`` (N, E) and
    ``confidence`` (N, E) in [0, 1] what they say. The full network's prediction is the last column.
    ``coded`` (N, S) is what the tail would say of features coded at each of the S ``splits``; where
    it was not made, S is 0. ``bundle`` is the fingerprint of the network, '' where it is not known.
    """

    label: NDArray[np.int64]
    track: NDArray[np.int64]
    condition: NDArray[np.int64]
    scene: NDArray[np.int64]
    prediction: NDArray[np.int64]
    confidence: NDArray[np.float32]
    stages: tuple[int, ...]
    conditions: tuple[str, ...]
    scenes: tuple[str, ...]
    coded: NDArray[np.int64]
    splits: tuple[int, ...] = ()
    bundle: str = ''

    def __post_init__(self) -> None:
        rows = len(self.label)
        for name in _COLUMNS[1:]:
            if len(getattr(self, name)) != rows:
                raise TableError(f'{name} has {len(getattr(self, name))} rows, label {rows}')
        shape = (rows, len(self.stages))
        if not rows or self.prediction.shape != shape or self.confidence.shape != shape:
            raise TableError(
                f'prediction {self.prediction.shape} and confidence {self.confidence.shape}, '
                f'expected {shape} with at least one row'
            )
        if self.coded.shape != (rows, len(self.splits)):
            raise TableError(f'coded {self.coded.shape}, expected {(rows, len(self.splits))}')
        # NaN fails both comparisons.
        if not (self.confidence.min() >= 0 and self.confidence.max() <= 1):
            raise TableError('confidences outside [0, 1]')
        for name, names in (('condition', self.conditions), ('scene', self.scenes)):
            column = getattr(self, name)
            if column.min() < 0 or column.max() >= len(names):
                raise TableError(f'{name} from {column.min()} to {column.max()}, names: {names}')

    def __len__(self) -> int:
        return len(self.label)

    @property
    def full(self) -> NDArray[np.int64]:
        """(N,) the full, uncompressed network's prediction."""
        return self.prediction[:, -1]

    def take(self, rows: NDArray[Any]) -> ConfidenceTable:
        """These rows, by index or mask."""
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})

    def only(self, condition: str) -> ConfidenceTable:
        """The rows of one condition."""
        if condition not in self.conditions:
            raise TableError(f'no condition {condition!r}, the table has {self.conditions}')
        return self.take(self.condition == self.conditions.index(condition))

    def joined(self, other: ConfidenceTable) -> ConfidenceTable:
        """The rows of both, which are of one network; tracks of the second are numbered anew."""
        for name in ('stages', 'splits', 'scenes'):
            if getattr(self, name) != getattr(other, name):
                raise TableError(f'tables with {name} {getattr(self, name)} and of others')
        names = (*self.conditions, *(n for n in other.conditions if n not in self.conditions))
        renamed = np.array([names.index(name) for name in other.conditions])[other.condition]
        moved = replace(
            other, conditions=names, condition=renamed, track=other.track + self.track.max() + 1
        )
        both: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(moved, name)]) for name in _COLUMNS
        }
        return replace(self, conditions=names, **both)

    def shuffled(self, seed: int, frames: int | None = None) -> ConfidenceTable:
        """Tracks in random order, each track's rows in their own; repeated to ``frames`` rows."""
        rng = np.random.default_rng(seed)
        order = np.lexsort((np.arange(len(self)), self.track))
        groups = np.split(order, np.flatnonzero(np.diff(self.track[order])) + 1)
        wanted = len(self) if frames is None else frames
        rows: list[NDArray[np.int64]] = []
        count = 0
        while count < wanted:
            for index in rng.permutation(len(groups)):
                rows.append(groups[index])
                count += len(groups[index])
                if count >= wanted:
                    break
        return self.take(np.concatenate(rows)[:wanted])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as .npz."""
        # Those of several tasks together may be many.
        most = max(int(each.max(initial=0)) for each in (self.label, self.prediction, self.coded))
        labels = np.int16 if most <= np.iinfo(np.int16).max else np.int64
        np.savez_compressed(
            path,
            format=np.array(FORMAT),
            label=self.label.astype(labels),
            track=self.track.astype(np.int32),
            condition=self.condition.astype(np.int16),
            scene=self.scene.astype(np.int16),
            prediction=self.prediction.astype(labels),
            confidence=self.confidence.astype(np.float32),
            coded=self.coded.astype(labels),
            stages=np.array(self.stages, np.int16),
            splits=np.array(self.splits, np.int16),
            conditions=np.array(self.conditions),
            scenes=np.array(self.scenes),
            bundle=np.array(self.bundle),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConfidenceTable:
        """Read :meth:`save`'s file. Raises TableError."""
        if Path(path).suffix == '.csv':
            raise TableError(f'{path}: a table is read from the .npz of `confidences`')
        try:
            data = read_npz(path, ('format', *_COLUMNS, *_NAMES, 'bundle'))
            if str(data['format']) != FORMAT:
                raise TableError(f'{path}: format {data["format"]}, expected {FORMAT}')
            columns: dict[str, Any] = {
                name: data[name].astype(np.int64) for name in _COLUMNS if name != 'confidence'
            }
            columns['confidence'] = data['confidence'].astype(np.float32)
            for name in ('stages', 'splits'):
                columns[name] = tuple(int(stage) for stage in data[name])
            for name in ('conditions', 'scenes'):
                columns[name] = tuple(str(item) for item in data[name])
            columns['bundle'] = str(data['bundle']) if 'bundle' in data else ''
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f'{path}: not a confidence table: {error}') from error
        return cls(**columns)


def synthetic(
    seed: int = 0,
    tracks: int = 200,
    frames: int = 30,
    conditions: tuple[str, ...] = ('day', 'night', 'fog'),
    stages: tuple[int, ...] = (0, 1, 2, 3),
    classes: int = 43,
    overconfidence: float = 0.3,
    skill: tuple[float, ...] = (2.6, 3.8, 4.6, 5.2),
) -> ConfidenceTable:
    """A made-up table that behaves like a real one: for tests and for studies of policies.

    Each exit has a margin (log odds of being right) = its ``skill`` + how easy the track and the
    frame are - how hard the condition is; errors of one track and one frame hang together through a
    Gaussian copula. Conditions after the first cost margin, deeper exits less, and leave
    ``overconfidence`` of what they cost in the reported confidence. Scenes are the conditions.
    """
    rng = np.random.default_rng(seed)
    exits = len(stages)
    strength = np.interp(np.linspace(0, 1, exits), np.linspace(0, 1, len(skill)), skill)
    parts = []
    for index in range(len(conditions)):
        hard = 0.0 if index == 0 else 1.0 + 0.5 * (index % 3)
        label = rng.integers(classes, size=tracks)
        other = (label + rng.integers(1, classes, size=tracks)) % classes
        easy = rng.normal(0, 1.3, (tracks, 1, 1))
        approach = np.linspace(-0.7, 0.7, frames)[None, :, None]
        margin = easy + approach + rng.normal(0, 0.5, (tracks, frames, exits)) + strength
        cost = hard * np.linspace(1.0, 0.7, exits)
        z = (
            0.75 * rng.normal(size=(tracks, 1, 1))
            + 0.45 * rng.normal(size=(tracks, frames, 1))
            + 0.48 * rng.normal(size=(tracks, frames, exits))
        )
        # Φ(z) is uniform, by the logistic approximation of the normal distribution.
        uniform = 1 / (1 + np.exp(-1.702 * z))
        right = uniform < 1 / (1 + np.exp(-(margin - cost)))
        prediction = np.where(right, label[:, None, None], other[:, None, None])
        reported = margin - (1 - overconfidence) * cost
        confidence = 1 / classes + (1 - 1 / classes) / (1 + np.exp(-reported))
        # Coding hurts where the network is unsure, and shallow splits most.
        unsure = 1 / (1 + np.exp(margin[:, :, -1:] - cost[-1]))
        harm = np.linspace(0.6, 0.15, exits - 1) if exits > 1 else np.zeros(0)
        lost = rng.random((tracks, frames, exits - 1)) < harm * unsure
        coded = np.where(lost, (prediction[:, :, -1:] + 1) % classes, prediction[:, :, -1:])
        count = tracks * frames
        column = np.full(count, index)
        parts.append((
            np.repeat(label, frames),
            np.repeat(np.arange(tracks) + index * tracks, frames),
            column, column,
            prediction.reshape(count, exits),
            confidence.reshape(count, exits).astype(np.float32),
            coded.reshape(count, exits - 1),
        ))  # fmt: skip
    label_, track_, condition_, scene_, prediction_, confidence_, coded_ = (
        np.concatenate(column) for column in zip(*parts)
    )
    return ConfidenceTable(
        label_, track_, condition_, scene_, prediction_, confidence_, stages, conditions,
        conditions, coded_, stages[:-1],
    )  # fmt: skip


def synthetic_facts(table: ConfidenceTable) -> Facts:
    """A small network's costs to go with a made-up table: 18 million MACs, 100 bytes a frame."""
    macs = np.interp(np.linspace(0, 1, len(table.stages)), np.linspace(0, 1, 4), (3, 1.2, 9.4, 4.6))
    harm = (table.coded != table.full[:, None]).mean(0)
    return Facts(
        '00' * 8,
        int(table.label.max()) + 1,
        tuple(int(1e6 * count) for count in macs),
        {stage: 19_000 if stage == table.stages[-1] else 500_000 for stage in table.stages},
        {s: {'int4+zstd': Coding(100.0, float(harm[i]))} for i, s in enumerate(table.splits)},
        (table.splits[min(1, len(table.splits) - 1)], 0.9, 'int4+zstd'),
    )


def tabulate(
    engine: Engine,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    tracks: NDArray[np.int64],
    conditions: Sequence[tuple[str, int]] = (('day', 0),),
    seed: int = 0,
    batch: int = 64,
) -> ConfidenceTable:
    """What a bundle says of images (N, H, W, 3) uint8 RGB under each (condition, level 0..5).

    Level 0 leaves images as they are. Tracks are numbered anew per condition, and the scene is
    measured along each. ``coded`` passes the bundle's encoders and decoders, not the codecs' bytes.
    Raises EngineError, WeatherError.
    """
    bundle = engine.bundle
    exits = tuple(sorted(exit_.stage for exit_ in bundle.exits))
    splits = tuple(sorted(split.stage for split in bundle.splits))
    evaluated = [NEVER if stage in exits else None for stage in range(bundle.final + 1)]
    only_last = [None] * bundle.final + [NEVER]
    stride = int(tracks.max()) + 1
    parts: list[tuple[NDArray[Any], ...]] = []
    for number, (name, level) in enumerate(conditions):
        rng = np.random.default_rng([seed, number])
        meter, last = SceneMeter(), -1
        scenes, predictions, confidences, coded = [], [], [], []
        for first in range(0, len(images), batch):
            rows = range(first, min(first + batch, len(images)))
            shown = []
            for row in rows:
                if tracks[row] != last:
                    meter, last = SceneMeter(), int(tracks[row])
                # What stays for a while, such as banks of fog, stays for a track.
                field = np.random.default_rng([seed, number, last])
                image = images[row]
                if level:
                    image = weather.apply(name, image, weather.level(level), rng, field)
                shown.append(resize(image, bundle.input))
                scenes.append(SCENES.index(meter(image).name))
            x = normalise(np.stack(shown), bundle.input)
            result = engine.run(x, 0, bundle.final, evaluated, stop=False)
            answers = [bundle.judge(result.exits[k]) for k in exits]
            predictions.append(np.stack([label for label, _ in answers], 1))
            confidences.append(np.stack([confidence for _, confidence in answers], 1))
            said = []
            for split in splits:
                features = engine.run(x, 0, split, [None] * len(evaluated), stop=False).features
                assert features is not None, 'no exit was evaluated'
                back = engine.decode(engine.encode(features, split), split)
                tail = engine.run(back, split + 1, bundle.final, only_last, stop=False)
                said.append(bundle.judge(tail.exits[bundle.final])[0])
            coded.append(np.stack(said, 1) if said else np.zeros((len(rows), 0), np.int64))
        parts.append((
            labels, tracks + number * stride, np.full(len(images), number), np.array(scenes),
            np.concatenate(predictions), np.concatenate(confidences), np.concatenate(coded),
        ))  # fmt: skip
    label, track, condition, scene, prediction, confidence, codes = (
        np.concatenate(column) for column in zip(*parts)
    )
    names = tuple(f'{name}_{level}' if level else name for name, level in conditions)
    return ConfidenceTable(
        label, track, condition, scene, prediction, confidence, exits, names, SCENES, codes, splits,
        bundle.fingerprint.hex(),
    )  # fmt: skip
