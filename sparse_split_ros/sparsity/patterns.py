# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which connections of a layer exist, drawn from a seed before training and never changed.

A pattern is regular: every output reads the same number of inputs (fan-in) and every input is read
by the same number of outputs (fan-out), so outputs * fan-in = inputs * fan-out and the feasible
densities of a shape are k / gcd(inputs, outputs), k = 1, 2, ... (Dey et al., arXiv 1812.01164).
It is held as a list, not as a mask: what each group of outputs reads. An input or an output is a
neuron of a linear layer or a channel of a convolution, whose kernels exist or not as a whole, or,
in a tap-regular pattern, tap by tap: a tap is one position of the kernel.

A hundred bytes (`PatternSpec`) stand for a pattern of any size. The same ones give the same pattern
on every machine, so head and tail need not exchange it.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 16
"""Outputs per block of a block-regular pattern: one AVX-512 register of float32."""
BLOCK_WIDTHS = (4, 8, 16)
TAP_WIDTHS = (1, 2, *BLOCK_WIDTHS)


class SparsityError(ValueError):
    """A pattern that cannot exist, or that belongs to another network."""


class Kind(enum.Enum):
    """Families of patterns."""

    RANDOM_REGULAR = 'random-regular'
    """Nothing but exact fan-in and fan-out."""
    CLASH_FREE_1 = 'clash-free-1'
    """Clash-free (see `_clash_free`); a fresh order of addresses per memory and sweep."""
    CLASH_FREE_2 = 'clash-free-2'
    """Clash-free; a fresh start address per memory and sweep, then counting up."""
    CLASH_FREE_3 = 'clash-free-3'
    """Clash-free; one start address per memory for all sweeps."""
    BLOCK_REGULAR = 'block-regular'
    """Random-regular between blocks of 16 outputs and blocks of `width` inputs."""
    TAP_REGULAR = 'tap-regular'
    """In blocks, drawn anew for each tap of a convolution.

    Each input is read equally often at every tap where that can be, else equally often over all
    taps, give or take one.
    """
    N_OF_M = 'n:m'
    """Each output reads N of every `width` = M neighbouring inputs: 2:4 is width 4, density 1/2."""

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        known = ', '.join(kind.value for kind in cls)
        raise SparsityError(f'unknown kind of pattern {value!r}; choose one of {known}')


CLASH_FREE = (Kind.CLASH_FREE_1, Kind.CLASH_FREE_2, Kind.CLASH_FREE_3)
IN_BLOCKS = (Kind.BLOCK_REGULAR, Kind.TAP_REGULAR)


