# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The kernels on bytes: exact sums of what the codes stand for, rounded to half a step once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip('torch')
native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)
F = torch.nn.functional
int8 = native.kernels.int8

each_isa = pytest.mark.parametrize('isa', int8.available())
SEEDS = st.integers(0, 2**32 - 1)


def coded(weight):
    """Weights (O, ...) as symmetric codes per output stand for them."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(1)
    step = (np.maximum(largest, 1e-12) / 127).astype(np.float32)
    step = step.reshape(-1, *(1 for _ in weight.shape[1:]))
    return np.rint(weight / step) * step.astype(np.float64)


def double(array):
    return torch.from_numpy(np.asarray(array)).double()


@st.composite
def layers(draw):
    outputs = draw(st.integers(1, 40))
    sides = draw(st.integers(1, 7)), draw(st.integers(1, 36))
    kernel = draw(st.sampled_from([1, 2, 3, 5]))
    dilation = draw(st.integers(1, 2))
    reach = dilation * (kernel - 1)
    padding = draw(st.integers(max(0, (reach + 2 - min(sides)) // 2), reach))
    random = np.random.default_rng(draw(SEEDS))
    inputs, blocks, width = draw(st.integers(1, 40)), None, 16
    fan_in = inputs
    if draw(st.booleans()):
        width = draw(st.sampled_from([4, 8, 16]))
        inputs = width * draw(st.integers(1, 8))
        count = draw(st.integers(1, inputs // width))
        groups = -(-outputs // 16)
        blocks = np.stack([random.permutation(inputs // width)[:count] for _ in range(groups)])
        blocks = blocks.astype(np.int32)
        fan_in = count * width
    negative = draw(st.booleans())
    x = random.standard_normal((inputs, *sides), np.float32)
    return {
        'x': x if negative else np.maximum(x, 0),
        'weight': random.standard_normal((outputs, fan_in, kernel, kernel), np.float32),
        'input': (3.0, negative),
        'output': draw(st.sampled_from([None, (12.0, True), (9.0, False)])),
        'bias': random.standard_normal(outputs, np.float32) if draw(st.booleans()) else None,
        'residual': draw(st.booleans()),
        'blocks': blocks,
        'width': width,
        'stride': (draw(st.sampled_from([1, 2, 3])),) * 2,
        'padding': (padding, padding),
        'dilation': (dilation, dilation),
        'limits': draw(st.sampled_from([(-math.inf, math.inf), (0.0, 6.0)])),
        'shift': draw(st.integers(0, 3)),
    }


def scattered(weight, blocks, width, inputs):
    if blocks is None:
        return weight
    dense = np.zeros((len(weight), inputs, *weight.shape[2:]))
    for output, row in enumerate(weight):
        for k, block in enumerate(blocks[output // 16]):
            dense[output, block * width : (block + 1) * width] = row[k * width : (k + 1) * width]
    return dense


def expected(layer, case, residual):
    """The output that the layer's codes stand for, before it is rounded itself."""
    dense = scattered(coded(case['weight']), case['blocks'], case['width'], len(case['x']))
    geometry = case['stride'], case['padding'], case['dilation']
    bias = None if case['bias'] is None else double(case['bias'])
    exact = F.conv2d(double(layer.x)[None], double(dense), bias, *geometry)[0]
    if residual is not None:
        exact = exact + double(layer.residual)
    return exact.clamp(*case['limits']).numpy()


def check(y, exact, layer, output):
    if output is None:
        assert y == pytest.approx(exact, rel=1e-5, abs=1e-3)
        return
    range_, negative = output
    exact = exact.clip(-layer.step * 128 if negative else 0, range_)
    assert np.abs(y - exact).max() <= layer.step * 0.5 + 1e-3


@each_isa
@settings(max_examples=100, deadline=None)
@given(case=layers(), grain=st.integers(0, 3))
def test_convolution(isa, case, grain):
    residual = None
    if case.pop('residual'):
        shape = int8.Layer(isa, **case).run().shape
        residual = np.random.default_rng(0).standard_normal(shape, np.float32)
    layer = int8.Layer(isa, residual=residual, **case)
    check(layer.run(grain), expected(layer, case, residual), layer, case['output'])


@each_isa
@pytest.mark.parametrize('negative', [False, True])
def test_sums_do_not_saturate(isa, negative):
    """The largest codes of both sides: 16 bits would overflow at the first pair."""
    x = np.full((64, 3, 3), 1.0, np.float32)
    weight = np.full((16, 64, 3, 3), 1.0, np.float32)
    y = int8.Layer(isa, x, weight, (1.0, negative)).run()
    assert y == pytest.approx(64 * 9, rel=1e-5)


@pytest.mark.parametrize(('inputs', 'fits'), [(66_304, True), (66_320, False)])
def test_a_sum_that_could_overflow_has_no_kernel(inputs, fits):
    """At most 66,311 products of 255 and 127 fit 32 bits; this many more and it turned negative."""
    program = native.Program()
    x = program.tensor(inputs, 1, 1)
    program.measured(x, 1.0)
    program.begin('m', x)
    codes = program.unary(x, 'clamp', 0.0, 1.0)
    program.measured(codes, 1.0)
    layer = {'weight': np.ones((16, inputs, 1, 1), np.float32), 'kernel': (1, 1)}
    if not fits:
        with pytest.raises(native.NoKernelError, match='sums of 66320 products in 8 bits'):
            program.conv_int8(codes, **layer, reach=1e5, codes=False)
        return
    program.end(program.conv_int8(codes, **layer, reach=1e5, codes=False))
    program.finish()
    y = native.Session(program, [(0, -1, [])], 1).run_model(
        0, np.ones((1, inputs, 1, 1), np.float32), True
    )
    assert y == pytest.approx(inputs, rel=1e-5)


@each_isa
@pytest.mark.parametrize('span', [(4.0, True), (4.0, False)])
def test_rounding_to_codes(isa, span):
    range_, negative = span
    x = np.random.default_rng(0).normal(0, 3, (21, 5, 7)).astype(np.float32)
    step = range_ / (127 if negative else 255)
    exact = x.clip(-128 * step if negative else 0, range_)
    y = int8.rounded(isa, x, span)
    assert np.abs(y - exact).max() <= step * 0.5001
    codes = y / step
    assert codes == pytest.approx(np.rint(codes), abs=1e-4)
