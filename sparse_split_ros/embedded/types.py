# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 message types without ROS: definitions, hashes, classes and CDR, on top of rosbags.

A message class behaves like the one rosidl generates for Python: every field has a default, the
constructor takes keywords only, an unknown attribute is an error, a numeric sequence is an
``array.array`` and a ``byte`` is a ``bytes`` of length one.
"""

from __future__ import annotations

import dataclasses
import struct
from array import array
from functools import cache
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[Any], Any]:
        """Stand in for the typing construct, which Python 3.10 lacks."""
        return lambda function: function


class TypesError(Exception):
    """A message type is unknown, or a message and its bytes do not fit together."""


# vision_msgs 4.1.1, fields only; rosbags ships no definitions of this package.
VISION_MSGS = {
    'vision_msgs/msg/ObjectHypothesis': 'string class_id\nfloat64 score',
    'vision_msgs/msg/Classification': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results'
    ),
    'vision_msgs/msg/VisionClass': 'uint16 class_id\nstring class_name',
    'vision_msgs/msg/LabelInfo': (
        'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold'
    ),
    'vision_msgs/msg/VisionInfo': (
        'std_msgs/Header header\nstring method\nstring database_location\nint32 database_version'
    ),
}

_TYPECODES = {
    'int8': 'b', 'uint8': 'B', 'int16': 'h', 'uint16': 'H', 'int32': 'i',
    'uint32': 'I', 'int64': 'q', 'uint64': 'Q', 'float32': 'f', 'float64': 'd',
}  # fmt: skip


@cache
def typestore() -> Typestore:
    """Return the one rosbags type store: the definitions of Jazzy and those of vision_msgs."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, name))
    # rosidl takes char for another name of uint8, in type hashes too; rosbags hashes it apart.
    for name, (constants, fields) in store.fielddefs.items():
        store.fielddefs[name] = (constants, [(field, _no_char(kind)) for field, kind in fields])
    return store


def _no_char(description: Any) -> Any:
    kind, detail = description
    if kind == Nodetype.BASE:
        return (kind, ('uint8', detail[1])) if detail[0] == 'char' else description
    if kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return kind, (_no_char(detail[0]), detail[1])
    return description


@cache
def type_hash(name: str) -> str:
    """Return the REP 2011 hash of a message type, such as ``RIHS01_df668c…``.

    :raises TypesError: if the type is unknown.
    """
    _fields_of(name)
    return typestore().hash_rihs01(name)


def dds_type_name(name: str) -> str:
    """Return the name a type has on the wire: ``std_msgs::msg::dds_::String_``."""
    package, kind, message = name.split('/')
    return f'{package}::{kind}::dds_::{message}_'


def ros_type_name(name: str) -> str:
    """Return the ROS name of a type on the wire, or the name as it is when it is not a ROS type."""
    parts = name.split('::')
    if len(parts) == 4 and parts[2] == 'dds_' and parts[3].endswith('_'):
        return f'{parts[0]}/{parts[1]}/{parts[3][:-1]}'
    return name


