# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a model's operations to kernel calls: what runs together, and what never has to be moved.

A convolution takes a following addition and ReLU into its last write, a linear layer its ReLU. A
flatten before a dense layer moves nothing: the layer's weights are reordered instead. The C++
program checks each operation once more as it is written, shapes and lists included, and is the one
that knows them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparse_split_ros.native._native import NoKernelError, PlanError, Program
from sparse_split_ros.native.graph import Graph, GraphError, Model, Operation, Shape
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import EngineError

_CLAMPS = {'relu': (0.0, math.inf), 'relu6': (0.0, 6.0)}
_UNARY = {'hard_sigmoid', 'hard_swish', 'sigmoid'}
_FUSED = {'conv', 'linear', 'add', 'mul'}


class UnsupportedError(EngineError):
    """A model that is well-formed, and needs something that has no kernel here."""


@dataclass
class Step:
    """One operation with those it takes in: clamp(operation + residual, low, high)."""

    operation: Operation
    last: Operation
    """Of those taken in, whose output is the step's."""
    index: int
    """Of the operation in its model, for messages."""
    inputs: tuple[str, ...]
    output: str
    residual: str | None = None
    low: float = -math.inf
    high: float = math.inf
    codes: bool | None = None
    """None: in float32. Else in 8 bits; True: and its output stays so, for others of its kind."""

    @property
    def reach(self) -> float:
        """Largest magnitude of the output."""
        return self.last.range

    @property
    def plain(self) -> bool:
        """Whether nothing was taken in yet."""
        return self.residual is None and (self.low, self.high) == (-math.inf, math.inf)


def fuse(model: Model) -> list[Step]:
    """The steps of `model`, in order. Raises GraphError where tensors are not made before read."""
    readers = Counter(name for operation in model.operations for name in operation.inputs)
    steps: list[Step] = []
    made: dict[str, int] = {'x': -1}
    for index, operation in enumerate(model.operations):
        where = f'graph.json: {model.name}: operation {index} ({operation.kind})'
        for name in operation.inputs:
            if name not in made:
                raise GraphError(f'{where}: reads {name!r}, which no operation before it writes')
        if operation.output in made:
            raise GraphError(f'{where}: writes {operation.output!r} a second time')
        # The step whose output this operation reads last may take the operation in.
        host = max((made[name] for name in operation.inputs), default=-1)
        target = steps[host] if host >= 0 and readers[steps[host].output] == 1 else None
        if target is not None and _takes_in(target, operation):
            made[operation.output] = made.pop(target.output)
            target.output, target.last = operation.output, operation
            continue
        made[operation.output] = len(steps)
        steps.append(Step(operation, operation, index, operation.inputs, operation.output))
    if model.operations and model.operations[-1].output != 'y':
        raise GraphError(f"graph.json: {model.name}: the last operation does not write 'y'")
    return steps


def _takes_in(step: Step, operation: Operation) -> bool:
    """Put `operation` into `step`, whose output it alone reads, if `step` can do both."""
    kind = step.operation.kind
    alone = len(operation.inputs) == 1
    if (
        operation.kind in _CLAMPS and kind in _FUSED and alone
        and math.isinf(step.high) and step.low < 0
    ):  # fmt: skip
        step.low, step.high = _CLAMPS[operation.kind]
        return True
    sum_of_two = operation.kind == 'add' and operation.fields['value'] is None
    if sum_of_two and kind == 'conv' and step.plain and len(operation.inputs) == 2:
        (step.residual,) = (name for name in operation.inputs if name != step.output)
        return True
    return False


def in_codes(steps: list[Step], planes: bool) -> None:
    """Choose the convolutions that work on 8 bits, and those whose output stays in them.

    The first layer, which reads `planes`, and what is not a convolution stay in float32: they are
    a few per cent of the time and most of the loss. So do blocks of fewer than four inputs, for
    four are multiplied at once.
    """
    for step in steps:
        fields = step.operation.fields
        narrow = fields.get('blocks') is not None and (fields['width'] or 0) < 4
        if step.operation.kind == 'conv' and fields['groups'] == 1 and not narrow:
            step.codes = None if planes and 'x' in step.inputs else False
    for step in steps:
        readers = [item for item in steps if step.output in (*item.inputs, item.residual)]
        if step.codes is not None and step.output != 'y':
            step.codes = bool(readers) and all(item.codes is not None for item in readers)


