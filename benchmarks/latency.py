# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long a frame's way to the tail and back takes, on this host's loopback.

Head and tail run as two processes with a bundle that computes next to nothing and sends its input
as it is, so that what is left is ours: coding, messages, threads and the middleware. In the same
run a bare echo of the same message sizes shows what the middleware alone takes: Cyclone DDS always,
rclpy where ROS 2 is sourced.

    python benchmarks/latency.py [--frames 1000] [--payload 1024 65536] [--json result.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / 'test'), str(Path(__file__).parents[1])]

import numpy as np
from bundles import make_identity_bundle
from processes import Peer, Process, node, private_domain, ready, values_of

from sparse_split_ros.embedded.messages import CompressedImage, Header
from sparse_split_ros.embedded.qos import QoSProfile, ReliabilityPolicy
from sparse_split_ros.embedded.transport import NodeInfo, PortSpec, open_transport
from sparse_split_ros.embedded.types import serialize
from sparse_split_ros.link.frame import PREAMBLE_BYTES
from sparse_split_ros.nodes.messages import octets

# The marks of the round trip at 1 KB, in ms.
MARKS = {'median': 1.5, 'p99': 8.0}
WARM_UP = 50
CLASSES = 4


def summary(milliseconds: list[float]) -> dict[str, float]:
    """Median, p99 and maximum in ms, with the number of samples."""
    values = np.sort(milliseconds)
    cuts = {'median': 0.5, 'p99': 0.99, 'max': 1.0}
    found = {name: round(float(np.quantile(values, q)), 3) for name, q in cuts.items()}
    return {**found, 'samples': len(values)}


def paced(count: int, rate_hz: float, once: Callable[[int], float | None]) -> list[float]:
    """Call ``once`` at this rate and collect its times in ms after the warm-up, without losses."""
    times: list[float | None] = []
    start = time.monotonic()
    for number in range(count + WARM_UP):
        due = start + number / rate_hz
        time.sleep(max(0.0, due - time.monotonic()))
        times.append(once(number))
    return [value for value in times[WARM_UP:] if value is not None]


def split(payload: int, frames: int, rate_hz: float) -> dict[str, Any]:
    """Round trip and whole way of our own nodes."""
    with tempfile.TemporaryDirectory() as directory, private_domain():
        bundle = make_identity_bundle(Path(directory) / 'bundle', payload=payload, classes=CLASSES)
        side = bundle.input.shape[1]
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        with (
            node('head', bundle=bundle.path, threshold=1.0, deadline_ms=1000.0) as head,
            node('tail', bundle=bundle.path) as tail,
            Peer() as peer,
        ):
            ready(head)
            ready(tail)
            peer.warm_up('offboard', [image])
            whole: list[float] = []

            def ask(number: int) -> None:
                before = len(peer.classifications)
                start = time.perf_counter()
                peer.send(image, (number, 1))
                if peer.wait(lambda: len(peer.classifications) > before, 1.0) and number >= WARM_UP:
                    whole.append((time.perf_counter() - start) * 1e3)

            paced(frames, rate_hz, ask)
            peer.wait(lambda: len(peer.decisions) == len(peer.classifications), 2.0)
            decisions = [values_of(message) for message in peer.decisions[WARM_UP:]]
            asked = [decision for decision in decisions if decision['route'] == 'offboard']
            sent = int(asked[-1]['payload_bytes'])
            head.stop()
            tail.stop()
    return {
        'round trip': summary([float(decision['offboard_ms']) for decision in asked]),
        'of that the tail': summary([float(decision['tail_ms']) for decision in asked]),
        'image to answer': summary(whole),
        'frame_bytes': sent,
    }


def message(size: int) -> bytes:
    """The CDR bytes of a CompressedImage with so much data."""
    header = Header(frame_id='camera')
    return serialize(
        CompressedImage(header=header, format='sparse_split/1', data=octets(bytes(size)))
    )


class CyclonePort:
    """One end of the bare echo: bytes over Cyclone DDS, without messages, nodes or threads."""

    def __init__(self, out: str, back: str) -> None:
        transport = open_transport(int(os.environ['ROS_DOMAIN_ID']))
        kind = 'sensor_msgs/msg/CompressedImage'
        owner, qos = (
            NodeInfo('echo', '/'),
            QoSProfile(depth=64, reliability=ReliabilityPolicy.BEST_EFFORT),
        )
        self.writer = transport.create_writer(PortSpec(owner, out, kind, qos, print))
        self.reader = transport.create_reader(PortSpec(owner, back, kind, qos, print))
        self.waiter = transport.create_waiter()
        self.waiter.attach(self.reader)

    def receive(self, seconds: float) -> bytes | None:
        """The next message, or None when none came in time."""
        end = time.monotonic() + seconds
        while True:
            data = self.reader.take()
            left = end - time.monotonic()
            if data is not None or left <= 0:
                return data
            self.waiter.wait(left)


