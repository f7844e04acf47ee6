# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Message classes and CDR of the embedded runtime: defaults, conversions, round trips, damage."""

from __future__ import annotations

import copy
import pickle
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.interfaces import Nodetype

from sparse_split_ros.embedded import messages
from sparse_split_ros.embedded.messages import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    Image,
    String,
)
from sparse_split_ros.embedded.types import (
    Message,
    TypesError,
    deserialize,
    message,
    message_class,
    serialize,
    typestore,
)

SPELLED_OUT = sorted(
    cls.__msgtype__
    for cls in vars(messages).values()
    if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message
)


def test_every_type_has_defaults_that_survive_a_round_trip() -> None:
    for name in typestore().fielddefs:
        msg = message_class(name)()
        assert deserialize(serialize(msg), type(msg)) == msg, name


@pytest.mark.parametrize('name', SPELLED_OUT)
def test_spelled_out_classes_match_the_generated_ones(name: str) -> None:
    cls = message_class(name)
    constants = {key: value for key, _, value in typestore().fielddefs[name][0]}
    assert {key: getattr(cls, key)[0] for key in constants} == constants
    for field, (kind, _) in typestore().fielddefs[name][1]:
        if kind in (Nodetype.SEQUENCE, Nodetype.ARRAY):
            assert len(getattr(cls(), field)) == 0


def test_a_class_with_other_fields_than_the_definition_is_refused() -> None:
    with pytest.raises(TypesError, match='std_msgs/msg/String'):

        @message('std_msgs/msg/String')
        class Wrong(Message):
            text: str = ''


NUMBERS = {
    'bool': st.booleans(),
    'float32': st.floats(width=32, allow_nan=False),
    'float64': st.floats(allow_nan=False),
    'byte': st.binary(min_size=1, max_size=1),
    'char': st.integers(0, 255),
}


def values_of(description: Any) -> st.SearchStrategy[Any]:
    """Return what a field of a rosbags description can hold."""
    kind, detail = description
    if kind == Nodetype.NAME:
        return messages_of(detail)
    if kind == Nodetype.BASE:
        name = detail[0]
        if name == 'string':
            return st.text(st.characters(exclude_categories=('Cs',)), max_size=20)
        if name in NUMBERS:
            return NUMBERS[name]
        bits = int(name.lstrip('uint'))
        low, high = (0, 2**bits) if name[0] == 'u' else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        return st.integers(low, high - 1)
    item, size = detail
    if kind == Nodetype.ARRAY:
        return st.lists(values_of(item), min_size=size, max_size=size)
    return st.lists(values_of(item), max_size=size or 5)


def messages_of(name: str) -> st.SearchStrategy[Any]:
    fields = {field: values_of(kind) for field, kind in typestore().fielddefs[name][1]}
    return st.builds(message_class(name), **fields)


@pytest.mark.parametrize(
    'name', [*SPELLED_OUT, 'sensor_msgs/msg/CameraInfo', 'rcl_interfaces/msg/ParameterValue']
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_message_survives_a_round_trip(name: str, data: st.DataObject) -> None:
    msg = data.draw(messages_of(name))
    assert deserialize(serialize(msg), type(msg)) == msg


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([Image, Classification, DiagnosticArray, String]))
def test_damaged_bytes_are_one_named_error(data: bytes, cls: type[Message]) -> None:
    try:
        deserialize(data, cls)
    except TypesError as error:
        assert cls.__msgtype__ in str(error)


def test_truncated_bytes_are_one_named_error() -> None:
    whole = serialize(CompressedImage(format='x', data=array('B', bytes(100))))
    for size in range(len(whole) - 4):
        with pytest.raises(TypesError, match='CompressedImage'):
            deserialize(whole[:size], CompressedImage)


@pytest.mark.parametrize(
    'data',
    [b'\x01\x02', bytearray(b'\x01\x02'), memoryview(b'\x01\x02'), [1, 2], (1, 2),
     np.array([1, 2], np.uint8), array('B', [1, 2])],
)  # fmt: skip
def test_data_takes_any_buffer_and_becomes_an_array(data: Any) -> None:
    msg = CompressedImage()
    msg.data = data
    assert msg.data == array('B', [1, 2])
    assert isinstance(msg.data, array)


def test_an_assigned_array_is_not_copied() -> None:
    pixels = array('B', bytes(1000))
    assert Image(data=pixels).data is pixels


def test_defaults_are_not_shared() -> None:
    first, second = Image(), Image()
    first.header.frame_id = 'mine'
    first.data.append(1)
    assert second == Image()


def test_messages_compare_copy_and_pickle_by_value() -> None:
    msg = DiagnosticArray(status=[DiagnosticStatus(level=DiagnosticStatus.WARN, name='x')])
    twin = copy.deepcopy(msg)
    assert twin == msg
    assert pickle.loads(pickle.dumps(msg)) == msg
    twin.status[0].name = 'y'
    assert twin != msg
    assert msg != Header()


@pytest.mark.parametrize(
    ('msg', 'where'),
    [
        (Image(height=-1), 'height is -1'),
        (Image(encoding=3), 'encoding is 3'),  # type: ignore[arg-type]
        (Header(stamp=String()), 'stamp is'),  # type: ignore[arg-type]
        (DiagnosticArray(status=[DiagnosticStatus(name=None)]), r'status\[0\].name'),  # type: ignore
        (String(data='\ud800'), 'utf-8'),
    ],
)
def test_what_cannot_be_serialised_is_named(msg: Message, where: str) -> None:
    with pytest.raises(TypesError, match=where):
        serialize(msg)


def test_unknown_types_are_named() -> None:
    with pytest.raises(TypesError, match='no_msgs/msg/Nothing'):
        message_class('no_msgs/msg/Nothing')
