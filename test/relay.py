# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bad link as a node: what goes through it is delayed, and damaged by seed.

Forwards ``features`` to ``features_out`` and ``reply_in`` to ``tail/reply``; the tail is remapped
to the far side. A share of the messages meets one of the faults, each as likely.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import octets
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.ros import CompressedImage, Publisher, String

# A message that is overtaken or late comes this many times the link's delay later.
_LATE = 2.0


class Fault(Enum):
    """What can happen to a message on its way."""

    DROP = 'drop'
    DELAY = 'delay'
    DUPLICATE = 'duplicate'
    REORDER = 'reorder'
    TRUNCATE = 'truncate'
    CORRUPT = 'corrupt'


class RelayNode(StoppableNode):
    """Forwards both ways; says what it did to how many messages on ``relayed``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('relay', **kwargs)
        read = {
            name: self.declare_parameter(name, default).value
            for name, default in (('seed', 0), ('share', 0.1), ('delay_ms', 20.0), ('faults', ['']))
        }
        self._share, self._delay = float(read['share']), float(read['delay_ms']) * 1e-3
        names = [name for name in read['faults'] if name]
        self._faults = [Fault(name) for name in names] or list(Fault)
        self._random = np.random.default_rng(int(read['seed']))
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Publisher, CompressedImage]] = []
        self._queued = threading.Condition()
        self._stopping = False
        self.counts: Counter[str] = Counter()
        ways = (('features', 'features_out'), ('reply_in', 'tail/reply'))
        for source, target in ways:
            publisher = self.create_publisher(CompressedImage, target, qos.WIRE)
            self.create_subscription(
                CompressedImage,
                source,
                partial(self._on_message, source, publisher),
                qos.WIRE,
            )
        self._said = self.create_publisher(String, 'relayed', qos.LATCHED)
        self.create_timer(0.5, self._say, clock=qos.steady_clock())
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()
        self.get_logger().info(f'relay delays by {self._delay * 1e3:g} ms')

    def _on_message(self, way: str, publisher: Publisher, message: CompressedImage) -> None:
        delay, copies = self._delay, 1
        self.counts[f'{way} passed'] += 1
        if self._random.random() < self._share:
            fault = self._faults[self._random.integers(len(self._faults))]
            self.counts[f'{way} {fault.value}'] += 1
            data = bytearray(bytes(message.data))
            if fault is Fault.DROP:
                copies = 0
            elif fault is Fault.DUPLICATE:
                copies = 2
            elif fault is Fault.REORDER:
                delay *= 1 + self._random.random()
            elif fault is Fault.DELAY:
                delay *= 1 + _LATE * (1 + self._random.random())
            elif fault is Fault.TRUNCATE:
                del data[self._random.integers(len(data)) :]
            else:
                data[self._random.integers(len(data))] ^= 1 << int(self._random.integers(8))
            message.data = octets(bytes(data))
        due = time.monotonic() + delay
        with self._queued:
            for _ in range(copies):
                heapq.heappush(self._queue, (due, next(self._order), publisher, message))
            self._queued.notify()

    def _deliver(self) -> None:
        while True:
            with self._queued:
                if self._stopping:
                    return
                wait = self._queue[0][0] - time.monotonic() if self._queue else None
                if wait is None or wait > 0:
                    self._queued.wait(wait)
                    continue
                _, _, publisher, message = heapq.heappop(self._queue)
            publisher.publish(message)

    def _say(self) -> None:
        counts = sorted(self.counts.items())
        self._said.publish(String(data='; '.join(f'{name}: {n}' for name, n in counts)))

    def stop(self) -> None:
        """Deliver nothing more."""
        with self._queued:
            self._stopping = True
            self._queued.notify()
        self._thread.join(1.0)


if __name__ == '__main__':
    raise SystemExit(run(RelayNode))
