# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D102 -- the methods are described in transport.py
"""Zenoh as transport, for machines that Cyclone DDS has no wheel for.

The same CDR travels between processes of this runtime; ROS 2 nodes do not hear it. Processes are
peers and need no router. Reliability and durability stand at the end of each key, so that Zenoh's
own matching keeps apart what DDS would: a reliable reader asks for ``…/r/*``, a latched one for
``…/*/t``. Liveliness tokens spell out the graph.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import socket
import threading
from collections import deque
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Any

import zenoh
import zenoh.ext

from sparse_split_ros.embedded.exceptions import TransportError
from sparse_split_ros.embedded.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from sparse_split_ros.embedded.time import INFINITE
from sparse_split_ros.embedded.transport import Endpoint, NodeInfo, PortSpec, localhost_only
from sparse_split_ros.embedded.types import type_hash

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = 'sparse_split'
# Where peers meet on this host alone, below the ephemeral ports.
FIRST_PORT, PORTS_PER_DOMAIN = 10_000, 32
# A reader that keeps all must still be bounded.
KEEP_ALL_DEPTH = 10_000
# How long the end of a process waits for its session to close.
CLOSING_S = 1.0


class _Port:
    """A writer or reader: its place in the graph and in the node that owns it."""

    def __init__(
        self, transport: ZenohTransport, entity: Any, endpoint: Endpoint, spec: PortSpec
    ) -> None:
        self.gid, self.endpoint = endpoint.gid, endpoint
        self._transport, self._entity = transport, entity
        self._on_incompatible = spec.on_incompatible
        self._owned = spec.node.writers if endpoint.is_publisher else spec.node.readers
        self._owned.append(self.gid)
        transport.ports[self.gid] = self
        self._token = transport.show(endpoint)

    def matched(self) -> int:
        others = self._transport.endpoints()
        return sum(self._meets(other) and not self._obstacle(other) for other in others)

    def report(self, other: Endpoint) -> None:
        """Tell the owner if a new endpoint would be a peer but for its QoS."""
        if self._meets(other) and (policy := self._obstacle(other)):
            self._on_incompatible(policy)

    def close(self) -> None:
        if self._transport.ports.pop(self.gid, None) is not None:
            self._owned.remove(self.gid)
            self._token.undeclare()
            self._entity.undeclare()

    def _meets(self, other: Endpoint) -> bool:
        mine = self.endpoint
        same_topic = (mine.topic, mine.type_name) == (other.topic, other.type_name)
        return same_topic and mine.is_publisher != other.is_publisher

    def _obstacle(self, other: Endpoint) -> str:
        """Return the policy that keeps two endpoints of a topic apart, or an empty string."""
        ends = (self.endpoint, other) if self.endpoint.is_publisher else (other, self.endpoint)
        offered, asked = (_marks(end.qos) for end in ends)
        for policy, offer, demand in zip(('RELIABILITY', 'DURABILITY'), offered, asked):
            if demand in 'rt' and offer != demand:
                return policy
        return ''


class ZenohWriter(_Port):
    """A publisher of CDR bytes."""

    def write(self, cdr: bytes) -> bool:
        try:
            self._entity.put(cdr)
        except zenoh.ZError as error:
            raise TransportError(f'cannot publish: {error}') from None
        return True


class ZenohReader(_Port):
    """A subscriber whose messages wait in a queue of the profile's depth, the oldest leaving."""

    def __init__(self, transport: ZenohTransport, endpoint: Endpoint, spec: PortSpec) -> None:
        depth = _depth(spec.qos)
        self.queue: deque[bytes] = deque(maxlen=depth)
        self.waiter: ZenohWaiter | None = None
        key, receive = transport.data_key(endpoint), _direct(self._receive)
        entity: Any
        if spec.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            history = zenoh.ext.HistoryConfig(detect_late_publishers=True, max_samples=depth)
            entity = zenoh.ext.declare_advanced_subscriber(
                transport.session, key, receive, history=history
            )
        else:
            entity = transport.session.declare_subscriber(key, receive)
        super().__init__(transport, entity, endpoint, spec)

    def take(self) -> bytes | None:
        try:
            return self.queue.popleft()
        except IndexError:
            return None

    def _receive(self, sample: Any) -> None:
        self.queue.append(sample.payload.to_bytes())
        waiter = self.waiter
        if waiter is not None:
            waiter.wake()


class ZenohWaiter:
    """Waits for an event that Zenoh's threads and other threads set."""

    def __init__(self) -> None:
        self._readers: list[ZenohReader] = []
        self._event = threading.Event()

    def attach(self, port: Any) -> None:
        if isinstance(port, ZenohReader):
            self._readers.append(port)
            port.waiter = self
            self.wake()

    def detach(self, port: Any) -> None:
        if port in self._readers:
            self._readers.remove(port)
            port.waiter = None

    def wait(self, seconds: float) -> list[ZenohReader]:
        if not any(reader.queue for reader in self._readers):
            self._event.wait(seconds)
        self._event.clear()  # before looking, so that what comes now ends the next wait
        return [reader for reader in self._readers if reader.queue]

    def wake(self) -> None:
        self._event.set()

    def close(self) -> None:
        for reader in list(self._readers):
            self.detach(reader)


