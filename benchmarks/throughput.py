# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How many frames a second one head sustains, and how many robots one tail serves.

Both run as nodes in processes of their own, over the real middleware on this host. The head is
sent images at rising rates until it drops a fifth of them. The tail is sent recorded feature frames
of the shipped bundle, each robot at 30 Hz with half of its frames offloaded, by more and more
robots until the 99th percentile of the round trip breaks the deadline or 1 % get no answer. The
sender shares the machine, so both figures are lower bounds.

    python benchmarks/throughput.py [--seconds 5] [--json result.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / 'test'), str(Path(__file__).parents[1])]

import numpy as np
from processes import Peer, node, private_domain, ready, values_of

from sparse_split_ros.data.drive import Drive, render_drive
from sparse_split_ros.link.codec import Codec, codec_id
from sparse_split_ros.link.frame import FEATURE_FORMAT, FeatureFrame, ReplyFrame
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import wire_message
from sparse_split_ros.ros import CompressedImage, Header, QoSProfile, ReliabilityPolicy
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.preprocess import prepare

DEADLINE_MS = 100.0
LOST = 0.01
# A head that drops so much does all it can.
SATURATED = 0.2
MARKS = {'head_fps': 200, 'robots': 20}
HEAD_RATES = (100, 200, 400, 600, 800, 1000, 1200)
ROBOTS = (1, 5, 10, 20, 40, 60, 80, 100)
# Half of 30 Hz.
OFFLOADED_HZ = 15.0


def images(count: int = 200) -> list[np.ndarray]:
    """Pictures of the drawn drive."""
    return [frame.image for frame in itertools.islice(render_drive(Drive(rate=4.0)), count)]


def paced(rate_hz: float, seconds: float) -> Any:
    """Numbers at this rate; as many as fit, so late ones are caught up."""
    start = time.monotonic()
    for number in range(int(rate_hz * seconds)):
        time.sleep(max(0.0, start + number / rate_hz - time.monotonic()))
        yield number


