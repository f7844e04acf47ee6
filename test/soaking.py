# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The soak: many frames through two processes and a bad link, and a tail that dies on the way."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from processes import Peer, Process, node, private_domain, ready, values_of

from sparse_split_ros.nodes import qos
from sparse_split_ros.ros import String
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.preprocess import prepare

RELAY = Path(__file__).with_name('relay.py')
DEADLINE_MS = 100.0
_IMAGES = 64


@dataclass
class Plan:
    """How long and how bad. Moments are shares of the frames: there the tail gets the signal."""

    frames: int = 1500
    rate_hz: float = 200.0
    share: float = 0.1
    delay_ms: float = 15.0
    seed: int = 0
    kills: tuple[float, ...] = (0.3, 0.7)
    restart_s: float = 1.0
    stops: tuple[float, ...] = (0.5,)
    stopped_s: float = 0.4


@dataclass
class Outcome:
    """What a soak showed. Times in ms; resident memory in MB, by process."""

    sent: int = 0
    received: int = 0
    accepted: int = 0
    dropped: int = 0
    rejected: int = 0
    failed: int = 0
    classified: int = 0
    missing: int = 0
    doubled: int = 0
    strange: int = 0
    routes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    total_ms: dict[str, float] = field(default_factory=dict)
    in_flight_max: int = 0
    recovered_s: list[float] = field(default_factory=list)
    rss_mb: dict[str, list[float]] = field(default_factory=dict)
    head_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> str:
        """All of it."""
        return json.dumps(asdict(self), indent=1)


_FAR_SIDE = {'features': 'features_out', 'tail/reply': 'reply_in'}


def _relay(plan: Plan) -> Process:
    words = []
    for name in ('seed', 'share', 'delay_ms'):
        words += ['-p', f'{name}:={getattr(plan, name)}']
    process = Process(str(RELAY), '--ros-args', *words)
    process.wait_for('relay delays')
    return process


def _tail(bundle: Bundle) -> Process:
    return node('tail', remap=_FAR_SIDE, bundle=bundle.path)


