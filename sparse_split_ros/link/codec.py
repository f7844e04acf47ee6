# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features to bytes and back.

Shape, quantisation steps and entropy tables come from the bundle's calibration of a split, so that
they do not travel. Entropy coding is Zstandard with a trained dictionary, whose Huffman and FSE
tables are what a payload of a few hundred bytes has no room to bring along.
"""

from __future__ import annotations

import base64
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:  # the kernel that packs in a tenth of the time, where it is built
    from sparse_split_ros.native._native import kernels
except ImportError:
    kernels = None

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Array = NDArray[np.float32]

# No feature frame of a useful split is larger; anything above is refused before it is decoded.
MAX_PAYLOAD = 1 << 22
_DICTIONARY_BYTES = 4096
_PACKINGS = {16: 'HALF', 8: 'BYTE', 4: 'NIBBLE'}
# From here on Zstandard's best level takes milliseconds, and makes features no smaller.
_LARGE = 8 << 10
# The same first bytes of every Zstandard frame, which need not travel.
_ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'


class CodecError(ValueError):
    """Features or bytes that a codec cannot take; the message names the value and the limit."""


class CodecId(IntEnum):
    """The codec's number on the wire. The high bit pair says how the bytes are entropy-coded."""

    NONE = 0x00
    FP16 = 0x01
    INT8 = 0x02
    INT4 = 0x03
    NONE_ZSTD = 0x10
    FP16_ZSTD = 0x11
    INT8_ZSTD = 0x12
    INT4_ZSTD = 0x13

    @property
    def label(self) -> str:
        """The name in manifests and parameters, such as ``int8+zstd``."""
        return self.name.lower().replace('_', '+')

    @property
    def entropy_coded(self) -> bool:
        """Whether the bytes pass through Zstandard."""
        return bool(self & 0x10)

    @property
    def bits(self) -> int:
        """Bits per value before entropy coding."""
        return {0: 32, 1: 16, 2: 8, 3: 4}[self & 0x0F]


CODECS = tuple(codec.label for codec in CodecId)


def codec_id(name: str) -> CodecId:
    """The codec of this name; raises CodecError naming the known ones."""
    for codec in CodecId:
        if codec.label == name:
            return codec
    raise CodecError(f'codec {name!r} is not known; known are {", ".join(CODECS)}')


