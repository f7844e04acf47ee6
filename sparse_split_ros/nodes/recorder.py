# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Records what a head decides, and the truth where somebody publishes it, into a bag."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sparse_split_ros.data.bags import BagError, Recording
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import TRANSPORTS
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.ros import (
    Classification,
    DiagnosticArray,
    QoSProfile,
    ReliabilityPolicy,
    serialize_message,
)

# Deep enough to wait for a disk; reliable, for what is missing looks like a lost answer.
_DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# Cameras publish best effort as a rule, which a reliable subscription would never hear.
_IMAGES = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_CLASSIFICATION = (Classification, 'vision_msgs/msg/Classification', _DEEP)
_DIAGNOSTICS = (DiagnosticArray, 'diagnostic_msgs/msg/DiagnosticArray', _DEEP)
# How long after a camera's first decision its answers and images are missed.
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class RecorderOptions:
    """Where to, what of which cameras, and when to stop.

    ``cameras`` and ``image_transport`` are as the head has them, ``tasks`` are those of its bundle
    beside the first. Stops after ``limit`` decisions,
    or ``idle_s`` s without one once there was one; 0 is never.
    """

    out: Path
    cameras: tuple[str, ...] = ('',)
    images: bool = False
    image_transport: str = 'raw'
    limit: int = 0
    idle_s: float = 0.0
    tasks: tuple[str, ...] = ()


class RecorderNode(StoppableNode):
    """Subscribes, writes, and says at the end how much it was."""

    def __init__(self, options: RecorderOptions, **kwargs: Any) -> None:
        super().__init__('recorder', **kwargs)
        self.decisions = 0
        self._options = options
        self._last = 0.0
        # Of the wall clock once: it may be set in mid-run, which would be a pause that never was.
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        # The cameras that decisions are of, as the head numbers them, and when one was new.
        self._cameras: set[str] = set()
        self._newest = 0.0
        self._heard: set[str] = set()
        self._warned_of: set[str] = set()
        prefixes = [f'{camera}/' if camera else '' for camera in dict.fromkeys(options.cameras)]
        # Before the decisions: what is ready is taken in this order, and the decision that ends
        # the recording is to have its answer.
        self._answers = [self._listen(f'{each}classification', *_CLASSIFICATION)
                         for each in prefixes]  # fmt: skip
        # The tasks of decisions, beside the first.
        self._tasks: set[str] = set()
        for each, task in product(prefixes, options.tasks):
            self._listen(f'{each}classification/{task}', *_CLASSIFICATION)
        # A player that feeds a camera may be in its namespace or not.
        for prefix in dict.fromkeys(('', *prefixes)):
            self._listen(f'{prefix}ground_truth', *_CLASSIFICATION)
            self._listen(f'{prefix}scene', *_CLASSIFICATION)
            for task in options.tasks:
                self._listen(f'{prefix}ground_truth/{task}', *_CLASSIFICATION)
        self._decided = self._listen('decision', *_DIAGNOSTICS)
        self._awaited = {self._decided, *self._answers}
        self._listen('/diagnostics', *_DIAGNOSTICS)
        kind, suffix = TRANSPORTS[options.image_transport]
        image = (kind, f'sensor_msgs/msg/{kind.__name__}', _IMAGES)
        # Remapped as the head does it: the base topic's remapping reaches its sibling.
        self._images = [self._listen(self.resolve_topic_name(f'{each}image') + suffix, *image)
                        for each in prefixes if options.images]  # fmt: skip
        # Last, for a topic that cannot be is to leave no bag behind.
        self._recording = Recording(options.out)
        # Not of ROS time, which may stand still.
        self.create_timer(0.2, self._look, clock=qos.steady_clock())
        self.get_logger().info(f'recording into {options.out}')

    def _listen(self, name: str, kind: Any, type_name: str, profile: QoSProfile) -> str:
        # Bags keep names as they resolve, so that a namespace tells robots apart.
        topic = self.resolve_topic_name(name)
        self.create_subscription(kind, name, partial(self._write, topic, type_name), profile)
        return topic

    def _write(self, topic: str, kind: str, message: Any) -> None:
        if self.done:
            return
        received = self._epoch_ns + time.monotonic_ns()
        try:
            self._recording.write(topic, kind, received, bytes(serialize_message(message)))
        except BagError as error:
            self._fail(error)
            return
        self._heard.add(topic)
        if self._awaited and self._awaited <= self._heard:
            self.get_logger().info(f'hears decisions and answers: {len(self._answers)} cameras')
            self._awaited = set()
        if topic == self._decided:
            self.decisions += 1
            self._last = time.monotonic()
            known = len(self._cameras)
            said = {pair.key: pair.value for each in message.status for pair in each.values}
            self._cameras.update(value for key, value in said.items() if key == 'source')
            self._tasks.update(key[len('class/') :] for key in said if key.startswith('class/'))
            if len(self._cameras) > known:
                self._newest = self._last
            self.done = self.decisions == self._options.limit

    def _fail(self, error: BagError) -> None:
        self.complain('not recorded', str(error))
        self.exit_status, self.done = 1, True

    def _look(self) -> None:
        now, idle = time.monotonic(), self._options.idle_s
        if now - self._newest > _PATIENCE_S:
            self._warn()
        self.done = self.done or (idle > 0 and self.decisions > 0 and now - self._last > idle)

    def _warn(self) -> None:
        """Say once what decisions are of and is not heard here: it cannot be had afterwards."""
        for topics, what, remedy in (
            (self._answers, 'answers', 'name all of its cameras by --cameras'),
            (
                self._images,
                'images',
                'name its cameras by --cameras, their topic by --ros-args -r image:=TOPIC, '
                'compressed ones by --image-transport compressed',
            ),
        ):
            missing = len(self._cameras) - len(self._heard.intersection(topics))
            if topics and missing > 0 and what not in self._warned_of:
                self._warned_of.add(what)
                self.get_logger().warning(
                    f"no {what} of {missing} of the head's {len(self._cameras)} cameras came on "
                    f'{", ".join(topics)}: {remedy}'
                )

        missed = sorted(self._tasks - set(self._options.tasks))
        if missed and 'tasks' not in self._warned_of:
            self._warned_of.add('tasks')
            self.get_logger().warning(
                f'the head also answers {", ".join(missed)}, of which no truth is recorded: name '
                f'them by --tasks {" ".join(missed)}'
            )

    def stop(self) -> None:
        """Complete the bag, or say why it cannot be."""
        self._warn()
        try:
            self._recording.close()
        except BagError as error:
            self._fail(error)
        self.get_logger().info(
            f'{self._options.out}: {self.decisions} decisions, {self._recording.count} messages'
        )


def record(options: RecorderOptions, args: list[str] | None = None) -> int:
    """Record until enough was decided, or SIGINT or SIGTERM. Raises BagError."""
    return run(partial(RecorderNode, options), args)