def cyclone_far(reply: int) -> None:
    """The other process of the Cyclone echo, until it is killed."""
    port, data = CyclonePort('/pong', '/ping'), message(reply)
    print('echo ready', flush=True)
    while True:
        if port.receive(1.0) is not None:
            port.writer.write(data)


def cyclone(size: int, reply: int, frames: int, rate_hz: float) -> dict[str, float]:
    """Round trip of a bare echo over Cyclone DDS."""
    with private_domain(), far('cyclone', reply) as other:
        port, data = CyclonePort('/ping', '/pong'), message(size)
        other.wait_for('echo ready')
        while port.receive(0.05) is None:
            port.writer.write(data)
        while port.receive(0.2) is not None:
            pass

        def once(_: int) -> float | None:
            start = time.perf_counter()
            port.writer.write(data)
            return (time.perf_counter() - start) * 1e3 if port.receive(1.0) else None

        return summary(paced(frames, rate_hz, once))


def rclpy_far(reply: int) -> None:
    """The other process of the rclpy echo, until it is killed."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage

    rclpy.init()
    echo = rclpy.create_node('echo')
    qos = QoSProfile(depth=64, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = echo.create_publisher(CompressedImage, 'pong', qos)
    answer = CompressedImage(format='sparse_split_reply/1', data=octets(bytes(reply)))
    echo.create_subscription(CompressedImage, 'ping', lambda _: publisher.publish(answer), qos)
    print('echo ready', flush=True)
    rclpy.spin(echo)


def rclpy_echo(size: int, reply: int, frames: int, rate_hz: float) -> dict[str, float]:
    """Round trip of a bare echo over rclpy and whatever middleware it is set to."""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage

    with private_domain(), far('rclpy', reply) as other:
        rclpy.init(domain_id=int(os.environ['ROS_DOMAIN_ID']))
        near = rclpy.create_node('near')
        qos = QoSProfile(depth=64, reliability=ReliabilityPolicy.BEST_EFFORT)
        publisher = near.create_publisher(CompressedImage, 'ping', qos)
        question = CompressedImage(format='sparse_split/1', data=octets(bytes(size)))
        came: list[float] = []
        near.create_subscription(
            CompressedImage, 'pong', lambda _: came.append(time.perf_counter()), qos
        )
        other.wait_for('echo ready')

        def once(_: int) -> float | None:
            came.clear()
            start = time.perf_counter()
            publisher.publish(question)
            while not came and time.perf_counter() - start < 1.0:
                rclpy.spin_once(near, timeout_sec=0.1)
            return (came[0] - start) * 1e3 if came else None

        while once(0) is None:
            pass
        found = summary(paced(frames, rate_hz, once))
        near.destroy_node()
        rclpy.shutdown()
        return found


def far(kind: str, reply: int) -> Process:
    """Start the other process of an echo."""
    return Process(str(Path(__file__).resolve()), '--far', kind, '--reply', str(reply))


def main() -> int:
    """Measure, print a table, and say whether the marks are met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--frames', type=int, default=1000)
    parser.add_argument('--rate', type=float, default=100.0, help='frames per second')
    parser.add_argument('--payload', type=int, nargs='+', default=[1024, 65536])
    parser.add_argument('--json', type=Path, help='where to write the result')
    parser.add_argument('--far', choices=('cyclone', 'rclpy'), help=argparse.SUPPRESS)
    parser.add_argument('--reply', type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.far:
        {'cyclone': cyclone_far, 'rclpy': rclpy_far}[options.far](options.reply)
        return 0
    reply = PREAMBLE_BYTES + 4 * CLASSES
    result: dict[str, Any] = {'frames': options.frames, 'rate_hz': options.rate, 'payload': {}}
    for payload in options.payload:
        load = os.getloadavg()[0]
        found: dict[str, Any] = {'load': load, **split(payload, options.frames, options.rate)}
        size = payload + PREAMBLE_BYTES
        found['Cyclone echo'] = cyclone(size, reply, options.frames, options.rate)
        if find_spec('rclpy') is not None:
            found['rclpy echo'] = rclpy_echo(size, reply, options.frames, options.rate)
        result['payload'][payload] = found
        print(f'payload {payload} B, load average {load:.2f} -> {os.getloadavg()[0]:.2f}')
        print(f'  {"ms":18}{"median":>9}{"p99":>9}{"max":>9}{"samples":>9}')
        for name, row in found.items():
            if isinstance(row, dict):
                cells = ''.join(f'{row[key]:9.3f}' for key in ('median', 'p99', 'max'))
                print(f'  {name:18}{cells}{row["samples"]:9d}')
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + '\n')
    if 1024 not in result['payload']:
        return 0
    trip = result['payload'][1024]['round trip']
    met = all(trip[name] <= mark for name, mark in MARKS.items())
    print(f'marks at 1 KB {MARKS}: {"met" if met else "missed"}')
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
