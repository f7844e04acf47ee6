# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D102 -- the methods are described in transport.py
"""Cyclone DDS as transport, byte for byte what the ROS 2 middleware puts on the wire.

Messages travel as CDR that rosbags made: Cyclone's Python IDL layer costs about a thousand times
more for an image. The C library still checks incoming bytes against the type, so every topic
registers its real structure. What Cyclone calls from its own threads stays in C: there are no
Python listeners, and writing and waiting release the interpreter lock.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import threading
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from cyclonedds._clayer import ddspy_take
from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import DDSException, Entity
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import make_idl_struct
from cyclonedds.idl import types as idl
from cyclonedds.internal import DDS
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from sparse_split_ros.embedded.exceptions import TransportError
from sparse_split_ros.embedded.interrupts import undisturbed
from sparse_split_ros.embedded.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from sparse_split_ros.embedded.time import INFINITE, Duration
from sparse_split_ros.embedded.transport import Endpoint, NodeInfo, PortSpec, localhost_only
from sparse_split_ros.embedded.types import dds_type_name, ros_type_name, type_hash, typestore

if TYPE_CHECKING:
    from collections.abc import Callable

# Loopback only: no multicast there, so peers are found on fixed ports of 127.0.0.1, and a message
# may fill the loopback's 64 KiB datagrams. A real link keeps Cyclone's own sizes.
LOCALHOST = """
<General><AllowMulticast>false</AllowMulticast><MaxMessageSize>65500B</MaxMessageSize>{interface}
</General><Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>60</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers>{discovery}</Discovery>"""
LOOPBACK = '<Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>'
ANYWHERE = (
    '<Discovery><MaxAutoParticipantIndex>120</MaxAutoParticipantIndex>{discovery}</Discovery>'
)
# Announce every second (the default is eight), so that a link that was cut for longer than the
# lease is back within a second or two; and ask a silent reliable reader at least once a second.
DISCOVERY = '<LeaseDuration>10s</LeaseDuration><SPDPInterval>1s</SPDPInterval>'
INTERNAL = (
    '<Internal><HeartbeatInterval max="1s">100ms</HeartbeatInterval>'
    # How long a closing writer waits for readers that are silent, and so the end of the process.
    '<WriterLingerDuration>200ms</WriterLingerDuration></Internal>'
)

# A reliable writer waits this long for a slow reader before the message counts as lost.
MAX_BLOCKING_NS = 100_000_000
DISCOVERY_TOPIC = 'ros_discovery_info'
DISCOVERY_TYPE = 'rmw_dds_common/msg/ParticipantEntitiesInfo'
# Updates of other participants kept between two looks at the graph.
DISCOVERY_DEPTH = 1000

_ANY_STATE = 0x7F
_OFFERED_INCOMPATIBLE_QOS = 1 << 3
_REQUESTED_INCOMPATIBLE_QOS = 1 << 4
_ALIVE = 16
_MANY = 1000
_POLICIES = {2: 'DURABILITY', 4: 'DEADLINE', 8: 'LIVELINESS', 11: 'RELIABILITY', 5: 'LATENCY'}


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a C function that runs without the interpreter lock."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, DDS._dll_handle))


class _Sample(ctypes.Structure):
    """How cyclonedds hands serialised bytes to its C layer."""

    _fields_ = (('data', ctypes.c_char_p), ('size', ctypes.c_size_t))


class _Incompatible(ctypes.Structure):
    _fields_ = (
        ('total', ctypes.c_uint32), ('change', ctypes.c_int32), ('policy', ctypes.c_uint32),
    )  # fmt: skip


_int, _void, _size, _long = ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
_write = _function('dds_write', _int, _int, _void)
_delete = _function('dds_delete', _int, _int)
_guid = _function('dds_get_guid', _int, _int, _void)
_set_mask = _function('dds_set_status_mask', _int, _int, ctypes.c_uint32)
_readers_of = _function('dds_get_matched_subscriptions', _int, _int, _void, _size)
_writers_of = _function('dds_get_matched_publications', _int, _int, _void, _size)
_offered_status = _function('dds_get_offered_incompatible_qos_status', _int, _int, _void)
_requested_status = _function('dds_get_requested_incompatible_qos_status', _int, _int, _void)
_read_condition = _function('dds_create_readcondition', _int, _int, ctypes.c_uint32)
_guard_condition = _function('dds_create_guardcondition', _int, _int)
_set_guard = _function('dds_set_guardcondition', _int, _int, ctypes.c_bool)
_take_guard = _function('dds_take_guardcondition', _int, _int, ctypes.POINTER(ctypes.c_bool))
_waitset = _function('dds_create_waitset', _int, _int)
_attach = _function('dds_waitset_attach', _int, _int, _int, ctypes.c_ssize_t)
_detach = _function('dds_waitset_detach', _int, _int, _int)
_wait = _function('dds_waitset_wait', _int, _int, ctypes.POINTER(ctypes.c_ssize_t), _size, _long)


class _Port:
    """What writers and readers share: an entity, its identifier and its incompatible-QoS event."""

    event: int
    status: Any

    def __init__(
        self, domain: DdsTransport, entity: Entity, spec: PortSpec, owned: list[bytes]
    ) -> None:
        self.entity, self.ref, self.gid = entity, int(entity._ref), _guid_of(entity)
        self._domain, self._owned = domain, owned
        self._on_incompatible = spec.on_incompatible
        self._reported = 0
        _set_mask(self.ref, self.event)
        owned.append(self.gid)
        domain.announce()

    def report(self) -> None:
        """Tell the owner which policy kept a new peer away; reading the status clears it."""
        found = _Incompatible()
        if self.status(self.ref, ctypes.byref(found)) == 0 and found.total > self._reported:
            self._reported = found.total
            self._on_incompatible(_POLICIES.get(found.policy, f'policy {found.policy}'))

    def close(self) -> None:
        if self.gid in self._owned:
            self._owned.remove(self.gid)
            _release(self.entity)
            self._domain.announce()


class DdsWriter(_Port):
    """A data writer that sends bytes as they are."""

    event, status = _OFFERED_INCOMPATIBLE_QOS, _offered_status

    def write(self, cdr: bytes) -> bool:
        padding = -len(cdr) % 4
        data = cdr + bytes(padding) if padding else cdr
        result = _write(self.ref, ctypes.byref(_Sample(data, len(data))))
        if result == DDSException.DDS_RETCODE_TIMEOUT:
            return False
        if result < 0:
            raise TransportError(f'cannot publish: {DDSException(result)}')
        return True

    def matched(self) -> int:
        return max(0, int(_readers_of(self.ref, None, 0)))


class DdsReader(_Port):
    """A data reader that hands out bytes as they came."""

    event, status = _REQUESTED_INCOMPATIBLE_QOS, _requested_status

    def take(self) -> bytes | None:
        while True:
            taken = ddspy_take(self.ref, _ANY_STATE, 1)
            if isinstance(taken, int) or not taken:  # an error: closed by another thread
                return None
            data, info = taken[0]
            if info.valid_data:
                return bytes(data)

    def matched(self) -> int:
        return max(0, int(_writers_of(self.ref, None, 0)))


class DdsWaiter:
    """A wait set. Even keys are data conditions, odd ones the events of the same port."""

    def __init__(self, domain: DdsTransport, participant: int) -> None:
        self._set, self._guard = _waitset(participant), _guard_condition(participant)
        self._domain = domain
        self._ports: dict[int, DdsReader | DdsWriter] = {}
        self._conditions: dict[int, int] = {}
        self._lock = threading.Lock()
        self._next = 2
        self._own = 1 + len(domain.discovery)
        self._triggered = (ctypes.c_ssize_t * self._own)()
        self._was_set = ctypes.c_bool()
        _attach(self._set, self._guard, 0)
        # What comes and goes is kept by the readers of built-in topics until it is taken.
        self._arrivals = [_read_condition(reader, _ANY_STATE) for reader in domain.discovery]
        for condition in self._arrivals:
            _attach(self._set, condition, 1)

    def attach(self, port: Any) -> None:
        with self._lock:
            key, self._next = self._next, self._next + 2
            self._ports[key] = port
            if isinstance(port, DdsReader):
                self._conditions[key] = _read_condition(port.ref, _ANY_STATE)
                _attach(self._set, self._conditions[key], key)
            _attach(self._set, port.ref, key + 1)
            # A set with less room reports the same ones again and again, and starves the others.
            self._triggered = (ctypes.c_ssize_t * (2 * len(self._ports) + self._own))()

    def detach(self, port: Any) -> None:
        with self._lock:
            for key in [key for key, value in self._ports.items() if value is port]:
                del self._ports[key]
                _detach(self._set, port.ref)
                if key in self._conditions:
                    _delete(self._conditions.pop(key))

    def wait(self, seconds: float) -> list[DdsReader]:
        triggered = self._triggered  # attach() puts another in its place
        room = len(triggered)
        count = _wait(self._set, triggered, room, max(0, int(seconds * 1e9)))
        readers = []
        for key in triggered[: min(count, room)] if count > 0 else ():
            if key == 0:
                _take_guard(self._guard, ctypes.byref(self._was_set))
                continue
            if key == 1:
                self._domain.discover()
                continue
            port = self._ports.get(key & ~1)
            if port is not None and key & 1:
                port.report()
            elif isinstance(port, DdsReader):
                readers.append(port)
        return readers

    def wake(self) -> None:
        _set_guard(self._guard, True)

    def close(self) -> None:
        for port in list(self._ports.values()):
            self.detach(port)
        for one in (self._set, self._guard, *self._arrivals):
            _delete(one)


class DdsTransport:
    """One participant in one domain, shared by every context of this process in that domain.

    It lives as long as the process: topics that are dropped and made anew crash cyclonedds 11.0.1.
    """

    note = ''

    def __init__(self, domain_id: int) -> None:
        reach = 'this host only' if localhost_only() else 'this network'
        self.name = f'Cyclone DDS {version("cyclonedds")} ({reach})'
        self._lock = threading.RLock()
        self._topics: dict[tuple[str, str], Topic[Any]] = {}
        self._nodes: list[NodeInfo] = []
        self._others: dict[bytes, Any] = {}
        try:
            self._domain = Domain(domain_id, _configuration())
            self._participant = DomainParticipant(
                domain_id, qos=Qos(Policy.Userdata(b'enclave=/;'))
            )
            self._seen: dict[Any, tuple[BuiltinDataReader, dict[bytes, Any]]] = {
                topic: (BuiltinDataReader(self._participant, topic), {})
                for topic in (
                    BuiltinTopicDcpsParticipant,
                    BuiltinTopicDcpsPublication,
                    BuiltinTopicDcpsSubscription,
                )
            }
            out, into = _discovery(1), _discovery(DISCOVERY_DEPTH)
            self._writer = DataWriter(self._participant, self._topic(out), _writer_qos(out))
            self._reader = DataReader(self._participant, self._topic(into), _reader_qos(into))
        except DDSException as error:
            raise TransportError(f'cannot join DDS domain {domain_id}: {error}') from None
        self._gid = _guid_of(self._participant)
        self.announce()

    def create_writer(self, spec: PortSpec) -> DdsWriter:
        entity = self._entity(DataWriter, spec, _writer_qos(spec))
        return DdsWriter(self, entity, spec, spec.node.writers)

    def create_reader(self, spec: PortSpec) -> DdsReader:
        entity = self._entity(DataReader, spec, _reader_qos(spec))
        return DdsReader(self, entity, spec, spec.node.readers)

    def _entity(self, kind: Any, spec: PortSpec, qos: Qos) -> Any:
        try:
            return kind(self._participant, self._topic(spec), qos)
        except DDSException as error:
            raise TransportError(f'{spec.topic} with {spec.qos}: {error}') from None

    def create_waiter(self) -> DdsWaiter:
        return DdsWaiter(self, self._participant._ref)

    @property
    def discovery(self) -> list[int]:
        """The readers of built-in topics."""
        return [int(reader._ref) for reader, _ in self._seen.values()]

    def discover(self) -> None:
        """Take in who and what has come and gone; nothing once the process has left the domain."""
        with contextlib.suppress(DDSException):
            for topic in self._seen:
                self._alive(topic)

    def add_node(self, node: NodeInfo) -> None:
        with self._lock:
            self._nodes.append(node)
        self.announce()

    def remove_node(self, node: NodeInfo) -> None:
        with self._lock:
            if node in self._nodes:
                self._nodes.remove(node)
        self.announce()

    def nodes(self) -> list[tuple[str, str]]:
        return [
            (node.node_name, node.node_namespace)
            for info in self._everyone()
            for node in info.node_entities_info_seq
        ]

    def endpoints(self) -> list[Endpoint]:
        owners = {}
        for info in self._everyone():
            for node in info.node_entities_info_seq:
                for gid in [*node.reader_gid_seq, *node.writer_gid_seq]:
                    owners[bytes(gid.data)[:16]] = (node.node_name, node.node_namespace)
        found = []
        for topic in (BuiltinTopicDcpsPublication, BuiltinTopicDcpsSubscription):
            for sample in self._alive(topic):
                if not sample.topic_name.startswith('rt/'):
                    continue
                gid = sample.key.bytes
                found.append(
                    Endpoint(
                        is_publisher=topic is BuiltinTopicDcpsPublication,
                        topic=sample.topic_name[2:],
                        type_name=ros_type_name(sample.type_name),
                        type_hash=_user_data(sample.qos).get('typehash', ''),
                        gid=gid,
                        qos=_qos_profile(sample.qos),
                        node=owners.get(gid),
                    )
                )
        return found

    def announce(self) -> None:
        """Tell the domain which nodes live here and which endpoints are theirs."""
        store = _discovery_store()
        with self._lock:
            gid = _gid_maker(store)
            entities = store.types['rmw_dds_common/msg/NodeEntitiesInfo']
            info = store.types[DISCOVERY_TYPE](
                gid=gid(self._gid),
                node_entities_info_seq=[
                    entities(
                        node_namespace=node.namespace,
                        node_name=node.name,
                        reader_gid_seq=[gid(one) for one in node.readers],
                        writer_gid_seq=[gid(one) for one in node.writers],
                    )
                    for node in self._nodes
                ],
            )
            data = bytes(store.serialize_cdr(info, DISCOVERY_TYPE))
            data += bytes(-len(data) % 4)
            _write(self._writer._ref, ctypes.byref(_Sample(data, len(data))))

    def leave(self) -> None:
        """Leave the domain at the end of the process, so that others notice at once."""
        _release(self._participant)
        _release(self._domain)

    def _topic(self, spec: PortSpec) -> Topic[Any]:
        plain = spec.qos.avoid_ros_namespace_conventions
        name = spec.topic.removeprefix('/') if plain else f'rt{spec.topic}'
        with self._lock:
            key = name, spec.type_name
            if key not in self._topics:
                self._topics[key] = Topic(self._participant, name, _raw_type(spec.type_name))
            return self._topics[key]

    def _alive(self, topic: Any) -> list[Any]:
        """Return what of a built-in topic is there; what has gone is kept nowhere."""
        reader, known = self._seen[topic]
        with self._lock, undisturbed():
            while samples := reader.take(_MANY):
                for one in samples:
                    if one.sample_info.instance_state == _ALIVE:
                        known[one.key.bytes] = one
                    else:
                        known.pop(one.key.bytes, None)
            return list(known.values())

    def _everyone(self) -> list[Any]:
        """Return what each living participant last said about its nodes."""
        store = _discovery_store()
        with self._lock:
            taken = ddspy_take(self._reader._ref, _ANY_STATE, DISCOVERY_DEPTH)
            # Only the last of each participant is read: after hours a thousand may have piled up.
            newest = {
                bytes(data[4:20]): data
                for data, info in (() if isinstance(taken, int) else taken)
                if info.valid_data
            }
            for gid, data in newest.items():
                try:
                    self._others[gid] = store.deserialize_cdr(data, DISCOVERY_TYPE)
                except SerdeError:
                    continue  # a distribution whose identifiers have another size
            alive = {one.key.bytes for one in self._alive(BuiltinTopicDcpsParticipant)}
            self._others = {gid: said for gid, said in self._others.items() if gid in alive}
            return list(self._others.values())


_transports: dict[int, DdsTransport] = {}
_joining = threading.Lock()


def join(domain_id: int) -> DdsTransport:
    """Return this process's place in a domain.

    :raises TransportError: if Cyclone DDS cannot open it.
    """
    with _joining:
        if domain_id not in _transports:
            _transports[domain_id] = DdsTransport(domain_id)
        return _transports[domain_id]


def _leave_all() -> None:
    for transport in _transports.values():
        transport.leave()
    _transports.clear()


def _forget_after_fork() -> None:
    """Drop every entity without touching the C library, whose threads did not survive a fork."""
    Entity._entities.clear()
    _transports.clear()


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_forget_after_fork)


def _discovery(depth: int) -> PortSpec:
    """Return what ``ros_discovery_info`` is: a plain name, latched."""
    qos = QoSProfile(
        depth=depth,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        avoid_ros_namespace_conventions=True,
    )
    return PortSpec(NodeInfo('', '/'), DISCOVERY_TOPIC, DISCOVERY_TYPE, qos, lambda _: None)


def _guid_of(entity: Entity) -> bytes:
    guid = (ctypes.c_uint8 * 16)()
    _guid(entity._ref, guid)
    return bytes(guid)


def _release(entity: Entity) -> None:
    """Delete an entity now rather than when Python collects it, and only once."""
    if Entity._entities.pop(entity._ref, None) is not None:
        _delete(entity._ref)


def _configuration() -> str:
    users = os.environ.get('CYCLONEDDS_URI', '')
    interface = '' if 'NetworkInterface' in users else LOOPBACK  # one named twice is an error
    body = LOCALHOST if localhost_only() else ANYWHERE
    body = body.format(discovery=DISCOVERY, interface=interface).replace('\n', '')
    own = f'<CycloneDDS><Domain>{body}{INTERNAL}</Domain></CycloneDDS>'
    return f'{own},{users}' if users else own


@cache
def _discovery_store() -> Typestore:
    """Return the definitions of ``ros_discovery_info``: Humble's identifiers have 24 bytes."""
    humble = os.environ.get('ROS_DISTRO') == 'humble'
    return get_typestore(Stores.ROS2_HUMBLE if humble else Stores.ROS2_JAZZY)