@dataclass(frozen=True)
class Codec:
    """One codec of one split, with its calibration.

    ``shape`` is (C, H, W) of what travels. ``low`` and ``step`` have shape (C, 1, 1) and map the
    integer codes of int8 and int4 to values: value = low + step · code.
    """

    id: CodecId
    shape: tuple[int, int, int]
    low: Array
    step: Array
    dictionary: bytes

    @classmethod
    def from_calibration(
        cls, name: str, shape: tuple[int, ...], params: Mapping[str, Any]
    ) -> Codec:
        """Build a codec from what :func:`calibrate` returned (a JSON object of the manifest).

        Raises CodecError for a calibration that does not fit the shape.
        """
        identifier = codec_id(name)
        if len(shape) != 3 or any(side <= 0 for side in shape):
            raise CodecError(f'codec {name} needs a shape (C, H, W) of positive sides, got {shape}')
        channels = shape[0]
        low = np.zeros(channels, np.float32)
        step = np.ones(channels, np.float32)
        if identifier.bits < 16:
            try:
                low = np.asarray(params['low'], np.float32)
                step = np.asarray(params['step'], np.float32)
            except (KeyError, TypeError, ValueError) as error:
                raise CodecError(f"codec {name} needs 'low' and 'step' lists: {error}") from error
            if low.shape != (channels,) or step.shape != (channels,):
                raise CodecError(
                    f'codec {name}: {low.size} lows and {step.size} steps for {channels} channels'
                )
            if not (np.isfinite(low).all() and np.isfinite(step).all() and (step > 0).all()):
                raise CodecError(f'codec {name} needs finite lows and positive finite steps')
        try:
            dictionary = base64.b64decode(params.get('dictionary', ''), validate=True)
        except (TypeError, ValueError) as error:
            raise CodecError(
                f'codec {name} has a dictionary that is not base64: {error}'
            ) from error
        column = (channels, 1, 1)
        return cls(identifier, shape, low.reshape(column), step.reshape(column), dictionary)

    def __post_init__(self) -> None:
        # Contexts are costly to make and cheap to reuse, but not safe for threads; a codec belongs
        # to one head or one tail, which run it from one thread at a time.
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: 19 if self.raw_bytes < _LARGE else 3,
            zstd.CompressionParameter.content_size_flag: 0,
            zstd.CompressionParameter.dict_id_flag: 0,
        }
        try:
            dictionary = zstd.ZstdDict(self.dictionary, is_raw=False) if self.dictionary else None
            compressor = zstd.ZstdCompressor(options=options, zstd_dict=dictionary)
            compressor.compress(b'', zstd.ZstdCompressor.FLUSH_FRAME)  # reads the tables
        except (ValueError, zstd.ZstdError) as error:
            raise CodecError(f'codec {self.name} has a damaged dictionary: {error}') from error
        object.__setattr__(self, '_compressor', compressor)
        object.__setattr__(self, '_zstd_dict', dictionary)

    @property
    def name(self) -> str:
        """The name in manifests and parameters."""
        return self.id.label

    @property
    def raw_bytes(self) -> int:
        """Payload size in bytes before entropy coding."""
        return (int(np.prod(self.shape)) * self.id.bits + 7) // 8

    def encode(self, features: Array) -> bytes:
        """Code one frame's features of shape (1, C, H, W) or (C, H, W), float32.

        Raises CodecError for another shape, and for values that are not finite.
        """
        if features.shape[-3:] != self.shape or features.size != math.prod(self.shape):
            raise CodecError(
                f'features of shape {features.shape}, codec {self.name} takes {self.shape}'
            )
        raw = self._pack(features.reshape(self.shape))
        return self._compress(raw) if self.id.entropy_coded else raw

    def decode(self, payload: bytes | memoryview) -> Array:
        """The features of one payload, shape (1, C, H, W), float32.

        Raises CodecError when the payload's length does not fit, before anything is allocated for
        it, when it does not decompress, and when fp16 or fp32 values are not finite.
        """
        if len(payload) > MAX_PAYLOAD:
            raise CodecError(f'payload of {len(payload)} bytes is above the limit of {MAX_PAYLOAD}')
        raw: bytes | memoryview = payload
        if self.id.entropy_coded:
            raw = self._decompress(bytes(payload))
        if len(raw) != self.raw_bytes:
            raise CodecError(
                f'payload holds {len(raw)} bytes, codec {self.name} needs {self.raw_bytes}'
            )
        values = self._unpack(raw)
        if self.id.bits >= 16 and not np.isfinite(values).all():
            raise CodecError('payload holds values that are not finite')
        return values[np.newaxis]

    def _compress(self, raw: bytes) -> bytes:
        compressor: zstd.ZstdCompressor = self._compressor  # type: ignore[attr-defined]
        whole: bytes = compressor.compress(raw, zstd.ZstdCompressor.FLUSH_FRAME)
        return whole[len(_ZSTD_MAGIC) :]

    def _decompress(self, payload: bytes) -> bytes:
        """Undo :meth:`_compress`, never allocating more than a payload of this split can need."""
        # A frame names the window that its decoder is to keep: of ours, no more than the payload.
        options: dict[int, int] = {
            zstd.DecompressionParameter.window_log_max: max(10, self.raw_bytes.bit_length())
        }
        decompressor = zstd.ZstdDecompressor(
            zstd_dict=self._zstd_dict,  # type: ignore[attr-defined]
            options=options,
        )
        try:
            raw: bytes = decompressor.decompress(
                _ZSTD_MAGIC + payload, max_length=self.raw_bytes + 1
            )
        except zstd.ZstdError as error:
            raise CodecError(
                f'payload of {len(payload)} bytes does not decompress: {error}'
            ) from error
        if not decompressor.eof or decompressor.unused_data:
            raise CodecError(f'payload of {len(payload)} bytes is not one whole Zstandard frame')
        return raw

    def _pack(self, features: Array) -> bytes:
        """One frame's values (C, H, W) before entropy coding. Raises CodecError."""
        bits = self.id.bits
        if kernels is not None and bits in _PACKINGS and features.dtype == np.float32:
            packing = getattr(kernels.Packing, _PACKINGS[bits])
            raw, finite = kernels.pack(kernels.best(), features, packing, self.low, self.step)
        else:
            finite = np.isfinite(features).all()
            raw = pack(features, self.low, self.step, bits) if finite else b''
        if not finite:
            raise CodecError(f'features are not finite, codec {self.name} cannot send them')
        return bytes(raw)

    def _unpack(self, raw: bytes | memoryview) -> Array:
        if self.id.bits == 32:
            return np.frombuffer(raw, '<f4').astype(np.float32).reshape(self.shape)
        if self.id.bits == 16:
            return np.frombuffer(raw, '<f2').astype(np.float32).reshape(self.shape)
        codes = np.frombuffer(raw, np.uint8)
        if self.id.bits == 4:
            codes = np.stack([codes & 0x0F, codes >> 4], axis=1).ravel()[: int(np.prod(self.shape))]
        return self.low + self.step * codes.reshape(self.shape).astype(np.float32)


