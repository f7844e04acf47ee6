# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, D102 -- the names, and what they mean, are rclpy's
"""Nodes, publishers and subscriptions, with the interface rclpy gives them."""

from __future__ import annotations

import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparse_split_ros.embedded import messages
from sparse_split_ros.embedded.exceptions import (
    InvalidHandle,
    NotInitializedException,
    ParameterUninitializedException,
    RCLError,
    Subset,
    only_rclpy,
)
from sparse_split_ros.embedded.executor import (
    Context,
    Executor,
    GuardCondition,
    Timer,
    get_default_context,
)
from sparse_split_ros.embedded.log import Logger, get_logger
from sparse_split_ros.embedded.names import Arguments, expand_topic_name, validate_topic_name
from sparse_split_ros.embedded.parameters import Parameter, ParameterTable
from sparse_split_ros.embedded.qos import (
    QoSOverridingOptions,
    QoSProfile,
    ReliabilityPolicy,
    apply_overrides,
)
from sparse_split_ros.embedded.time import NANOSECONDS, Clock, ROSClock, Time
from sparse_split_ros.embedded.transport import (
    Endpoint,
    NodeInfo,
    Port,
    PortSpec,
    Reader,
    Transport,
    Writer,
)
from sparse_split_ros.embedded.types import Message, TypesError, deserialize, serialize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sparse_split_ros.embedded.messages import ParameterDescriptor, SetParametersResult

    OnSet = Callable[[list[Parameter]], SetParametersResult]

M = TypeVar('M', bound=Message)


class TopicEndpointTypeEnum(IntEnum):
    INVALID = 0
    PUBLISHER = 1
    SUBSCRIPTION = 2


@dataclass(frozen=True)
class TopicEndpointInfo:
    """One publisher or subscription somewhere in the domain."""

    node_name: str
    node_namespace: str
    topic_type: str
    topic_type_hash: str
    endpoint_type: TopicEndpointTypeEnum
    endpoint_gid: list[int]
    qos_profile: QoSProfile


class Publisher(Subset, Generic[M]):
    """Sends messages of one type to one topic; safe from any thread."""

    def __init__(self, node: Node, msg_type: type[M], topic: str, qos: QoSProfile) -> None:
        self.msg_type, self.topic_name, self.qos_profile = msg_type, topic, qos
        self._context, self._logger = node.context, node.get_logger()
        spec = PortSpec(node.info, topic, msg_type.__msgtype__, qos, self._on_incompatible)
        self.port: Writer = node.context.transport.create_writer(spec)
        self._destroyed = False

    @property
    def topic(self) -> str:
        return self.topic_name

    def publish(self, msg: M | bytes) -> None:
        """Send a message, or CDR bytes of one as they are.

        :raises TypeError: if it is of another type than the publisher.
        :raises TypesError: if a field has a value its type cannot hold.
        :raises InvalidHandle: if the publisher was destroyed.
        :raises RCLError: if its context was shut down.
        """
        # A shutdown destroys every publisher; what a signal did is not this caller's mistake.
        if not self._context.ok():
            raise RCLError(f'cannot publish on {self.topic_name}: the context was shut down')
        if self._destroyed:
            raise InvalidHandle(f'publisher of {self.topic_name} was destroyed')
        if isinstance(msg, self.msg_type):
            cdr = serialize(msg)
        elif isinstance(msg, bytes):
            cdr = msg
        else:
            raise TypeError(f'expected a {self.msg_type.__msgtype__} or bytes, got {type(msg)}')
        if not self.port.write(cdr):
            self._logger.warning(
                f'a reader of {self.topic_name} is too slow: a message was lost',
                throttle_duration_sec=1.0,
            )

    def get_subscription_count(self) -> int:
        return self.port.matched()

    def destroy(self) -> None:
        self._destroyed = True
        self.port.close()

    def _on_incompatible(self, policy: str) -> None:
        self._logger.warning(
            f"New subscription discovered on topic '{self.topic_name}', requesting incompatible "
            f'QoS. No messages will be sent to it. Last incompatible policy: {policy}'
        )


