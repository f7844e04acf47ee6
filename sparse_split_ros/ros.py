# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The one door to ROS 2: real rclpy where it is installed, the embedded runtime where it is not.

Nodes are written once, against the API of rclpy as Humble has it, and import every ROS name from
here. ``SPARSE_SPLIT_RUNTIME`` is ``auto`` (the default), ``rclpy`` or ``embedded``; ``auto`` takes
the embedded runtime only where rclpy cannot be found, so a broken installation is an error and
never a silent change of runtime. A type checker sees the embedded runtime, which is the subset
that both have.

Two messages share their name with a class of rclpy: they are ``TimeMsg`` and ``ClockMsg`` here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

ENVIRONMENT = 'SPARSE_SPLIT_RUNTIME'


class RosImportError(ImportError):
    """ROS 2 is asked for or half installed; the message names what to install."""


def _choose() -> str:
    wanted = os.environ.get(ENVIRONMENT) or 'auto'
    if wanted not in ('auto', 'rclpy', 'embedded'):
        raise RosImportError(f'{ENVIRONMENT} is {wanted!r}, expected auto, rclpy or embedded')
    if wanted == 'auto':
        return 'rclpy' if find_spec('rclpy') is not None else 'embedded'
    return wanted


RUNTIME = _choose()

if TYPE_CHECKING or RUNTIME == 'embedded':
    from sparse_split_ros.embedded.exceptions import (
        ExternalShutdownException,
        InvalidHandle,
        InvalidNamespaceException,
        InvalidNodeNameException,
        InvalidParameterException,
        InvalidParameterTypeException,
        InvalidParameterValueException,
        InvalidTopicNameException,
        NotInitializedException,
        ParameterAlreadyDeclaredException,
        ParameterImmutableException,
        ParameterNotDeclaredException,
        ParameterUninitializedException,
        RCLError,
        UnknownROSArgsError,
    )
    from sparse_split_ros.embedded.executor import (
        Context,
        Executor,
        GuardCondition,
        SignalHandlerOptions,
        SingleThreadedExecutor,
        Timer,
        get_default_context,
        init,
        ok,
        shutdown,
        spin,
        spin_once,
        try_shutdown,
    )
    from sparse_split_ros.embedded.log import LoggingSeverity, get_logger
    from sparse_split_ros.embedded.messages import (
        Classification,
        CompressedImage,
        DiagnosticArray,
        DiagnosticStatus,
        FloatingPointRange,
        Header,
        Image,
        IntegerRange,
        KeyValue,
        LabelInfo,
        ObjectHypothesis,
        ParameterDescriptor,
        SetParametersResult,
        String,
        VisionClass,
        VisionInfo,
    )
    from sparse_split_ros.embedded.messages import Clock as ClockMsg
    from sparse_split_ros.embedded.messages import Time as TimeMsg
    from sparse_split_ros.embedded.node import Node, Publisher, Subscription, TopicEndpointInfo
    from sparse_split_ros.embedded.parameters import Parameter
    from sparse_split_ros.embedded.qos import (
        DurabilityPolicy,
        HistoryPolicy,
        InvalidQoSProfileException,
        LivelinessPolicy,
        QoSOverridingOptions,
        QoSPolicyKind,
        QoSPresetProfiles,
        QoSProfile,
        ReliabilityPolicy,
        qos_profile_sensor_data,
        qos_profile_system_default,
    )
    from sparse_split_ros.embedded.time import Clock, ClockType, Duration, Time
    from sparse_split_ros.embedded.types import deserialize as deserialize_message
    from sparse_split_ros.embedded.types import serialize as serialize_message
else:
    try:
        from builtin_interfaces.msg import Time as TimeMsg
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
        from rcl_interfaces.msg import (
            FloatingPointRange,
            IntegerRange,
            ParameterDescriptor,
            SetParametersResult,
        )
        from rclpy import init, ok, shutdown, spin, spin_once, try_shutdown
        from rclpy.clock import Clock, ClockType
        from rclpy.context import Context
        from rclpy.duration import Duration
        from rclpy.exceptions import (
            InvalidHandle,
            InvalidNamespaceException,
            InvalidNodeNameException,
            InvalidParameterException,
            InvalidParameterTypeException,
            InvalidParameterValueException,
            InvalidTopicNameException,
            NotInitializedException,
            ParameterAlreadyDeclaredException,
            ParameterImmutableException,
            ParameterNotDeclaredException,
            ParameterUninitializedException,
        )
        from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
        from rclpy.guard_condition import GuardCondition
        from rclpy.impl.implementation_singleton import rclpy_implementation
        from rclpy.logging import LoggingSeverity, get_logger
        from rclpy.node import Node
        from rclpy.parameter import Parameter
        from rclpy.publisher import Publisher
        from rclpy.qos import (
            DurabilityPolicy,
            HistoryPolicy,
            InvalidQoSProfileException,
            LivelinessPolicy,
            QoSPolicyKind,
            QoSPresetProfiles,
            QoSProfile,
            ReliabilityPolicy,
            qos_profile_sensor_data,
            qos_profile_system_default,
        )
        from rclpy.qos_overriding_options import QoSOverridingOptions
        from rclpy.serialization import deserialize_message, serialize_message
        from rclpy.signals import SignalHandlerOptions
        from rclpy.subscription import Subscription
        from rclpy.time import Time
        from rclpy.timer import Timer
        from rclpy.topic_endpoint_info import TopicEndpointInfo
        from rclpy.utilities import get_default_context
        from rosgraph_msgs.msg import Clock as ClockMsg
        from sensor_msgs.msg import CompressedImage, Image
        from std_msgs.msg import Header, String
        from vision_msgs.msg import (
            Classification,
            LabelInfo,
            ObjectHypothesis,
            VisionClass,
            VisionInfo,
        )

        RCLError = rclpy_implementation.RCLError
        UnknownROSArgsError = rclpy_implementation.UnknownROSArgsError
    except ImportError as error:
        package = (error.name or 'rclpy').partition('.')[0].replace('_', '-')
        distro = os.environ.get('ROS_DISTRO', '<distro>')
        raise RosImportError(
            f'rclpy is to be used but does not import: {error}. Install ros-{distro}-{package} and '
            f'source its setup.bash, or set {ENVIRONMENT}=embedded to run without ROS 2.'
        ) from error

