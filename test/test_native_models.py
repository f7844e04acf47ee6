# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Random models of every operation, planned and run, give what torch gives in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import Tensors, graph, model, operation, safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)
torch = pytest.importorskip('torch')

from torch.nn import functional as F  # noqa: E402

from sparse_split_ros.native.graph import Graph  # noqa: E402
from sparse_split_ros.native.plan import UnsupportedError, write  # noqa: E402


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, Any], Tensors]:
    """A random model, from its input (C, H, W) to a map or a vector, and its weights."""
    channels, high, wide = (
        draw(st.integers(1, 40)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 12)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    shapes: dict[str, tuple[int, ...]] = {'x': (channels, high, wide)}
    tensors: Tensors = {}
    operations: list[dict[str, Any]] = []

    def weight(*shape: int) -> str:
        name = f'w{len(tensors)}'
        fan_in = max(1, int(np.prod(shape[1:])))
        tensors[name] = (rng.normal(size=shape) / fan_in**0.5).astype(np.float32)
        return name

    def lists(values: Any) -> str:
        name = f'w{len(tensors)}'
        tensors[name] = np.asarray(values, np.int32)
        return name

    def put(kind: str, inputs: list[str], shape: tuple[int, ...], **fields: Any) -> None:
        output = f't{len(operations)}'
        operations.append(operation(kind, inputs, output, **fields))
        shapes[output] = shape

    def convolution(x: str) -> None:
        c, h, w = shapes[x]
        kernel, stride, dilation = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2)), 1
        if kernel == 3 and min(h, w) >= 5:
            dilation = draw(st.integers(1, 2))
        padding = draw(st.integers(0, dilation * (kernel - 1) // 2))
        reach = dilation * (kernel - 1) + 1
        sides = [(side + 2 * padding - reach) // stride + 1 for side in (h, w)]
        if min(sides) < 1:
            return
        form = draw(st.sampled_from(['dense', 'depthwise', 'grouped', 'blocks', 'taps']))
        groups, blocks, width, fan_in, outputs = 1, None, 1, c, draw(st.integers(1, 40))
        if form == 'depthwise':
            groups, fan_in, outputs = c, 1, c
        elif form == 'grouped':
            groups = draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
            fan_in, outputs = c // groups, groups * draw(st.integers(1, 3))
        elif form == 'taps' or (form == 'blocks' and c % 4 == 0):
            widths = (1, 2, 4, 8, 16) if form == 'taps' else (4, 8, 16)
            width = draw(st.sampled_from([b for b in widths if c % b == 0]))
            count = draw(st.integers(1, c // width))
            outputs, fan_in = 16 * draw(st.integers(1, 2)), count * width
            taps = kernel**2 if form == 'taps' else 1
            rows = [rng.permutation(c // width)[:count] for _ in range(taps * outputs // 16)]
            blocks = lists(np.reshape(rows, (taps, -1, count)) if form == 'taps' else rows)
        put(
            'conv', [x], (outputs, *sides), weight=weight(outputs, fan_in, kernel, kernel),
            bias=weight(outputs) if draw(st.booleans()) else None, kernel=[kernel] * 2,
            stride=[stride] * 2, padding=[padding] * 2, dilation=[dilation] * 2, groups=groups,
            blocks=blocks, width=width,
        )  # fmt: skip

    def layer(x: str) -> None:
        inputs = shapes[x][0]
        outputs = draw(st.integers(1, 40))
        fields: dict[str, Any] = {'blocks': None, 'width': 1}
        fan_in = inputs
        if draw(st.booleans()):
            fan_in = draw(st.integers(1, inputs))
            fields['columns'] = lists([rng.permutation(inputs)[:fan_in] for _ in range(outputs)])
        bias = weight(outputs) if draw(st.booleans()) else None
        put('linear', [x], (outputs,), weight=weight(outputs, fan_in), bias=bias, **fields)

    for _ in range(draw(st.integers(1, 10))):
        x = draw(st.sampled_from(list(shapes)[-3:]))
        shape = shapes[x]
        if len(shape) == 1:
            if draw(st.booleans()):
                layer(x)
            else:
                put('relu', [x], shape)
            continue
        c, h, w = shape
        twins = [name for name, other in shapes.items() if other == shape]
        mates = [name for name, other in shapes.items() if other[1:] == shape[1:]]
        dots = [name for name, other in shapes.items() if other == (c, 1, 1)]
        kind = draw(
            st.sampled_from([
                'conv', 'conv', 'conv', 'relu', 'relu6', 'function', 'add', 'add', 'mul', 'scale',
                'concat', 'pool', 'global_avg_pool', 'pixel_shuffle', 'flatten',
            ])
        )  # fmt: skip
        if kind == 'conv':
            convolution(x)
        elif kind in {'relu', 'relu6'}:
            put(kind, [x], shape)
        elif kind == 'function':
            name = draw(st.sampled_from(['sigmoid', 'hard_swish', 'hard_sigmoid']))
            put(
                name, [x], shape, **({'alpha': 0.25, 'beta': 0.5} if name == 'hard_sigmoid' else {})
            )
        elif kind == 'add':
            put('add', [x, draw(st.sampled_from(twins))], shape)
        elif kind == 'mul':
            put('mul', [x, draw(st.sampled_from(dots or twins))], shape)
        elif kind == 'scale':
            put(draw(st.sampled_from(['add', 'mul'])), [x], shape, value=0.5)
        elif kind == 'concat':
            parts = [x, *draw(st.lists(st.sampled_from(mates), max_size=2))]
            put('concat', parts, (sum(shapes[part][0] for part in parts), h, w))
        elif kind == 'pool':
            name = draw(st.sampled_from(['max_pool', 'avg_pool']))
            windows = [(2, 0), (2, 1), (3, 0), (3, 1), (4, 1), (10, 4)]
            kernel, padding = draw(st.sampled_from(windows))
            stride = draw(st.sampled_from([1, 2, 3, 10]))
            ceil_mode = draw(st.booleans())
            # Rounded up, a window may be larger than the padded image, by less than its stride.
            if min(h, w) + 2 * padding - kernel + (stride - 1) * ceil_mode < 0:
                continue
            window = (kernel, stride, padding, 1, ceil_mode)
            sides = F.max_pool2d(torch.zeros(1, h, w), *window).shape[1:]
            fields = {'kernel': [kernel] * 2, 'stride': [stride] * 2, 'padding': [padding] * 2}
            counted = {'count_include_pad': draw(st.booleans())} if name == 'avg_pool' else {}
            put(name, [x], (c, *sides), **fields, ceil_mode=ceil_mode, **counted)
        elif kind == 'global_avg_pool':
            put(kind, [x], (c, 1, 1))
        elif kind == 'pixel_shuffle' and c % 4 == 0:
            put(kind, [x], (c // 4, h * 2, w * 2), factor=2)
        elif kind == 'flatten':
            put(kind, [x], (c * h * w,))
    if not operations:
        put('relu', ['x'], shapes['x'])
    last = operations[-1]['output']
    operations[-1]['output'] = 'y'
    return model(shapes['x'], shapes[last], operations), tensors


def in_torch(record: dict[str, Any], tensors: Tensors, x: Any) -> Any:
    """What the model's operations mean, one by one; notes the range of each."""
    values = {'x': x}
    for op in record['operations']:
        kind, inputs = op['op'], [values[name] for name in op['inputs']]
        if kind in {'conv', 'linear'}:
            weight = torch.from_numpy(tensors[op['weight']].astype(np.float64))
            bias = None if op['bias'] is None else torch.from_numpy(tensors[op['bias']]).double()
            sources = None
            if op['blocks'] is not None:
                rows = tensors[op['blocks']].repeat(16, axis=-2)
                width = op['width']
                sources = (rows[..., None] * width + np.arange(width)).reshape(*rows.shape[:-1], -1)
            elif op.get('columns') is not None:
                sources = tensors[op['columns']]
            if sources is not None:
                whole = torch.zeros(len(weight), inputs[0].shape[1], *weight.shape[2:]).double()
                if sources.ndim == 3:  # of each tap its own
                    flat, taps = whole.flatten(2), weight.flatten(2)
                    for tap, output in np.ndindex(*sources.shape[:2]):
                        flat[output, sources[tap, output], tap] = taps[output, :, tap]
                else:
                    for output, row in enumerate(sources):
                        whole[output, row] = weight[output]
                weight = whole
            if kind == 'linear':
                y = F.linear(inputs[0].flatten(1), weight, bias)
            else:
                y = F.conv2d(
                    inputs[0], weight, bias, op['stride'], op['padding'], op['dilation'],
                    op['groups'],
                )  # fmt: skip
        elif kind == 'max_pool':
            window = (op['kernel'], op['stride'], op['padding'])
            y = F.max_pool2d(inputs[0], *window, ceil_mode=op['ceil_mode'])
        elif kind == 'avg_pool':
            y = F.avg_pool2d(
                inputs[0], op['kernel'], op['stride'], op['padding'], op['ceil_mode'],
                op['count_include_pad'],
            )  # fmt: skip
        elif kind in {'add', 'mul'}:
            other = inputs[1] if len(inputs) == 2 else op['value']
            y = inputs[0] + other if kind == 'add' else inputs[0] * other
        else:
            y = {
                'relu': F.relu,
                'relu6': F.relu6,
                'sigmoid': torch.sigmoid,
                'hard_swish': F.hardswish,
                'hard_sigmoid': lambda v: (0.25 * v + 0.5).clamp(0, 1),
                'global_avg_pool': lambda v: v.mean((2, 3), keepdim=True),
                'flatten': lambda v: v.flatten(1),
                'pixel_shuffle': lambda v: F.pixel_shuffle(v, 2),
                'concat': lambda *parts: torch.cat(parts, 1),
            }[kind](*inputs)
        values[op['output']] = y
        op['range'] = float(y.abs().max())
    return values['y']


@pytest.mark.parametrize('kind', ['max_pool', 'avg_pool'])
@pytest.mark.parametrize('ceil_mode', [False, True])
def test_a_pool_has_torchs_windows_or_none_where_torch_has_none(kind: str, ceil_mode: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = product(range(1, 5), range(2, 6), range(1, 5))
    for side, kernel, stride in sizes:
        for padding, counted in product(range(kernel // 2 + 1), [False, True]):
            x = rng.normal(size=(1, 3, side, side + 1)).astype(np.float32)
            window = {'kernel': [kernel] * 2, 'stride': [stride] * 2, 'padding': [padding] * 2}
            counts = {'count_include_pad': counted} if kind == 'avg_pool' else {}
            pool = operation(kind, ['x'], 'y', **window, ceil_mode=ceil_mode, **counts)
            record = model(x.shape[1:], (), [pool])
            try:
                expected = in_torch(record, {}, torch.from_numpy(x).double()).numpy()
            except RuntimeError:
                expected = None
            program = native.Program()
            planned = program.tensor(*x.shape[1:])
            number = program.begin('m', planned)
            call = {key: pool[key] for key in (*window, 'ceil_mode', *counts)}
            if expected is None:
                with pytest.raises(native.PlanError, match='reaches over'):
                    program.pool(planned, kind == 'avg_pool', **call)
                continue
            program.end(program.pool(planned, kind == 'avg_pool', **call))
            program.finish()
            y = native.Session(program, [], 1).run_model(number, x, False)
            np.testing.assert_allclose(y, expected, atol=1e-5, err_msg=f'{side} {call}')


@settings(max_examples=150)
@given(networks(), st.sampled_from([1, 3]))
def test_any_model_computes_what_it_says(
    network: tuple[dict[str, Any], Tensors], threads: int
) -> None:
    record, tensors = network
    shape = tuple(record['input'])
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    parsed_model = Graph(graph({'m': record}), safetensors(tensors)).model('m')
    program = native.Program()
    try:
        number, _ = write(program, parsed_model, 'm', program.tensor(*shape))
    except UnsupportedError:
        return  # said to be so, and run elsewhere
    program.finish()
    session = native.Session(program, [], threads)
    vector = len(record['output']) == 1
    expected = in_torch(record, tensors, torch.from_numpy(x).double()).numpy()
    for _ in range(2):  # memory that one run left behind must not reach the next
        y = session.run_model(number, x, vector)
        np.testing.assert_allclose(y, expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@settings(max_examples=100)
@given(networks(), st.sampled_from([1, 3]))
def test_any_model_in_eight_bits_is_near(
    network: tuple[dict[str, Any], Tensors], threads: int
) -> None:
    """Each of at most ten layers rounds to 1/255 of its range; a wrong border would show."""
    record, tensors = network
    shape = tuple(record['input'])
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    record['input_range'] = float(np.abs(x).max())
    expected = in_torch(record, tensors, torch.from_numpy(x).double()).numpy()
    parsed = Graph(graph({'m': record}), safetensors(tensors)).model('m')
    program = native.Program()
    try:
        number, _ = write(program, parsed, 'm', program.tensor(*shape), 'int8')
    except UnsupportedError:
        return
    program.finish()
    session = native.Session(program, [], threads)
    for _ in range(2):
        y = session.run_model(number, x, len(record['output']) == 1)
        scale = max(1e-3, *(op['range'] for op in record['operations']))
        np.testing.assert_allclose(y, expected, atol=0.05 * scale)


@pytest.mark.parametrize('width', [1, 4])
@pytest.mark.parametrize('isa', native.kernels.available())
def test_taps_with_blocks_of_their_own_are_right_on_every_instruction_set(
    isa: str, width: int
) -> None:
    program = f'from {__name__} import taps_beside_dense; print(*taps_beside_dense({width}))'
    found = subprocess.run(
        [sys.executable, '-c', program], cwd=Path(__file__).parent, text=True, check=True,
        env=os.environ | {'SPARSE_SPLIT_ISA': isa}, capture_output=True,
    )  # fmt: skip
    name, error = found.stdout.split()
    assert name == isa
    assert float(error) < 1e-5


def taps_beside_dense(width: int) -> tuple[str, float]:
    """The instruction set of this process, and how far taps are from the equal dense layer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 32, 9, 19)).astype(np.float32)
    count = 12 // width
    blocks = np.stack([[rng.permutation(32 // width)[:count] for _ in range(3)] for _ in range(9)])
    weight = rng.normal(size=(48, 12, 3, 3)).astype(np.float32) / 10
    dense = np.zeros((48, 32, 9), np.float32)
    for tap, row in np.ndindex(9, 3):
        channels = (blocks[tap, row, :, None] * width + np.arange(width)).ravel()
        dense[16 * row : 16 * row + 16, channels, tap] = weight.reshape(48, 12, 9)[
            16 * row : 16 * row + 16, :, tap
        ]
    tensors = {'w': weight, 'dense': dense.reshape(48, 32, 3, 3), 'b': blocks.astype(np.int32)}
    window = {'kernel': [3, 3], 'stride': [2, 1], 'padding': [1, 2], 'dilation': [1, 2]}
    answers = []
    for own in (
        {'weight': 'w', 'blocks': 'b', 'width': width},
        {'weight': 'dense', 'blocks': None},
    ):
        fields = {'bias': None, 'groups': 1, 'width': 1, **window, **own}
        record = model((32, 9, 19), (48, 5, 19), [operation('conv', ['x'], 'y', **fields)])
        built = native.Program()
        parsed = Graph(graph({'m': record}), safetensors(tensors)).model('m')
        number, _ = write(built, parsed, 'm', built.tensor(32, 9, 19))
        built.finish()
        answers.append(native.Session(built, [], 1).run_model(number, x, False))
    return native.kernels.best(), float(np.abs(answers[0] - answers[1]).max())
