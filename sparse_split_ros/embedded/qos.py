# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, D102, N818 -- the names, and what they mean, are rclpy's
"""Quality of service: policies, profiles, presets and overrides by parameter, as in rclpy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from sparse_split_ros.embedded.messages import SetParametersResult
from sparse_split_ros.embedded.time import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class HistoryPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    KEEP_LAST = 1
    KEEP_ALL = 2
    UNKNOWN = 3


class ReliabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    RELIABLE = 1
    BEST_EFFORT = 2
    UNKNOWN = 3


class DurabilityPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    TRANSIENT_LOCAL = 1
    VOLATILE = 2
    UNKNOWN = 3


class LivelinessPolicy(IntEnum):
    SYSTEM_DEFAULT = 0
    AUTOMATIC = 1
    MANUAL_BY_TOPIC = 3
    UNKNOWN = 4


QoSHistoryPolicy = HistoryPolicy
QoSReliabilityPolicy = ReliabilityPolicy
QoSDurabilityPolicy = DurabilityPolicy
QoSLivelinessPolicy = LivelinessPolicy


class QoSPolicyKind(IntEnum):
    INVALID = 1
    DURABILITY = 2
    DEADLINE = 4
    LIVELINESS = 8
    RELIABILITY = 16
    HISTORY = 32
    LIFESPAN = 64
    DEPTH = 128
    LIVELINESS_LEASE_DURATION = 256
    AVOID_ROS_NAMESPACE_CONVENTIONS = 512


class InvalidQoSProfileException(Exception):
    """A profile lacks a policy it needs, or a policy has a value it cannot have."""


class InvalidQosOverridesError(Exception):
    """A profile was refused after the overrides from parameters were applied."""


_ENUMS: dict[str, type[IntEnum]] = {
    'history': HistoryPolicy,
    'reliability': ReliabilityPolicy,
    'durability': DurabilityPolicy,
    'liveliness': LivelinessPolicy,
}
_UNSET = Duration()


class QoSProfile:
    """What a publisher offers or a subscription requests.

    :raises InvalidQoSProfileException: if ``depth`` is missing where history keeps the last, or
        a value is not one the policy has.
    """

    __slots__ = (
        'avoid_ros_namespace_conventions', 'deadline', 'depth', 'durability', 'history',
        'lifespan', 'liveliness', 'liveliness_lease_duration', 'reliability',
    )  # fmt: skip

    history: HistoryPolicy
    depth: int
    reliability: ReliabilityPolicy
    durability: DurabilityPolicy
    lifespan: Duration
    deadline: Duration
    liveliness: LivelinessPolicy
    liveliness_lease_duration: Duration
    avoid_ros_namespace_conventions: bool

    def __init__(
        self,
        *,
        history: HistoryPolicy | None = None,
        depth: int | None = None,
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        lifespan: Duration = _UNSET,
        deadline: Duration = _UNSET,
        liveliness: LivelinessPolicy = LivelinessPolicy.SYSTEM_DEFAULT,
        liveliness_lease_duration: Duration = _UNSET,
        avoid_ros_namespace_conventions: bool = False,
    ) -> None:
        if history is None:
            if depth is None:
                raise InvalidQoSProfileException('History and/or depth settings are required.')
            history = HistoryPolicy.KEEP_LAST
        if history == HistoryPolicy.KEEP_LAST and depth is None:
            raise InvalidQoSProfileException('History set to KEEP_LAST without a depth setting.')
        self.history = history
        self.depth = 10 if depth is None else depth
        self.reliability = reliability
        self.durability = durability
        self.lifespan = lifespan
        self.deadline = deadline
        self.liveliness = liveliness
        self.liveliness_lease_duration = liveliness_lease_duration
        self.avoid_ros_namespace_conventions = avoid_ros_namespace_conventions

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ENUMS:
            try:
                value = _ENUMS[name](value)
            except ValueError:
                raise InvalidQoSProfileException(
                    f'{name} is {value!r}, expected one of {list(_ENUMS[name])}'
                ) from None
        elif name == 'depth':
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InvalidQoSProfileException(f'depth is {value!r}, expected an int >= 0')
        elif name != 'avoid_ros_namespace_conventions' and not isinstance(value, Duration):
            raise InvalidQoSProfileException(f'{name} is {value!r}, expected a Duration')
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QoSProfile):
            return NotImplemented
        return all(getattr(self, slot) == getattr(other, slot) for slot in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        policies = ', '.join(f'{slot}={getattr(self, slot)}' for slot in self.__slots__)
        return f'QoSProfile({policies})'

    def copy(self) -> QoSProfile:
        return QoSProfile(**{slot: getattr(self, slot) for slot in self.__slots__})


qos_profile_system_default = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    depth=0,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)
qos_profile_sensor_data = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
qos_profile_services_default = QoSProfile(depth=10)
qos_profile_parameters = QoSProfile(depth=1000)
qos_profile_parameter_events = QoSProfile(depth=1000)
qos_profile_action_status_default = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class QoSPresetProfiles(Enum):
    SYSTEM_DEFAULT = qos_profile_system_default
    SENSOR_DATA = qos_profile_sensor_data
    SERVICES_DEFAULT = qos_profile_services_default
    PARAMETERS = qos_profile_parameters
    PARAMETER_EVENTS = qos_profile_parameter_events
    ACTION_STATUS_DEFAULT = qos_profile_action_status_default

    @classmethod
    def get_from_short_key(cls, name: str) -> QoSProfile:
        return cls[name.upper()].value


@dataclass(frozen=True)
class QoSOverridingOptions:
    """Which policies of an entity a user may set with parameters, and a check of the result.

    A policy becomes a read-only parameter ``qos_overrides.<topic>.<kind>[_<id>].<policy>``.
    """

    policy_kinds: Iterable[QoSPolicyKind]
    callback: Callable[[QoSProfile], SetParametersResult] | None = None
    entity_id: str | None = None

    @classmethod
    def with_default_policies(
        cls,
        *,
        callback: Callable[[QoSProfile], SetParametersResult] | None = None,
        entity_id: str | None = None,
    ) -> QoSOverridingOptions:
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
        return cls(kinds, callback=callback, entity_id=entity_id)


def apply_overrides(
    qos: QoSProfile,
    options: QoSOverridingOptions,
    topic: str,
    kind: str,
    declare: Callable[[str, Any, str], Any],
) -> QoSProfile:
    """Return the profile of an entity after the user's overrides.

    ``declare(name, default, description)`` declares a read-only parameter and returns its value.

    :raises InvalidQosOverridesError: if the options' callback refuses the outcome.
    :raises RuntimeError: if an override names a policy value that does not exist.
    """
    qos = qos.copy()
    suffix = f'_{options.entity_id}' if options.entity_id else ''
    for policy in options.policy_kinds:
        if policy == QoSPolicyKind.LIFESPAN and kind == 'subscription':
            continue
        field = policy.name.lower()
        default = getattr(qos, field)
        if isinstance(default, IntEnum):
            default = default.name.lower()
        elif isinstance(default, Duration):
            default = default.nanoseconds
        value = declare(
            f'qos_overrides.{topic}.{kind}{suffix}.{field}', default, f'{field} for {kind} {topic}'
        )
        if field in _ENUMS:
            try:
                value = _ENUMS[field][value.upper()]
            except KeyError:
                raise RuntimeError(f'Unexpected QoS override for policy {field}: {value}') from None
        elif isinstance(getattr(qos, field), Duration):
            value = Duration(nanoseconds=value)
        setattr(qos, field, value)
    if options.callback is not None:
        result = options.callback(qos)
        if not result.successful:
            raise InvalidQosOverridesError(f'QoS overrides of {topic} refused: {result.reason}')
    return qos