def _gid_maker(store: Typestore) -> Callable[[bytes], Any]:
    cls: Any = store.types['rmw_dds_common/msg/Gid']
    size: Any = store.fielddefs['rmw_dds_common/msg/Gid'][1][0][1][1]
    return lambda gid: cls(data=np.frombuffer(gid.ljust(size[1], b'\0'), np.uint8))


@cache
def _raw_type(type_name: str) -> type[Any]:
    """Return a class cyclonedds takes for an IDL type, with the structure of a ROS message."""
    store = _discovery_store() if type_name == DISCOVERY_TYPE else typestore()
    structure = _structure(type_name, store)
    return type('Raw', (), {'__idl__': structure.__idl__})


def _structure(type_name: str, store: Typestore) -> Any:
    fields = {name: _idl_type(kind, store) for name, kind in store.fielddefs[type_name][1]}
    return make_idl_struct(
        f'{type_name.rpartition("/")[2]}_', dds_type_name(type_name).replace('::', '.'), fields
    )


def _idl_type(description: Any, store: Typestore) -> Any:
    types: Any = idl  # subscripts that only its own plugin for mypy understands
    kind, detail = description
    if kind == Nodetype.NAME:
        return _structure(detail, store)
    if kind == Nodetype.BASE:
        base, bound = detail
        if base == 'string':
            return types.bounded_str[bound] if bound else str
        return {'bool': bool, 'char': types.uint8, 'byte': types.uint8}.get(base) or getattr(
            types, base
        )
    item, size = _idl_type(detail[0], store), detail[1]
    if kind == Nodetype.ARRAY:
        return types.array[item, size]
    return types.sequence[item, size] if size else types.sequence[item]


