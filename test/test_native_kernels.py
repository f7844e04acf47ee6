# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every kernel of every instruction set that this machine has, against torch in float64."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparse_split_ros.link.codec import Codec, CodecId, pack

torch = pytest.importorskip('torch')
native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)
F = torch.nn.functional
kernels = native.kernels

each_isa = pytest.mark.parametrize('isa', kernels.available())
many = settings(max_examples=150, deadline=None)
some = settings(max_examples=50, deadline=None)

SEEDS = st.integers(0, 2**32 - 1)
LIMITS = st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)])
SHIFTS = st.integers(0, 15)
GRAINS = st.integers(0, 5)


def close(result, exact, size):
    """Check against the exact result; `size` is the same sum of absolute values.

    A sum of n float32 products, in whatever order, is off by about sqrt(n) units of 6e-8 of it.
    """
    assert result.shape == tuple(exact.shape)
    error = np.abs(result - exact.numpy())
    assert (error <= 5e-6 * size.numpy() + 1e-6).all(), f'off by {error.max():.3g}'


@st.composite
def windows(draw, sides):
    """Kernel, stride, padding and dilation that leave at least one output of these sides."""
    axes = []
    for side in sides:
        kernel, dilation = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 2))
        reach = dilation * (kernel - 1)
        padding = draw(st.integers(max(0, (reach + 2 - side) // 2), reach))
        axes.append((kernel, draw(st.sampled_from([1, 2, 3])), padding, dilation))
    return tuple(zip(*axes))


@st.composite
def convolutions(draw):
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    sides = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    kernel, stride, padding, dilation = draw(windows(sides))
    random = np.random.default_rng(draw(SEEDS))
    blocks, width, fan_in = None, 16, inputs
    planar = draw(st.booleans())
    if not planar and draw(st.booleans()):
        width = draw(st.sampled_from([1, 2, 4, 8, 16]))
        inputs = width * draw(st.integers(1, 8))
        count = draw(st.integers(1, inputs // width))
        blocks = np.stack(
            [random.permutation(inputs // width)[:count] for _ in range(-(-outputs // 16))]
        ).astype(np.int32)
        fan_in = count * width
    weight = random.standard_normal((outputs, fan_in, *kernel), np.float32)
    return {
        'x': random.standard_normal((inputs, *sides), np.float32),
        'weight': weight,
        'bias': random.standard_normal(outputs, np.float32) if draw(st.booleans()) else None,
        'residual': draw(st.booleans()),
        'blocks': blocks,
        'width': width,
        'stride': stride,
        'padding': padding,
        'dilation': dilation,
        'limits': draw(LIMITS),
        'planar': planar,
        'shift': draw(SHIFTS),
        'grain': draw(GRAINS),
    }


def scattered(weight, blocks, width, inputs):
    """The dense weight (O, I, ...) that a block-sparse one (O, fan-in, ...) stands for."""
    if blocks is None:
        return weight
    dense = np.zeros((len(weight), inputs, *weight.shape[2:]), np.float32)
    for output, row in enumerate(weight):
        for k, block in enumerate(blocks[output // 16]):
            dense[output, block * width : (block + 1) * width] = row[k * width : (k + 1) * width]
    return dense


def double(array):
    return torch.from_numpy(array).double()


def added(y, bias, residual):
    """Sum of a result (O, H, W) with a bias per channel and a residual; either may be None."""
    y = y if bias is None else y + double(bias)[:, None, None]
    return y if residual is None else y + double(residual)


def absolute(array):
    return None if array is None else np.abs(array)


@each_isa
@many
@given(case=convolutions())
def test_convolution(isa, case):
    grain, limits, wants_residual = case.pop('grain'), case['limits'], case.pop('residual')
    x, weight, bias = case.pop('x'), case.pop('weight'), case['bias']
    dense = scattered(weight, case['blocks'], case['width'], len(x))
    geometry = case['stride'], case['padding'], case['dilation']
    exact = F.conv2d(double(x)[None], double(dense), None, *geometry)[0]
    size = F.conv2d(double(np.abs(x))[None], double(np.abs(dense)), None, *geometry)[0]
    residual = None
    if wants_residual:
        residual = np.random.default_rng(0).standard_normal(tuple(exact.shape), np.float32)
    y = kernels.ConvLayer(isa, x, weight, residual=residual, **case).run(grain)
    close(
        y,
        added(exact, bias, residual).clamp(*limits),
        added(size, absolute(bias), absolute(residual)),
    )


@each_isa
@some
@given(data=st.data())
def test_depthwise(isa, data):
    channels = data.draw(st.integers(1, 40))
    sides = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 24))
    kernel, stride, padding, dilation = data.draw(windows(sides))
    random = np.random.default_rng(data.draw(SEEDS))
    x = random.standard_normal((channels, *sides), np.float32)
    weight = random.standard_normal((channels, 1, *kernel), np.float32)
    bias = random.standard_normal(channels, np.float32) if data.draw(st.booleans()) else None
    limits = data.draw(LIMITS)
    geometry = stride, padding, dilation, channels
    exact = F.conv2d(double(x)[None], double(weight), None, *geometry)[0]
    size = F.conv2d(double(np.abs(x))[None], double(np.abs(weight)), None, *geometry)[0]
    residual = None
    if data.draw(st.booleans()):
        residual = random.standard_normal(tuple(exact.shape), np.float32)
    y = kernels.depthwise(
        isa, x, weight, bias=bias, residual=residual, stride=stride, padding=padding,
        dilation=dilation, limits=limits, shift=data.draw(SHIFTS), grain=data.draw(GRAINS),
    )  # fmt: skip
    close(
        y,
        added(exact, bias, residual).clamp(*limits),
        added(size, absolute(bias), absolute(residual)),
    )


@each_isa
@many
@given(data=st.data())
def test_linear(isa, data):
    inputs, outputs = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 50))
    form = data.draw(st.sampled_from(['dense', 'blocks', 'columns']))
    random = np.random.default_rng(data.draw(SEEDS))
    options = {}
    if form == 'blocks':
        width = data.draw(st.sampled_from([4, 8, 16]))
        inputs = width * data.draw(st.integers(1, 6))
        count = data.draw(st.integers(1, inputs // width))
        groups = -(-outputs // 16)
        blocks = np.stack([random.permutation(inputs // width)[:count] for _ in range(groups)])
        options = {'blocks': blocks.astype(np.int32), 'width': width}
        weight = random.standard_normal((outputs, count * width), np.float32)
        dense = scattered(weight, blocks, width, inputs)
    elif form == 'columns':
        fan_in = data.draw(st.integers(1, inputs))
        columns = np.stack([random.permutation(inputs)[:fan_in] for _ in range(outputs)])
        options = {'columns': columns.astype(np.int32)}
        weight = random.standard_normal((outputs, fan_in), np.float32)
        dense = np.zeros((outputs, inputs), np.float32)
        np.put_along_axis(dense, columns, weight, 1)
    else:
        dense = weight = random.standard_normal((outputs, inputs), np.float32)
    x = random.standard_normal(inputs, np.float32)
    bias = random.standard_normal(outputs, np.float32)
    limits = data.draw(LIMITS)
    y = kernels.linear(isa, x, weight, bias=bias, limits=limits, **options)
    exact = F.linear(double(x), double(dense), double(bias)).clamp(*limits)
    close(y, exact, F.linear(double(np.abs(x)), double(np.abs(dense)), double(np.abs(bias))))


@each_isa
@some
@given(data=st.data())
def test_pooling(isa, data):
    sides = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    kernel = tuple(data.draw(st.integers(1, 4)) for _ in sides)
    padding = tuple(data.draw(st.integers(0, size // 2)) for size in kernel)
    stride = tuple(data.draw(st.integers(1, 3)) for _ in sides)
    ceil_mode, count_include_pad = data.draw(st.booleans()), data.draw(st.booleans())
    # Rounded up, a window may be larger than the padded image, by less than its stride.
    windows = zip(sides, kernel, padding, stride)
    assume(all(s + 2 * p - k + (step - 1) * ceil_mode >= 0 for s, k, p, step in windows))
    random = np.random.default_rng(data.draw(SEEDS))
    x = random.standard_normal((data.draw(st.integers(1, 20)), *sides), np.float32)
    maximum = data.draw(st.booleans())
    if maximum:
        exact = F.max_pool2d(double(x), kernel, stride, padding, ceil_mode=ceil_mode)
    else:
        exact = F.avg_pool2d(double(x), kernel, stride, padding, ceil_mode, count_include_pad)
    y = kernels.pool(
        isa, x, maximum=maximum, kernel=kernel, stride=stride, padding=padding,
        size=tuple(exact.shape[1:]), count_include_pad=count_include_pad, grain=data.draw(GRAINS),
    )  # fmt: skip
    close(y, exact, torch.ones_like(exact))


@each_isa
@pytest.mark.parametrize('kernel', [46_342, 1 << 16])
def test_an_average_over_more_pixels_than_an_integer_counts(isa, kernel):
    y = kernels.pool(
        isa, np.ones((3, 1, 1), np.float32), maximum=False, kernel=(kernel, kernel),
        stride=(1, 1), padding=(kernel // 2, kernel // 2), size=(1, 1),
    )  # fmt: skip
    assert y == pytest.approx(1 / kernel**2, rel=1e-6)


@each_isa
@some
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)), seed=SEEDS)
def test_global_average(isa, shape, seed):
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    exact = double(x).mean((1, 2))
    close(kernels.global_average(isa, x), exact, double(np.abs(x)).mean((1, 2)))


FUNCTIONS = {
    'CLAMP': ((-0.5, 1.5), lambda x: x.clamp(-0.5, 1.5)),
    'HARD_SIGMOID': ((0.2, 0.5), lambda x: (0.2 * x + 0.5).clamp(0, 1)),
    'HARD_SWISH': ((), F.hardswish),
    'SIGMOID': ((), torch.sigmoid),
}


@each_isa
@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('channels', [16, 21])
def test_functions_of_one_value(isa, name, channels):
    x = np.random.default_rng(0).normal(0, 8, (channels, 5, 7)).astype(np.float32)
    x[0, 0, :4] = [0, 120, -120, 1e30]
    parameters, function = FUNCTIONS[name]
    exact = function(double(x))
    y = kernels.unary(isa, x, getattr(kernels.Function, name), *parameters, grain=2)
    close(y, exact, exact.abs())


@each_isa
@pytest.mark.parametrize('name', FUNCTIONS)
def test_what_is_not_a_number_stays_so(isa, name):
    x = np.full((16, 1, 1), np.nan, np.float32)
    assert np.isnan(kernels.unary(isa, x, getattr(kernels.Function, name), -1, 1)).all()


@each_isa
@pytest.mark.parametrize('right', ['tensor', 'channel', 'scalar'])
@pytest.mark.parametrize('name', ['ADD', 'MULTIPLY'])
def test_functions_of_two_values(isa, name, right):
    random = np.random.default_rng(0)
    left = random.standard_normal((21, 4, 6), np.float32)
    shapes = {'tensor': (21, 4, 6), 'channel': (21, 1, 1)}
    other = random.standard_normal(shapes[right], np.float32) if right in shapes else None
    operand = 0.75 if other is None else double(other)
    exact = double(left) + operand if name == 'ADD' else double(left) * operand
    y = kernels.binary(
        isa, left, other, value=0.75, kind=getattr(kernels.Operator, name), limits=(0, 6), grain=1
    )
    close(y, exact.clamp(0, 6), exact.abs())


@each_isa
@some
@given(n=st.integers(1, 1000), temperature=st.floats(0.1, 10), seed=SEEDS)
def test_softmax(isa, n, temperature, seed):
    logits = np.random.default_rng(seed).normal(0, 10, n).astype(np.float32)
    exact = (double(logits) / temperature).softmax(0)
    assert kernels.softmax(isa, logits, temperature) == pytest.approx(exact.numpy(), abs=2e-6)


@each_isa
@some
@given(
    channels=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=SEEDS,
)
def test_concatenation(isa, channels, sides, seed):
    random = np.random.default_rng(seed)
    parts = [random.standard_normal((count, *sides), np.float32) for count in channels]
    assert np.array_equal(kernels.concat(isa, parts), np.concatenate(parts))


@each_isa
@pytest.mark.parametrize('channels, factor', [(1, 2), (3, 2), (16, 2), (5, 3)])
def test_pixel_shuffle(isa, channels, factor):
    x = np.random.default_rng(0).standard_normal((channels * factor**2, 3, 4), np.float32)
    expected = F.pixel_shuffle(torch.from_numpy(x), factor).numpy()
    assert np.array_equal(kernels.pixel_shuffle(isa, x, factor), expected)


PACKINGS = {'HALF': CodecId.FP16, 'BYTE': CodecId.INT8, 'NIBBLE': CodecId.INT4}


@each_isa
@pytest.mark.parametrize('name', PACKINGS)
@some
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)), seed=SEEDS)
def test_packing_is_the_codecs_bit_for_bit(isa, name, shape, seed):
    random = np.random.default_rng(seed)
    low = random.normal(0, 1, shape[0]).astype(np.float32)
    step = random.uniform(1e-3, 0.2, shape[0]).astype(np.float32)
    # Codes and halves of codes beyond both ends, to meet ties and clipping; and wide numbers.
    codes = random.integers(-40, 600, shape) / 2
    x = (low[:, None, None] + step[:, None, None] * codes.astype(np.float32)).astype(np.float32)
    wide = random.random(shape) < 0.2
    x[wide] = np.ldexp(random.normal(0, 1, wide.sum()), random.integers(-30, 20, wide.sum()))
    packed, finite = kernels.pack(isa, x, getattr(kernels.Packing, name), low, step)
    lows, steps = low[:, None, None], step[:, None, None]
    assert finite
    assert packed == pack(x, lows, steps, PACKINGS[name].bits)
    assert packed == Codec(PACKINGS[name], shape, lows, steps, b'').encode(x)


@each_isa
@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_packing_notices_what_is_not_finite(isa, value):
    x = np.zeros((20, 2, 2), np.float32)
    x[17, 1, 0] = value
    one = np.ones(20, np.float32)
    assert not kernels.pack(isa, x, kernels.Packing.BYTE, one, one)[1]


def test_the_peak_is_measured():
    fast, plain = (kernels.peak_gmacs(isa, 0.01) for isa in (kernels.best(), 'plain'))
    assert plain > 0.1
    assert fast < 1000


def asked_for(isa):
    """What a process with this environment says of its kernels, and what it warns of."""
    program = (
        'from sparse_split_ros.native._native import kernels\n'
        'print(kernels.best(), kernels.int8.fast())'
    )
    return subprocess.run(
        [sys.executable, '-c', program],
        env=os.environ | {'SPARSE_SPLIT_ISA': isa}, capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_the_environment_chooses_the_instruction_set():
    assert asked_for('plain').stdout.split() == ['plain', 'False']


def test_an_unknown_name_in_the_environment_is_warned_of():
    result = asked_for('mmx')
    assert result.stdout.split()[0] == kernels.available()[0]
    assert "SPARSE_SPLIT_ISA is 'mmx', expected one of" in result.stderr


def test_an_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="no kernels 'mmx'"):
        kernels.peak_gmacs('mmx')


@pytest.mark.parametrize('name', ['fp16', 'int8', 'int4', 'int8+zstd'])
def test_a_codec_without_the_kernel_sends_the_same(monkeypatch, name):
    x = np.random.default_rng(0).normal(0, 2, (5, 3, 3)).astype(np.float32)
    codec = Codec.from_calibration(name, x.shape, {'low': [-1.5] * 5, 'step': [0.2] * 5})
    sent = [codec.encode(values) for values in (x, x.transpose(0, 2, 1))]
    monkeypatch.setattr('sparse_split_ros.link.codec.kernels', None)
    assert sent == [codec.encode(values) for values in (x, x.transpose(0, 2, 1))]
