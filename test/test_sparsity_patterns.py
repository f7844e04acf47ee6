# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_split_ros.sparsity.patterns import (
    BLOCK_ROWS,
    CLASH_FREE,
    TAP_WIDTHS,
    Kind,
    PatternSpec,
    SparsityError,
    fan_in_step,
)

SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def single(draw, kinds):
    """A feasible spec of a pattern of single edges, with any common divisor of the two sides."""
    common, a, b = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    inputs, outputs = common * a, common * b
    kind = draw(st.sampled_from(kinds))
    step = fan_in_step(kind, inputs, outputs)
    fan_in = draw(st.integers(1, inputs // step)) * step
    if kind not in CLASH_FREE:
        return PatternSpec(kind, inputs, outputs, fan_in, draw(SEEDS))
    z = draw(st.sampled_from([z for z in range(1, inputs + 1) if inputs % z == 0]))
    dither = draw(st.booleans())
    return PatternSpec(kind, inputs, outputs, fan_in, draw(SEEDS), parallelism=z, dither=dither)


@st.composite
def blocks(draw):
    width = draw(st.sampled_from([4, 8, 16]))
    inputs, outputs = width * draw(st.integers(1, 16)), BLOCK_ROWS * draw(st.integers(1, 8))
    step = fan_in_step(Kind.BLOCK_REGULAR, inputs, outputs, width)
    fan_in = draw(st.integers(1, inputs // step)) * step
    return PatternSpec(Kind.BLOCK_REGULAR, inputs, outputs, fan_in, draw(SEEDS), width)


@st.composite
def n_of_m(draw):
    width = draw(st.integers(2, 8))
    inputs, outputs = width * draw(st.integers(1, 10)), draw(st.integers(1, 24))
    step = fan_in_step(Kind.N_OF_M, inputs, outputs, width)
    fan_in = draw(st.integers(1, inputs // step)) * step
    return PatternSpec(Kind.N_OF_M, inputs, outputs, fan_in, draw(SEEDS), width)


def is_regular(spec):
    pattern = spec.draw()
    mask = pattern.mask()
    assert mask.shape == (spec.outputs, spec.inputs)
    assert (mask.sum(axis=1) == spec.fan_in).all()
    assert (mask.sum(axis=0) == spec.fan_out).all()
    # A repeated edge would be one edge of the mask and two of the list.
    assert mask.sum() == pattern.edges == pattern.columns.size * spec.rows


@settings(max_examples=300, deadline=None)
@given(single([*CLASH_FREE, Kind.RANDOM_REGULAR]))
def test_patterns_of_single_edges_have_exact_fans_and_no_repeated_edge(spec):
    is_regular(spec)


@settings(max_examples=100, deadline=None)
@given(blocks())
def test_block_regular_patterns_have_exact_fans_and_whole_blocks(spec):
    is_regular(spec)
    mask = spec.draw().mask()
    tiles = mask.reshape(spec.outputs // BLOCK_ROWS, BLOCK_ROWS, -1, spec.width)
    filled = tiles.sum(axis=(1, 3))
    assert np.isin(filled, [0, BLOCK_ROWS * spec.width]).all()


@st.composite
def tap_by_tap(draw):
    width = draw(st.sampled_from(TAP_WIDTHS))
    inputs, outputs = width * draw(st.integers(1, 16)), BLOCK_ROWS * draw(st.integers(1, 8))
    fan_in, taps = width * draw(st.integers(1, inputs // width)), draw(st.integers(2, 10))
    return PatternSpec(Kind.TAP_REGULAR, inputs, outputs, fan_in, draw(SEEDS), width, taps=taps)


@settings(max_examples=200, deadline=None)
@given(tap_by_tap())
def test_tap_regular_patterns_are_in_blocks_at_every_tap_and_read_inputs_equally_often(spec):
    taps = spec.taps
    pattern = spec.draw()
    mask = pattern.mask()
    assert mask.shape == (spec.outputs, spec.inputs, taps)
    assert (mask.sum(axis=1) == spec.fan_in).all()
    readers = mask.sum(axis=(0, 2))
    assert readers.max() - readers.min() in (0, BLOCK_ROWS)
    if spec.outputs // BLOCK_ROWS * spec.fan_in % spec.inputs == 0:
        assert (mask.sum(axis=0) == spec.outputs * spec.fan_in // spec.inputs).all()
    assert mask.sum() == pattern.edges == pattern.columns.size * spec.rows
    tiles = mask.reshape(spec.outputs // BLOCK_ROWS, BLOCK_ROWS, -1, spec.width, taps)
    assert np.isin(tiles.sum(axis=(1, 3)), [0, BLOCK_ROWS * spec.width]).all()
    assert PatternSpec.from_json(spec.to_json()) == spec


def test_taps_of_one_seed_read_different_blocks():
    spec = PatternSpec(Kind.TAP_REGULAR, 128, 128, 16, 7, width=16, taps=9)
    assert len({tuple(sources.ravel()) for sources in spec.draw().sources}) == 9


def test_which_block_is_read_once_more_than_the_others_is_drawn():
    # Nine taps read four blocks: twice each, and one of them again.
    drawn = [
        PatternSpec(Kind.TAP_REGULAR, 64, 16, 16, s, width=16, taps=9).draw() for s in range(40)
    ]
    assert {int(np.bincount(one.sources.ravel()).argmax()) for one in drawn} == {0, 1, 2, 3}


@settings(max_examples=100, deadline=None)
@given(n_of_m())
def test_n_of_m_patterns_have_exact_fans_and_n_in_every_group(spec):
    is_regular(spec)
    groups = spec.draw().mask().reshape(spec.outputs, -1, spec.width).sum(axis=2)
    assert (groups == spec.fan_in * spec.width // spec.inputs).all()


@settings(max_examples=300, deadline=None)
@given(single(CLASH_FREE))
def test_clash_free_cycles_read_each_memory_once_and_sweeps_each_input_once(spec):
    cycles = spec.draw().sources.reshape(-1, spec.parallelism)
    assert (np.sort(cycles % spec.parallelism, axis=1) == np.arange(spec.parallelism)).all()
    sweeps = cycles.reshape(spec.fan_out, spec.inputs)
    assert (np.sort(sweeps, axis=1) == np.arange(spec.inputs)).all()


@settings(max_examples=200, deadline=None)
@given(single([Kind.CLASH_FREE_2, Kind.CLASH_FREE_3]))
def test_types_2_and_3_count_addresses_up_in_every_memory(spec):
    z, length = spec.parallelism, spec.inputs // spec.parallelism
    for sweep in spec.draw().sources.reshape(spec.fan_out, length, z):
        order = np.take_along_axis(sweep // z, np.argsort(sweep % z, axis=1), axis=1)
        assert ((np.diff(order, axis=0) - 1) % length == 0).all()
        if not spec.dither:
            assert (sweep % z == np.arange(z)).all()


@settings(max_examples=100, deadline=None)
@given(single([Kind.CLASH_FREE_3]))
def test_type_3_repeats_its_first_sweep(spec):
    sweeps = spec.draw().sources.reshape(spec.fan_out, spec.inputs)
    assert (sweeps == sweeps[0]).all()


@pytest.mark.parametrize('kind', CLASH_FREE)
def test_no_edge_is_lost_where_a_sweep_ends_inside_an_output(kind):
    # The published code keeps 66 of these 72 edges.
    spec = [PatternSpec(kind, 24, 4, 18, seed, parallelism=6) for seed in range(50)]
    assert {int(one.draw().mask().sum()) for one in spec} == {72}


def every_sweep(spec):
    """The different sweeps of a spec, each as the sets of inputs of its outputs, by brute force."""
    z, length = spec.parallelism, spec.inputs // spec.parallelism
    memory_orders = itertools.permutations(range(z)) if spec.dither else [tuple(range(z))]
    if spec.kind is Kind.CLASH_FREE_1:
        one = list(itertools.permutations(range(length)))
    else:
        one = [tuple((s + t) % length for t in range(length)) for s in range(length)]
    found = set()
    for order in memory_orders:
        for addresses in itertools.product(one, repeat=z):
            read = [addresses[m][t] * z + m for t in range(length) for m in order]
            cut = range(0, spec.inputs, spec.fan_in)
            found.add(tuple(frozenset(read[i : i + spec.fan_in]) for i in cut))
    return found


def sweeps_of(spec):
    """The sweeps of what a spec draws, each as the sets of inputs of its outputs."""
    rows = [frozenset(row) for row in spec.draw().columns.tolist()]
    length = spec.inputs // spec.fan_in
    return [tuple(rows[at : at + length]) for at in range(0, len(rows), length)]


@pytest.mark.parametrize(
    ('kind', 'shape', 'dither', 'count'),
    [
        (Kind.CLASH_FREE_1, (9, 6, 3, 3), False, 46656),
        (Kind.CLASH_FREE_2, (9, 6, 3, 3), False, 729),
        (Kind.CLASH_FREE_3, (9, 6, 3, 3), False, 27),
        (Kind.CLASH_FREE_1, (12, 12, 2, 4), True, 60466176),
        (Kind.CLASH_FREE_2, (12, 12, 2, 4), True, 236196),
        (Kind.CLASH_FREE_3, (12, 12, 2, 4), True, 486),
    ],
)
def test_draws_are_among_as_many_patterns_as_were_published(kind, shape, dither, count):
    # Dey et al., arXiv 1812.01164: every sweep of types 1 and 2 is drawn anew.
    inputs, outputs, fan_in, z = shape
    options = {'parallelism': z, 'dither': dither}
    spec = PatternSpec(kind, inputs, outputs, fan_in, **options)
    sweeps = every_sweep(spec)
    assert len(sweeps) ** (1 if kind is Kind.CLASH_FREE_3 else spec.fan_out) == count
    for seed in range(50):
        assert sweeps.issuperset(
            sweeps_of(PatternSpec(kind, inputs, outputs, fan_in, seed, **options))
        )


def test_draws_reach_every_pattern():
    specs = [PatternSpec(Kind.CLASH_FREE_3, 9, 6, 3, seed, parallelism=3) for seed in range(400)]
    # All 27 are missed by 400 fair draws with a probability below 1e-5.
    assert len({tuple(sweeps_of(spec)) for spec in specs}) == 27


@pytest.mark.parametrize('kind', [Kind.RANDOM_REGULAR, Kind.CLASH_FREE_1, Kind.CLASH_FREE_2])
def test_every_edge_is_as_likely_as_any_other(kind):
    seeds, (inputs, outputs, fan_in) = 1500, (12, 8, 3)
    z = 1 if kind is Kind.RANDOM_REGULAR else 4
    # Without dither a memory always feeds the same outputs.
    options = {'parallelism': z, 'dither': z > 1}
    specs = (PatternSpec(kind, inputs, outputs, fan_in, seed, **options) for seed in range(seeds))
    share = sum(spec.draw().mask().astype(int) for spec in specs) / seeds
    density = fan_in / inputs
    # 96 edges within 4.5 standard errors each: false alarm below 1e-3, and the seeds are fixed.
    assert abs(share - density).max() < 4.5 * math.sqrt(density * (1 - density) / seeds)


@pytest.mark.parametrize(
    ('spec', 'digest'),
    [
        (PatternSpec(Kind.RANDOM_REGULAR, 40, 40, 9, 7), '0d2bae45b777c77a'),
        (
            PatternSpec(Kind.CLASH_FREE_1, 40, 40, 9, 7, parallelism=8, dither=True),
            'e47ef174d0349c0f',
        ),
        (
            PatternSpec(Kind.CLASH_FREE_2, 40, 40, 9, 7, parallelism=8, dither=True),
            '61eb81e90d530c8f',
        ),
        (
            PatternSpec(Kind.CLASH_FREE_3, 40, 40, 9, 7, parallelism=8, dither=True),
            '599b3f8b910daa86',
        ),
        (PatternSpec(Kind.BLOCK_REGULAR, 128, 128, 16, 7, width=4), 'a343946ee351c041'),
        (PatternSpec(Kind.N_OF_M, 64, 32, 32, 7, width=4), '3f71eb3cc40f4849'),
    ],
    ids=lambda value: value.kind.value if isinstance(value, PatternSpec) else '',
)
def test_a_seed_gives_the_same_pattern_on_every_machine(spec, digest):
    assert spec.draw().digest == digest


@pytest.mark.parametrize('kind', Kind)
def test_each_kind_is_drawn_in_its_own_way(kind):
    """A kind that `draw` does not know would be another's."""

    def drawn(kind):
        block = kind in (Kind.BLOCK_REGULAR, Kind.TAP_REGULAR)
        width = 4 if block or kind is Kind.N_OF_M else 1
        parallelism = 8 if kind in CLASH_FREE else 1
        taps = 9 if kind is Kind.TAP_REGULAR else 1
        spec = PatternSpec(kind, 64, 64, 16, 7, width=width, parallelism=parallelism, taps=taps)
        return spec.draw().sources.tolist()

    mine = drawn(kind)
    assert [other for other in Kind if drawn(other) == mine] == [kind]


@settings(max_examples=30, deadline=None)
@given(single([*CLASH_FREE, Kind.RANDOM_REGULAR]))
def test_a_spec_survives_json(spec):
    again = PatternSpec.from_json(spec.to_json())
    assert again == spec
    assert again.draw().digest == spec.draw().digest


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((Kind.RANDOM_REGULAR, 64, 128, 0.3), r'density 0\.3 .* k/64; .* 0\.2969 and 0\.3125'),
        ((Kind.BLOCK_REGULAR, 64, 128, 0.3), r'density 0\.3 .* k/8; .* 0\.25 and 0\.375'),
        ((Kind.BLOCK_REGULAR, 128, 64, 0.125), r'density 0\.125 .* k/4; .* nearest are 0\.25'),
        ((Kind.BLOCK_REGULAR, 60, 43, 0.5), r'60 inputs and 43 outputs .* 60 and 32 or 48'),
        ((Kind.N_OF_M, 64, 30, 0.25), r'density 0\.25 .* k/2; .* 0\.5'),
        ((Kind.N_OF_M, 30, 64, 0.5), r'30 inputs .* M = 4 .* 28 or 32'),
        ((Kind.RANDOM_REGULAR, 64, 128, 0.0), r'density is 0\.0, expected more than 0'),
        ((Kind.RANDOM_REGULAR, 64, 128, math.nan), r'density is nan'),
        ((Kind.BLOCK_REGULAR, 64, 64, 0.5, 0, 5), r'block width 5, expected 4, 8 or 16'),
        ((Kind.RANDOM_REGULAR, 0, 64, 0.5), r'inputs is 0'),
    ],
)
def test_what_cannot_be_is_refused_and_the_nearest_named(arguments, message):
    with pytest.raises(SparsityError, match=message):
        PatternSpec.of_density(*arguments)


def test_an_infeasible_fan_in_seed_or_parallelism_is_refused():
    with pytest.raises(SparsityError, match=r'fan-in 5 .* nearest are 0\.05 and 0\.1'):
        PatternSpec(Kind.RANDOM_REGULAR, 80, 20, 5)
    with pytest.raises(SparsityError, match=r'parallelism 7 .* 40 inputs .* are 5 and 8'):
        PatternSpec(Kind.CLASH_FREE_1, 40, 40, 9, parallelism=7)
    for seed in (-1, 2**64):
        with pytest.raises(SparsityError, match=f'seed is {seed}, expected 0 to'):
            PatternSpec(Kind.RANDOM_REGULAR, 40, 40, 9, seed)
    with pytest.raises(SparsityError, match='no parallelism'):
        PatternSpec(Kind.RANDOM_REGULAR, 40, 40, 9, parallelism=8)
    for kind, taps in ((Kind.BLOCK_REGULAR, 9), (Kind.TAP_REGULAR, 1), (Kind.BLOCK_REGULAR, 0)):
        with pytest.raises(SparsityError, match=f'{kind.value} with {taps} taps'):
            PatternSpec(kind, 64, 64, 16, width=16, taps=taps)


def test_the_nearest_density_is_taken_when_asked_for():
    spec = PatternSpec.of_density(Kind.BLOCK_REGULAR, 64, 128, 0.3, nearest=True)
    assert spec.density == 0.25
    assert PatternSpec.of_density(Kind.BLOCK_REGULAR, 64, 128, 0.01, nearest=True).density == 0.125


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"kind":"random-regular"}',
        PatternSpec(Kind.RANDOM_REGULAR, 8, 8, 2).to_json().replace('random', 'randy'),
        PatternSpec(Kind.RANDOM_REGULAR, 8, 8, 2).to_json().replace('"fan_in":2', '"fan_in":"2"'),
        PatternSpec(Kind.RANDOM_REGULAR, 8, 8, 2).to_json().replace('"fan_in":2', '"fan_in":9'),
    ],
)
def test_text_that_is_no_pattern_is_refused(text):
    with pytest.raises(SparsityError):
        PatternSpec.from_json(text)
