# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the runtime asks of a network layer, and the choice of one.

A transport moves CDR bytes between topics and knows who else is there. Cyclone DDS is the one that
real ROS 2 nodes hear; Zenoh carries the same bytes between our own processes where Cyclone DDS has
no wheel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from sparse_split_ros.embedded.exceptions import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sparse_split_ros.embedded.qos import QoSProfile

ENVIRONMENT = 'SPARSE_SPLIT_TRANSPORT'


@dataclass(eq=False)
class NodeInfo:
    """A node of this process as the graph shows it; identifiers are those of its endpoints."""

    name: str
    namespace: str
    readers: list[bytes] = field(default_factory=list)
    writers: list[bytes] = field(default_factory=list)


@dataclass(frozen=True)
class PortSpec:
    """What a publisher or subscription wants of the network."""

    node: NodeInfo
    topic: str
    type_name: str
    qos: QoSProfile
    on_incompatible: Callable[[str], None]  # hears which policy keeps a peer away


@dataclass(frozen=True)
class Endpoint:
    """A publisher or subscription anywhere in the domain."""

    is_publisher: bool
    topic: str
    type_name: str
    type_hash: str
    gid: bytes
    qos: QoSProfile
    node: tuple[str, str] | None  # (name, namespace); None while it is not known


class Port(Protocol):
    """The network's end of a publisher or subscription."""

    gid: bytes

    def matched(self) -> int:
        """Return how many peers this port has."""

    def close(self) -> None:
        """Leave the network. Closing twice is harmless."""


class Writer(Port, Protocol):
    """The network's end of a publisher."""

    def write(self, cdr: bytes) -> bool:
        """Send; return whether the network took it. Safe from any thread."""


class Reader(Port, Protocol):
    """The network's end of a subscription."""

    def take(self) -> bytes | None:
        """Return the oldest waiting message, or None."""


class Waiter(Protocol):
    """Blocks one executor until a reader has something or another thread wakes it."""

    def attach(self, port: Port) -> None:
        """Wait for this reader's data, and for the warnings of either kind of port."""

    def detach(self, port: Port) -> None:
        """Stop waiting for a port, if it was attached."""

    def wait(self, seconds: float) -> Sequence[Reader]:
        """Return the readers with data, or an empty list after ``seconds`` or a wake."""

    def wake(self) -> None:
        """End a wait, this one or the next. Safe from any thread."""

    def close(self) -> None:
        """Free what the waiter holds."""


class Transport(Protocol):
    """A place in a domain."""

    name: str  # what carries the bytes, for people
    note: str  # what a user should know about it, said once; empty if there is nothing

    def create_writer(self, spec: PortSpec) -> Writer:
        """Offer a topic."""

    def create_reader(self, spec: PortSpec) -> Reader:
        """Ask for a topic."""

    def create_waiter(self) -> Waiter:
        """Return a waiter for the ports of this transport."""

    def add_node(self, node: NodeInfo) -> None:
        """Show a node to the graph."""

    def remove_node(self, node: NodeInfo) -> None:
        """Take a node off the graph."""

    def nodes(self) -> list[tuple[str, str]]:
        """Return (name, namespace) of every node in the domain."""

    def endpoints(self) -> list[Endpoint]:
        """Return every publisher and subscription in the domain, this process's included."""


def open_transport(domain_id: int) -> Transport:
    """Return the transport of a domain; raises what :func:`load_transport` does."""
    return load_transport()(domain_id)


def load_transport() -> Callable[[int], Transport]:
    """Import the transport the environment names, or the best installed; return how to join.

    :raises TransportError: if none is installed or the name is unknown.
    """
    wanted = os.environ.get(ENVIRONMENT, '')
    if wanted not in ('', 'dds', 'zenoh'):
        raise TransportError(f'{ENVIRONMENT} is {wanted!r}, expected dds or zenoh')
    if wanted == 'dds' or (not wanted and find_spec('cyclonedds') is not None):
        from sparse_split_ros.embedded import dds

        return dds.join
    if find_spec('zenoh') is not None:
        from sparse_split_ros.embedded import zenoh

        return zenoh.join
    raise TransportError('no network layer: pip install "cyclonedds>=11.0.1,<12" or eclipse-zenoh')


def domain_from_environment() -> int:
    """Return ``ROS_DOMAIN_ID``, or 0.

    :raises TransportError: if it is not a domain that fits the ports of every platform.
    """
    text = os.environ.get('ROS_DOMAIN_ID') or '0'
    if not text.isdecimal() or int(text) > 232:
        raise TransportError(f'ROS_DOMAIN_ID is {text!r}, expected 0..232 (best <= 101)')
    return int(text)


def localhost_only() -> bool:
    """Tell whether ``ROS_LOCALHOST_ONLY`` or ``ROS_AUTOMATIC_DISCOVERY_RANGE`` keeps us here.

    :raises TransportError: if the range is one this runtime does not know.
    """
    if os.environ.get('ROS_LOCALHOST_ONLY', '0') == '1':
        return True
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '').upper()
    if reach not in ('', 'SUBNET', 'LOCALHOST', 'OFF', 'SYSTEM_DEFAULT'):
        raise TransportError(
            f'ROS_AUTOMATIC_DISCOVERY_RANGE is {reach!r}, expected SUBNET, LOCALHOST or OFF'
        )
    return reach in ('LOCALHOST', 'OFF')
