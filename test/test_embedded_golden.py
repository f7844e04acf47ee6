# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Our bytes and type hashes against those of real rclpy.

``golden/jazzy.json`` was written by rclpy's own ``serialize_message`` on ROS 2 Jazzy, and the
hashes are those in the ``.json`` type descriptions that rosidl installs there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rosbags.interfaces import Nodetype

from sparse_split_ros.embedded.types import (
    Message,
    deserialize,
    message_class,
    serialize,
    type_hash,
    typestore,
)

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'jazzy.json').read_text(encoding='utf-8'))


def build(name: str, fields: dict[str, Any]) -> Message:
    """The message of this type with these plain values."""
    message = message_class(name)()
    for field, (kind, detail) in typestore().fielddefs[name][1]:
        value = fields[field]
        if kind == Nodetype.NAME:
            value = build(detail, value)
        elif kind in (Nodetype.SEQUENCE, Nodetype.ARRAY) and detail[0][0] == Nodetype.NAME:
            value = [build(detail[0][1], item) for item in value]
        setattr(message, field, value)
    return message


@pytest.mark.parametrize('golden', GOLDEN, ids=lambda golden: golden['type'])
def test_type_hash_is_that_of_rosidl(golden: dict[str, Any]) -> None:
    assert type_hash(golden['type']) == golden['type_hash']


@pytest.mark.parametrize('golden', GOLDEN, ids=lambda golden: golden['type'])
def test_bytes_are_those_of_rclpy(golden: dict[str, Any]) -> None:
    ours = serialize(build(golden['type'], golden['fields']))
    assert ours.hex() == golden['cdr']


@pytest.mark.parametrize('golden', GOLDEN, ids=lambda golden: golden['type'])
def test_bytes_of_rclpy_are_read_back(golden: dict[str, Any]) -> None:
    name = golden['type']
    read = deserialize(bytes.fromhex(golden['cdr']), message_class(name))
    assert read == build(name, golden['fields'])
