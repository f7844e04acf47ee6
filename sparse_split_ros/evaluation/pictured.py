# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The honest rival: every frame as a JPEG or WebP picture to a full network offboard."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.evaluation.replay import Link, Replay, World, arrival
from sparse_split_ros.evaluation.stream import View, full_network
from sparse_split_ros.link.frame import PREAMBLE_BYTES
from sparse_split_ros.policy.decision import Reason, Route
from sparse_split_ros.runtime.engine import Engine
from sparse_split_ros.runtime.preprocess import normalise

KINDS = ('jpeg', 'webp')
# Segments that are the same in every picture of one quality: APPn, tables, comments.
_RESTATED = frozenset((*range(0xE0, 0xF0), 0xC4, 0xDB, 0xDD, 0xFE))
_RIFF_HEADER = 20
# Frames whose pictures are remembered: more than can wait for an answer within any deadline.
_KEPT = 4096


def encode(image: NDArray[np.uint8], kind: str, quality: int) -> bytes:
    """An RGB image (H, W, 3) uint8 as JPEG or WebP at a quality of 1 to 100."""
    suffix, flag = {
        'jpeg': ('.jpg', cv2.IMWRITE_JPEG_QUALITY),
        'webp': ('.webp', cv2.IMWRITE_WEBP_QUALITY),
    }[kind]
    return bytes(cv2.imencode(suffix, image[..., ::-1], [flag, quality])[1])


def wire_bytes(data: bytes, kind: str) -> int:
    """What of a picture has to travel when both ends know everything that never changes.

    Of a JPEG that leaves out its quantisation and Huffman tables (an abbreviated stream, ITU-T T.81
    annex B.5) and its application segments; of a WebP the RIFF container's headers.
    """
    if kind == 'webp':
        return len(data) - _RIFF_HEADER
    size, at = 2, 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        (length,) = struct.unpack_from('>H', data, at + 2)
        if marker == 0xDA:  # the scan, which runs to the end
            return size + len(data) - at
        size += 0 if marker in _RESTATED else 2 + length
        at += 2 + length
    raise ValueError('a JPEG without a scan')


class Pictured:
    """Codes views ahead of time and remembers what the full network says of the pictures."""

    def __init__(self, engine: Engine, kind: str, quality: int) -> None:
        self.name = f'{kind}@{quality}'
        self.reply_bytes = PREAMBLE_BYTES + 4 * len(engine.bundle.classes)
        self._engine = engine
        self._kind, self._quality = kind, quality
        self._known: dict[int, tuple[int, int, float]] = {}

    def prepare(self, views: list[View]) -> None:
        """Code, decode and classify these views in one batch; forget what is long decided."""
        old = views[0].index - _KEPT
        self._known = {index: known for index, known in self._known.items() if index >= old}
        coded = [encode(view.shown, self._kind, self._quality) for view in views]
        seen = [_decode(data) for data in coded]
        scores = full_network(self._engine, normalise(np.stack(seen), self._engine.bundle.input))
        for view, data, row in zip(views, coded, scores):
            size = PREAMBLE_BYTES + wire_bytes(data, self._kind)
            label, confidence = self._engine.bundle.judge(row)
            self._known[view.index] = size, int(label), float(confidence)

    def size(self, view: View) -> int:
        """The bytes of a view's picture and its preamble."""
        return self._known[view.index][0]

    def said(self, view: View) -> tuple[int, int, float]:
        """The bytes of a view's picture, and the full network's answer to it, how sure it is."""
        return self._known[view.index]


def _decode(data: bytes) -> NDArray[Any]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None, 'our own picture'
    return np.ascontiguousarray(decoded[..., ::-1])


class PictureReplay(Replay):
    """Sends every frame as a compressed picture to a full network offboard, which answers.

    The robot has no network: a frame without an answer in time has no answer. ``kind`` is jpeg or
    webp. The picture is of the network's input, really coded and decoded.
    """

    def __init__(self, world: World, link: Link, kind: str, quality: int) -> None:
        super().__init__(world, link)
        self._pictures = Pictured(world.engine, kind, quality)
        self._coding_ms = getattr(world.robot, kind)
        self._server_ms = world.offboard.full + getattr(world.offboard, kind)
        self._server_free = -math.inf
        self._open: dict[int, tuple[View, float]] = {}

    def prepare(self, views: list[View]) -> None:
        """Code all pictures, and ask the full network of all at once."""
        self._pictures.prepare(views)

    def _take_up(self, view: View) -> None:
        self.accepted += 1
        ready_ms = self._world.robot.prepare + self._coding_ms
        self._at(self.now + ready_ms / 1e3, partial(self._sent, view, self.now))

    def _sent(self, view: View, taken: float) -> None:
        due = arrival(view) + self._world.deadline
        self._open[view.index] = view, taken
        arrives = self._link.send(self._pictures.size(view), self.now)
        if arrives is not None:
            self._at(arrives, partial(self._at_server, view, self.now))
        self._at(max(due, self.now), partial(self._missed, view, self.now))
        self._idle()

    def _at_server(self, view: View, sent: float) -> None:
        self._server_free = max(self.now, self._server_free) + self._server_ms / 1e3
        self._at(self._server_free, partial(self._served, view, sent, self.now))

    def _served(self, view: View, sent: float, came: float) -> None:
        arrives = self._link.send(self._pictures.reply_bytes, self.now, back=True)
        if arrives is not None:
            tail_ms = (self.now - came) * 1e3
            self._at(arrives, partial(self._answered, view, sent, tail_ms))

    def _answered(self, view: View, sent: float, tail_ms: float) -> None:
        if view.index in self._open:
            self._decide(view, sent, Route.OFFBOARD, Reason.ANSWERED, tail_ms)

    def _missed(self, view: View, sent: float) -> None:
        if view.index in self._open:
            self._decide(view, sent, Route.FALLBACK, Reason.DEADLINE, 0.0)

    def _decide(
        self, view: View, sent: float, route: Route, reason: Reason, tail_ms: float
    ) -> None:
        _, taken = self._open.pop(view.index)
        size, label, confidence = self._pictures.said(view)
        latency = (self.now - arrival(view)) * 1e3
        answered = route is Route.OFFBOARD
        missed = not answered
        named = self._world.engine.bundle.named
        # No bundle estimates what coding a picture takes.
        joules = self._world.costs.watts * self._coding_ms / 1e3
        self._close(
            replace(
                self._known(view),
                answer=named(label) if answered else None,
                route=route,
                reason=reason,
                exit=self._world.engine.bundle.final,
                confidence=confidence if answered else math.nan,
                payload_bytes=size,
                latency=latency,
                end_to_end=latency,
                compute=self._coding_ms,
                offboard=(self.now - sent) * 1e3,
                tail=tail_ms,
                queue=(taken - arrival(view)) * 1e3,
                prepare=self._world.robot.prepare,
                codec=self._pictures.name,
                full=named(view.full),
                cost=self._charge(latency, size, joules, missed=missed),
            )
        )