class ZenohTransport:
    """One session in one domain, shared by every context of this process in that domain."""

    note = 'Zenoh is the transport: other ROS 2 nodes do not see this one'

    def __init__(self, domain_id: int) -> None:
        self._domain_id = domain_id
        reach = 'this host only' if localhost_only() else 'this network'
        self.name = f'Zenoh {version("eclipse-zenoh")} ({reach})'
        self.ports: dict[bytes, _Port] = {}
        self._numbers = count(1)
        self._tokens: dict[str, Endpoint | tuple[str, str]] = {}
        self._own: dict[int, Any] = {}
        try:
            self.session = _open(domain_id)
        except zenoh.ZError as error:
            raise TransportError(f'cannot join Zenoh domain {domain_id}: {error}') from None
        self.close = _Closing(self.session)
        self._prefix = bytes.fromhex(str(self.session.zid()).rjust(32, '0'))[:12]
        self._watch = self.session.liveliness().declare_subscriber(
            f'{ROOT}/{domain_id}/graph/**', _direct(self._on_token), history=True
        )

    def data_key(self, endpoint: Endpoint) -> str:
        """Return the key a writer puts to, or the one its readers ask for."""
        marks = _marks(endpoint.qos)
        if not endpoint.is_publisher:
            marks = tuple(mark if mark in 'rt' else '*' for mark in marks)
        topic, kind = endpoint.topic.strip('/'), endpoint.type_name.replace('/', '%')
        return f'{ROOT}/{self._domain_id}/data/{topic}/{kind}/{"/".join(marks)}'

    def show(self, endpoint: Endpoint) -> Any:
        """Return a token that tells everyone of an endpoint until it is undeclared."""
        name, namespace = endpoint.node or ('', '')
        parts = (
            'P' if endpoint.is_publisher else 'S', endpoint.gid.hex(), endpoint.topic,
            endpoint.type_name, endpoint.type_hash, *_marks(endpoint.qos), namespace, name,
        )  # fmt: skip
        return self._declare(parts)

    def create_writer(self, spec: PortSpec) -> ZenohWriter:
        endpoint = self._endpoint(spec, is_publisher=True)
        control = zenoh.CongestionControl
        # A slow reader misses what is kept as the last ones; it must not hold the writer up.
        keeps_all = spec.qos.history == HistoryPolicy.KEEP_ALL
        options: Any = {
            'express': True,  # no batching: latency counts
            'congestion_control': control.BLOCK if keeps_all else control.DROP,
        }
        key = self.data_key(endpoint)
        entity: Any
        if spec.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            cache = zenoh.ext.CacheConfig(max_samples=_depth(spec.qos))
            entity = zenoh.ext.declare_advanced_publisher(
                self.session, key, cache=cache, publisher_detection=True, **options
            )
        else:
            entity = self.session.declare_publisher(key, **options)
        return ZenohWriter(self, entity, endpoint, spec)

    def create_reader(self, spec: PortSpec) -> ZenohReader:
        return ZenohReader(self, self._endpoint(spec, is_publisher=False), spec)

    def create_waiter(self) -> ZenohWaiter:
        return ZenohWaiter()

    def add_node(self, node: NodeInfo) -> None:
        self._own[id(node)] = self._declare(('N', self._gid().hex(), node.namespace, node.name))

    def remove_node(self, node: NodeInfo) -> None:
        token = self._own.pop(id(node), None)
        if token is not None:
            token.undeclare()

    def nodes(self) -> list[tuple[str, str]]:
        return [one for one in list(self._tokens.values()) if isinstance(one, tuple)]

    def endpoints(self) -> list[Endpoint]:
        return [one for one in list(self._tokens.values()) if isinstance(one, Endpoint)]

    def _gid(self) -> bytes:
        return self._prefix + next(self._numbers).to_bytes(4, 'big')

    def _endpoint(self, spec: PortSpec, is_publisher: bool) -> Endpoint:
        return Endpoint(
            is_publisher, spec.topic, spec.type_name, type_hash(spec.type_name), self._gid(),
            spec.qos, (spec.node.name, spec.node.namespace),
        )  # fmt: skip

    def _declare(self, parts: tuple[str, ...]) -> Any:
        # Our own tokens enter the graph at once: the network would tell us a little later.
        body = '/'.join(part.replace('/', '%') for part in parts)
        key = f'{ROOT}/{self._domain_id}/graph/{body}'
        self._enter(key)
        return self.session.liveliness().declare_token(key)

    def _on_token(self, sample: Any) -> None:
        key = str(sample.key_expr)
        if sample.kind == zenoh.SampleKind.DELETE:
            self._tokens.pop(key, None)
        elif key not in self._tokens:
            self._enter(key)

    def _enter(self, key: str) -> None:
        known = _parse_token(key)
        if known is None:
            return  # a newer version of this runtime
        self._tokens[key] = known
        if isinstance(known, Endpoint):
            for port in list(self.ports.values()):
                port.report(known)