@dataclass(frozen=True)
class PatternSpec:
    """All that decides a pattern. Construction refuses what cannot exist.

    Raises SparsityError, which names the nearest densities that can.
    """

    kind: Kind
    inputs: int
    outputs: int
    fan_in: int
    """Inputs each output reads; tap-regular: at each tap."""
    seed: int = 0
    width: int = 1
    """Inputs per block: 4, 8 or 16; 1 and 2 too for tap-regular. M for n:m, 1 for the others."""
    parallelism: int = 1
    """Clash-free only: z, the neurons read at once, each from a memory of its own."""
    dither: bool = False
    """Clash-free only: the order of the memories is permuted per sweep (type 3: for all)."""
    taps: int = 1
    """Tap-regular only: taps of the kernel, 9 of 3 x 3."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 64:
            raise SparsityError(f'seed is {self.seed}, expected 0 to 2^64 - 1')
        if self.kind not in CLASH_FREE and (self.parallelism > 1 or self.dither):
            raise SparsityError(f'{self.kind.value} has no parallelism and no dither')
        if (self.taps > 1) != (self.kind is Kind.TAP_REGULAR) or self.taps < 1:
            raise SparsityError(
                f'{self.kind.value} with {self.taps} taps: a tap-regular pattern is of a kernel '
                'with several, all others have 1'
            )
        step = fan_in_step(self.kind, self.inputs, self.outputs, self.width, self.parallelism)
        if self.fan_in < 1 or self.fan_in > self.inputs or self.fan_in % step:
            raise SparsityError(
                f'fan-in {self.fan_in} ({self.fan_in / self.inputs:.4g} of {self.inputs} inputs) '
                f'cannot be: {_offer(self.kind, self.inputs, self.outputs, step, self.fan_in)}'
            )

    @classmethod
    def of_density(
        cls,
        kind: Kind,
        inputs: int,
        outputs: int,
        density: float,
        seed: int = 0,
        width: int | None = None,
        nearest: bool = False,
        taps: int = 1,
    ) -> PatternSpec:
        """The spec with `density` (0 to 1] of all connections, or with the `nearest` feasible.

        `width` is 4 without one where blocks have a width. Raises SparsityError for a density the
        shape does not allow, naming those on either side.
        """
        if not 0 < density <= 1:
            raise SparsityError(f'density is {density}, expected more than 0 and at most 1')
        if width is None:
            width = 4 if kind in (*IN_BLOCKS, Kind.N_OF_M) else 1
        step = fan_in_step(kind, inputs, outputs, width)
        fan_in = max(1, round(density * inputs / step)) * step
        if not nearest and abs(fan_in - density * inputs) > 1e-6 * inputs:
            offer = _offer(kind, inputs, outputs, step, density * inputs)
            raise SparsityError(f'density {density:.4g} cannot be: {offer}')
        return cls(kind, inputs, outputs, fan_in, seed, width, taps=taps)

    @classmethod
    def from_json(cls, text: str) -> PatternSpec:
        """Read what `to_json` wrote. Raises SparsityError."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise SparsityError(f'{text[:80]!r} is not a pattern: {error}') from error
        known = [item.name for item in fields(cls)]
        # Patterns that are not of taps are written as before there were some.
        if not isinstance(values, dict) or {*values, 'taps'} != set(known):
            raise SparsityError(f'{text[:80]!r} is not a pattern: expected {", ".join(known)}')
        for name, value in values.items():
            if name != 'kind' and type(value) is not (bool if name == 'dither' else int):
                raise SparsityError(f'pattern: {name} is {value!r}, expected an integer or boolean')
        return cls(**values | {'kind': Kind(values['kind'])})

    def to_json(self) -> str:
        """One line of JSON that stands for the pattern in a file."""
        values = asdict(self) | {'kind': self.kind.value}
        if self.taps == 1:
            del values['taps']
        return json.dumps(values, separators=(',', ':'))

    @property
    def fan_out(self) -> int:
        """Outputs that read each input."""
        return self.outputs * self.fan_in // self.inputs

    @property
    def density(self) -> float:
        """Existing connections over possible ones."""
        return self.fan_in / self.inputs

    @property
    def rows(self) -> int:
        """Outputs that share one list of inputs."""
        return BLOCK_ROWS if self.kind in IN_BLOCKS else 1

    def draw(self) -> Pattern:
        """The pattern itself."""
        random = _Random(self.seed)
        if self.kind in IN_BLOCKS:
            blocks, fan_in = self.inputs // self.width, self.fan_in // self.width
            rows, taps = self.outputs // BLOCK_ROWS, self.taps
            if rows * fan_in % blocks == 0:
                sources = _regular(blocks, rows, fan_in, random, taps)
            else:
                sources = _regular(blocks, taps * rows, fan_in, random).reshape(taps, rows, -1)
            sources = sources if self.kind is Kind.TAP_REGULAR else sources[0]
        elif self.kind is Kind.N_OF_M:
            groups = self.inputs // self.width
            chosen = _regular(self.width, self.outputs, self.fan_in // groups, random, groups)
            chosen += np.arange(groups)[:, None, None] * self.width
            sources = chosen.swapaxes(0, 1).reshape(self.outputs, self.fan_in)
        elif self.kind is Kind.RANDOM_REGULAR:
            sources = _regular(self.inputs, self.outputs, self.fan_in, random)[0]
        elif self.kind in CLASH_FREE:
            sources = _clash_free(self, random).reshape(self.outputs, self.fan_in)
        else:
            raise SparsityError(f'no way to draw a {self.kind.value} pattern: add it to draw')
        listed = sources.astype(np.int32)
        listed.flags.writeable = False
        return Pattern(self, listed)


@dataclass(frozen=True, eq=False)
class Pattern:
    """A drawn pattern: what each group of `spec.rows` outputs reads."""

    spec: PatternSpec
    sources: NDArray[np.int32]
    """(outputs / rows, fan-in) numbers of inputs, or of blocks of inputs for block-regular.

    Tap-regular: (taps, outputs / rows, fan-in) numbers of blocks, taps row by row. A clash-free
    list is in the order in which its edges are read; the others ascend.
    """

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """(outputs / rows, fan-in) int64: the inputs that each group of outputs reads.

        Tap-regular: (taps, outputs / rows, fan-in).
        """
        sources = self.sources.astype(np.int64)
        if self.spec.kind not in IN_BLOCKS:
            return sources
        width = self.spec.width
        return (sources[..., None] * width + np.arange(width)).reshape(*sources.shape[:-1], -1)

    @property
    def edges(self) -> int:
        """Existing connections, at all taps."""
        return self.spec.outputs * self.spec.fan_in * self.spec.taps

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell this pattern from another: SHA-256 of its list."""
        return hashlib.sha256(self.sources.astype('<i4').tobytes()).hexdigest()[:16]

    def mask(self) -> NDArray[np.bool_]:
        """(outputs, inputs) bool: connections that exist. Tap-regular: (outputs, inputs, taps)."""
        mask = np.zeros((*self.columns.shape[:-1], self.spec.inputs), dtype=np.bool_)
        np.put_along_axis(mask, self.columns, True, axis=-1)
        mask = mask.repeat(self.spec.rows, axis=-2)
        return np.moveaxis(mask, 0, -1) if self.spec.taps > 1 else mask


def fan_in_step(kind: Kind, inputs: int, outputs: int, width: int = 1, parallelism: int = 1) -> int:
    """The smallest feasible fan-in of a shape; the feasible ones are its multiples up to `inputs`.

    Raises SparsityError where the shape has none.
    """
    sizes = {'inputs': inputs, 'outputs': outputs, 'width': width, 'parallelism': parallelism}
    for name, size in sizes.items():
        if size < 1:
            raise SparsityError(f'{name} is {size}, expected at least 1')
    if kind in CLASH_FREE and inputs % parallelism:
        below = max(z for z in range(1, parallelism) if inputs % z == 0)
        above = min((z for z in range(parallelism, inputs + 1) if inputs % z == 0), default=below)
        raise SparsityError(
            f'parallelism {parallelism} does not divide {inputs} inputs into memories of equal '
            f'size; the nearest that do are {below} and {above}'
        )
    if kind in IN_BLOCKS:
        widths = TAP_WIDTHS if kind is Kind.TAP_REGULAR else BLOCK_WIDTHS
        if width not in widths:
            known = ', '.join(map(str, widths[:-1]))
            raise SparsityError(f'{kind.value}: block width {width}, expected {known} or 16')
        if inputs % width or outputs % BLOCK_ROWS:
            wide, high = _multiples(inputs, width), _multiples(outputs, BLOCK_ROWS)
            raise SparsityError(
                f'{inputs} inputs and {outputs} outputs do not divide into blocks of {width} '
                f'inputs x {BLOCK_ROWS} outputs; the nearest that do are {wide} and {high}'
            )
        if kind is Kind.TAP_REGULAR:
            return width
        blocks = inputs // width
        return width * (blocks // math.gcd(blocks, outputs // BLOCK_ROWS))
    if kind is Kind.N_OF_M:
        if width < 2:
            raise SparsityError(f'{kind.value} with M = {width}: expected 2 or more, such as 4')
        if inputs % width:
            raise SparsityError(
                f'{inputs} inputs do not divide into groups of M = {width} for {kind.value}; '
                f'the nearest that do are {_multiples(inputs, width)}'
            )
        return inputs // math.gcd(width, outputs)
    if width != 1:
        raise SparsityError(f'width {width}: {kind.value} has no blocks, expected 1')
    return inputs // math.gcd(inputs, outputs)


def erk(shape: Sequence[int], power: float = 1.0) -> float:
    """The sum of a weight's sides over their product: large layers are to be the sparsest.

    Densities in proportion to it are Erdős–Rényi kernel ones (Evci et al., arXiv 1911.11134). A
    `power` above 1, as in the code of that paper, leaves still more to small layers; 0 makes all
    densities alike.
    """
    return math.pow(sum(shape) / math.prod(shape), power)


def largest(size: Callable[[float], float], budget: float) -> float:
    """The largest scale whose size, which rises with it, is within the budget."""
    low, high = 0.0, 1.0
    while size(high) <= budget and high < 1e12:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    return low


class _Random:
    """Draws made of a bit generator's raw words.

    Those numpy keeps from release to release; the methods of its Generator it may change (NEP 19).
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def words(self, *shape: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words."""
        return np.asarray(self._bits.random_raw(math.prod(shape)), np.uint64).reshape(shape)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Numbers between 0 and 1, neither of which appears."""
        high: NDArray[np.float64] = (self.words(*shape) >> np.uint64(12)).astype(np.float64)
        return (high + 0.5) / 2.0**52

    def orders(self, *shape: int) -> NDArray[np.int64]:
        """Random orders of 0 to shape[-1] - 1 along the last axis."""
        return np.argsort(self.words(*shape), axis=-1, kind='stable')

    def below(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number from 0 to limit - 1 for each limit."""
        return (self.words(len(limits)) % limits.astype(np.uint64)).astype(np.int64)


def _regular(
    inputs: int, outputs: int, fan_in: int, random: _Random, copies: int = 1
) -> NDArray[np.int64]:
    """(copies, outputs, fan_in): distinct inputs per output, each input read equally often.

    Where that cannot be, some inputs, drawn too, are read once more than the others.

    Output by output, `fan_in` inputs are drawn in proportion to the readers each still lacks (by
    exponential clocks), and an input that lacks as many readers as outputs remain is taken for
    sure. So no input ever lacks more readers than outputs remain, and the draw cannot get stuck.
    """
    lacking = np.full((copies, inputs), outputs * fan_in // inputs)
    if rest := outputs * fan_in % inputs:
        lacking += random.orders(copies, inputs) < rest
    sources = np.empty((copies, outputs, fan_in), np.int64)
    rows = random.orders(copies, outputs)
    for index in range(outputs):
        with np.errstate(divide='ignore'):
            clock = -np.log(random.uniform(copies, inputs)) / lacking
        clock[lacking == outputs - index] = 0.0
        chosen = np.sort(np.argpartition(clock, fan_in - 1)[:, :fan_in])
        np.put_along_axis(lacking, chosen, np.take_along_axis(lacking, chosen, 1) - 1, 1)
        sources[np.arange(copies), rows[:, index]] = chosen
    return sources


def _clash_free(spec: PatternSpec, random: _Random) -> NDArray[np.int64]:
    """(edges,) inputs in reading order; edge e belongs to output e // fan_in.

    Input k lives in memory k mod z at address k div z. A sweep reads every input once, in T =
    inputs / z cycles of z inputs from z different memories; there are fan-out sweeps (arXiv
    1812.01164). Where a sweep ends inside an output's edges, the next one is drawn so that this
    output reads no input twice: the published code loses such edges.
    """
    z, cycles = spec.parallelism, spec.inputs // spec.parallelism
    natural = np.arange(z)
    starts = random.below(np.full(z, cycles))
    sweeps: list[NDArray[np.int64]] = []
    for sweep in range(spec.fan_out):
        if sweep and spec.kind is Kind.CLASH_FREE_3:
            sweeps.append(sweeps[0])  # A window of at most one whole sweep repeats nothing.
            continue
        # The output that spans the boundary has `before` edges behind it and `after` ahead.
        before = sweep * spec.inputs % spec.fan_in
        after = spec.fan_in - before if before else 0
        taken = np.zeros((z, cycles), np.bool_)
        if before:
            tail = sweeps[-1][-before:]
            taken[tail % z, tail // z] = True
        free = cycles - taken.sum(1)
        whole, part = divmod(after, z)
        memories = natural
        if spec.dither:
            # Only a memory with an address to spare can be among the `part` read once more.
            order = random.orders(z)
            first = order[free[order] > whole][:part]
            memories = np.concatenate([first, order[~np.isin(order, first)]])
        needed = np.empty(z, np.int64)
        needed[memories] = whole + (natural < part)
        if spec.kind is Kind.CLASH_FREE_1:
            addresses = _orders(taken, needed, random)
        else:
            # Last sweep ended just before its starts, so counting on from there meets `taken` last.
            bound = (taken.any(1)) & (needed > 0)
            spread = np.where(bound, free - needed + 1, cycles)
            starts = (starts + random.below(spread)) % cycles
            addresses = (starts[:, None] + np.arange(cycles)) % cycles
        sweeps.append(_in_cycles(addresses, memories))
    return np.concatenate(sweeps)


def _in_cycles(addresses: NDArray[np.int64], memories: NDArray[np.int64]) -> NDArray[np.int64]:
    """The inputs (T * z,) of one sweep in reading order.

    `addresses` (z, T) is each memory's order of addresses, `memories` (z,) the order in which a
    cycle visits the memories.
    """
    sweep: NDArray[np.int64] = addresses[memories].T * len(memories) + memories
    return sweep.ravel()


def _orders(
    taken: NDArray[np.bool_], needed: NDArray[np.int64], random: _Random
) -> NDArray[np.int64]:
    """(z, T) addresses: a random order per memory, its first `needed` (z,) not `taken` (z, T)."""
    rank = np.arange(taken.shape[1], dtype=np.uint64)
    order = np.lexsort((random.words(*taken.shape), taken))
    early = rank < needed[:, None].astype(np.uint64)
    again = np.lexsort((np.where(early, rank, random.words(*taken.shape)), ~early))
    return np.take_along_axis(order, again, axis=1)


def _multiples(value: int, unit: int) -> str:
    below = value // unit * unit
    return ' or '.join(str(n) for n in sorted({below or unit, -(-value // unit) * unit}))


def _offer(kind: Kind, inputs: int, outputs: int, step: int, wanted: float) -> str:
    """Which densities near `wanted` inputs an output can read, in words."""
    below = min(max(1, math.floor(wanted / step)), inputs // step)
    above = min(below + 1, inputs // step)
    near = ' and '.join(f'{k * step / inputs:.4g}' for k in sorted({below, above}))
    return (
        f'{kind.value} patterns of {inputs} inputs and {outputs} outputs have densities '
        f'k/{inputs // step}; the nearest are {near}'
    )
