# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the executables start: listen for signals first, import what takes long second.

A signal that comes while ONNX Runtime or rclpy is still loading then ends the node as it would
later: in order, with exit status 0 and without a trace.
"""

from __future__ import annotations

import atexit
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Flag:
    """Raised by a signal.

    Its handler is a method of C, which locks nothing and runs no Python that the next signal could
    interrupt: a `threading.Event` waits for itself there, or recurses without end.
    """

    def __init__(self) -> None:
        self._awaited = dict.fromkeys(map(int, _SIGNALS))
        self.handler = self._awaited.pop  # of a number, which need not be there, and a frame

    def is_set(self) -> bool:
        return len(self._awaited) < len(_SIGNALS)


stopping = _Flag()


def listen() -> None:
    """Let SIGINT and SIGTERM raise a flag instead of an exception."""
    for number in _SIGNALS:
        signal.signal(number, stopping.handler)
    atexit.register(_end_in_peace)


def _end_in_peace() -> None:
    # Python takes its handlers away as it ends, and a second Ctrl-C would then kill the process,
    # of which launch says that it died.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def head() -> int:
    """The executable ``head_node``."""
    listen()
    from sparse_split_ros.nodes.head import main

    return main()


def tail() -> int:
    """The executable ``tail_node``."""
    listen()
    from sparse_split_ros.nodes.tail import main

    return main()


def player() -> int:
    """The executable ``player_node``."""
    listen()
    from sparse_split_ros.nodes.player import main

    return main()
