# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101 -- the definitions describe the messages
"""The message classes this project uses, spelled out so that a type checker knows their fields.

Any other type comes from :func:`sparse_split_ros.embedded.types.message_class`.
"""

from __future__ import annotations

from array import array
from dataclasses import field
from typing import ClassVar

from sparse_split_ros.embedded.types import Message, message


def _octets() -> array[int]:
    return array('B')


@message('builtin_interfaces/msg/Time')
class Time(Message):
    sec: int = 0
    nanosec: int = 0


@message('builtin_interfaces/msg/Duration')
class Duration(Message):
    sec: int = 0
    nanosec: int = 0


@message('std_msgs/msg/Header')
class Header(Message):
    stamp: Time = field(default_factory=Time)
    frame_id: str = ''


@message('std_msgs/msg/String')
class String(Message):
    data: str = ''


@message('sensor_msgs/msg/Image')
class Image(Message):
    header: Header = field(default_factory=Header)
    height: int = 0
    width: int = 0
    encoding: str = ''
    is_bigendian: int = 0
    step: int = 0
    data: array[int] = field(default_factory=_octets)


@message('sensor_msgs/msg/CompressedImage')
class CompressedImage(Message):
    header: Header = field(default_factory=Header)
    format: str = ''
    data: array[int] = field(default_factory=_octets)


@message('vision_msgs/msg/ObjectHypothesis')
class ObjectHypothesis(Message):
    class_id: str = ''
    score: float = 0.0


@message('vision_msgs/msg/Classification')
class Classification(Message):
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesis] = field(default_factory=list)


@message('vision_msgs/msg/VisionClass')
class VisionClass(Message):
    class_id: int = 0
    class_name: str = ''


@message('vision_msgs/msg/LabelInfo')
class LabelInfo(Message):
    header: Header = field(default_factory=Header)
    class_map: list[VisionClass] = field(default_factory=list)
    threshold: float = 0.0


@message('vision_msgs/msg/VisionInfo')
class VisionInfo(Message):
    header: Header = field(default_factory=Header)
    method: str = ''
    database_location: str = ''
    database_version: int = 0


@message('diagnostic_msgs/msg/KeyValue')
class KeyValue(Message):
    key: str = ''
    value: str = ''


@message('diagnostic_msgs/msg/DiagnosticStatus')
class DiagnosticStatus(Message):
    OK: ClassVar[bytes] = b'\x00'
    WARN: ClassVar[bytes] = b'\x01'
    ERROR: ClassVar[bytes] = b'\x02'
    STALE: ClassVar[bytes] = b'\x03'

    level: bytes = b'\x00'
    name: str = ''
    message: str = ''
    hardware_id: str = ''
    values: list[KeyValue] = field(default_factory=list)


@message('diagnostic_msgs/msg/DiagnosticArray')
class DiagnosticArray(Message):
    header: Header = field(default_factory=Header)
    status: list[DiagnosticStatus] = field(default_factory=list)


@message('rosgraph_msgs/msg/Clock')
class Clock(Message):
    clock: Time = field(default_factory=Time)


@message('rcl_interfaces/msg/FloatingPointRange')
class FloatingPointRange(Message):
    from_value: float = 0.0
    to_value: float = 0.0
    step: float = 0.0


@message('rcl_interfaces/msg/IntegerRange')
class IntegerRange(Message):
    from_value: int = 0
    to_value: int = 0
    step: int = 0


@message('rcl_interfaces/msg/ParameterDescriptor')
class ParameterDescriptor(Message):
    name: str = ''
    type: int = 0
    description: str = ''
    additional_constraints: str = ''
    read_only: bool = False
    dynamic_typing: bool = False
    floating_point_range: list[FloatingPointRange] = field(default_factory=list)
    integer_range: list[IntegerRange] = field(default_factory=list)


@message('rcl_interfaces/msg/SetParametersResult')
class SetParametersResult(Message):
    successful: bool = False
    reason: str = ''
