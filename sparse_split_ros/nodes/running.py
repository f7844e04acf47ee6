# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Start a node, spin it, and end it in order on SIGINT and SIGTERM."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
    ros.InvalidParameterTypeException,
    ros.InvalidParameterValueException,
)


class StoppableNode(ros.Node):
    """A node that says when it is done and can end in order."""

    done = False

    def stop(self) -> None:
        """Take in nothing more and answer what is pending; publishing still works."""


def run(make_node: Callable[[], StoppableNode], args: list[str] | None = None) -> int:
    """Run a node until it is done or a signal comes; returns the exit status.

    The middleware's own signal handlers would close the context before the pending frames are
    answered, so ours only raise a flag.
    """
    listen()
    ros.init(args=args, signal_handler_options=ros.SignalHandlerOptions.NO)
    try:
        try:
            node = make_node()
        except _EXPECTED as error:
            print(f'error: {error}', file=sys.stderr)
            return 1
        for note in ros.runtime_notes(node):
            node.get_logger().info(note)
        try:
            executor = ros.SingleThreadedExecutor()
            executor.add_node(node)
            while not stopping.is_set() and not node.done and ros.ok():
                executor.spin_once(timeout_sec=0.1)
        finally:
            node.stop()
            node.destroy_node()
        return 0
    finally:
        ros.try_shutdown()
