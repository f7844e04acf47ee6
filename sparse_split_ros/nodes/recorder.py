# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Records what a head decides, and the truth where somebody publishes it, into a bag."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparse_split_ros.data.bags import BagError, Recording
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.ros import (
    Classification,
    DiagnosticArray,
    Image,
    QoSProfile,
    ReliabilityPolicy,
    serialize_message,
)

# Deep enough to wait for a disk; reliable, for what is missing looks like a lost answer.
_DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
# Cameras publish best effort as a rule, which a reliable subscription would never hear.
_IMAGES = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_TOPICS = {
    'classification': (Classification, 'vision_msgs/msg/Classification'),
    'decision': (DiagnosticArray, 'diagnostic_msgs/msg/DiagnosticArray'),
    'ground_truth': (Classification, 'vision_msgs/msg/Classification'),
    'scene': (Classification, 'vision_msgs/msg/Classification'),
    '/diagnostics': (DiagnosticArray, 'diagnostic_msgs/msg/DiagnosticArray'),
}
_IMAGE = (Image, 'sensor_msgs/msg/Image')


@dataclass(frozen=True)
class RecorderOptions:
    """Where to, whether with images, and when to stop.

    After ``limit`` decisions, or ``idle_s`` s without one once there was one; 0 is never.
    """

    out: Path
    images: bool = False
    limit: int = 0
    idle_s: float = 0.0


class RecorderNode(StoppableNode):
    """Subscribes, writes, and says at the end how much it was."""

    def __init__(self, options: RecorderOptions, **kwargs: Any) -> None:
        super().__init__('recorder', **kwargs)
        self.decisions = 0
        self._options = options
        self._last = 0.0
        self._recording = Recording(options.out)
        for name, (kind, type_name) in _TOPICS.items():
            self._listen(name, kind, type_name, _DEEP)
        if options.images:
            self._listen('image', *_IMAGE, _IMAGES)
        self.create_timer(0.2, self._look)
        self.get_logger().info(f'recording into {options.out}')

    def _listen(self, name: str, kind: Any, type_name: str, profile: QoSProfile) -> None:
        # Bags keep names as they resolve, so that a namespace tells robots apart.
        topic = self.resolve_topic_name(name)
        self.create_subscription(kind, name, partial(self._write, topic, type_name), profile)

    def _write(self, topic: str, kind: str, message: Any) -> None:
        if self.done:
            return
        try:
            self._recording.write(topic, kind, time.time_ns(), bytes(serialize_message(message)))
        except BagError as error:
            self.complain('not recorded', str(error))
            self.exit_status, self.done = 1, True
            return
        if topic.endswith('/decision'):
            self.decisions += 1
            self._last = time.monotonic()

    def _look(self) -> None:
        limit, idle = self._options.limit, self._options.idle_s
        enough = 0 < limit <= self.decisions
        silent = idle > 0 and self.decisions > 0 and time.monotonic() - self._last > idle
        self.done = self.done or enough or silent

    def stop(self) -> None:
        """Complete the bag."""
        self._recording.__exit__()
        self.get_logger().info(
            f'{self._options.out}: {self.decisions} decisions, {self._recording.count} messages'
        )


def record(options: RecorderOptions, args: list[str] | None = None) -> int:
    """Record until enough was decided, or SIGINT or SIGTERM. Raises BagError."""
    return run(partial(RecorderNode, options), args)
