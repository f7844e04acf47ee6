# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes as operating-system processes in a private domain, and a peer to talk to them.

Nothing sleeps for readiness: lines of output, messages and matches are waited for.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sparse_split_ros import ros
from sparse_split_ros.nodes import domain, qos
from sparse_split_ros.nodes.head import HeadNode
from sparse_split_ros.nodes.messages import image_message
from sparse_split_ros.ros import (
    Classification,
    DiagnosticArray,
    Header,
    Image,
    Node,
    Parameter,
    QoSProfile,
    SingleThreadedExecutor,
)
from sparse_split_ros.runtime.bundle import Bundle

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0
# One that a process has used stays in use until its end, and all tests may run in one. The demo
# takes its own elsewhere.
_DOMAINS = range(1, 100)
DEEP = QoSProfile(depth=2000)
BLACK = np.zeros((32, 32, 3), np.uint8)


def private_domain() -> AbstractContextManager[int]:
    """A free domain of this host for this process and those it starts."""
    return domain.private_domain(_DOMAINS)


class Process:
    """A running program; its output is kept, line by line, and can be waited for."""

    def __init__(self, *command: str, prefix: tuple[str, ...] = ()) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
        self.popen = subprocess.Popen(
            [*prefix, sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1'},
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._said:
                self.lines.append(line.rstrip('\n'))
                self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()

    @property
    def output(self) -> str:
        """All it printed so far."""
        with self._said:
            return '\n'.join(self.lines)

    def having(self, text: str) -> list[str]:
        """The lines that hold this text."""
        with self._said:
            return [line for line in self.lines if text in line]

    def wait_for(self, text: str, times: int = 1, patience: float = PATIENCE) -> list[str]:
        """Wait until so many lines hold this text; returns them."""

        def there() -> bool:
            return sum(text in line for line in self.lines) >= times or self._ended

        with self._said:
            self._said.wait_for(there, patience)
        found = self.having(text)
        assert len(found) >= times, f'{text!r} was not said:\n{self.output}'
        return found

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; returns the exit status."""
        status = self.popen.wait(patience)
        self._reader.join(patience)
        return status

    def stop(self, number: signal.Signals = signal.SIGINT, patience: float = 10.0) -> int:
        """Ask it to end and wait for that; returns the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.wait(patience)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()

    def rss(self) -> int:
        """Resident memory in bytes; 0 when it has ended or the system does not tell."""
        try:
            pages = int(Path(f'/proc/{self.popen.pid}/statm').read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf('SC_PAGE_SIZE')

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def node(
    name: str,
    *,
    remap: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    **parameters: Any,
) -> Process:
    """Start a node of this package with parameters; ``prefix`` is put before the command."""
    words = []
    for key, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ['-p', f'{key}:={text}']
    for old, new in (remap or {}).items():
        words += ['-r', f'{old}:={new}']
    module = f'sparse_split_ros.nodes.{name}'
    return Process('-m', module, '--ros-args', *words, prefix=prefix)


def ready(process: Process) -> Process:
    """Wait until a head or tail node says what it runs."""
    process.wait_for(' bundle ')
    return process


def values_of(status: DiagnosticArray) -> dict[str, str]:
    """The key-value pairs of a message's first status."""
    return {pair.key: pair.value for pair in status.status[0].values}


@contextmanager
def running_head(bundle: Bundle, domain: int, **parameters: object) -> Iterator[HeadNode]:
    """A head in this process, spun by a thread."""
    context = ros.Context()
    ros.init(args=[], context=context, domain_id=domain)
    values = {'bundle': str(bundle.path), **parameters}
    node = HeadNode(
        context=context, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()]
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    ended = threading.Event()

    def spin() -> None:
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield node
    finally:
        ended.set()
        thread.join()
        node.stop()
        node.destroy_node()
        context.try_shutdown()


class Peer:
    """A node in this process, spun by a thread: the camera, and whoever listens to the robot."""

    def __init__(self, name: str = 'peer', domain: int | None = None) -> None:
        self.context = ros.Context()
        ros.init(args=[], context=self.context, domain_id=domain)
        self.node = Node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._changed = threading.Condition()
        self._stopping = False
        self.classifications: list[Classification] = []
        self.decisions: list[DiagnosticArray] = []
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.camera = self.node.create_publisher(Image, 'image', qos.RESULT)
        self.listen(Classification, 'classification', self.classifications.append)
        self.listen(DiagnosticArray, 'decision', self.decisions.append)
        self.listen(DiagnosticArray, '/diagnostics', self._diagnosed)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.1)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        status = message.status[0]
        self.diagnostics[status.name] = {'message': status.message, **values_of(message)}

    def listen(
        self, kind: type, topic: str, callback: Callable[[Any], object], depth: QoSProfile = DEEP
    ) -> None:
        """Subscribe; whoever waits looks again after each message."""

        def heard(message: Any) -> None:
            with self._changed:
                callback(message)
                self._changed.notify_all()

        self.node.create_subscription(kind, topic, heard, depth)

    def wait(self, condition: Callable[[], object], patience: float = PATIENCE) -> bool:
        """Wait until messages made the condition true; whether they did."""
        with self._changed:
            return bool(self._changed.wait_for(condition, patience))

    def pause(self, seconds: float) -> None:
        """Let time pass that a test is about, such as a deadline."""
        end = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: time.monotonic() >= end, seconds)

    def send(self, image: np.ndarray, stamp: tuple[int, int], frame_id: str = 'camera') -> None:
        """Publish an RGB image with this stamp."""
        header = Header(stamp=ros.TimeMsg(sec=stamp[0], nanosec=stamp[1]), frame_id=frame_id)
        self.camera.publish(image_message(image, header))

    def warm_up(
        self, route: str = '', images: Sequence[np.ndarray] = (BLACK,), patience: float = PATIENCE
    ) -> None:
        """Send images until decisions (of a route) come back: all topics are connected then."""
        end = time.monotonic() + patience
        for image in itertools.cycle(images):
            if time.monotonic() > end:
                break
            self.send(image, (0, 0), 'warm-up')
            done = self.wait(
                lambda: (
                    self.classifications
                    and any(route in values_of(message)['route'] for message in self.decisions)
                ),
                0.05,
            )
            if done:
                self.settle()
                return
        raise AssertionError(f'no decision {route} within {patience} s')

    def settle(self) -> None:
        """Wait until as many classifications as decisions came, then forget them."""
        assert self.wait(lambda: len(self.classifications) == len(self.decisions), 5.0)
        # The last of the images in flight are answered within a deadline.
        while self.wait(partial(self._more_than, len(self.decisions)), 0.3):
            pass
        with self._changed:
            self.classifications.clear()
            self.decisions.clear()

    def _more_than(self, count: int) -> bool:
        return len(self.decisions) > count

    def ask(
        self, image: np.ndarray, stamp: tuple[int, int], frame_id: str = 'camera'
    ) -> tuple[Classification, dict[str, str]]:
        """Send one image; its classification and decision."""
        answers, decisions = len(self.classifications), len(self.decisions)
        self.send(image, stamp, frame_id)
        came = self.wait(
            lambda: len(self.classifications) > answers and len(self.decisions) > decisions
        )
        assert came, 'no answer'
        return self.classifications[answers], values_of(self.decisions[decisions])

    def diagnosed(
        self, name: str, condition: Callable[[dict[str, str]], object] = bool
    ) -> dict[str, str]:
        """The next diagnostics of this name for which the condition holds."""
        with self._changed:
            self.diagnostics.pop(name, None)
        found = self.wait(lambda: name in self.diagnostics and condition(self.diagnostics[name]))
        assert found, f'{name} says {self.diagnostics.get(name)}'
        return self.diagnostics[name]

    def close(self) -> None:
        """Leave the domain."""
        self._stopping = True
        self._thread.join(5.0)
        self.node.destroy_node()
        self._executor.shutdown()
        self.context.try_shutdown()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