__all__ = [
    'RUNTIME', 'Classification', 'Clock', 'ClockMsg', 'ClockType', 'CompressedImage', 'Context',
    'DiagnosticArray', 'DiagnosticStatus', 'DurabilityPolicy', 'Duration', 'Executor',
    'ExternalShutdownException', 'FloatingPointRange', 'GuardCondition', 'Header', 'HistoryPolicy',
    'Image', 'IntegerRange', 'InvalidHandle', 'InvalidNamespaceException',
    'InvalidNodeNameException', 'InvalidParameterException', 'InvalidParameterTypeException',
    'InvalidParameterValueException', 'InvalidQoSProfileException', 'InvalidTopicNameException',
    'KeyValue', 'LabelInfo', 'LivelinessPolicy', 'LoggingSeverity', 'Node',
    'NotInitializedException', 'ObjectHypothesis', 'Parameter',
    'ParameterAlreadyDeclaredException', 'ParameterDescriptor', 'ParameterImmutableException',
    'ParameterNotDeclaredException', 'ParameterUninitializedException', 'Publisher',
    'QoSOverridingOptions', 'QoSPolicyKind', 'QoSPresetProfiles', 'QoSProfile', 'RCLError',
    'ReliabilityPolicy', 'RosImportError', 'SetParametersResult', 'SignalHandlerOptions',
    'SingleThreadedExecutor', 'String', 'Subscription', 'Time', 'TimeMsg', 'Timer',
    'TopicEndpointInfo', 'UnknownROSArgsError', 'VisionClass', 'VisionInfo', 'deserialize_message',
    'get_default_context', 'get_logger', 'init', 'ok', 'qos_profile_sensor_data',
    'qos_profile_system_default', 'runtime_notes', 'serialize_message', 'shutdown', 'spin',
    'spin_once', 'subscribe', 'try_shutdown', 'wait_until_heard',
]  # fmt: skip


def runtime_notes(node: Node) -> list[str]:
    """Return what a node says about its runtime once at start, one log line each."""
    if RUNTIME == 'rclpy':
        distro = os.environ.get('ROS_DISTRO', 'of an unknown distribution')
        return [f'runtime: rclpy ({distro}), domain {node.context.get_domain_id()}']
    transport: Any = node.context.transport
    lines = [f'runtime: embedded, {transport.name}, domain {node.context.get_domain_id()}']
    return [*lines, transport.note] if transport.note else lines


def subscribe(node: Node, *arguments: Any, lost: Callable[[int], None], **options: Any) -> Any:
    """Create a subscription that also says how many messages were lost on the way since the last.

    The embedded runtime and some middlewares cannot tell, and never call ``lost``.
    """
    if RUNTIME == 'embedded':
        return node.create_subscription(*arguments, **options)
    events: Any = importlib.import_module(
        # Humble's name for it.
        'rclpy.event_handler' if find_spec('rclpy.event_handler') else 'rclpy.qos_event'
    )
    callbacks = events.SubscriptionEventCallbacks(
        message_lost=lambda info: lost(info.total_count_change)
    )
    try:
        return node.create_subscription(*arguments, event_callbacks=callbacks, **options)
    except events.UnsupportedEventTypeError:
        return node.create_subscription(*arguments, **options)


def wait_until_heard(publisher: Any, seconds: float) -> None:
    """Wait until reliable subscribers have what was published.

    Fast DDS lets a publisher go at once, and then what is still on its way is dropped. The
    embedded runtime waits by itself where it has to.
    """
    if RUNTIME == 'rclpy':
        # Some middlewares cannot tell.
        with suppress(RCLError):
            publisher.wait_for_all_acked(Duration(seconds=seconds))
