# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What an exported bundle achieves, through the engine and the codecs that a robot runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data import weather
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.data.drive import Drive, render_drive
from sparse_split_ros.link.codec import Codec
from sparse_split_ros.policy.tasks import judge, parts
from sparse_split_ros.runtime.bundle import Bundle, InputSpec
from sparse_split_ros.runtime.engine import Engine, choose_engine, load_engine, probabilities
from sparse_split_ros.runtime.preprocess import fit, normalise
from sparse_split_ros.training.calibrate import (
    expected_calibration_error,
    interval,
    reliability,
    risk_coverage,
)
from sparse_split_ros.training.predict import accuracies, rows_at_once

REPORT_DRIVE = Drive(seed=90_001, tracks_per_scene=43)
"""Every class once in every scene; its seed is used nowhere else."""


def in_conditions(
    data: LabelledImages, level: int, seed: int
) -> Iterator[tuple[str, LabelledImages]]:
    """The images under every condition of data/weather.py at one of its five levels."""
    severity = weather.level(level)
    for name in weather.CONDITIONS:
        rng = np.random.default_rng(seed)
        images = [weather.apply(name, image, severity, rng) for image in data.images]
        yield name, replace(data, images=np.stack(images))


def by_scene(
    drive: Drive, tasks: Mapping[str, tuple[str, ...]], spec: InputSpec
) -> dict[str, LabelledImages]:
    """The frames of a drive by scene, each cropped and resized as on the robot.

    The first of the `tasks` is to tell the sign, and there may be one to tell the weather.
    """
    rows: dict[str, list[tuple[NDArray[np.uint8], list[int], int]]] = {}
    for index, frame in enumerate(render_drive(drive)):
        assert frame.label is not None and frame.scene is not None
        track = index // drive.frames_per_track
        known = dict.fromkeys(tasks, frame.label) | frame.truths
        labels = [classes.index(known[name]) for name, classes in tasks.items()]
        row = (fit(frame.image, spec), labels, track)
        rows.setdefault(frame.scene, []).append(row)
    return {
        scene: LabelledImages(
            np.stack([image for image, _, _ in scene_rows]),
            np.array([labels for _, labels, _ in scene_rows]),
            np.array([track for _, _, track in scene_rows]),
            tuple(chain(*tasks.values())),
            tasks=tasks,
        )
        for scene, scene_rows in rows.items()
    }


@dataclass(frozen=True)
class Answers:
    """What a bundle says of N images."""

    exits: dict[int, NDArray[np.float32]]
    """Calibrated probabilities (N, K), of all tasks side by side, by the stage of the exit."""
    coded: NDArray[np.float32]
    """The final exit's (N, K) behind the default split and codec."""
    payloads: list[int]
    """Bytes of the default codec, N of them."""

    def reliability(self, data: LabelledImages) -> dict[int, list[tuple[float, float, int]]]:
        """Confidence against accuracy in bins of equal mass, by exit."""
        return {stage: reliability(*_judged(values, data)) for stage, values in self.exits.items()}


def measure(bundle: Bundle, data: LabelledImages, engine: Engine | None = None) -> dict[str, Any]:
    """How good every exit and the default cut are on `data`: see `figures`."""
    return figures(bundle, answers(engine or load_engine(bundle), data.images), data)


def figures(bundle: Bundle, said: Answers, data: LabelledImages) -> dict[str, Any]:
    """Accuracy and its interval, calibration error and risk-coverage area of what was `said`.

    Intervals are 95 % bootstrap intervals over groups. 'coded' is the final exit behind the default
    split and codec for every image. 'routed' answers as the robot does: at the first exit up to the
    split whose confidence reaches the default threshold; the rest is sent. Of several tasks an
    answer is right when all of them are, and 'tasks' has the same of each.
    """
    defaults = bundle.defaults
    exits, coded, sizes = said.exits, said.coded, said.payloads
    report: dict[str, Any] = {
        'frames': len(data.labels),
        'tracks': len(np.unique(data.groups)),
        'exits': {str(stage): _figures(p, data) for stage, p in exits.items()},
        'coded': _figures(coded, data),
        'payload_bytes': {'mean': float(np.mean(sizes)), 'max': max(sizes)},
    }
    early = [stage for stage in sorted(exits) if stage <= defaults.split]
    if early:
        routed, sure = coded.copy(), np.zeros(len(coded), bool)
        for stage in early:
            confidence, stayed = _judged(exits[stage], data)
            here = ~sure & (confidence >= defaults.threshold)
            routed[here] = exits[stage][here]
            sure |= here
        right = _judged(routed, data)[1]
        report['routed'] = {
            'accuracy': _rounded(right.mean()),
            'local_share': _rounded(sure.mean()),
        }
        if not sure.all():
            report['routed'] |= {
                'sent_accuracy': _rounded(right[~sure].mean()),
                'sent_accuracy_had_they_stayed': _rounded(stayed[~sure].mean()),
            }
        if len(data.tasks) > 1:
            each = accuracies(routed, data.columns, data.tasks)
            report['routed']['tasks'] = {name: _rounded(share) for name, share in each.items()}
    return report