class Subscription(Subset, Generic[M]):
    """Hands messages of one topic to a callback, in the thread of the node's executor."""

    def __init__(
        self,
        node: Node,
        msg_type: type[M],
        topic: str,
        callback: Callable[[Any], Any],
        qos: QoSProfile,
        raw: bool,
    ) -> None:
        if not callable(callback):
            raise TypeError(f'the callback for {topic} is {callback!r}, expected a callable')
        self.msg_type, self.topic_name, self.qos_profile, self.raw = msg_type, topic, qos, raw
        self.callback = callback
        self._logger = node.get_logger()
        spec = PortSpec(node.info, topic, msg_type.__msgtype__, qos, self._on_incompatible)
        self.port: Reader = node.context.transport.create_reader(spec)
        self._destroyed = False

    @property
    def topic(self) -> str:
        return self.topic_name

    def get_publisher_count(self) -> int:
        return self.port.matched()

    def destroy(self) -> None:
        self._destroyed = True
        self.port.close()

    def run(self) -> bool:
        """Take one message and call back; return whether there was one."""
        cdr = None if self._destroyed else self.port.take()
        if cdr is None:
            return False
        if self.raw:
            self.callback(cdr)
            return True
        try:
            msg = deserialize(cdr, self.msg_type)
        except TypesError as error:
            self._logger.error(f'{self.topic_name}: {error}', throttle_duration_sec=1.0)
            return False
        self.callback(msg)
        return True

    def _on_incompatible(self, policy: str) -> None:
        self._logger.warning(
            f"New publisher discovered on topic '{self.topic_name}', offering incompatible QoS. "
            f'No messages will be received from it. Last incompatible policy: {policy}'
        )


