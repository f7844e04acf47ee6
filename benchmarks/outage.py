# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How soon the head notices that the tail is gone, and how soon it uses it again.

First the tail's process is killed and started again. Then, where this runs as root on Linux, head
and tail live in two network namespaces on one bridge, and the bridge's port to the tail is taken
down for a while: a real cut, longer or shorter than the lease of the middleware's discovery.

    python benchmarks/outage.py [--kills 5] [--cuts 1 3 10 30] [--json result.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / 'test'), str(Path(__file__).parents[1])]

import numpy as np
from bundles import make_bundle
from processes import Peer, node, private_domain, ready, values_of

from sparse_split_ros.ros import DiagnosticArray
from sparse_split_ros.runtime.bundle import Bundle

DEADLINE_MS = 100.0
RATE_HZ = 100.0
RECOVERED_S = 1.0
# Beyond the deadline: one frame's period until the tail is asked, and the way of the message here.
GRACE_MS = 1e3 / RATE_HZ + 20.0
# Cuts below Cyclone's lease of 10 s leave both sides known to each other.
LEASE_S = 10.0
PATIENCE = 60.0
HEAD, TAIL, SWITCH = 'ss_head', 'ss_tail', 'ss_switch'
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


class Camera:
    """Sends images without end and notes when which decision came back."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.reasons: list[tuple[float, str]] = []
        peer.listen(DiagnosticArray, 'decision', self._heard)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _heard(self, message: DiagnosticArray) -> None:
        self.reasons.append((time.monotonic(), values_of(message)['reason']))

    def _run(self) -> None:
        number = 0
        while not self._stopping.wait(1 / RATE_HZ):
            number += 1
            self._peer.send(IMAGE, (number, 1))

    def first(self, reason: str, after: float) -> float:
        """When the first decision for this reason came after a moment; waits for it."""

        def found() -> list[float]:
            return [when for when, why in self.reasons[-5000:] if why == reason and when > after]

        assert self._peer.wait(found, PATIENCE), f'no decision {reason!r} within {PATIENCE} s'
        return found()[0]

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self._thread.join()


def kills(bundle: Bundle, count: int) -> list[dict[str, float]]:
    """Kill the tail and start it again."""
    rows = []
    with (
        private_domain(),
        Peer() as peer,
        node('head', bundle=bundle.path, threshold=1.0, deadline_ms=DEADLINE_MS) as head,
    ):
        ready(head)
        tail = ready(node('tail', bundle=bundle.path))
        peer.warm_up('offboard', [IMAGE])
        camera = Camera(peer)
        try:
            for _ in range(count):
                camera.first('answered', time.monotonic())
                peer.pause(0.5)
                tail.popen.kill()
                killed = time.monotonic()
                lost = camera.first('tail down', killed)
                tail.kill()
                peer.pause(0.5)
                tail = node('tail', bundle=bundle.path)
                tail.wait_for(' bundle ')
                announced = time.monotonic()
                back = camera.first('answered', max(lost, announced - 0.2))
                rows.append(
                    {'noticed_ms': (lost - killed) * 1e3, 'recovered_s': max(0, back - announced)}
                )
        finally:
            camera.stop()
            tail.kill()
    return rows


def ip(*words: str) -> None:
    """Run the network tool of that name."""
    subprocess.run(['ip', *words], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """Two namespaces on a bridge in a third; only those who are in them see it."""
    try:
        for name in (HEAD, TAIL, SWITCH):
            ip('netns', 'add', name)
            ip('-n', name, 'link', 'set', 'lo', 'up')
        ip('-n', SWITCH, 'link', 'add', 'bridge', 'type', 'bridge', 'mcast_snooping', '0')
        ip('-n', SWITCH, 'link', 'set', 'bridge', 'up')
        for number, name in enumerate((HEAD, TAIL), 1):
            ip('-n', SWITCH, 'link', 'add', name, 'type', 'veth', 'peer', 'wire', 'netns', name)
            ip('-n', SWITCH, 'link', 'set', name, 'master', 'bridge', 'up')
            ip('-n', name, 'address', 'add', f'10.99.0.{number}/24', 'dev', 'wire')
            ip('-n', name, 'link', 'set', 'wire', 'up')
            ip('-n', name, 'route', 'add', '224.0.0.0/4', 'dev', 'wire')
        yield
    finally:
        for name in (HEAD, TAIL, SWITCH):
            subprocess.run(['ip', 'netns', 'delete', name], check=False, capture_output=True)


def cuts(bundle: Bundle, lengths: list[float]) -> list[dict[str, float]]:
    """Take the tail's cable away for so many seconds; runs in the head's namespace."""
    rows = []
    os.environ.update(ROS_DOMAIN_ID='7', ROS_AUTOMATIC_DISCOVERY_RANGE='SUBNET')
    os.environ.pop('ROS_LOCALHOST_ONLY', None)
    inside = ('ip', 'netns', 'exec', TAIL)
    with (
        Peer() as peer,
        node('head', bundle=bundle.path, threshold=1.0, deadline_ms=DEADLINE_MS) as head,
        node('tail', prefix=inside, bundle=bundle.path) as tail,
    ):
        ready(head)
        ready(tail)
        peer.warm_up('offboard', [IMAGE])
        camera = Camera(peer)
        try:
            for length in lengths:
                camera.first('answered', time.monotonic())
                peer.pause(3.0)
                ip('-n', SWITCH, 'link', 'set', TAIL, 'down')
                cut = time.monotonic()
                lost = camera.first('tail down', cut)
                peer.pause(max(0.0, cut + length - time.monotonic()))
                ip('-n', SWITCH, 'link', 'set', TAIL, 'up')
                healed = time.monotonic()
                back = camera.first('answered', healed)
                rows.append(
                    {
                        'cut_s': length,
                        'noticed_ms': (lost - cut) * 1e3,
                        'recovered_s': back - healed,
                    }
                )
        finally:
            camera.stop()
    return rows


def show(rows: list[dict[str, float]]) -> None:
    """Print one line per outage."""
    for row in rows:
        print('  ' + ', '.join(f'{name} {value:.2f}' for name, value in row.items()))


def cuts_in_namespaces(lengths: list[float]) -> list[dict[str, float]] | None:
    """Run :func:`cuts` inside the namespaces; None, with a word why, where that cannot be."""
    if sys.platform != 'linux' or os.geteuid() or shutil.which('ip') is None:
        print('link cuts skipped: they need root, Linux and ip(8)')
        return None
    with network(), tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / 'rows.json'
        words = ['--inside', str(result), '--cuts', *map(str, lengths)]
        command = ['ip', 'netns', 'exec', HEAD, sys.executable, str(Path(__file__).resolve())]
        subprocess.run([*command, *words], check=True)
        rows: list[dict[str, float]] = json.loads(result.read_text())
        return rows


def main() -> int:
    """Measure, print, and say whether the marks are met."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kills', type=int, default=5)
    parser.add_argument('--cuts', type=float, nargs='*', default=[1, 3, 10, 30], help='in s')
    parser.add_argument('--json', type=Path, help='where to write the result')
    parser.add_argument('--inside', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bundle = make_bundle(Path(directory) / 'bundle')
        if options.inside:
            options.inside.write_text(json.dumps(cuts(bundle, options.cuts)))
            return 0
        load = os.getloadavg()[0]
        result: dict[str, Any] = {'load': load, 'kills': kills(bundle, options.kills)}
    print(f'tail killed and started again, {RATE_HZ:g} Hz, load average {load:.2f}')
    show(result['kills'])
    met = all(row['noticed_ms'] <= DEADLINE_MS + GRACE_MS for row in result['kills'])
    met &= all(row['recovered_s'] <= RECOVERED_S for row in result['kills'])
    result['cuts'] = cuts_in_namespaces(options.cuts) if options.cuts else None
    if result['cuts']:
        print(f'link cut between two namespaces, load average {os.getloadavg()[0]:.2f}')
        show(result['cuts'])
        short = [row for row in result['cuts'] if row['cut_s'] < LEASE_S]
        met &= all(row['recovered_s'] <= RECOVERED_S for row in short)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + '\n')
    print(
        f'marks: noticed within the deadline of {DEADLINE_MS:g} ms (+ {GRACE_MS:g}), recovered in '
        f'{RECOVERED_S:g} s after a restart and after cuts below {LEASE_S:g} s: '
        f'{"met" if met else "missed"}'
    )
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