def _common_qos(spec: PortSpec) -> list[Any]:
    qos = spec.qos
    keep_all = qos.history == HistoryPolicy.KEEP_ALL
    policies: list[Any] = [
        Policy.History.KeepAll if keep_all else Policy.History.KeepLast(max(1, qos.depth)),
        Policy.DataRepresentation(use_cdrv0_representation=True),
        Policy.Userdata(f'typehash={type_hash(spec.type_name)};'.encode()),
    ]
    if qos.reliability == ReliabilityPolicy.BEST_EFFORT:
        policies.append(Policy.Reliability.BestEffort)
    elif qos.reliability == ReliabilityPolicy.RELIABLE:
        policies.append(Policy.Reliability.Reliable(MAX_BLOCKING_NS))
    if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        policies.append(Policy.Durability.TransientLocal)
    if qos.deadline.nanoseconds > 0:
        policies.append(Policy.Deadline(qos.deadline.nanoseconds))
    lease = qos.liveliness_lease_duration.nanoseconds or INFINITE.nanoseconds
    if qos.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        policies.append(Policy.Liveliness.ManualByTopic(lease))
    else:
        policies.append(Policy.Liveliness.Automatic(lease))
    return policies


def _writer_qos(spec: PortSpec) -> Qos:
    policies = [*_common_qos(spec), Policy.WriterDataLifecycle(autodispose=False)]
    if spec.qos.lifespan.nanoseconds > 0:
        policies.append(Policy.Lifespan(spec.qos.lifespan.nanoseconds))
    if spec.qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        # Without this a late reader gets one message, whatever the depth says.
        policies.append(Policy.DurabilityService(0, policies[0], -1, -1, -1))
    return Qos(*policies)


