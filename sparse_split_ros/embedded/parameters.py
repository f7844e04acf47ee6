# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: D102 -- the names, and what they mean, are rclpy's
"""Parameters of a node: typed values with descriptors, ranges, overrides and set callbacks."""

from __future__ import annotations

import math
from array import array
from enum import Enum
from typing import TYPE_CHECKING, Any

from sparse_split_ros.embedded.exceptions import (
    InvalidParameterException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from sparse_split_ros.embedded.messages import ParameterDescriptor, SetParametersResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# Relative tolerance of floating-point ranges and steps, as in rclpy.
TOLERANCE = 1e-6


class _Type(Enum):
    NOT_SET = 0
    BOOL = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTE_ARRAY = 5
    BOOL_ARRAY = 6
    INTEGER_ARRAY = 7
    DOUBLE_ARRAY = 8
    STRING_ARRAY = 9

    def __str__(self) -> str:
        return f'Type.{self.name}'

    @classmethod
    def from_parameter_value(cls, value: object) -> _Type:
        """:raises TypeError: if a parameter cannot hold such a value."""
        if isinstance(value, (list, tuple, array)):
            for scalar, sequence in _ARRAYS.items():
                if all(_scalar_of(item) == scalar for item in value):
                    return cls(sequence)
        elif value is None:
            return cls.NOT_SET
        elif number := _scalar_of(value):  # not of a single byte, which is 0
            return cls(number)
        raise TypeError(
            f'{value!r} is not a value a parameter can have: '
            'bool, int, float, str, or a list of one of them or of bytes'
        )

    def check(self, value: object) -> bool:
        if self is _Type.NOT_SET:
            return value is None
        if isinstance(value, (list, tuple, array)) and not value:
            return self.value in _ARRAYS.values()
        try:
            return _Type.from_parameter_value(value) is self
        except TypeError:
            return False


# Python types to scalar type numbers (bytes stands for one byte), and those to array types.
# An empty list counts as the first array type, as it does in rclpy.
_SCALARS: dict[type, int] = {bytes: 0, bool: 1, int: 2, float: 3, str: 4}
_ARRAYS = {0: 5, 1: 6, 2: 7, 3: 8, 4: 9}


def _scalar_of(value: object) -> int | None:
    """The scalar type number of a value, such as one of numpy; None for what is no scalar."""
    return next((number for kind, number in _SCALARS.items() if isinstance(value, kind)), None)


class Parameter:
    """A name, a type and a value.

    :raises TypeError: if the value is of no type a parameter can have.
    :raises ValueError: if type and value do not agree.
    """

    Type = _Type

    def __init__(self, name: str, type_: _Type | None = None, value: Any = None) -> None:
        if type_ is None:
            type_ = _Type.from_parameter_value(value)
        if not isinstance(type_, _Type):
            raise TypeError(f'type_ is {type_!r}, expected a Parameter.Type')
        if not type_.check(value):
            raise ValueError(f"Type '{type_}' and value '{value}' do not agree")
        self._name, self._type, self._value = name, type_, value

    @property
    def name(self) -> str:
        return self._name

    @property
    def type_(self) -> _Type:
        return self._type

    @property
    def value(self) -> Any:
        return self._value

    def __repr__(self) -> str:
        return f'Parameter({self._name!r}, {self._type}, {self._value!r})'


class ParameterTable:
    """The parameters of one node. Setting goes through descriptors and callbacks, atomically."""

    def __init__(self, overrides: dict[str, Parameter], allow_undeclared: bool) -> None:
        self.overrides = overrides
        self.callbacks: list[Callable[[list[Parameter]], SetParametersResult]] = []
        self._allow_undeclared = allow_undeclared
        self._values: dict[str, Parameter] = {}
        self._descriptors: dict[str, ParameterDescriptor] = {}

    def declare(
        self,
        name: str,
        default: Any,
        descriptor: ParameterDescriptor | None,
        ignore_override: bool = False,
    ) -> Parameter:
        """Add a parameter with its override, or else its default, as value.

        :raises InvalidParameterException: if the name is empty or not a string.
        :raises ParameterAlreadyDeclaredException: if it exists.
        :raises InvalidParameterTypeException: if the override has another type.
        :raises InvalidParameterValueException: if a range or a callback refuses the value.
        """
        if not isinstance(name, str) or not name:
            raise InvalidParameterException(name)
        if name in self._values:
            raise ParameterAlreadyDeclaredException([name])
        descriptor = ParameterDescriptor() if descriptor is None else descriptor
        if default is None:  # declared by its name alone
            descriptor.dynamic_typing = True
        if isinstance(default, _Type):
            if default is _Type.NOT_SET or descriptor.dynamic_typing:
                raise ValueError(f'{name} cannot be declared as {default} with this descriptor')
            descriptor.type, default = default.value, None
        elif default is not None and not descriptor.dynamic_typing:
            descriptor.type = _Type.from_parameter_value(default).value
        value = default
        if name in self.overrides and not ignore_override:
            value = self.overrides[name].value
        parameter = Parameter(name, value=value)
        if isinstance(value, (list, tuple)) and not value and descriptor.type:
            parameter = Parameter(name, _Type(descriptor.type), value)
        result = self._check([parameter], {name: descriptor}, check_read_only=False)
        if not result.successful:
            if result.reason.startswith('Wrong parameter type'):
                expected = _Type(descriptor.type).name
                raise InvalidParameterTypeException(name, value, parameter.type_.name, expected)
            raise InvalidParameterValueException(name, value, result.reason)
        self._descriptors[name] = descriptor
        self._values[name] = parameter
        return parameter

    def undeclare(self, name: str) -> None:
        if name not in self._values:
            raise ParameterNotDeclaredException(name)
        if self.describe(name).read_only:
            raise ParameterImmutableException(name)
        del self._values[name], self._descriptors[name]

    def has(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Parameter:
        """Return a parameter.

        :raises ParameterNotDeclaredException: if it does not exist.
        :raises ParameterUninitializedException: if it is typed but was never given a value.
        """
        if name not in self._values:
            if self._allow_undeclared:
                return Parameter(name, _Type.NOT_SET, None)
            raise ParameterNotDeclaredException(name)
        parameter = self._values[name]
        if parameter.type_ is _Type.NOT_SET and not self._descriptors[name].dynamic_typing:
            raise ParameterUninitializedException(name)
        return parameter

    def by_prefix(self, prefix: str) -> dict[str, Parameter]:
        start = f'{prefix}.' if prefix else ''
        return {
            name.removeprefix(start): parameter
            for name, parameter in self._values.items()
            if name.startswith(start)
        }

    def describe(self, name: str) -> ParameterDescriptor:
        if name in self._descriptors:
            return self._descriptors[name]
        if self._allow_undeclared:
            return ParameterDescriptor()
        raise ParameterNotDeclaredException(name)

    def set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        """Set all of them or, if one is refused, none.

        :raises ParameterNotDeclaredException: naming what was never declared.
        """
        parameters = list(parameters)
        if not all(isinstance(parameter, Parameter) for parameter in parameters):
            raise TypeError(f'expected a list of Parameter, got {parameters!r}')
        unknown = [parameter.name for parameter in parameters if parameter.name not in self._values]
        if unknown and not self._allow_undeclared:
            raise ParameterNotDeclaredException(unknown)
        result = self._check(parameters, self._descriptors, check_read_only=True)
        if result.successful:
            for parameter in parameters:
                if parameter.type_ is _Type.NOT_SET:
                    self._values.pop(parameter.name, None)
                    self._descriptors.pop(parameter.name, None)
                    continue
                dynamic = ParameterDescriptor(name=parameter.name, dynamic_typing=True)
                self._descriptors.setdefault(parameter.name, dynamic)
                self._values[parameter.name] = parameter
        return result

    def _check(
        self,
        parameters: list[Parameter],
        descriptors: dict[str, ParameterDescriptor],
        check_read_only: bool,
    ) -> SetParametersResult:
        for parameter in parameters:
            descriptor = descriptors.get(parameter.name)
            reason = descriptor and self._refusal(parameter, descriptor, check_read_only)
            if reason:
                return SetParametersResult(successful=False, reason=reason)
        for callback in list(self.callbacks):
            result = callback(parameters)
            if not result.successful:
                return result
        return SetParametersResult(successful=True)

    def _refusal(
        self, parameter: Parameter, descriptor: ParameterDescriptor, check_read_only: bool
    ) -> str:
        """Return why a descriptor does not allow a value, or an empty string."""
        descriptor.name = parameter.name
        if check_read_only and descriptor.read_only:
            return f'Trying to set a read-only parameter: {parameter.name}.'
        if descriptor.dynamic_typing:
            descriptor.type = parameter.type_.value
        elif parameter.type_ is _Type.NOT_SET:
            return 'Static parameter cannot be undeclared' if self.has(parameter.name) else ''
        elif parameter.type_.value != descriptor.type:
            expected = _Type(descriptor.type)
            return f"Wrong parameter type, expected '{expected}' got '{parameter.type_}'"
        if parameter.type_ is _Type.INTEGER:
            return _out_of_range(parameter, descriptor.integer_range)
        if parameter.type_ is _Type.DOUBLE:
            return _out_of_range(parameter, descriptor.floating_point_range)
        return ''


def _out_of_range(parameter: Parameter, ranges: Iterable[Any]) -> str:
    for limits in ranges:
        low, high = sorted((limits.from_value, limits.to_value))
        value, step = parameter.value, limits.step
        exact = isinstance(value, int)

        def same(a: float, b: float, exact: bool = exact) -> bool:
            return a == b if exact else math.isclose(a, b, rel_tol=TOLERANCE)

        if same(value, low) or same(value, high):
            return ''
        where = f'Min: {low}, Max: {high}, value: {value}'
        if not low < value < high:
            return f'Parameter {parameter.name} out of range. {where}'
        if step and not same(low + round((value - low) / step) * step, value):
            return f'The value of {parameter.name} is not a valid step. {where}, step: {step}'
    return ''