class Node(Subset):
    """A named member of the ROS graph that owns publishers, subscriptions, timers, parameters."""

    def __init__(
        self,
        node_name: str,
        *,
        context: Context | None = None,
        cli_args: Sequence[str] | None = None,
        namespace: str | None = None,
        use_global_arguments: bool = True,
        enable_rosout: bool = True,
        start_parameter_services: bool = True,
        parameter_overrides: Sequence[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
    ) -> None:
        self._context = get_default_context() if context is None else context
        if not self._context.ok():
            raise NotInitializedException('cannot create node')
        self._arguments = Arguments.parse(['--ros-args', *(cli_args or ())])
        if use_global_arguments:
            shared = self._context.arguments
            self._arguments.remaps += shared.remaps
            self._arguments.overrides = shared.overrides + self._arguments.overrides
        name, space = self._arguments.node_identity(node_name, namespace or '/')
        self._name, self._namespace = name, space
        self._logger = get_logger(self.get_fully_qualified_name().strip('/').replace('/', '.'))
        self._executor: weakref.ReferenceType[Executor] | None = None
        self._lock = threading.RLock()
        self._publishers: list[Publisher[Any]] = []
        self._subscriptions: dict[int, Subscription[Any]] = {}
        self._timers: list[Timer] = []
        self._guards: list[GuardCondition] = []
        self._clock = ROSClock()
        self._clock._on_change.append(self._wake)
        self._clock_subscription: Subscription[messages.Clock] | None = None
        self.info = NodeInfo(name, space)
        self._context.transport.add_node(self.info)
        # Who drops a node, or raises in its constructor, need not destroy it.
        self._left = weakref.finalize(
            self, _leave, self._context.transport, self.info, self._publishers, self._subscriptions
        )
        self._left.atexit = False
        self._context._nodes.add(self)

        overrides = {
            key: Parameter(key, value=value)
            for key, value in self._arguments.parameters_of(name, space).items()
        }
        overrides.update({parameter.name: parameter for parameter in parameter_overrides or ()})
        self._parameters = ParameterTable(overrides, allow_undeclared_parameters)
        if automatically_declare_parameters_from_overrides:
            for parameter in overrides.values():
                self.declare_parameter(parameter.name, parameter.value)
        if not self.has_parameter('use_sim_time'):
            self.declare_parameter('use_sim_time', False)
        self._follow_clock(self.get_parameter('use_sim_time').value)
        self.add_on_set_parameters_callback(self._on_use_sim_time)

    # Identity and context

    def get_name(self) -> str:
        return self._name

    def get_namespace(self) -> str:
        return self._namespace

    def get_fully_qualified_name(self) -> str:
        return f'{self._namespace.rstrip("/")}/{self._name}'

    def get_clock(self) -> Clock:
        return self._clock

    def get_logger(self) -> Logger:
        return self._logger

    @property
    def context(self) -> Context:
        return self._context

    @property
    def _parameter_overrides(self) -> dict[str, Parameter]:
        return self._parameters.overrides  # under the name that rclpy has for it

    @property
    def executor(self) -> Executor | None:
        return self._executor() if self._executor is not None else None

    @executor.setter
    def executor(self, executor: Executor | None) -> None:
        if executor is None:
            if self.executor is not None:
                self.executor.remove_node(self)
        else:
            executor.add_node(self)

    def set_executor(self, executor: Executor | None) -> None:
        """Remember the executor; for executors, which do the rest of adding a node."""
        self._executor = None if executor is None else weakref.ref(executor)

    @property
    def publishers(self) -> list[Publisher[Any]]:
        return list(self._publishers)

    @property
    def subscriptions(self) -> list[Subscription[Any]]:
        return list(self._subscriptions.values())

    @property
    def ports(self) -> list[Port]:
        return [entity.port for entity in (*self.publishers, *self.subscriptions)]

    @property
    def timers(self) -> list[Timer]:
        return list(self._timers)

    @property
    def guards(self) -> list[GuardCondition]:
        return list(self._guards)

    # Parameters

    def declare_parameter(
        self,
        name: str,
        value: Any = None,
        descriptor: ParameterDescriptor | None = None,
        ignore_override: bool = False,
    ) -> Parameter:
        """Declare a parameter by default value or :class:`Parameter.Type`; return what it became.

        :raises ParameterException: if it exists, or its override or default is not acceptable.
        """
        return self._parameters.declare(name, value, descriptor, ignore_override)

    def declare_parameters(
        self, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declare (name, value, descriptor) tuples below a namespace."""
        declared = []
        for name, *rest in parameters:
            full = f'{namespace}.{name}' if namespace else name
            value, descriptor = (*rest, None, None)[:2]
            declared.append(self._parameters.declare(full, value, descriptor, ignore_override))
        return declared

    def undeclare_parameter(self, name: str) -> None:
        self._parameters.undeclare(name)

    def has_parameter(self, name: str) -> bool:
        return self._parameters.has(name)

    def get_parameter(self, name: str) -> Parameter:
        return self._parameters.get(name)

    def get_parameters(self, names: Sequence[str]) -> list[Parameter]:
        return [self._parameters.get(name) for name in names]

    def get_parameter_or(self, name: str, alternative: Parameter | None = None) -> Parameter:
        with suppress(ParameterUninitializedException):
            if self.has_parameter(name):
                return self._parameters.get(name)
        return alternative or Parameter(name, Parameter.Type.NOT_SET)

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        return self._parameters.by_prefix(prefix)

    def describe_parameter(self, name: str) -> ParameterDescriptor:
        return self._parameters.describe(name)

    def set_parameters(self, parameters: Sequence[Parameter]) -> list[SetParametersResult]:
        """Set one after the other; a refusal is in its result, an unknown name raises."""
        return [self._parameters.set([parameter]) for parameter in parameters]

    def set_parameters_atomically(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        return self._parameters.set(parameters)

    def add_on_set_parameters_callback(self, callback: OnSet) -> None:
        """Let ``callback`` accept or refuse every later change; the newest is asked first."""
        self._parameters.callbacks.insert(0, callback)

    def remove_on_set_parameters_callback(self, callback: OnSet) -> None:
        self._parameters.callbacks.remove(callback)

    # Entities

    def resolve_topic_name(self, topic: str, *, only_expand: bool = False) -> str:
        """Return the absolute, remapped name of a topic.

        :raises InvalidTopicNameException: if it is no topic name.
        """
        validate_topic_name(topic)
        full = expand_topic_name(topic, self._name, self._namespace)
        if only_expand:
            return full
        return self._arguments.remap_topic(full, self._name, self._namespace)

    def create_publisher(
        self,
        msg_type: type[M],
        topic: str,
        qos_profile: QoSProfile | int,
        *,
        callback_group: None = None,
        event_callbacks: None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        publisher_class: None = None,
    ) -> Publisher[M]:
        """Return a publisher of a topic."""
        only_rclpy(
            'Node.create_publisher', callback_group=callback_group,
            event_callbacks=event_callbacks, publisher_class=publisher_class,
        )  # fmt: skip
        name = self._resolved(topic)
        qos = self._qos(qos_profile, qos_overriding_options, name, 'publisher')
        publisher = Publisher(self, _checked(msg_type), name, qos)
        with self._lock:
            self._publishers.append(publisher)
        self._attach(publisher)
        return publisher

    def create_subscription(
        self,
        msg_type: type[M],
        topic: str,
        callback: Callable[[Any], Any],
        qos_profile: QoSProfile | int,
        *,
        callback_group: None = None,
        event_callbacks: None = None,
        qos_overriding_options: QoSOverridingOptions | None = None,
        raw: bool = False,
    ) -> Subscription[M]:
        """Return a subscription; with ``raw`` the callback gets CDR bytes."""
        only_rclpy(
            'Node.create_subscription', callback_group=callback_group,
            event_callbacks=event_callbacks,
        )  # fmt: skip
        name = self._resolved(topic)
        qos = self._qos(qos_profile, qos_overriding_options, name, 'subscription')
        subscription = Subscription(self, _checked(msg_type), name, callback, qos, raw)
        with self._lock:
            self._subscriptions[id(subscription.port)] = subscription
        self._attach(subscription)
        return subscription

    def create_timer(
        self,
        timer_period_sec: float,
        callback: Callable[[], Any] | None,
        callback_group: None = None,
        clock: Clock | None = None,
        autostart: bool = True,
    ) -> Timer:
        """Return a timer on ``clock``, by default the node's, which follows simulated time."""
        only_rclpy('Node.create_timer', callback_group=callback_group)
        period = int(float(timer_period_sec) * NANOSECONDS)
        timer = Timer(callback, period, self._clock if clock is None else clock, autostart)
        with self._lock:
            self._timers.append(timer)
        self._wake()
        return timer

    def create_guard_condition(
        self, callback: Callable[[], Any], callback_group: None = None
    ) -> GuardCondition:
        """Return what lets another thread have ``callback`` run in the executor."""
        only_rclpy('Node.create_guard_condition', callback_group=callback_group)
        guard = GuardCondition(callback, self)
        with self._lock:
            self._guards.append(guard)
        return guard

    def destroy_publisher(self, publisher: Publisher[Any]) -> bool:
        with self._lock:
            if publisher not in self._publishers:
                return False
            self._publishers.remove(publisher)
        self._discard(publisher)
        return True

    def destroy_subscription(self, subscription: Subscription[Any]) -> bool:
        with self._lock:
            if self._subscriptions.pop(id(subscription.port), None) is None:
                return False
        self._discard(subscription)
        return True

    def destroy_timer(self, timer: Timer) -> bool:
        with self._lock:
            if timer not in self._timers:
                return False
            self._timers.remove(timer)
        timer.destroy()
        return True

    def destroy_guard_condition(self, guard: GuardCondition) -> bool:
        with self._lock:
            if guard not in self._guards:
                return False
            self._guards.remove(guard)
        guard.destroy()
        return True

    def destroy_node(self) -> None:
        """Leave the graph with everything this node owns."""
        executor = self.executor
        if executor is not None:
            executor.remove_node(self)
        for timer in self.timers:
            self.destroy_timer(timer)
        for guard in self.guards:
            self.destroy_guard_condition(guard)
        for publisher in self.publishers:
            self.destroy_publisher(publisher)
        for subscription in self.subscriptions:
            self.destroy_subscription(subscription)
        self.close_ports()

    def close_ports(self) -> None:
        """Take every endpoint and the node off the network, as the end of the context does."""
        self._left.detach()
        for publisher in self.publishers:
            self._discard(publisher)
        for subscription in self.subscriptions:
            self._discard(subscription)
        if self._context._transport is not None:
            self._context._transport.remove_node(self.info)

    def subscription_of(self, reader: Reader) -> Subscription[Any] | None:
        """Return the subscription a reader belongs to, for executors."""
        return self._subscriptions.get(id(reader))

    # The graph

    def count_publishers(self, topic_name: str) -> int:
        return len(self.get_publishers_info_by_topic(topic_name))

    def count_subscribers(self, topic_name: str) -> int:
        return len(self.get_subscriptions_info_by_topic(topic_name))

    def get_publishers_info_by_topic(
        self, topic_name: str, no_mangle: bool = False
    ) -> list[TopicEndpointInfo]:
        return self._infos(topic_name, True)

    def get_subscriptions_info_by_topic(
        self, topic_name: str, no_mangle: bool = False
    ) -> list[TopicEndpointInfo]:
        return self._infos(topic_name, False)

    def get_topic_names_and_types(self, no_demangle: bool = False) -> list[tuple[str, list[str]]]:
        types: dict[str, set[str]] = {}
        for endpoint in self._context.transport.endpoints():
            types.setdefault(endpoint.topic, set()).add(endpoint.type_name)
        return [(topic, sorted(names)) for topic, names in sorted(types.items())]

    def get_node_names(self) -> list[str]:
        return [name for name, _ in self.get_node_names_and_namespaces()]

    def get_node_names_and_namespaces(self) -> list[tuple[str, str]]:
        return self._context.transport.nodes()

    def _infos(self, topic: str, publishers: bool) -> list[TopicEndpointInfo]:
        full = self.resolve_topic_name(topic)
        return [
            _endpoint_info(endpoint)
            for endpoint in self._context.transport.endpoints()
            if endpoint.topic == full and endpoint.is_publisher == publishers
        ]

    # Inner workings

    def _resolved(self, topic: str) -> str:
        if not self._context.ok():
            raise RCLError(f'cannot use {topic}: the context was shut down')
        return self.resolve_topic_name(topic)

    def _qos(
        self, qos: QoSProfile | int, options: QoSOverridingOptions | None, topic: str, kind: str
    ) -> QoSProfile:
        if isinstance(qos, int) and not isinstance(qos, bool):
            if qos < 0:
                raise ValueError(f'history depth is {qos}, expected at least 0')
            qos = QoSProfile(depth=qos)
        if not isinstance(qos, QoSProfile):
            raise TypeError(f'expected a QoSProfile or a depth, got {qos!r}')
        if options is None:
            return qos
        return apply_overrides(qos, options, topic, kind, self._declare_once)

    def _declare_once(self, name: str, default: Any, description: str) -> Any:
        if not self.has_parameter(name):
            descriptor = messages.ParameterDescriptor(description=description, read_only=True)
            self.declare_parameter(name, default, descriptor)
        return self.get_parameter(name).value

    def _attach(self, entity: Publisher[Any] | Subscription[Any]) -> None:
        executor = self.executor
        if executor is not None:
            executor.attach(entity.port)
            executor.wake()

    def _discard(self, entity: Publisher[Any] | Subscription[Any]) -> None:
        executor = self.executor
        if executor is not None:
            executor.detach(entity.port)
        entity.destroy()

    def _wake(self) -> None:
        executor = self.executor
        if executor is not None:
            executor.wake()

    def _on_use_sim_time(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == 'use_sim_time':
                self._follow_clock(bool(parameter.value))
        return messages.SetParametersResult(successful=True)

    def _follow_clock(self, enabled: bool) -> None:
        if enabled == (self._clock_subscription is not None):
            return
        self._clock._set_ros_time_is_active(enabled)
        if enabled:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._clock_subscription = self.create_subscription(
                messages.Clock, '/clock', self._on_clock, qos
            )
        elif self._clock_subscription is not None:
            self.destroy_subscription(self._clock_subscription)
            self._clock_subscription = None

    def _on_clock(self, msg: messages.Clock) -> None:
        self._clock.set_ros_time_override(Time.from_msg(msg.clock))


def _leave(
    transport: Transport,
    info: NodeInfo,
    publishers: list[Publisher[Any]],
    subscriptions: dict[int, Subscription[Any]],
) -> None:
    """Take a node off the network that nobody destroyed."""
    for entity in (*publishers, *subscriptions.values()):
        entity.destroy()
    transport.remove_node(info)


def _checked(msg_type: type[M]) -> type[M]:
    if not (isinstance(msg_type, type) and issubclass(msg_type, Message)):
        raise TypeError(f'{msg_type!r} is not a message class of this runtime')
    return msg_type


def _endpoint_info(endpoint: Endpoint) -> TopicEndpointInfo:
    name, namespace = endpoint.node or ('_NODE_NAME_UNKNOWN_', '_NODE_NAMESPACE_UNKNOWN_')
    kinds = TopicEndpointTypeEnum
    return TopicEndpointInfo(
        node_name=name,
        node_namespace=namespace,
        topic_type=endpoint.type_name,
        topic_type_hash=endpoint.type_hash,
        endpoint_type=kinds.PUBLISHER if endpoint.is_publisher else kinds.SUBSCRIPTION,
        endpoint_gid=list(endpoint.gid),
        qos_profile=endpoint.qos,
    )
