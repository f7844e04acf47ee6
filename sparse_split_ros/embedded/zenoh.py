# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Zenoh as transport, for machines that Cyclone DDS has no wheel for.

The same CDR travels between processes of this runtime; ROS 2 nodes do not hear it. Processes are
peers and need no router. Reliability and durability stand at the end of each key, so that Zenoh's
own matching keeps apart what DDS would: a reliable reader asks for ``…/r/*``, a latched one for
``…/*/t``. Liveliness tokens spell out the graph.
"""

from __future__ import annotations

import atexit
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
from sparse_split_ros.embedded.transport import Endpoint, NodeInfo, localhost_only
from sparse_split_ros.embedded.types import type_hash

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = 'sparse_split'
# On this host alone, peers meet on fixed ports of the domain, below the ephemeral ones. Whoever
# comes later connects to all that are there.
FIRST_PORT, PORTS_PER_DOMAIN = 10_000, 32
# A reader that keeps all must still be bounded.
KEEP_ALL_DEPTH = 10_000


class _Port:
    """A writer or reader: its place in the graph and in the node that owns it."""

    def __init__(
        self,
        transport: ZenohTransport,
        entity: Any,
        endpoint: Endpoint,
        owned: list[bytes],
        on_incompatible: Callable[[str], None],
    ) -> None:
        self.gid, self.endpoint = endpoint.gid, endpoint
        self._transport, self._entity, self._owned = transport, entity, owned
        self._on_incompatible = on_incompatible
        owned.append(self.gid)
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
        return (
            mine.is_publisher != other.is_publisher
            and (mine.topic, mine.type_name) == (other.topic, other.type_name)
        )

    def _obstacle(self, other: Endpoint) -> str:
        writer, reader = (self.endpoint, other) if self.endpoint.is_publisher else (other, self.endpoint)
        for policy, (offered, wanted) in zip(('RELIABILITY', 'DURABILITY'), zip(_marks(writer.qos), _marks(reader.qos))):
            if wanted in 'rt' and offered != wanted:
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

    def __init__(
        self,
        transport: ZenohTransport,
        endpoint: Endpoint,
        owned: list[bytes],
        on_incompatible: Callable[[str], None],
    ) -> None:
        depth = _depth(endpoint.qos)
        self.queue: deque[bytes] = deque(maxlen=depth)
        self.waiter: ZenohWaiter | None = None
        key, session = transport.data_key(endpoint), transport.session
        entity: Any
        if endpoint.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            history = zenoh.ext.HistoryConfig(detect_late_publishers=True, max_samples=depth)
            entity = zenoh.ext.declare_advanced_subscriber(
                session, key, self._receive, history=history
            )
        else:
            entity = session.declare_subscriber(key, self._receive)
        super().__init__(transport, entity, endpoint, owned, on_incompatible)

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
            self.session = zenoh.open(_configuration(domain_id))
        except zenoh.ZError as error:
            raise TransportError(f'cannot join Zenoh domain {domain_id}: {error}') from None
        self._prefix = bytes.fromhex(str(self.session.zid()).rjust(32, '0'))[:12]
        self._watch = self.session.liveliness().declare_subscriber(
            f'{ROOT}/{domain_id}/graph/**', self._on_token, history=True
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

    def create_writer(
        self,
        node: NodeInfo,
        topic: str,
        type_name: str,
        qos: QoSProfile,
        on_incompatible: Callable[[str], None],
    ) -> ZenohWriter:
        endpoint = self._endpoint(node, True, topic, type_name, qos)
        reliable = qos.reliability == ReliabilityPolicy.RELIABLE
        options: Any = {
            'express': True,  # no batching: latency counts
            'congestion_control': zenoh.CongestionControl.BLOCK
            if reliable
            else zenoh.CongestionControl.DROP,
        }
        key = self.data_key(endpoint)
        entity: Any
        if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            entity = zenoh.ext.declare_advanced_publisher(
                self.session, key, cache=zenoh.ext.CacheConfig(max_samples=_depth(qos)),
                publisher_detection=True, **options,
            )  # fmt: skip
        else:
            entity = self.session.declare_publisher(key, **options)
        return ZenohWriter(self, entity, endpoint, node.writers, on_incompatible)

    def create_reader(
        self,
        node: NodeInfo,
        topic: str,
        type_name: str,
        qos: QoSProfile,
        on_incompatible: Callable[[str], None],
    ) -> ZenohReader:
        endpoint = self._endpoint(node, False, topic, type_name, qos)
        return ZenohReader(self, endpoint, node.readers, on_incompatible)

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

    def _endpoint(
        self, node: NodeInfo, is_publisher: bool, topic: str, type_name: str, qos: QoSProfile
    ) -> Endpoint:
        kind, owner = type_hash(type_name), (node.name, node.namespace)
        return Endpoint(is_publisher, topic, type_name, kind, self._gid(), qos, owner)

    def _declare(self, parts: tuple[str, ...]) -> Any:
        # Our own tokens enter the graph at once: the network would tell us a little later.
        key = f'{ROOT}/{self._domain_id}/graph/' + '/'.join(part.replace('/', '%') for part in parts)
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


def _marks(qos: QoSProfile) -> tuple[str, ...]:
    reliable = qos.reliability == ReliabilityPolicy.RELIABLE
    latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return ('r' if reliable else 'b', 't' if latched else 'v')


def _depth(qos: QoSProfile) -> int:
    return KEEP_ALL_DEPTH if qos.history == HistoryPolicy.KEEP_ALL else max(1, qos.depth)


def _parse_token(key: str) -> Endpoint | tuple[str, str] | None:
    kind, *parts = [part.replace('%', '/') for part in key.split('/')[3:]]
    if kind == 'N' and len(parts) == 3:
        return (parts[2], parts[1])
    if kind not in ('P', 'S') or len(parts) != 8:
        return None
    gid, topic, type_name, hash_, reliability, durability, namespace, name = parts
    qos = QoSProfile(
        history=HistoryPolicy.UNKNOWN,
        depth=0,
        reliability=ReliabilityPolicy.RELIABLE
        if reliability == 'r'
        else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL
        if durability == 't'
        else DurabilityPolicy.VOLATILE,
        lifespan=INFINITE, deadline=INFINITE, liveliness_lease_duration=INFINITE,
    )  # fmt: skip
    return Endpoint(
        kind == 'P', topic, type_name, hash_, bytes.fromhex(gid), qos, (name, namespace)
    )


def _configuration(domain_id: int) -> zenoh.Config:
    path = os.environ.get('ZENOH_CONFIG')
    config = zenoh.Config.from_file(path) if path else zenoh.Config()
    settings = {
        'timestamping/enabled': 'true',  # the caches of latched topics order by time
        'transport/shared_memory/enabled': 'false',  # a killed process would leave its segments
    }
    if localhost_only():
        first = FIRST_PORT + domain_id * PORTS_PER_DOMAIN
        mine = next(filter(_is_free, range(first, first + PORTS_PER_DOMAIN)), None)
        if mine is None:
            raise TransportError(
                f'domain {domain_id} has more than {PORTS_PER_DOMAIN} processes on this host'
            )
        others = ', '.join(
            f'"tcp/127.0.0.1:{port}"'
            for port in range(first, first + PORTS_PER_DOMAIN)
            if port != mine and not _is_free(port)
        )
        settings |= {
            'scouting/multicast/enabled': 'false',
            'listen/endpoints': f'["tcp/127.0.0.1:{mine}"]',
            'connect/endpoints': f'[{others}]',
        }
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


def _leave_all() -> None:
    for transport in _transports.values():
        transport.session.close()
    _transports.clear()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_transports.clear)