def pack(features: Array, low: Array, step: Array, bits: int) -> bytes:
    """Features as values of so many bits, little endian: the bytes that the native kernel makes."""
    if bits == 32:
        return features.astype('<f4').tobytes()
    if bits == 16:
        limit = np.finfo(np.float16).max
        return np.clip(features, -limit, limit).astype('<f2').tobytes()
    codes = quantise(features, low, step, bits).ravel()
    if bits == 8:
        return codes.tobytes()
    if codes.size % 2:
        codes = np.append(codes, np.uint8(0))
    return (codes[0::2] | codes[1::2] << 4).tobytes()


def quantise(features: Array, low: Array, step: Array, bits: int) -> NDArray[np.uint8]:
    """Integer codes round((x − low) / step), clipped to [0, 2^bits − 1]; same shape, uint8."""
    codes: Array = np.rint((features - low) / step)
    return np.clip(codes, 0, (1 << bits) - 1).astype(np.uint8)


def calibrate(features: Array, name: str, clip: float = 0.001) -> dict[str, Any]:
    """Calibrate a codec on features of shape (N, C, H, W), float32, of the calibration images.

    Each channel's range is cut at its ``clip`` and 1 − ``clip`` quantiles, so that one outlier
    does not widen every step. Returns the JSON object that goes into the manifest.
    """
    identifier = codec_id(name)
    params: dict[str, Any] = {}
    channels = features.shape[1]
    if identifier.bits < 16:
        values = features.transpose(1, 0, 2, 3).reshape(channels, -1)
        low = np.quantile(values, clip, axis=1)
        high = np.quantile(values, 1 - clip, axis=1)
        levels = (1 << identifier.bits) - 1
        # A dead channel still needs a positive step; its codes are all zero and cost nothing.
        step = np.maximum((high - low) / levels, 1e-6)
        params['low'] = [float(value) for value in low.astype(np.float32)]
        params['step'] = [float(value) for value in step.astype(np.float32)]
    if identifier.entropy_coded:
        codec = Codec.from_calibration(name, features.shape[1:], params)
        samples = [codec._pack(frame) for frame in features]
        params['dictionary'] = base64.b64encode(_train_dictionary(samples)).decode('ascii')
    return params


def _train_dictionary(samples: list[bytes]) -> bytes:
    """A Zstandard dictionary for these payloads; none where there is too little to learn from."""
    try:
        return zstd.train_dict(samples, _DICTIONARY_BYTES).dict_content
    except (zstd.ZstdError, ValueError):
        return b''
