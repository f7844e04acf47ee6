# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The offboard node: feature frames of one or several robots in, one reply to each out."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from functools import partial
from queue import SimpleQueue
from typing import Any

from sparse_split_ros.link.announcement import Announcement
from sparse_split_ros.link.frame import REPLY_FORMAT, Status
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import labels_of, status, wire_message
from sparse_split_ros.nodes.parameters import TAIL, Parameters
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.ros import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    LabelInfo,
    String,
)
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.tail import Answer, Tail

_HEARTBEAT_S = 0.5
_LAST_BATCH_S = 1.0


class TailNode(StoppableNode):
    """Runs the stages after the split for whoever sends features, one model for all robots."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('tail', **kwargs)
        self.settings = Parameters(self, TAIL)
        settings = self.settings
        self.bundle = Bundle.load(bundle_path(settings.bundle))
        first = min((split.stage for split in self.bundle.splits), default=self.bundle.final) + 1
        engine = load_engine(
            self.bundle,
            settings.engine,
            settings.device,
            settings.threads,
            range(first, self.bundle.final + 1),
        )
        self._engine = engine
        self._labels = labels_of(self.bundle.tasks, settings.class_id_format == 'index')
        self.tail = Tail(
            engine,
            robots=len(settings.robots),
            queue=settings.queue,
            max_batch=settings.max_batch,
        )
        self._session = secrets.randbits(32)
        # A token wakes the worker, which then takes all that waits: half the time of a condition.
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._stopping = False
        self.received = 0
        self.failed = 0
        # When the diagnostics last looked: what went wrong, and what came too late.
        self._troubles = (0, 0)
        self._connect()
        self._worker = threading.Thread(target=self._work, name='tail worker', daemon=True)
        self._worker.start()
        self.get_logger().info(
            f'tail serves bundle {self.bundle.name} ({self.bundle.fingerprint.hex()}) on '
            f'{engine.name}, session {self._session:08x}'
        )

    def _connect(self) -> None:
        """Make every publisher, subscription and timer; none is made or destroyed later."""
        wire = qos.RELIABLE_WIRE if self.settings.reliable else qos.WIRE
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.RESULT)
        self._replies = []
        self._classifications = []
        self._announcements = []
        self._label_infos = []
        for robot, name in enumerate(self.settings.robots):
            prefix = f'{name.rstrip("/")}/' if name else ''
            self._replies.append(
                self.create_publisher(
                    CompressedImage, f'{prefix}tail/reply', **qos.overridable(wire)
                )
            )
            self._classifications.append(
                [
                    self.create_publisher(
                        Classification, f'{prefix}tail/classification{each.suffix}', qos.RESULT
                    )
                    for each in self._labels
                ]
            )
            for each in self._labels:
                topic = f'{prefix}tail/label_info{each.suffix}'
                info = self.create_publisher(LabelInfo, topic, qos.LATCHED)
                info.publish(each.info(0.0))
                self._label_infos.append(info)
            self.create_subscription(
                CompressedImage,
                f'{prefix}features',
                partial(self._on_features, robot),
                **qos.overridable(wire),
            )
            self._announcements.append(
                self.create_publisher(String, f'{prefix}tail/status', qos.LATCHED)
            )
        self._announce()
        self.create_timer(_HEARTBEAT_S, self._announce, clock=qos.steady_clock())
        self.create_timer(1.0, self._diagnose, clock=qos.steady_clock())

    def _announce(self) -> None:
        """Say who we are: latched for those who come, repeated so that silence means something."""
        name = f'{socket.gethostname()}{self.get_fully_qualified_name()}'
        text = Announcement(name, self._session, (self.bundle.fingerprint.hex(),)).to_json()
        for publisher in self._announcements:
            publisher.publish(String(data=text))

    def _on_features(self, robot: int, message: CompressedImage) -> None:
        self.received += 1
        answer = self.tail.submit(robot, message.header, memoryview(message.data), time.monotonic())
        if answer is not None:
            self._publish(answer)
            return
        if self._arrived.empty():
            self._arrived.put(None)

    def _work(self) -> None:
        """Answer batches until told to stop; whatever goes wrong with one costs that one."""
        while not self._stopping:
            self._arrived.get()
            while len(self.tail) and not self._stopping:
                try:
                    for answer in self.tail.process(time.monotonic):
                        self._publish(answer)
                except Exception as error:
                    self.failed += 1
                    self.complain('batch lost', f'{type(error).__name__}: {error}')

    def _publish(self, answer: Answer) -> None:
        reply = answer.reply
        self._replies[answer.robot].publish(
            wire_message(reply.to_bytes(), answer.header, REPLY_FORMAT)
        )
        if reply.status is Status.OK:
            limit = self.settings.max_results
            # Nobody on the robot needs these copies, so they are made only while a person looks.
            for publisher, labels in zip(self._classifications[answer.robot], self._labels):
                if publisher.get_subscription_count():
                    publisher.publish(labels.classification(answer.header, reply.scores, limit))
        elif reply.status is not Status.EXPIRED:
            self.complain(reply.status.name, answer.error)

    def _diagnose(self) -> None:
        counts = self.tail.counts
        late = counts.overrun + counts.statuses[Status.EXPIRED]
        wrong = self.failed + sum(
            n for kind, n in counts.statuses.items() if kind not in (Status.OK, Status.EXPIRED)
        )
        # Degraded is what went wrong since the last look, not once upon a time.
        text = 'running'
        if wrong > self._troubles[0]:
            text = self.last_error
        elif late > self._troubles[1]:
            text = f'{late - self._troubles[1]} frames came too late, or more than can be answered'
        self._troubles = wrong, late
        values: dict[str, object] = {
            'received': self.received,
            **{f'status {kind.name}': n for kind, n in counts.statuses.items()},
            'overrun': counts.overrun,
            'batches': counts.batches,
            'mean_batch': counts.statuses[Status.OK] / max(1, counts.batches),
            'waiting': len(self.tail),
            'failed': self.failed,
            'robots': ', '.join(self.settings.robots),
            'bundle': self.bundle.name,
            'fingerprint': self.bundle.fingerprint.hex(),
            'engine': self._engine.name,
            'last_error': self.last_error,
        }
        level = DiagnosticStatus.OK if text == 'running' else DiagnosticStatus.WARN
        name = f'{self.get_fully_qualified_name()}: replies'
        self._diagnostics.publish(
            DiagnosticArray(
                header=Header(stamp=self.get_clock().now().to_msg()),
                status=[status(level, name, text, socket.gethostname(), values)],
            )
        )

    def stop(self) -> None:
        """Finish the batch in hand and take no other; the robots fall back by themselves."""
        self._stopping = True
        self._arrived.put(None)
        self._worker.join(_LAST_BATCH_S)


def main(args: list[str] | None = None) -> int:
    """Run the tail until SIGINT or SIGTERM."""
    return run(TailNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
