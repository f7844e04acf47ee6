# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Start a node, spin it, and end it in order on SIGINT and SIGTERM."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from sparse_split_ros import ros
from sparse_split_ros.nodes.entry import listen, stopping
from sparse_split_ros.runtime.bundle import BundleError
from sparse_split_ros.runtime.engine import EngineError

# What a person can mend; anything else is a fault of ours and shows its trace.
_EXPECTED = (
    BundleError,
    EngineError,
    OSError,
    ValueError,
    ros.InvalidNamespaceException,
    ros.InvalidNodeNameException,
    ros.InvalidParameterTypeException,
    ros.InvalidParameterValueException,
    ros.InvalidQoSProfileException,
    ros.InvalidTopicNameException,
    ros.RCLError,
    ros.UnknownROSArgsError,
)

# How often a fault of one kind is logged, however often it happens.
_COMPLAINT_S = 5.0


class StoppableNode(ros.Node):
    """A node that says when it is done, what went wrong last, and can end in order."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.done = False
        self.exit_status = 0
        self.last_error = ''
        self._complained: dict[str, float] = {}

    def complain(self, kind: str, text: str) -> None:
        """Log an error, throttled by kind, so that a frequent one does not hide another."""
        self.last_error = f'{kind}: {text}'
        now = time.monotonic()
        if now - self._complained.get(kind, float('-inf')) >= _COMPLAINT_S:
            self._complained[kind] = now
            self.get_logger().error(self.last_error)

    def stop(self) -> None:
        """Take in nothing more and answer what is pending; publishing still works."""


def run(make_node: Callable[[], StoppableNode], args: list[str] | None = None) -> int:
    """Run a node until it is done or a signal comes; returns the exit status.

    The middleware's own signal handlers would close the context before the pending frames are
    answered, so ours only raise a flag.
    """
    listen()
    try:
        try:
            ros.init(args=args, signal_handler_options=ros.SignalHandlerOptions.NO)
            node = make_node()
        except Exception as error:
            # Both runtimes raise a bare RuntimeError for an override such as `reliability: foo`.
            if not isinstance(error, _EXPECTED) and 'QoS override' not in str(error):
                raise
            print(f'error: {error}', file=sys.stderr)
            return 1
        for note in ros.runtime_notes(node):
            node.get_logger().info(note)
        try:
            executor = ros.SingleThreadedExecutor()
            executor.add_node(node)
            # What the start made stays. Looking through it for garbage again and again would now
            # and then cost a frame 20 ms.
            gc.collect()
            gc.freeze()
            while not stopping.is_set() and not node.done and ros.ok():
                executor.spin_once(timeout_sec=0.1)
        finally:
            node.stop()
            node.destroy_node()
        return node.exit_status
    finally:
        ros.try_shutdown()