def _direct(callback: Callable[[Any], None]) -> Any:
    """Run a callback in Zenoh's own thread; a Python thread each would outlive the program."""
    return zenoh.handlers.Callback(callback, indirect=False)


def _marks(qos: QoSProfile) -> tuple[str, ...]:
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return ('r' if reliable else 'b', 't' if latched else 'v')


def _depth(qos: QoSProfile) -> int:
    return KEEP_ALL_DEPTH if qos.history == HistoryPolicy.KEEP_ALL else max(1, qos.depth)


def _parse_token(key: str) -> Endpoint | tuple[str, str] | None:
    """An endpoint or a node's name and namespace; None of what is neither."""
    kind, *parts = [part.replace('%', '/') for part in key.split('/')[3:]] or ['']
    if kind == 'N' and len(parts) == 3:
        return (parts[2], parts[1])
    if kind not in ('P', 'S') or len(parts) != 8:
        return None
    gid, topic, type_name, hash_, reliability, durability, namespace, name = parts
    reliable, latched = reliability == 'r', durability == 't'
    qos = QoSProfile(
        history=HistoryPolicy.UNKNOWN,
        depth=0,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        lifespan=INFINITE,
        deadline=INFINITE,
        liveliness_lease_duration=INFINITE,
    )
    try:
        owner = bytes.fromhex(gid)
    except ValueError:
        return None
    return Endpoint(kind == 'P', topic, type_name, hash_, owner, qos, (name, namespace))


def _open(domain_id: int) -> zenoh.Session:
    """Return a session in a domain.

    On this host alone every process listens on the first free port of the domain and keeps trying
    those below it, so that of any two processes one finds the other, in whatever order they start.
    """
    if not localhost_only():
        return zenoh.open(_configuration({}))
    first = FIRST_PORT + domain_id * PORTS_PER_DOMAIN
    for port in range(first, first + PORTS_PER_DOMAIN):
        below = ', '.join(f'"tcp/127.0.0.1:{other}"' for other in range(first, port))
        settings = {
            'scouting/multicast/enabled': 'false',
            'listen/endpoints': f'["tcp/127.0.0.1:{port}"]',
            'connect/endpoints': f'[{below}]',
            'connect/retry': '{period_init_ms: 100, period_max_ms: 1000}',
        }
        if _is_free(port):
            try:
                return zenoh.open(_configuration(settings))
            except zenoh.ZError:  # another process was faster
                continue
    raise TransportError(f'domain {domain_id} has {PORTS_PER_DOMAIN} processes here, no more fit')


def _configuration(settings: dict[str, str]) -> zenoh.Config:
    path = os.environ.get('ZENOH_CONFIG')
    config: zenoh.Config = zenoh.Config.from_file(path) if path else zenoh.Config()
    config.insert_json5('timestamping/enabled', 'true')  # latched topics order by time
    # A killed process would leave its shared memory behind.
    config.insert_json5('transport/shared_memory/enabled', 'false')
    # As long as a writer of DDS waits for a slow reader; from then on it drops at once.
    drop = 'transport/link/tx/queue/congestion_control/drop'
    config.insert_json5(f'{drop}/wait_before_drop', '100000')
    config.insert_json5(f'{drop}/max_wait_before_drop_fragments', '100000')
    for name, value in settings.items():
        config.insert_json5(name, value)
    return config


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(('127.0.0.1', port))
        except OSError:
            return False
        return True


_transports: dict[int, ZenohTransport] = {}
_joining = threading.Lock()


def join(domain_id: int) -> ZenohTransport:
    """Return this process's place in a domain.

    :raises TransportError: if Zenoh cannot open a session.
    """
    with _joining:
        if domain_id not in _transports:
            _transports[domain_id] = ZenohTransport(domain_id)
        return _transports[domain_id]


class _Closing:
    """A thread that closes a session, for one that is stuck with a frozen peer takes ten seconds.

    It is made beforehand: a program that ends cannot start threads.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._asked, self._done = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name='zenoh closing', daemon=True).start()

    def _run(self) -> None:
        self._asked.wait()
        with contextlib.suppress(zenoh.ZError):
            self._session.close()
        self._done.set()

    def __call__(self) -> None:
        self._asked.set()
        if not self._done.wait(CLOSING_S):
            # Its destructor would wait once more.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))


def _leave_all() -> None:
    for transport in _transports.values():
        transport.close()
    _transports.clear()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_transports.clear)