def mean_accuracy(reports: Iterable[dict[str, Any]], final: int) -> float:
    """Mean of the final exit's accuracy over reports, each counting once."""
    return _rounded(np.mean([report['exits'][str(final)]['accuracy'] for report in reports]))


def answers(engine: Engine, images: NDArray[np.uint8]) -> Answers:
    """What a bundle says of images (N, H, W, 3) of its own size."""
    bundle = engine.bundle
    split, final = bundle.defaults.split, bundle.final
    spec = bundle.split_at(split)
    codec = Codec.from_calibration(
        bundle.defaults.codec, spec.shape, dict(spec.codecs[bundle.defaults.codec])
    )
    everything: list[float | None] = [0.0] * len(bundle.stages)
    last: list[float | None] = [None] * final + [0.0]
    rows: dict[int, list[NDArray[np.float32]]] = {exit_.stage: [] for exit_ in bundle.exits}
    coded, sizes = [], []
    for x, _ in _inputs(images, bundle.input):
        head = engine.run(x, 0, split, everything, stop=False)
        assert head.features is not None
        tail = engine.run(head.features, split + 1, final, everything, stop=False)
        for stage, values in {**head.exits, **tail.exits}.items():
            rows[stage].append(values)
        payloads = [codec.encode(row) for row in engine.encode(head.features, split)]
        sizes += [len(payload) for payload in payloads]
        arrived = np.concatenate([codec.decode(payload) for payload in payloads])
        restored = engine.decode(arrived, split)
        coded.append(engine.run(restored, split + 1, final, last, stop=False).exits[final])
    together = {stage: np.concatenate(parts) for stage, parts in rows.items()}
    return Answers(together, np.concatenate(coded), sizes)


def beside_int8(bundle: Bundle, sets: Mapping[str, LabelledImages]) -> dict[str, Any]:
    """Accuracy of every exit in float32 and in 8 bits, {set: {exit: {engine: accuracy}}}.

    Empty where the native engine is not built or lacks the bundle's graph.
    """
    engines = ('native', 'native-int8')
    if [choose_engine(bundle, name) for name in engines] != list(engines):
        return {}
    record: dict[str, Any] = {
        name: {str(exit_.stage): {} for exit_ in bundle.exits} for name in sets
    }
    everything: list[float | None] = [0.0] * len(bundle.stages)
    for which in engines:
        engine = load_engine(bundle, which)
        for name, data in sets.items():
            right = dict.fromkeys(record[name], 0)
            for x, rows in _inputs(data.images, bundle.input):
                said = engine.run(x, 0, bundle.final, everything, stop=False).exits
                for stage, values in said.items():
                    said_of, _ = bundle.judge(values)
                    right[str(stage)] += int((said_of == data.combined[rows]).sum())
            for stage, count in right.items():
                record[name][stage][which] = _rounded(count / len(data.labels))
    return record


def _inputs(
    images: NDArray[np.uint8], spec: InputSpec
) -> Iterator[tuple[NDArray[np.float32], slice]]:
    """Batch by batch what the network takes, for all in floating point may not fit into memory."""
    step = rows_at_once(*images.shape[1:3])
    for first in range(0, len(images), step):
        rows = slice(first, first + step)
        yield normalise(images[rows], spec), rows


def _judged(
    scores: NDArray[np.float32], data: LabelledImages
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """How confident each row of scores (N, K) is, and whether it is right: (N,) both."""
    labels, confidence = judge(scores, data.sizes)
    return confidence, labels == data.combined


def _figures(scores: NDArray[np.float32], data: LabelledImages) -> dict[str, Any]:
    found = _marks(*_judged(scores, data), data.groups)
    if len(data.tasks) > 1:
        tasks = zip(data.tasks, parts(scores, data.sizes), data.columns)
        found['tasks'] = {
            name: _marks(part.max(axis=1), part.argmax(axis=1) == labels, data.groups)
            for name, part, labels in tasks
        }
    return found


def _marks(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], groups: NDArray[np.int64]
) -> dict[str, Any]:
    low, high = interval(correct, groups)
    area, excess = risk_coverage(confidence, correct)
    return {
        'accuracy': _rounded(correct.mean()),
        'interval': [_rounded(low), _rounded(high)],
        'ece': _rounded(expected_calibration_error(confidence, correct)),
        'aurc': _rounded(area),
        'excess_aurc': _rounded(excess),
    }


def _rounded(value: Any) -> float:
    return round(float(value), 5)


def calibrated(
    logits: NDArray[np.float32], temperatures: Sequence[float], data: LabelledImages
) -> dict[str, float]:
    """Accuracy and calibration error of one exit's logits (N, K) at its tasks' temperatures."""
    confidence, correct = _judged(probabilities(logits, temperatures, data.sizes), data)
    ece = expected_calibration_error(confidence, correct)
    return {'accuracy': _rounded(correct.mean()), 'ece': _rounded(ece)}
