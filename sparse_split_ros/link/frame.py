# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two messages between head and tail, version 1: FeatureFrame and ReplyFrame.

Little-endian, a fixed 40-byte preamble, then the payload. Every field is checked against hard
limits before anything is allocated for it, and nothing is unpickled. Times are ages and budgets:
the clocks of two machines are never compared.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.link.codec import MAX_PAYLOAD, CodecId

VERSION = 1
FEATURE_FORMAT = f'sparse_split/{VERSION}'
REPLY_FORMAT = f'sparse_split_reply/{VERSION}'

MAX_SPLIT = 254
MAX_BUDGET_MS = 0xFFFF
MAX_CLASSES = 65_536

# magic, version, flags, split, codec, source, budget ms, age ms, reserved, fingerprint, session,
# sequence, payload length; the CRC-32 of these 36 bytes and the payload follows.
_FEATURE = struct.Struct('<4s4B4H8s3I')
# magic, version, status, reserved, classes, tail µs, fingerprint, session, sequence, payload
# length; then the CRC-32 likewise.
_REPLY = struct.Struct('<4s2BHII8s3I')
_CRC = struct.Struct('<I')
_FEATURE_MAGIC = b'SSFF'
_REPLY_MAGIC = b'SSRF'
PREAMBLE_BYTES = _FEATURE.size + _CRC.size