def _images(bundle: Bundle, seed: int) -> tuple[list[np.ndarray], float]:
    """Images, and the threshold that about a third of them reach on the robot."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(_IMAGES)]
    images = [(image * share).astype(np.uint8) for image, share in zip(images, rng.random(_IMAGES))]
    engine = load_engine(bundle)
    split = bundle.defaults.split
    thresholds = [2.0 if stage <= split else None for stage in range(len(bundle.stages))]
    sure = []
    for image in images:
        exits = engine.run(prepare(image, bundle.input), 0, split, thresholds).exits
        sure.append(max(float(rows.max()) for rows in exits.values()))
    return images, float(np.quantile(sure, 2 / 3))


def soak(bundle: Bundle, plan: Plan) -> Outcome:
    """Run a soak in a private domain of this host."""
    images, threshold = _images(bundle, plan.seed)
    outcome = Outcome(sent=plan.frames)
    relayed: list[String] = []
    with (
        private_domain(),
        Peer() as peer,
        node(
            'head', bundle=bundle.path, threshold=round(threshold, 6), deadline_ms=DEADLINE_MS
        ) as head,
        _relay(plan) as relay,
    ):
        tail = _tail(bundle)
        try:
            ready(head)
            ready(tail)
            peer.listen(String, 'relayed', relayed.append, qos.LATCHED)
            peer.warm_up('offboard', images)
            before = peer.diagnosed('/head: frames')
            start = time.monotonic()
            tail = _play(peer, plan, images, bundle, {'head': head, 'relay': relay}, tail, outcome)
            outcome.seconds = time.monotonic() - start
            _drain(peer, before, outcome)
        finally:
            tail.kill()
        outcome.head_errors = head.having('ERROR')
        assert head.stop() == 0 and 'Traceback' not in head.output, head.output
        relay.stop()
    if relayed:
        pairs = (entry.split(': ') for entry in relayed[-1].data.split('; '))
        outcome.faults = {name: int(count) for name, count in pairs}
    _judge(peer, outcome)
    return outcome


def _play(
    peer: Peer,
    plan: Plan,
    images: list[np.ndarray],
    bundle: Bundle,
    others: dict[str, Process],
    tail: Process,
    outcome: Outcome,
) -> Process:
    """Send all images at their pace, and do to the tail what is planned; returns the last tail."""
    kills = {int(plan.frames * share) for share in plan.kills}
    stops = {int(plan.frames * share) for share in plan.stops}
    restart = resume = float('inf')
    starting: Process | None = None
    greeted: float | None = None
    answered_before = 0
    start = time.monotonic()
    for number in range(plan.frames):
        due = start + number / plan.rate_hz
        peer.pause(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        peer.send(images[number % len(images)], (number, 1))
        if number in kills:
            tail.kill()
            restart = now + plan.restart_s
        if number in stops and tail.popen.poll() is None:
            tail.popen.send_signal(signal.SIGSTOP)
            resume = now + plan.stopped_s
        if now >= resume:
            resume = float('inf')
            tail.popen.send_signal(signal.SIGCONT)
        if now >= restart:
            restart = float('inf')
            starting = tail = _tail(bundle)
        if starting is not None and starting.having(' bundle '):
            starting, greeted = None, now
            answered_before = _answered(peer)
        if greeted is not None and _answered(peer) > answered_before:
            outcome.recovered_s.append(now - greeted)
            greeted = None
        if number % max(1, int(plan.rate_hz)) == 0:
            for name, process in (*others.items(), ('tail', tail)):
                outcome.rss_mb.setdefault(name, []).append(round(process.rss() / 1e6, 1))
            said = peer.diagnostics.get('/head: frames', {})
            outcome.in_flight_max = max(outcome.in_flight_max, int(said.get('in_flight', 0)))
    if resume < float('inf'):
        tail.popen.send_signal(signal.SIGCONT)
    return tail


def _answered(peer: Peer) -> int:
    return int(peer.diagnostics.get('/head: frames', {}).get('offboard', 0))


def _drain(peer: Peer, before: dict[str, str], outcome: Outcome) -> None:
    """Wait until the head has nothing left to decide; take its counts since the warm-up."""
    keys = ('received', 'accepted', 'dropped', 'rejected', 'failed')
    looks = 0

    def quiet(values: dict[str, str]) -> bool:
        nonlocal looks
        looks += 1
        received, accepted, *others = (int(values[key]) for key in keys[:4])
        # Two looks, a second apart: the first may be older than the last image.
        return looks > 1 and values['in_flight'] == '0' and received == accepted + sum(others)

    after = peer.diagnosed('/head: frames', quiet)
    for key in keys:
        setattr(outcome, key, int(after[key]) - int(before[key]))
    expected = outcome.accepted - outcome.failed
    peer.wait(lambda: len(peer.classifications) >= expected, 5.0)
    peer.wait(lambda: len(peer.decisions) >= expected, 5.0)


def _judge(peer: Peer, outcome: Outcome) -> None:
    """Compare what was answered with what was accepted."""
    stamps = Counter(
        (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id)
        for message in peer.classifications
    )
    decisions = [values_of(message) for message in peer.decisions]
    decided = Counter(
        (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id)
        for message in peer.decisions
    )
    sent = {(number, 1, 'camera') for number in range(outcome.sent)}
    outcome.classified = len(peer.classifications)
    outcome.missing = outcome.accepted - outcome.failed - len(set(stamps) & sent)
    outcome.doubled = sum(count - 1 for count in stamps.values())
    # Answers to nothing that was sent, and answers without their decision or the reverse.
    outcome.strange = len(set(stamps) - sent) + sum(
        ((stamps - decided) | (decided - stamps)).values()
    )
    outcome.routes = dict(Counter(decision['route'] for decision in decisions))
    outcome.reasons = dict(Counter(decision['reason'] for decision in decisions))
    totals = np.sort([float(decision['total_ms']) for decision in decisions])
    if totals.size:
        marks = (('p50', 0.5), ('p99', 0.99), ('p99.9', 0.999), ('max', 1.0))
        outcome.total_ms = {
            name: round(float(np.quantile(totals, q, method='higher')), 2) for name, q in marks
        }
