# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The C++ extension; see program.hpp and session.hpp for what each call does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

kernels: Any

def fast_int8() -> bool: ...

class PlanError(ValueError): ...
class NoKernelError(PlanError): ...
class NotFiniteError(ArithmeticError): ...

_Floats = NDArray[np.float32]
_Integers = NDArray[np.int32]
_Pair = tuple[int, int]

class Program:
    def __init__(self, isa: str = '') -> None: ...
    def tensor(self, channels: int, height: int, width: int, planar: bool = False) -> int: ...
    def negative(self, tensor: int) -> bool: ...
    def set_negative(self, tensor: int, negative: bool) -> None: ...
    def begin(self, name: str, x: int) -> int: ...
    def end(self, y: int) -> None: ...
    def abandon(self) -> None: ...
    def conv(
        self,
        x: int,
        weight: _Floats,
        bias: _Floats | None = None,
        blocks: _Integers | None = None,
        width: int = 0,
        *,
        kernel: _Pair,
        stride: _Pair = ...,
        padding: _Pair = ...,
        dilation: _Pair = ...,
        groups: int = 1,
        residual: int = -1,
        low: float = ...,
        high: float = ...,
    ) -> int: ...
    def conv_int8(
        self,
        x: int,
        weight: _Floats,
        bias: _Floats | None = None,
        blocks: _Integers | None = None,
        width: int = 0,
        *,
        kernel: _Pair,
        stride: _Pair = ...,
        padding: _Pair = ...,
        dilation: _Pair = ...,
        residual: int = -1,
        low: float = ...,
        high: float = ...,
        reach: float,
        codes: bool,
    ) -> int: ...
    def linear(
        self,
        x: int,
        weight: _Floats,
        bias: _Floats | None = None,
        blocks: _Integers | None = None,
        width: int = 0,
        columns: _Integers | None = None,
        *,
        low: float = ...,
        high: float = ...,
    ) -> int: ...
    def pool(
        self,
        x: int,
        average: bool,
        *,
        kernel: _Pair,
        stride: _Pair,
        padding: _Pair,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> int: ...
    def global_average(self, x: int) -> int: ...
    def unary(self, x: int, function: str, alpha: float = 0.0, beta: float = 0.0) -> int: ...
    def binary(
        self,
        left: int,
        right: int,
        multiply: bool,
        value: float = 0.0,
        *,
        low: float = ...,
        high: float = ...,
    ) -> int: ...
    def concat(self, parts: Sequence[int]) -> int: ...
    def pixel_shuffle(self, x: int, factor: int) -> int: ...
    def flatten(self, x: int, copy: bool) -> int: ...
    def measured(self, tensor: int, reach: float) -> None: ...
    def finish(self) -> None: ...
    def shape(self, tensor: int) -> list[int]: ...
    def steps(self, model: int) -> list[tuple[str, int, int]]: ...
    @property
    def isa(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def arena_bytes(self) -> int: ...

class Session:
    def __init__(
        self,
        program: Program,
        stages: Sequence[tuple[int, int, Sequence[tuple[int, float]]]],
        threads: int,
    ) -> None: ...
    def run(
        self,
        x: _Floats,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        stop: bool,
    ) -> tuple[
        _Floats | None,
        dict[int, _Floats],
        dict[int, _Floats],
        dict[int, float],
        int | None,
        dict[int, float],
    ]: ...
    def run_model(self, model: int, x: _Floats, vector: bool) -> _Floats: ...
    def time_steps(self, model: int, rounds: int) -> list[list[float]]: ...