class FrameError(ValueError):
    """Bytes that are no frame of ours; ``status`` is what a reply says about it."""

    def __init__(self, message: str, status: Status, key: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.status = status
        # (session, sequence), when the frame was whole enough to be answered.
        self.key = key


class Flag(IntFlag):
    """Why a frame travels, when not because the robot needs the answer."""

    NONE = 0
    AUDIT = 1
    PROBE = 2


class Status(IntEnum):
    """What became of a feature frame at the tail."""

    OK = 0
    MALFORMED = 1
    WRONG_VERSION = 2
    WRONG_BUNDLE = 3
    WRONG_SPLIT = 4
    WRONG_CODEC = 5
    BAD_PAYLOAD = 6
    EXPIRED = 7
    FAILED = 8


# A plain number: the complement of a Flag leaves out the bits it does not know.
_KNOWN_FLAGS = int(Flag.AUDIT | Flag.PROBE)


@dataclass(frozen=True)
class FeatureFrame:
    """One frame's features on their way to the tail.

    ``budget_ms`` is what remained until the deadline and ``age_ms`` the time since the image had
    arrived, both when the frame was sent. ``session`` is random per start of a head and
    ``sequence`` counts up in it: together they name the frame, whatever the image's stamp says.
    """

    split: int
    codec: CodecId
    fingerprint: bytes
    session: int
    sequence: int
    payload: bytes
    source: int = 0
    flags: Flag = Flag.NONE
    budget_ms: int = MAX_BUDGET_MS
    age_ms: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What an answer is matched by: (session, sequence)."""
        return self.session, self.sequence

    def to_bytes(self) -> bytes:
        """The frame's bytes; raises FrameError for a payload above the limit."""
        if len(self.payload) > MAX_PAYLOAD:
            raise FrameError(
                f'payload of {len(self.payload)} bytes is above the limit of {MAX_PAYLOAD}',
                Status.MALFORMED,
            )
        preamble = _FEATURE.pack(
            _FEATURE_MAGIC, VERSION, self.flags, self.split, self.codec, self.source,
            min(max(self.budget_ms, 0), MAX_BUDGET_MS), min(max(self.age_ms, 0), 0xFFFF), 0,
            self.fingerprint, self.session, self.sequence, len(self.payload),
        )  # fmt: skip
        return preamble + _CRC.pack(_crc(preamble, self.payload)) + self.payload

    @classmethod
    def parse(cls, data: bytes | memoryview) -> FeatureFrame:
        """Read a frame; raises FrameError naming the first field that is wrong."""
        data = memoryview(data).cast('B')
        _check_start('feature frame', data, _FEATURE_MAGIC)
        (_, _, flags, split, codec, source, budget, age, reserved, fingerprint, session, sequence,
         length) = _FEATURE.unpack_from(data)  # fmt: skip
        payload = _check_end('feature frame', data, length, MAX_PAYLOAD)
        key = (session, sequence)
        if flags & ~_KNOWN_FLAGS or reserved:
            raise FrameError(
                f'feature frame has flags {flags:#04x} and reserved {reserved}, known are 3 and 0',
                Status.MALFORMED, key,
            )  # fmt: skip
        if split > MAX_SPLIT:
            raise FrameError(
                f'feature frame has split {split}, at most {MAX_SPLIT}', Status.WRONG_SPLIT, key
            )
        try:
            identifier = CodecId(codec)
        except ValueError:
            raise FrameError(
                f'feature frame has the unknown codec {codec:#04x}', Status.WRONG_CODEC, key
            ) from None
        return cls(split, identifier, fingerprint, session, sequence, bytes(payload), source,
                   Flag(flags), budget, age)  # fmt: skip


@dataclass(frozen=True)
class ReplyFrame:
    """The tail's answer to one feature frame.

    ``scores`` are class probabilities of shape (K,), float32, and empty unless ``status`` is OK.
    ``tail_us`` is the time in µs between the frame's arrival at the tail and this answer.
    """

    status: Status
    fingerprint: bytes
    session: int
    sequence: int
    scores: NDArray[np.float32]
    tail_us: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """The (session, sequence) of the frame that is answered."""
        return self.session, self.sequence

    def to_bytes(self) -> bytes:
        """The reply's bytes."""
        payload = self.scores.astype('<f4').tobytes()
        preamble = _REPLY.pack(
            _REPLY_MAGIC, VERSION, self.status, 0, self.scores.size,
            min(max(self.tail_us, 0), 0xFFFFFFFF), self.fingerprint, self.session,
            self.sequence, len(payload),
        )  # fmt: skip
        return preamble + _CRC.pack(_crc(preamble, payload)) + payload

    @classmethod
    def parse(cls, data: bytes | memoryview) -> ReplyFrame:
        """Read a reply; raises FrameError naming the first field that is wrong."""
        data = memoryview(data).cast('B')
        _check_start('reply frame', data, _REPLY_MAGIC)
        (_, _, status, reserved, classes, tail_us, fingerprint, session, sequence,
         length) = _REPLY.unpack_from(data)  # fmt: skip
        payload = _check_end('reply frame', data, length, 4 * MAX_CLASSES)
        key = (session, sequence)
        if reserved:
            raise FrameError(
                f'reply frame has {reserved} in its reserved field, must be 0',
                Status.MALFORMED,
                key,
            )
        try:
            status = Status(status)
        except ValueError:
            raise FrameError(
                f'reply frame has the unknown status {status}', Status.MALFORMED, key
            ) from None
        if (
            classes > MAX_CLASSES
            or len(payload) != 4 * classes
            or (status is not Status.OK and classes)
        ):
            raise FrameError(
                f'reply frame ({status.name}) has {classes} classes in {len(payload)} bytes',
                Status.MALFORMED, key,
            )  # fmt: skip
        scores = np.frombuffer(payload, '<f4').astype(np.float32)
        # NaN fails both comparisons, so that this one line refuses it too.
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise FrameError('reply frame has scores outside [0, 1]', Status.MALFORMED, key)
        return cls(status, fingerprint, session, sequence, scores, tail_us)


def _crc(preamble: bytes | memoryview, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(preamble))


def _check_start(what: str, data: memoryview, magic: bytes) -> None:
    if len(data) < PREAMBLE_BYTES:
        raise FrameError(
            f'{what} of {len(data)} bytes is shorter than its preamble of {PREAMBLE_BYTES}',
            Status.MALFORMED,
        )
    if bytes(data[:4]) != magic:
        raise FrameError(f'{what} starts with {bytes(data[:4])!r}, not {magic!r}', Status.MALFORMED)
    if data[4] != VERSION:
        raise FrameError(
            f'{what} has version {data[4]}, this side speaks {VERSION}: install the same release '
            'on both machines', Status.WRONG_VERSION,
        )  # fmt: skip


def _check_end(what: str, data: memoryview, length: int, limit: int) -> memoryview:
    payload = data[PREAMBLE_BYTES:]
    if length > limit or length != len(payload):
        raise FrameError(
            f'{what} announces {length} payload bytes and has {len(payload)}, the limit is {limit}',
            Status.MALFORMED,
        )
    preamble = data[: _FEATURE.size]
    (crc,) = _CRC.unpack_from(data, _FEATURE.size)
    if crc != _crc(preamble, payload):
        raise FrameError(
            f'{what} fails its CRC-32 check, it was damaged on the way', Status.MALFORMED
        )
    return payload


assert _FEATURE.size == _REPLY.size == 36, 'both preambles are 40 bytes with their CRC'
