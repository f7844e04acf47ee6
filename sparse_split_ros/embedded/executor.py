# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D102, D103 -- the names, and what they mean, are rclpy's
"""Contexts, signals, timers and the single-threaded executor, with the behaviour of rclpy's."""

from __future__ import annotations

import signal
import sys
import threading
import weakref
from collections import deque
from enum import IntEnum
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from sparse_split_ros.embedded.exceptions import (
    ExternalShutdownException,
    NotInitializedException,
    RCLError,
    Subset,
)
from sparse_split_ros.embedded.interrupts import handle
from sparse_split_ros.embedded.log import set_logger_level
from sparse_split_ros.embedded.names import Arguments
from sparse_split_ros.embedded.time import Clock, ROSClock
from sparse_split_ros.embedded.transport import (
    Port,
    Transport,
    domain_from_environment,
    load_transport,
    open_transport,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from sparse_split_ros.embedded.node import Node, Subscription

# A wait never lasts longer: Python runs a signal's handler only between two waits.
LONGEST_WAIT_S = 0.1


class Context(Subset):
    """One run of the runtime: arguments, a domain and the nodes in it."""

    def __init__(self) -> None:
        self.arguments = Arguments()
        self._transport: Transport | None = None
        self._domain_id: int | None = None
        self._valid = False
        self._lock = threading.RLock()
        self._nodes: weakref.WeakSet[Node] = weakref.WeakSet()
        self._executors: weakref.WeakSet[Executor] = weakref.WeakSet()
        self._on_shutdown: list[Callable[[], None]] = []

    def init(self, args: Sequence[str] | None = None, *, domain_id: int | None = None) -> None:
        """Start; ``args`` default to the command line, the domain to ``ROS_DOMAIN_ID``.

        :raises RuntimeError: if the context is running.
        :raises UnknownROSArgsError: if ``--ros-args`` cannot be understood.
        """
        with self._lock:
            if self._valid:
                raise RuntimeError('Context.init() must only be called once')
            self.arguments = Arguments.parse(sys.argv if args is None else args)
            for name, level in self.arguments.log_levels:
                set_logger_level(name, level)
            self._domain_id = domain_from_environment() if domain_id is None else domain_id
            self._valid = True
        _running.add(self)

    def ok(self) -> bool:
        return self._valid

    def was_shut_down(self) -> bool:
        return self._domain_id is not None and not self._valid

    def get_domain_id(self) -> int:
        if self._domain_id is None:
            raise NotInitializedException()
        return self._domain_id

    @property
    def transport(self) -> Transport:
        with self._lock:
            if self._transport is None:
                self._transport = open_transport(self.get_domain_id())
            return self._transport

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the context shuts down."""
        self._on_shutdown.append(callback)

    def shutdown(self) -> None:
        """Stop: executors return, publishers go silent, endpoints leave the network.

        :raises RCLError: if the context is not running.
        """
        if not self._interrupt():
            raise RCLError('shutdown() was already called, or init() never was')
        self._finish()

    def try_shutdown(self) -> None:
        """Stop if the context is running."""
        if self._interrupt():
            self._finish()

    def _interrupt(self) -> bool:
        """Make the context invalid and wake its executors; safe in a signal handler."""
        was_valid, self._valid = self._valid, False
        for executor in list(self._executors):
            executor.wake()
        return was_valid

    def _finish(self) -> None:
        _running.discard(self)
        with self._lock:
            callbacks, self._on_shutdown = self._on_shutdown, []
        for callback in callbacks:
            callback()
        for node in list(self._nodes):
            node.close_ports()
        self._transport = None


_running: weakref.WeakSet[Context] = weakref.WeakSet()
_default_context = Context()


def get_default_context() -> Context:
    return _default_context


class SignalHandlerOptions(IntEnum):
    """Which signals :func:`init` takes over."""

    NO = 0
    SIGINT = 1
    SIGTERM = 2
    ALL = 3


_previous: dict[int, Any] = {}


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Shut every context down, then let Python's own handler (KeyboardInterrupt) have its turn."""
    interrupted = [context for context in list(_running) if context._interrupt()]
    if interrupted:
        # Callbacks and locks do not belong in a handler, so the rest happens beside it.
        for context in interrupted:
            threading.Thread(target=context._finish).start()
    previous = _previous.get(number)
    if callable(previous):
        handle(partial(previous, number, frame))


def install_signal_handlers(options: SignalHandlerOptions = SignalHandlerOptions.ALL) -> None:
    """Take SIGINT and SIGTERM over; only the main thread can, others leave them as they are."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number, bit in ((signal.SIGINT, 1), (signal.SIGTERM, 2)):
        if options & bit and number not in _previous:
            _previous[number] = signal.signal(number, _on_signal)


def uninstall_signal_handlers() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in list(_previous):
            signal.signal(number, _previous.pop(number))


class GuardCondition(Subset):
    """Lets any thread have a callback run in the executor's thread."""

    def __init__(self, callback: Callable[[], Any] | None, node: Node) -> None:
        self.callback = callback
        self._node: weakref.ReferenceType[Node] = weakref.ref(node)
        self._triggered = False

    def trigger(self) -> None:
        self._triggered = True
        node = self._node()
        if node is not None and node.executor is not None:
            node.executor.wake()

    def destroy(self) -> None:
        self.callback = None

    def run(self) -> bool:
        triggered, self._triggered = self._triggered, False
        if triggered and self.callback is not None:
            self.callback()
        return triggered


class Timer(Subset):
    """Calls back every period of its clock. A missed period is skipped, never made up."""

    def __init__(
        self, callback: Callable[[], Any] | None, period_ns: int, clock: Clock, autostart: bool
    ) -> None:
        if period_ns < 0:
            raise ValueError(f'timer period is {period_ns} ns, expected at least 0')
        self.callback, self.clock = callback, clock
        self._period = period_ns
        self._last = clock.nanoseconds()
        self._next = self._last + period_ns
        self._cancelled = not autostart

    @property
    def timer_period_ns(self) -> int:
        return self._period

    @timer_period_ns.setter
    def timer_period_ns(self, value: int) -> None:
        self._next += int(value) - self._period
        self._period = int(value)

    def is_ready(self) -> bool:
        return not self._cancelled and self._left() <= 0

    def is_canceled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        self._cancelled = True

    def reset(self) -> None:
        self._last = self.clock.nanoseconds()
        self._next = self._last + self._period
        self._cancelled = False

    def time_since_last_call(self) -> int:
        return self.clock.nanoseconds() - self._last

    def time_until_next_call(self) -> int | None:
        return None if self._cancelled else self._left()

    def destroy(self) -> None:
        self._cancelled = True
        self.callback = None

    def run(self) -> bool:
        if not self.is_ready():
            return False
        now = self.clock.nanoseconds()
        self._last = now
        self._next += self._period
        if self._next <= now:  # rcl's arithmetic: the next multiple that is in the future
            periods = 1 + (now - self._next) // self._period if self._period else 0
            self._next = self._next + periods * self._period if self._period else now
        if self.callback is not None:
            self.callback()
        return True

    def seconds_left(self) -> float | None:
        """Return how long a wait may last for this timer; None when time alone cannot end it."""
        simulated = isinstance(self.clock, ROSClock) and self.clock.ros_time_is_active
        if self._cancelled or (simulated and self._left() > 0):
            return None
        return self._left() / 1e9

    def _left(self) -> int:
        now = self.clock.nanoseconds()
        if now < self._last:  # the clock went back, as a replay that starts over does
            self._last, self._next = now, now + self._period
        return self._next - now


class Executor(Subset):
    """Runs the callbacks of its nodes, one at a time, in the thread that spins it."""

    def __init__(self, *, context: Context | None = None) -> None:
        self._context = get_default_context() if context is None else context
        if not self._context.ok():
            raise NotInitializedException('cannot create an executor')
        self._waiter = self._context.transport.create_waiter()
        self._close = weakref.finalize(self, self._waiter.close)
        self._close.atexit = False  # the whole process leaves the network then
        self._nodes: list[Node] = []
        self._ready: deque[Timer | GuardCondition | Subscription[Any]] = deque()
        self._lock = threading.RLock()
        self._is_shutdown = False
        self._context._executors.add(self)

    @property
    def context(self) -> Context:
        return self._context

    def add_node(self, node: Node) -> bool:
        """Take over a node's callbacks; return whether it is new here."""
        with self._lock:
            if node in self._nodes:
                return False
            if node.executor is not None:
                node.executor.remove_node(node)
            self._nodes.append(node)
            node.set_executor(self)
            for port in node.ports:
                self.attach(port)
        self.wake()
        return True

    def remove_node(self, node: Node) -> None:
        with self._lock:
            if node not in self._nodes:
                return
            self._nodes.remove(node)
            node.set_executor(None)
            for port in node.ports:
                self.detach(port)
        self.wake()

    def get_nodes(self) -> list[Node]:
        return list(self._nodes)

    def attach(self, port: Port) -> None:
        self._waiter.attach(port)

    def detach(self, port: Port) -> None:
        self._waiter.detach(port)

    def wake(self) -> None:
        """End the current wait. Safe from any thread."""
        if not self._is_shutdown:
            self._waiter.wake()

    def spin(self) -> None:
        """Run callbacks until the context or this executor is shut down.

        :raises ExternalShutdownException: if the context is shut down meanwhile.
        """
        while self._context.ok() and not self._is_shutdown:
            self.spin_once()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback, waiting for it at most ``timeout_sec`` (None: as long as it takes).

        :raises ExternalShutdownException: if the context is shut down meanwhile.
        """
        forever = timeout_sec is None or timeout_sec < 0
        deadline = None if forever else monotonic() + (timeout_sec or 0.0)
        while not self._is_shutdown:
            while self._ready:
                if self._ready.popleft().run():
                    return
            if not self._context.ok():
                raise ExternalShutdownException()
            left = LONGEST_WAIT_S if deadline is None else deadline - monotonic()
            self._collect(max(0.0, left))
            if not self._ready and deadline is not None and monotonic() >= deadline:
                return

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Let go of the nodes and end ``spin``."""
        with self._lock:
            if not self._is_shutdown:
                for node in self.get_nodes():
                    self.remove_node(node)
                self._waiter.wake()
                self._is_shutdown = True
                self._close()
        return True

    def _collect(self, seconds: float) -> None:
        """Wait at most ``seconds`` and queue what has become ready: timers first, as in rclpy."""
        timers = [timer for node in self._nodes for timer in node.timers]
        waits = [left for timer in timers if (left := timer.seconds_left()) is not None]
        guards = [guard for node in self._nodes for guard in node.guards]
        if any(guard._triggered for guard in guards):
            seconds = 0.0
        readers = self._waiter.wait(max(0.0, min([seconds, LONGEST_WAIT_S, *waits])))
        self._ready.extend(timer for timer in timers if timer.is_ready())
        for reader in readers:
            for node in self._nodes:
                subscription = node.subscription_of(reader)
                if subscription is not None:
                    self._ready.append(subscription)
        self._ready.extend(guard for guard in guards if guard._triggered)


class SingleThreadedExecutor(Executor):
    """The executor there is."""


_global_executors: list[Executor] = []  # none or one, made when it is first needed


def get_global_executor() -> Executor:
    if not _global_executors:
        _global_executors.append(SingleThreadedExecutor())
        get_default_context().on_shutdown(_global_executors.clear)
    return _global_executors[0]


def init(
    *,
    args: Sequence[str] | None = None,
    context: Context | None = None,
    domain_id: int | None = None,
    signal_handler_options: SignalHandlerOptions | None = None,
) -> None:
    """Start a context, by default the one everything uses that names no other."""
    # An import that a signal interrupts fails in odd ways, so the slow one comes before handlers.
    load_transport()
    default = context is None or context is get_default_context()
    (get_default_context() if context is None else context).init(args, domain_id=domain_id)
    if signal_handler_options is None:
        signal_handler_options = SignalHandlerOptions.ALL if default else SignalHandlerOptions.NO
    install_signal_handlers(signal_handler_options)


def ok(*, context: Context | None = None) -> bool:
    """Tell whether a context is running."""
    return (get_default_context() if context is None else context).ok()


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Stop a running context.

    :raises RCLError: if it is not running; see :func:`try_shutdown`.
    """
    (get_default_context() if context is None else context).shutdown()
    if uninstall_handlers or (uninstall_handlers is None and context is None):
        uninstall_signal_handlers()


def try_shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Stop a context if it is running."""
    if ok(context=context):
        shutdown(context=context, uninstall_handlers=uninstall_handlers)


def spin_once(
    node: Node, *, executor: Executor | None = None, timeout_sec: float | None = None
) -> None:
    """Run one callback of a node, waiting for it at most ``timeout_sec``."""
    executor = get_global_executor() if executor is None else executor
    added = executor.add_node(node)
    try:
        executor.spin_once(timeout_sec)
    finally:
        if added:
            executor.remove_node(node)


def spin(node: Node, executor: Executor | None = None) -> None:
    """Run a node's callbacks until its context is shut down."""
    if executor is None and get_default_context().was_shut_down():
        raise ExternalShutdownException()  # a signal came before the spin did
    executor = get_global_executor() if executor is None else executor
    added = executor.add_node(node)
    try:
        executor.spin()
    finally:
        if added:
            executor.remove_node(node)
