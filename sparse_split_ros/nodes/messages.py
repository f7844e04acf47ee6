# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run-time objects to messages and back."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.images import decode_compressed, decode_image
from sparse_split_ros.policy.decision import Decision, Route
from sparse_split_ros.policy.plan import shown_thresholds
from sparse_split_ros.ros import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    Image,
    KeyValue,
    LabelInfo,
    ObjectHypothesis,
    TimeMsg,
    VisionClass,
)

RGB = NDArray[np.uint8]


def octets(data: bytes | memoryview | NDArray[np.uint8]) -> array[int]:
    """Bytes as the ``array.array`` that rclpy stores as it is.

    Assigning bytes, lists or arrays to a ``uint8[]`` field is 100 to 1000 times slower.
    """
    values = array('B')
    values.frombytes(data)  # type: ignore[arg-type]
    return values


TRANSPORTS: dict[str, tuple[Any, str]] = {
    'raw': (Image, ''),
    'compressed': (CompressedImage, '/compressed'),
}
"""Message type, and what its topic ends in, by image transport."""


def image_of(msg: Image | CompressedImage) -> RGB:
    """The RGB image (H, W, 3), uint8, of a raw or compressed message; raises ImageError."""
    if not isinstance(msg, CompressedImage):
        return decode_image(
            msg.height, msg.width, msg.encoding, msg.is_bigendian, msg.step, msg.data
        )
    return decode_compressed(msg.data)


def recorded_header(stamp_ns: int, frame_id: str) -> Header:
    """A header as it was recorded, with a stamp that, unlike rclpy's Time, may be negative."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Header(stamp=TimeMsg(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def image_message(image: RGB, header: Header) -> Image:
    """A message of an RGB image (H, W, 3), ``rgb8``, or a grey one (H, W), ``mono8``; uint8."""
    height, width = image.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding='rgb8' if image.ndim == 3 else 'mono8',
        step=3 * width if image.ndim == 3 else width,
        data=octets(np.ascontiguousarray(image)),
    )


def wire_message(data: bytes, header: Header, format_: str) -> CompressedImage:
    """One of our frames in the only standard message with a header, a format and bytes."""
    return CompressedImage(header=header, format=format_, data=octets(data))


@dataclass(frozen=True)
class Labels:
    """Class names of a task, and how they stand in ``class_id``: by ``name`` or by ``index``.

    Of several tasks ``task`` is the name; its scores stand behind ``first`` of other tasks.
    """

    names: tuple[str, ...]
    by_index: bool = False
    task: str = ''
    first: int = 0

    @property
    def suffix(self) -> str:
        """What the task's topics end in; the first task's are those of a single one."""
        return f'/{self.task}' if self.first else ''

    def of(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of this task, of those of all (K,)."""
        return scores[self.first : self.first + len(self.names)]

    def best(self, scores: NDArray[np.float32]) -> str:
        """The most probable class of this task, of the scores of all (K,)."""
        return self.names[int(self.of(scores).argmax())]

    def classification(
        self, header: Header, scores: NDArray[np.float32], limit: int
    ) -> Classification:
        """The ``limit`` most probable classes (0 for all) in falling order, of all scores (K,)."""
        scores = self.of(scores)
        order = np.argsort(-scores, kind='stable')[: limit or None]
        results = [
            ObjectHypothesis(
                class_id=str(index) if self.by_index else self.names[index],
                score=float(scores[index]),
            )
            for index in order.tolist()
        ]
        return Classification(header=header, results=results)

    def info(self, threshold: float) -> LabelInfo:
        """All classes, for those who join late."""
        classes = [
            VisionClass(class_id=index, class_name=name) for index, name in enumerate(self.names)
        ]
        return LabelInfo(class_map=classes, threshold=threshold)


def labels_of(tasks: Mapping[str, tuple[str, ...]], by_index: bool) -> tuple[Labels, ...]:
    """The labels of each task of a bundle."""
    first = [0, *accumulate(map(len, tasks.values()))]
    return tuple(
        Labels(names, by_index, task, at) for (task, names), at in zip(tasks.items(), first)
    )


def named(header: Header, name: str, score: float = 1.0) -> Classification:
    """A classification of one certain result, as ground truth and scenes are published."""
    return Classification(header=header, results=[ObjectHypothesis(class_id=name, score=score)])


def status(
    level: bytes, name: str, message: str, hardware: str, values: dict[str, object]
) -> DiagnosticStatus:
    """A diagnostic status; floats are written with four significant digits."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[
            KeyValue(key=key, value=f'{value:.4g}' if isinstance(value, float) else str(value))
            for key, value in values.items()
        ],
    )


def decision_message(decision: Decision, header: Header, *labels: Labels) -> DiagnosticArray:
    """How a frame was decided, for plots, bags and evaluation; ``labels`` are of each task."""
    times = decision.times
    values: dict[str, object] = {
        'sequence': decision.sequence,
        'source': decision.source,
        'route': decision.route.value,
        'reason': decision.reason.value,
        **({'tasks': ' '.join(each.task for each in labels)} if len(labels) > 1 else {}),
        **{f'class{each.suffix}': each.best(decision.scores) for each in labels},
        'exit': decision.exit,
        'split': decision.plan.split,
        'codec': decision.plan.codec,
        'confidence': decision.confidence,
        'threshold': decision.threshold,
        'thresholds': shown_thresholds(decision.plan.thresholds),
        'exits': ' '.join(f'{said.stage}:{said.confidence:.4f}' for said in decision.exits),
        'audit': decision.audit,
        'audit_probability': decision.plan.audit_probability,
        'payload_bytes': decision.payload_bytes,
        'scene': decision.scene.name,
        'luminance': decision.scene.luminance,
        'contrast': decision.scene.contrast,
        'queue_ms': times.queue,
        'prepare_ms': times.prepare,
        'compute_ms': times.compute,
        'offboard_ms': times.offboard,
        'tail_ms': times.tail,
        'total_ms': times.total,
    }
    level = DiagnosticStatus.WARN if decision.route is Route.FALLBACK else DiagnosticStatus.OK
    text = f'{decision.route.value}: {decision.reason.value}'
    return DiagnosticArray(header=header, status=[status(level, 'decision', text, '', values)])


# Pixels of an annotated image.
_WIDEST = 640
_COLOURS = {
    Route.LOCAL: (60, 200, 90),
    Route.OFFBOARD: (70, 140, 255),
    Route.FALLBACK: (255, 150, 40),
}


def annotate(image: RGB, decision: Decision, *labels: Labels) -> RGB:
    """The image, sized to be read, with the answer, its route and its exit written below.

    ``labels`` are those of each task.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    # A larger one costs the frames after it time, and may not fit the receive buffers of a viewer.
    scale = max(1, 256 // side) if side <= _WIDEST else _WIDEST / side
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    picture = cv2.copyMakeBorder(picture, 0, 44, 0, max(0, 256 - picture.shape[1]), 0)
    y = picture.shape[0] - 26
    lines = (
        ', '.join(
            f'{each.best(decision.scores)} {each.of(decision.scores).max():.0%}' for each in labels
        ),
        f'{decision.route.value} exit {decision.exit} {decision.scene.name}',
    )
    for line in lines:
        cv2.putText(
            picture, line, (6, y), cv2.FONT_HERSHEY_SIMPLEX, 0.48, _COLOURS[decision.route], 1,
            cv2.LINE_AA,
        )  # fmt: skip
        y += 18
    return np.asarray(picture, np.uint8)