class Message:
    """Base of every message class; see :func:`message_class`."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    __msgtype__: ClassVar[str]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(
            np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
            for mine, theirs in (
                (getattr(self, name), getattr(other, name)) for name in self.__slots__
            )
        )

    __hash__ = None  # type: ignore[assignment]  # mutable, like the messages of rclpy


M = TypeVar('M', bound=Message)

# Classes by type name, and how rosbags makes one from the values it has read.
_classes: dict[str, type[Message]] = {}


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
def message(name: str) -> Callable[[type[M]], type[M]]:
    """Turn an annotated class into the message class of the type ``name``.

    :raises TypesError: if the fields and their order are not those of the definition.
    """

    def decorate(cls: type[M]) -> type[M]:
        made = dataclasses.dataclass(kw_only=True, eq=False, slots=True)(cls)
        fields = [field.name for field in dataclasses.fields(made)]  # type: ignore[arg-type]
        expected = [field for field, _ in _fields_of(name)]
        if fields != expected:
            raise TypesError(f'{name}: the class has fields {fields}, expected {expected}')
        _adopt(made, name)
        return made

    return decorate


def message_class(name: str) -> type[Message]:
    """Return the class of a message type by name, for example ``'sensor_msgs/msg/Imu'``.

    :raises TypesError: if the type is unknown.
    """
    if name not in _classes:
        fields = []
        for field, description in _fields_of(name):
            factory = dataclasses.field(default_factory=_default_of(description))
            fields.append((field, Any, factory))
        constants = {
            constant: bytes([cast('int', value)]) if kind == 'byte' else value
            for constant, kind, value in typestore().fielddefs[name][0]
        }
        made = dataclasses.make_dataclass(
            name.rpartition('/')[2], fields, bases=(Message,), namespace=cast('Any', constants),
            kw_only=True, eq=False, slots=True,
        )  # fmt: skip
        _adopt(made, name)
    return _classes[name]


def serialize(msg: Message) -> bytes:
    """Return a message as CDR (little-endian, with its 4-byte encapsulation header).

    :raises TypesError: if a field holds a value its type cannot, naming the field.
    """
    try:
        return bytes(_cdr_store().serialize_cdr(msg, msg.__msgtype__))
    except (struct.error, SerdeError, AttributeError, TypeError, ValueError) as error:
        where = _misfit(msg)
        raise TypesError(f'cannot serialise {msg.__msgtype__}: {where or error}') from error


def deserialize(cdr: bytes | memoryview, cls: type[M]) -> M:
    """Return the message that CDR bytes of the type of ``cls`` hold.

    :raises TypesError: if the bytes are truncated, damaged or of another type.
    """
    try:
        return cast('M', _cdr_store().deserialize_cdr(memoryview(cdr), cls.__msgtype__))
    except (SerdeError, struct.error, ValueError, TypeError, MemoryError) as error:
        raise TypesError(f'cannot read {len(cdr)} bytes as {cls.__msgtype__}: {error}') from error


class _Field:
    """A field converted when it is assigned; ``wire`` is what rosbags gets to serialise."""

    def __init__(self, slot: Any, dtype: str, length: int) -> None:
        self._slot, self._dtype, self._length = slot, dtype, length

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else self._slot.__get__(obj, owner)

    def __set__(self, obj: Any, value: Any) -> None:
        self._slot.__set__(obj, self.keep(value))

    def keep(self, value: Any) -> Any:
        raise NotImplementedError

    def wire(self, obj: Any) -> Any:
        return np.asarray(self._slot.__get__(obj))


class _Sequence(_Field):
    """A numeric sequence: an ``array.array``, whatever buffer or list is assigned."""

    def keep(self, value: Any) -> Any:
        code = _TYPECODES[self._dtype]
        if isinstance(value, array) and value.typecode == code:
            return value
        made = array(code)
        if isinstance(value, (bytes, bytearray, memoryview)) and made.itemsize == 1:
            made.frombytes(value)
        elif isinstance(value, np.ndarray):
            made.frombytes(np.ascontiguousarray(value, code).data.cast('B'))
        else:
            made.extend(value)
        return made


class _Fixed(_Field):
    """A numeric array of fixed size: a numpy array."""

    def keep(self, value: Any) -> Any:
        value = np.array(value, self._dtype)
        if value.shape != (self._length,):
            raise ValueError(f'expected {self._length} values, got an array of {value.shape}')
        return value


class _List(_Field):
    """A ``bool[]`` or ``byte[]``: a list."""

    def keep(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            octets = value.view(np.uint8).tolist()
            return value.tolist() if self._dtype == 'bool' else [bytes([one]) for one in octets]
        return list(value)

    def wire(self, obj: Any) -> Any:
        items = self._slot.__get__(obj)
        if self._dtype == 'bool':
            return np.array(items, bool)
        return np.frombuffer(b''.join(items), np.int8)


class _Byte(_Field):
    """A ``byte``: ``bytes`` of length one, as in rosidl."""

    def keep(self, value: Any) -> Any:
        value = bytes([value & 0xFF]) if isinstance(value, int) else bytes(value)
        if len(value) != 1:
            raise ValueError(f'a byte field takes one byte, got {value!r}')
        return value

    def wire(self, obj: Any) -> Any:
        return int.from_bytes(self._slot.__get__(obj), 'little', signed=True)


def _converter(description: Any) -> tuple[type[_Field], str, int] | None:
    """Return what a field needs beyond its slot: converter, numpy type and length."""
    kind, detail = description
    if kind == Nodetype.BASE:
        return (_Byte, 'int8', 1) if detail[0] == 'byte' else None
    if kind == Nodetype.NAME or detail[0][0] != Nodetype.BASE or detail[0][1][0] == 'string':
        return None
    base, length = detail[0][1][0], detail[1]
    dtype = {'byte': 'int8', 'char': 'uint8'}.get(base, base)
    if kind == Nodetype.ARRAY:
        return _Fixed, dtype, length
    return (_List if base in ('bool', 'byte') else _Sequence), dtype, length


def _adopt(cls: type[Message], name: str) -> None:
    """Give a fresh class its field converters and enter it in the CDR store.

    rosbags wants numpy where a message holds arrays or bytes; its generated code reads fields by
    name, so the CDR store knows such a field under the name of a property beside it.
    """
    cls.__msgtype__ = name
    wire_fields = []
    for field, description in _fields_of(name):
        found = _converter(description)
        if found is not None:
            made = found[0](cls.__dict__[field], *found[1:])
            setattr(cls, field, made)
            setattr(cls, f'{field}_cdr', property(made.wire))
        wire_fields.append((f'{field}_cdr' if found else field, description))
    store = _cdr_store()
    store.fielddefs[name] = (typestore().fielddefs[name][0], wire_fields)
    store.types[name] = _maker(cls)
    _classes[name] = cls


@cache
def _cdr_store() -> Typestore:
    """Return the store that reads and writes our classes, filled in as classes are made."""
    return _CdrStore()


class _CdrStore(Typestore):
    def get_msgdef(self, typename: str) -> Any:
        if typename not in self.cache:
            message_class(typename)
        return super().get_msgdef(typename)


def _maker(cls: type[Message]) -> Any:
    """Return what rosbags calls with the values of all fields, in order."""
    names = cls.__slots__
    new = object.__new__

    def make(*values: Any) -> Message:
        msg = new(cls)
        for name, value in zip(names, values):
            setattr(msg, name, value)
        return msg

    return make


def _fields_of(name: str) -> list[tuple[str, Any]]:
    """Return (Python name, rosbags description) of every field of a type."""
    try:
        fields = typestore().fielddefs[name][1]
    except KeyError:
        raise TypesError(
            f'unknown message type {name!r}, expected one like std_msgs/msg/String'
        ) from None
    return [(f'{field}_' if iskeyword(field) else field, kind) for field, kind in fields]


def _default_of(description: Any) -> Callable[[], Any]:
    kind, detail = description
    if kind == Nodetype.NAME:
        return message_class(detail)
    if kind == Nodetype.SEQUENCE:
        return list
    if kind == Nodetype.ARRAY:
        (subkind, subdetail), length = detail
        one = _default_of((subkind, subdetail))
        return lambda: [one() for _ in range(length)]
    return {'string': str, 'bool': bool, 'float32': float, 'float64': float}.get(detail[0], int)


def _misfit(msg: Message) -> str:
    """Return the first field that does not fit its type, with its value, or an empty string."""
    store = _cdr_store()
    for field in msg.__slots__:
        value = getattr(msg, field)
        parts = value if isinstance(value, list) else [value]
        for index, part in enumerate(parts):
            if isinstance(part, Message) and (inner := _misfit(part)):
                return f'{field}[{index}].{inner}' if parts is value else f'{field}.{inner}'
        probe = message_class(msg.__msgtype__)()
        try:
            setattr(probe, field, value)
            store.serialize_cdr(probe, probe.__msgtype__)
        except Exception as error:  # whatever rosbags stumbles over
            return f'{field} is {value!r:.200} ({error})'
    return ''