def head(pictures: list[np.ndarray], seconds: float) -> list[dict[str, float]]:
    """Decisions a second of one head at each rate, up to the first that is far too much."""
    rows = []
    for rate in HEAD_RATES:
        with (
            private_domain(),
            node('head', policy='fixed', deadline_ms=DEADLINE_MS) as process,
            node('tail') as tail,
            Peer() as peer,
        ):
            ready(process)
            ready(tail)
            peer.warm_up(images=pictures)
            start = time.monotonic()
            for number in paced(rate, seconds):
                peer.send(pictures[number % len(pictures)], (1 + number // 1000, number % 1000))
            sending = time.monotonic() - start
            sent = int(rate * seconds)
            peer.wait(lambda sent=sent: len(peer.decisions) >= sent, 0.5)
            decided = len(peer.decisions)
            totals = [float(values_of(each)['total_ms']) for each in peer.decisions]
        row = {
            'asked_fps': rate, 'sent_fps': round(sent / sending, 1),
            'decided_fps': round(decided / sending, 1), 'dropped': round(1 - decided / sent, 4),
            'p99_ms': round(float(np.percentile(totals, 99)), 2),
        }  # fmt: skip
        rows.append(row)
        print(f'head   {row}')
        if row['dropped'] > SATURATED:
            break
    return rows


def feature_frames(bundle: Bundle, pictures: list[np.ndarray]) -> list[bytes]:
    """Payloads of the default split and codec, as a robot would send them."""
    engine = load_engine(bundle)
    split = bundle.split_at(bundle.defaults.split)
    codec = Codec.from_calibration(
        bundle.defaults.codec, split.shape, split.codecs[bundle.defaults.codec]
    )
    nothing = [None] * len(bundle.stages)
    payloads = []
    for picture in pictures:
        x = prepare(picture, bundle.input)
        features = engine.run(x, 0, split.stage, nothing, stop=False).features
        assert features is not None
        payloads.append(codec.encode(engine.encode(features, split.stage)))
    return payloads


class Robots:
    """So many robots that replay recorded frames, all in one node."""

    def __init__(self, peer: Peer, bundle: Bundle, names: list[str]) -> None:
        self.names = names
        self.sent: dict[tuple[int, int], float] = {}
        self.answered: set[int] = set()
        self.trips: list[float] = []
        self._bundle = bundle
        make = peer.node.create_publisher
        self._features = [make(CompressedImage, f'/{name}/features', qos.WIRE) for name in names]
        deep = QoSProfile(depth=256, reliability=ReliabilityPolicy.BEST_EFFORT)
        for name in names:
            peer.listen(CompressedImage, f'/{name}/tail/reply', self._heard, deep)

    def send(self, robot: int, sequence: int, payload: bytes) -> None:
        """One frame of one robot; the robot is the session."""
        defaults = self._bundle.defaults
        data = FeatureFrame(
            split=defaults.split, codec=codec_id(defaults.codec),
            fingerprint=self._bundle.fingerprint, session=robot + 1, sequence=sequence,
            payload=payload, budget_ms=int(DEADLINE_MS),
        ).to_bytes()  # fmt: skip
        self.sent[robot + 1, sequence] = time.monotonic()
        self._features[robot].publish(wire_message(data, Header(), FEATURE_FORMAT))

    def have(self, count: int) -> bool:
        """Whether so many answers came."""
        return len(self.trips) >= count

    def silent(self) -> set[int]:
        """The robots that were never answered, from 1."""
        return set(range(1, len(self.names) + 1)) - self.answered

    def _heard(self, message: CompressedImage) -> None:
        reply = ReplyFrame.parse(memoryview(message.data))
        sent = self.sent.pop((reply.session, reply.sequence), None)
        if sent is not None and reply.scores.size:
            self.answered.add(reply.session)
            self.trips.append((time.monotonic() - sent) * 1e3)


def tail(bundle: Bundle, payloads: list[bytes], seconds: float) -> list[dict[str, float]]:
    """Round trips at each number of robots, up to the first that one tail does not serve."""
    rows = []
    for count in ROBOTS:
        names = [f'r{number}' for number in range(1, count + 1)]
        with (
            private_domain(),
            node('tail', robots=f'[{", ".join(names)}]') as process,
            Peer() as peer,
        ):
            ready(process)
            robots = Robots(peer, bundle, names)
            _warm_up(peer, robots, payloads)
            robots.trips.clear()
            robots.sent.clear()
            sent = 0
            for number in paced(OFFLOADED_HZ * count, seconds):
                # In turn, which spreads the robots over the period.
                robots.send(number % count, 1000 + number, payloads[number % len(payloads)])
                sent = number + 1
            peer.wait(partial(robots.have, sent), 2 * DEADLINE_MS / 1e3)
            trips = np.array(robots.trips)
        row = {
            'robots': count, 'frames_per_s': round(sent / seconds, 1),
            'lost': round(1 - len(trips) / sent, 4),
            'p50_ms': round(float(np.percentile(trips, 50)), 2),
            'p99_ms': round(float(np.percentile(trips, 99)), 2),
        }  # fmt: skip
        rows.append(row)
        print(f'tail   {row}')
        if row['p99_ms'] > DEADLINE_MS or row['lost'] > LOST:
            break
    return rows


def _warm_up(peer: Peer, robots: Robots, payloads: list[bytes]) -> None:
    """Until every robot has had an answer."""
    for sequence in range(400):
        for session in robots.silent():
            robots.send(session - 1, sequence, payloads[0])
        peer.wait(lambda: not robots.silent(), 0.1)
        if not robots.silent():
            return
    raise AssertionError(f'robots {sorted(robots.silent())} get no answer')


def main() -> int:
    """Measure both, print them, and say whether the marks are met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=float, default=5.0, help='per step (%(default)g)')
    parser.add_argument('--bundle', default='gtsrb32')
    parser.add_argument('--json', type=Path, help='where to write the result')
    options = parser.parse_args()
    bundle = Bundle.load(bundle_path(options.bundle))
    pictures = images()
    heads = head(pictures, options.seconds)
    tails = tail(bundle, feature_frames(bundle, pictures), options.seconds)
    fps = max(row['decided_fps'] for row in heads)
    robots = max(
        (row['robots'] for row in tails if row['p99_ms'] <= DEADLINE_MS and row['lost'] <= LOST),
        default=0,
    )
    result = {'head': heads, 'tail': tails, 'head_fps': fps, 'robots': robots}
    met = fps >= MARKS['head_fps'] and robots >= MARKS['robots']
    print(f'one head {fps:g} frames/s, one tail {robots} robots; marks {MARKS}: '
          f'{"met" if met else "missed"}')  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
