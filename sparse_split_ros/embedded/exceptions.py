# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D101, N818 -- the names, and what they mean, are rclpy's
"""The exceptions of the embedded runtime, under the names they have in rclpy."""

from __future__ import annotations

from typing import Any


class RCLError(RuntimeError):
    """The middleware refused, or a context is not initialised or already shut down."""


class TransportError(RCLError):
    """The network layer could not be set up or used."""


class NotInEmbeddedRuntimeError(NotImplementedError, AttributeError):
    """Part of rclpy that only a ROS 2 installation has.

    Also an ``AttributeError``, so that ``hasattr`` can still ask for optional API.
    """

    def __init__(self, call: str) -> None:
        super().__init__(
            f'{call} is not in the embedded runtime: install ROS 2 and set '
            'SPARSE_SPLIT_RUNTIME=rclpy to use it'
        )


class Subset:
    """Mixin of classes that carry part of rclpy: what is missing raises at once, by name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('_') or hasattr(type(self), name):
            return object.__getattribute__(self, name)  # raises as it would without this method
        raise NotInEmbeddedRuntimeError(f'{type(self).__name__}.{name}')


def only_rclpy(call: str, **arguments: object) -> None:
    """Raise if an argument that only rclpy understands was given."""
    for name, value in arguments.items():
        if value is not None:
            raise NotInEmbeddedRuntimeError(f'{call}({name}=...)')


class NotInitializedException(Exception):
    def __init__(self, *args: object) -> None:
        super().__init__('init() has not been called', *args)


class ExternalShutdownException(Exception):
    """The context was shut down from outside while an executor was spinning."""

    def __init__(self) -> None:
        super().__init__('the context was shut down')


class InvalidHandle(Exception):
    """A destroyed publisher, subscription, timer or node was used."""


class UnknownROSArgsError(RuntimeError):
    """``--ros-args`` holds something that cannot be understood."""


class NameValidationException(Exception):
    """A name breaks the rules of ROS; the message shows where."""

    kind = 'name'

    def __init__(self, name: str, reason: str, index: int) -> None:
        super().__init__(f"invalid {self.kind}: {reason}:\n  '{name}'\n   {' ' * index}^")


class InvalidNamespaceException(NameValidationException):
    kind = 'namespace'


class InvalidNodeNameException(NameValidationException):
    kind = 'node name'


class InvalidTopicNameException(NameValidationException):
    kind = 'topic name'


class ParameterException(Exception):
    """Base of everything that can be wrong with a parameter."""


class ParameterNotDeclaredException(ParameterException):
    def __init__(self, names: object) -> None:
        super().__init__('Invalid access to undeclared parameter(s)', names)


class ParameterAlreadyDeclaredException(ParameterException):
    def __init__(self, names: object) -> None:
        super().__init__('Parameter(s) already declared', names)


class InvalidParameterException(ParameterException):
    def __init__(self, name: object) -> None:
        super().__init__('Invalid parameter name', name)


class InvalidParameterTypeException(ParameterException):
    def __init__(self, name: str, value: object, actual: str, expected: str) -> None:
        super().__init__(
            f"Trying to set parameter '{name}' to '{value}' of type '{actual}', "
            f"expecting type '{expected}'"
        )


class InvalidParameterValueException(ParameterException):
    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(f'Invalid parameter value ({value}) for parameter. Reason: {reason}', name)


class ParameterImmutableException(ParameterException):
    def __init__(self, name: str) -> None:
        super().__init__('Attempted to modify read-only parameter', name)


class ParameterUninitializedException(ParameterException):
    def __init__(self, name: str) -> None:
        super().__init__(f"The parameter '{name}' is not initialized")