def _reader_qos(spec: PortSpec) -> Qos:
    # Others name members differently (data, data_): names must not decide over a match.
    coercion = Policy.TypeConsistency.AllowTypeCoercion(ignore_member_names=True)
    return Qos(*_common_qos(spec), coercion)


def _user_data(qos: Qos) -> dict[str, str]:
    found = qos[Policy.Userdata]
    pairs = (found.data if found else b'').decode('ascii', 'replace').split(';')
    return dict(pair.split('=', 1) for pair in pairs if '=' in pair)


def _qos_profile(qos: Qos) -> QoSProfile:
    """Return what discovery tells of an endpoint's QoS; only Cyclone DDS tells the history."""

    def span(policy: Any, name: str) -> Duration:
        found = qos[policy]
        return Duration(nanoseconds=getattr(found, name) if found else INFINITE.nanoseconds)

    history = qos[Policy.History]
    kept = isinstance(history, Policy.History.KeepLast)
    reliable = isinstance(qos[Policy.Reliability], Policy.Reliability.Reliable)
    latched = qos[Policy.Durability] == Policy.Durability.TransientLocal
    manual = isinstance(qos[Policy.Liveliness], Policy.Liveliness.ManualByTopic)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST if kept else HistoryPolicy.UNKNOWN,
        depth=history.depth if kept else 0,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        lifespan=span(Policy.Lifespan, 'lifespan'),
        deadline=span(Policy.Deadline, 'deadline'),
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC if manual else LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=span(Policy.Liveliness, 'lease_duration'),
    )