def reads_planes(model: Model) -> bool:
    """Whether `model` can take its image as it comes: only dense convolutions read it."""
    readers = [operation for operation in model.operations if 'x' in operation.inputs]
    return (
        bool(readers)
        and len(model.input) == 3
        and model.input[0] <= 4
        and all(
            item.kind == 'conv' and item.fields['groups'] == 1 and item.fields['blocks'] is None
            for item in readers
        )
    )


def write(
    program: Program, model: Model, label: str, x: int, precision: str = 'float32'
) -> tuple[int, int]:
    """Append `model`, which reads tensor `x`, to `program`; its number and the tensor it answers.

    `precision` is 'float32' or 'int8'. Raises GraphError for what cannot be, and UnsupportedError
    for what has no kernel; the program is then as it was.
    """
    steps = fuse(model)
    if precision == 'int8':
        in_codes(steps, reads_planes(model))
    _check_shape(program, model, 'input', x)
    program.measured(x, model.input_range)
    number = program.begin(label, x)
    tensors = {'x': x, 'y': x}
    step = None
    try:
        for step in steps:
            emit = _EMIT.get(step.operation.kind)
            if emit is None:
                raise NoKernelError('no kernel')
            tensors[step.output] = emit(program, step, tensors, _flat(step, steps))
            program.measured(tensors[step.output], step.reach)
        step = None
        _check_shape(program, model, 'output', tensors['y'])
        program.end(tensors['y'])
    except GraphError:
        program.abandon()
        raise
    except PlanError as error:
        program.abandon()
        place = '' if step is None else f': operation {step.index} ({step.operation.kind})'
        kind = UnsupportedError if isinstance(error, NoKernelError) else GraphError
        raise kind(f'graph.json: {model.name}{place}: {error}') from error
    return number, tensors['y']


@dataclass(frozen=True)
class Plan:
    """A bundle's models as one program."""

    program: Program
    models: Mapping[str, int]
    """File of a model -> its number in the program."""
    lacking: Mapping[str, str]
    """File of a model that is not in the program -> why."""


def plan_bundle(bundle: Bundle, stages: range, precision: str = 'float32') -> Plan:
    """Plan the models of `stages` with their exits, encoders and decoders, in running order.

    Raises GraphError for a graph that is malformed or does not fit the bundle, BundleError for
    damaged files.
    """
    if bundle.graph is None or bundle.weights is None:
        raise GraphError(f'bundle {bundle.name!r} has no graph; export it again with this release')
    graph = Graph(bundle.read(bundle.graph), bundle.read(bundle.weights))
    program = Program()
    models: dict[str, int] = {}
    lacking: dict[str, str] = {}
    splits = {split.stage: split for split in bundle.splits}

    def plan(file: str | None, what: str, x: int, shape: Shape) -> int | None:
        """Plan the model in `file`, which reads tensor `x`; the tensor it answers, if it could."""
        if file is None:
            return None
        if file in models or file in lacking:
            models.pop(file, None)
            lacking[file] = f'{file} stands in two places, and a program has one of each model'
            return None
        try:
            model = graph.model(_stem(file))
            models[file], y = write(program, model, f'{what} ({file})', x, precision)
        except UnsupportedError as error:
            lacking[file] = str(error)
            return None
        if program.shape(y) != [*shape, 1, 1][:3]:
            raise GraphError(f'graph.json: {_stem(file)}: answers {program.shape(y)}, not {shape}')
        return y

    features: int | None = None
    for stage in stages:
        spec, exit_ = bundle.stages[stage], bundle.exit_at(stage)
        before, after = splits.get(stage - 1), splits.get(stage)
        decoded = None
        if before is not None and before.decoder is not None:
            shape = bundle.stages[stage - 1].output_shape
            codes = program.tensor(*before.shape)
            decoded = plan(before.decoder, f'decoder {stage - 1}', codes, shape)
        computed = features is not None
        if features is None:
            planes = stage == 0 and reads_planes(graph.model(_stem(spec.model)))
            features = program.tensor(*bundle.input_shape(stage), planes)
        if decoded is not None:
            # Head, tail and whole network take the same features for the same codes of 8 bits.
            below = program.negative(decoded) or (computed and program.negative(features))
            program.set_negative(features, below)
        answer = plan(spec.model, f'stage {stage}', features, spec.output_shape)
        features = program.tensor(*spec.output_shape) if answer is None else answer
        if exit_ is not None:
            plan(exit_.model, f'exit {stage}', features, (len(bundle.classes),))
        if after is not None:
            plan(after.encoder, f'encoder {stage}', features, after.shape)
    program.finish()
    return Plan(program, models, lacking)


