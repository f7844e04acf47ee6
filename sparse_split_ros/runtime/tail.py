# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The offboard side: takes feature frames of several robots, batches what waits, answers each once.

Like the head it owns no thread and reads no clock; times are steady seconds. Only
:meth:`Tail.process` runs the network, and it may run beside :meth:`Tail.submit` in another thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_split_ros.link.codec import Codec, CodecError
from sparse_split_ros.link.frame import FeatureFrame, FrameError, ReplyFrame, Status
from sparse_split_ros.runtime.engine import EngineError

if TYPE_CHECKING:
    from sparse_split_ros.runtime.engine import Engine

_NO_SCORES = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Answer:
    """A reply, with the robot it goes to and the header its image came with."""

    robot: int
    header: Any
    reply: ReplyFrame
    # Why the reply is no answer, in words for a person; empty when it is one.
    error: str = ''


@dataclass
class TailCounts:
    """What happened since start: answers by status, and frames pushed out of a full queue."""

    statuses: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    batches: int = 0
    overrun: int = 0


@dataclass(frozen=True)
class _Waiting:
    robot: int
    header: Any
    frame: FeatureFrame
    arrived: float


class Tail:
    """Runs the stages after the split.

    ``queue`` bounds what waits per robot (the oldest goes first: it is the most likely to be late),
    and ``max_batch`` what one run of the network takes.
    """

    def __init__(self, engine: Engine, *, robots: int = 1, queue: int = 16, max_batch: int = 16):
        self.counts = TailCounts()
        self._engine = engine
        self._bundle = engine.bundle
        self._max_batch = max_batch
        self._queues: list[deque[_Waiting]] = [deque(maxlen=queue) for _ in range(robots)]
        self._turn = 0
        self._lock = threading.Lock()
        self._codecs: dict[tuple[int, int], Codec] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def submit(
        self, robot: int, header: Any, data: bytes | memoryview, now: float
    ) -> Answer | None:
        """A feature frame came; None when it now waits, an answer at once when it is refused."""
        try:
            frame = FeatureFrame.parse(data)
            self._check(frame)
        except FrameError as error:
            return self._refuse(robot, header, error)
        with self._lock:
            queue = self._queues[robot]
            self.counts.overrun += len(queue) == queue.maxlen
            queue.append(_Waiting(robot, header, frame, now))
        return None

    def _check(self, frame: FeatureFrame) -> None:
        """Whether this bundle can take the frame; raises FrameError."""
        if frame.fingerprint != self._bundle.fingerprint:
            raise FrameError(
                f'feature frame is of bundle {frame.fingerprint.hex()}, this tail serves '
                f'{self._bundle.fingerprint.hex()}: start both with the same bundle',
                Status.WRONG_BUNDLE, frame.key,
            )  # fmt: skip
        splits = [split.stage for split in self._bundle.splits]
        if frame.split not in splits:
            raise FrameError(
                f'feature frame is cut at stage {frame.split}, this bundle can be at {splits}',
                Status.WRONG_SPLIT, frame.key,
            )  # fmt: skip
        codecs = list(self._bundle.split_at(frame.split).codecs)
        if frame.codec.label not in codecs:
            raise FrameError(
                f'feature frame is coded as {frame.codec.label}, this split has {codecs}',
                Status.WRONG_CODEC, frame.key,
            )  # fmt: skip

    def _refuse(self, robot: int, header: Any, error: FrameError) -> Answer:
        session, sequence = error.key or (0, 0)
        self.counts.statuses[error.status] += 1
        reply = ReplyFrame(error.status, self._bundle.fingerprint, session, sequence, _NO_SCORES)
        return Answer(robot, header, reply, str(error))

    def process(self, clock: Callable[[], float]) -> list[Answer]:
        """Answer one batch of what waits, of one split; ``clock`` gives steady seconds.

        Frames whose time ran out are answered as EXPIRED without computing them: the robot has
        decided already, and others still wait.
        """
        batch = self._take()
        if not batch:
            return []
        start = clock()
        answers: list[Answer] = []
        inputs = []
        live = []
        for item in batch:
            if (start - item.arrived) * 1e3 > item.frame.budget_ms:
                answers.append(
                    self._answer(item, Status.EXPIRED, clock(), error='expired in the queue')
                )
                continue
            try:
                inputs.append(self._codec(item.frame).decode(item.frame.payload))
                live.append(item)
            except CodecError as error:
                answers.append(self._answer(item, Status.BAD_PAYLOAD, clock(), error=str(error)))
        if live:
            answers += self._run(live, np.concatenate(inputs), clock)
        return answers

    def _take(self) -> list[_Waiting]:
        """Up to ``max_batch`` frames of one split, robots in turn."""
        batch: list[_Waiting] = []
        with self._lock:
            while len(batch) < self._max_batch:
                count = len(self._queues)
                order = [self._queues[(self._turn + i) % count] for i in range(count)]
                fits = [
                    i for i, queue in enumerate(order)
                    if queue and (not batch or queue[0].frame.split == batch[0].frame.split)
                ]  # fmt: skip
                if not fits:
                    break
                batch.append(order[fits[0]].popleft())
                self._turn = (self._turn + fits[0] + 1) % count
        return batch

    def _run(
        self, live: list[_Waiting], coded: np.ndarray, clock: Callable[[], float]
    ) -> list[Answer]:
        split, final = live[0].frame.split, self._bundle.final
        thresholds: list[float | None] = [None] * final + [0.0]
        try:
            features = self._engine.decode(coded, split)
            result = self._engine.run(features, split + 1, final, thresholds)
            scores = result.exits[final]
        except EngineError as error:
            if len(live) > 1:
                # One robot's frame must not cost the others theirs.
                rows = zip(live, coded)
                return [it for item, row in rows for it in self._run([item], row[None], clock)]
            now = clock()
            return [self._answer(item, Status.FAILED, now, error=str(error)) for item in live]
        self.counts.batches += 1
        now = clock()
        return [
            self._answer(item, Status.OK, now, np.clip(row, 0, 1))
            for item, row in zip(live, scores)
        ]

    def _answer(
        self,
        item: _Waiting,
        status: Status,
        now: float,
        scores: np.ndarray = _NO_SCORES,
        error: str = '',
    ) -> Answer:
        self.counts.statuses[status] += 1
        session, sequence = item.frame.key
        tail_us = int((now - item.arrived) * 1e6)
        reply = ReplyFrame(status, self._bundle.fingerprint, session, sequence, scores, tail_us)
        return Answer(item.robot, item.header, reply, error)

    def _codec(self, frame: FeatureFrame) -> Codec:
        key = (frame.split, int(frame.codec))
        if key not in self._codecs:
            split = self._bundle.split_at(frame.split)
            name = frame.codec.label
            self._codecs[key] = Codec.from_calibration(name, split.shape, split.codecs[name])
        return self._codecs[key]