def _stem(file: str) -> str:
    return file.removesuffix('.onnx')


def _check_shape(program: Program, model: Model, side: str, tensor: int) -> None:
    said: tuple[int, ...] = getattr(model, side)
    said = said if len(said) == 3 else (*said, 1, 1)
    found = tuple(program.shape(tensor))
    if found != said:
        raise GraphError(f'graph.json: {model.name}: the {side} is {found}, not {said} as it says')


def _flat(step: Step, steps: list[Step]) -> bool:
    """Whether a flatten's output can stay in blocks: its input and it have no other readers."""
    if step.operation.kind != 'flatten' or step.inputs[0] == 'x' or step.output == 'y':
        return False
    reading = [item for item in steps if step.output in item.inputs or step.output == item.residual]
    return (
        all(
            item.operation.kind == 'linear' and item.operation.fields['blocks'] is None
            for item in reading
        )
        and sum(step.inputs[0] in (*item.inputs, item.residual) for item in steps) == 1
    )


_Tensors = Mapping[str, int]


def _weighted(step: Step) -> dict[str, Any]:
    """What a convolution and a linear layer share."""
    fields = step.operation.fields
    return {
        'weight': fields['weight'], 'bias': fields['bias'], 'blocks': fields['blocks'],
        'width': fields['width'] or 0, 'low': step.low, 'high': step.high,
    }  # fmt: skip


def _sources(step: Step, tensors: _Tensors, count: int | None = 1) -> list[int]:
    if count is not None and len(step.inputs) != count:
        raise PlanError(f'{len(step.inputs)} inputs, expected {count}')
    return [tensors[name] for name in step.inputs]


def _conv(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    fields = step.operation.fields
    window = {key: fields[key] for key in ('kernel', 'stride', 'padding', 'dilation')}
    window['residual'] = -1 if step.residual is None else tensors[step.residual]
    (x,) = _sources(step, tensors)
    if step.codes is None:
        return program.conv(x, **_weighted(step), **window, groups=fields['groups'])
    return program.conv_int8(x, **_weighted(step), **window, reach=step.reach, codes=step.codes)


def _linear(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    (x,) = _sources(step, tensors)
    return program.linear(x, **_weighted(step), columns=step.operation.fields['columns'])


def _pool(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    (x,) = _sources(step, tensors)
    return program.pool(x, step.operation.kind == 'avg_pool', **step.operation.fields)


def _binary(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    value = step.operation.fields['value']
    sources = _sources(step, tensors, 2 if value is None else 1)
    left, right = sources if value is None else (sources[0], -1)
    multiply = step.operation.kind == 'mul'
    return program.binary(left, right, multiply, value or 0.0, low=step.low, high=step.high)


def _unary(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    (x,) = _sources(step, tensors)
    kind, fields = step.operation.kind, step.operation.fields
    if kind in _CLAMPS:
        return program.unary(x, 'clamp', *_CLAMPS[kind])
    return program.unary(x, kind, fields.get('alpha', 0.0), fields.get('beta', 0.0))


def _global_average(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    return program.global_average(*_sources(step, tensors))


def _flatten(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    (x,) = _sources(step, tensors)
    # A vector is one already.
    return x if program.shape(x)[1:] == [1, 1] else program.flatten(x, not flat)


def _concat(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    return program.concat(_sources(step, tensors, None))


def _pixel_shuffle(program: Program, step: Step, tensors: _Tensors, flat: bool) -> int:
    (x,) = _sources(step, tensors)
    return program.pixel_shuffle(x, step.operation.fields['factor'])


_EMIT: dict[str, Callable[[Program, Step, _Tensors, bool], int]] = {
    'conv': _conv,
    'linear': _linear,
    'max_pool': _pool,
    'avg_pool': _pool,
    'add': _binary,
    'mul': _binary,
    **dict.fromkeys((*_CLAMPS, *_UNARY), _unary),
    'global_avg_pool': _global_average,
    'flatten': _flatten,
    'concat': _concat,
    'pixel_shuffle': _pixel_shuffle,
}
