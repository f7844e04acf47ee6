# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plans compute what the graph says, move nothing they need not, and bad ones are refused first."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from graphs import Tensors, add_graph, conv, graph, model, operation, safetensors, save_graph

from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import EngineError, load_engine

native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)

from sparse_split_ros.native.graph import Graph, GraphError, read_safetensors  # noqa: E402
from sparse_split_ros.native.plan import (  # noqa: E402
    UnsupportedError,
    fuse,
    in_codes,
    plan_bundle,
    reads_planes,
    write,
)

RNG = np.random.default_rng(0)
TENSORS: Tensors = {
    'w': RNG.normal(size=(16, 16, 3, 3)).astype(np.float32),
    'b': RNG.normal(size=16).astype(np.float32),
    'blocks': np.array([[3, 0]], np.int32),
    'far': np.array([[0, 4]], np.int32),
    'taps': np.zeros((9, 1, 2), np.int32),
    'few taps': np.zeros((8, 1, 2), np.int32),
    'far taps': np.full((9, 1, 2), 4, np.int32),
    'vector': RNG.normal(size=(16, 8)).astype(np.float32),
    'sparse': RNG.normal(size=(16, 8, 3, 3)).astype(np.float32),
    'dense': RNG.normal(size=(5, 16)).astype(np.float32),
    'columns': np.array([[0, 15], [3, 4], [1, 2], [9, 8], [7, 7]], np.int32),
    'few': RNG.normal(size=(5, 2)).astype(np.float32),
}
SAME = {'kernel': [3, 3], 'padding': [1, 1]}


def parsed(operations: list[dict[str, Any]], output: tuple[int, ...] = (16, 8, 8)) -> Any:
    models = {'m': model((16, 8, 8), output, operations)}
    return Graph(graph(models), safetensors(TENSORS)).model('m')


def planned(operations: list[dict[str, Any]], output: tuple[int, ...] = (16, 8, 8)) -> list[str]:
    """The names of the steps of a model."""
    program = native.Program()
    number, _ = write(program, parsed(operations, output), 'm', program.tensor(16, 8, 8))
    program.finish()
    return [name.split()[0] for name, _, _ in program.steps(number)]


def test_convolution_addition_and_relu_are_one_step() -> None:
    steps = fuse(
        parsed([
            conv('x', 'a', 'w', 'b', **SAME),
            operation('relu', ['a'], 'c'),
            conv('c', 'd', 'w', None, **SAME),
            operation('add', ['x', 'd'], 'e'),
            operation('relu6', ['e'], 'y'),
        ])
    )  # fmt: skip
    assert [(step.output, step.residual, step.low, step.high) for step in steps] == [
        ('c', None, 0.0, np.inf),
        ('y', 'x', 0.0, 6.0),
    ]


def test_of_two_convolutions_that_are_added_the_later_adds() -> None:
    steps = fuse(
        parsed([
            conv('x', 'a', 'w', None, **SAME),
            conv('x', 'b', 'w', None, **SAME),
            operation('add', ['b', 'a'], 'y'),
        ])
    )  # fmt: skip
    assert [(step.output, step.residual) for step in steps] == [('a', None), ('y', 'a')]


@pytest.mark.parametrize(
    'operations',
    [
        # What somebody else reads has to exist.
        [
            conv('x', 'a', 'w', None, **SAME),
            operation('relu', ['a'], 'b'),
            operation('add', ['a', 'b'], 'y'),
        ],
        # An addition after a ReLU is not one before it.
        [
            conv('x', 'a', 'w', None, **SAME),
            operation('relu', ['a'], 'b'),
            operation('add', ['x', 'b'], 'y'),
        ],
        [conv('x', 'a', 'w', None, **SAME), operation('add', ['a', 'a'], 'y')],
        [conv('x', 'a', 'w', None, **SAME), operation('add', ['a'], 'y', value=1.0)],
        [conv('x', 'a', 'w', None, **SAME), operation('sigmoid', ['a'], 'y')],
    ],
)
def test_what_must_stay_apart_stays_apart(operations: list[dict[str, Any]]) -> None:
    assert all(step.residual is None for step in fuse(parsed(operations)))
    assert len(planned(operations)) >= 2


@pytest.mark.parametrize(('first', 'then'), [('relu6', 'relu'), ('relu', 'relu6')])
def test_of_two_clamps_the_first_alone_is_taken_in(first: str, then: str) -> None:
    operations = [
        conv('x', 'a', 'w', None, **SAME),
        operation(first, ['a'], 'b'),
        operation(then, ['b'], 'y'),
    ]
    assert [step.operation.kind for step in fuse(parsed(operations))] == ['conv', then]


def test_what_stays_in_eight_bits_is_read_by_convolutions_alone() -> None:
    steps = fuse(
        parsed([
            conv('x', 'a', 'w', None, **SAME),
            conv('a', 'b', 'w', None, **SAME),
            operation('add', ['b', 'a'], 'c'),
            conv('c', 'd', 'w', None, **SAME),
            operation('sigmoid', ['d'], 'e'),
            operation('mul', ['e', 'd'], 'f'),
            conv('f', 'y', 'w', None, **SAME),
        ])
    )  # fmt: skip
    in_codes(steps, False)
    assert {step.output: step.codes for step in steps} == {
        'a': True, 'c': True, 'd': False, 'e': None, 'f': None, 'y': False,
    }  # fmt: skip


def test_a_first_layer_that_reads_planes_stays_in_float32() -> None:
    steps = fuse(parsed([conv('x', 'a', 'w', None, **SAME), conv('a', 'y', 'w', None, **SAME)]))
    in_codes(steps, True)
    assert [step.codes for step in steps] == [None, False]


def test_a_flatten_before_a_dense_layer_moves_nothing() -> None:
    pool = {'kernel': [4, 4], 'stride': [4, 4], 'padding': [0, 0], 'ceil_mode': False}
    head = [operation('max_pool', ['x'], 'p', **pool), operation('flatten', ['p'], 'f')]
    dense = operation('linear', ['f'], 'y', weight='wide', bias=None, blocks=None, width=1)
    TENSORS['wide'] = RNG.normal(size=(3, 64)).astype(np.float32)
    assert planned([*head, dense], (3,)) == ['max', 'linear']
    # ... and does where the map that it reads keeps a border for a convolution.
    direct = [operation('flatten', ['x'], 'f'), dense | {'weight': 'all'}]
    TENSORS['all'] = RNG.normal(size=(3, 1024)).astype(np.float32)
    assert planned(direct, (3,)) == ['flatten', 'linear']


def test_the_image_is_read_as_planes_by_dense_convolutions_only() -> None:
    first = conv('x', 'a', 'w', None, **SAME)
    small = {'m': model((3, 8, 8), (16, 8, 8), [first, operation('relu', ['a'], 'y')])}
    data = safetensors(TENSORS)
    assert reads_planes(Graph(graph(small), data).model('m'))
    small['m']['operations'].append(operation('relu', ['x'], 'z'))
    assert not reads_planes(Graph(graph(small), data).model('m'))


def test_tensors_of_one_shape_share_memory() -> None:
    def arena(depth: int) -> int:
        names = ['x', *(f't{i}' for i in range(depth - 1)), 'y']
        operations = [conv(a, b, 'w', None, **SAME) for a, b in pairwise(names)]
        program = native.Program()
        write(program, parsed(operations), 'm', program.tensor(16, 8, 8))
        program.finish()
        return int(program.arena_bytes)

    assert arena(12) == arena(3)


def _first(**fields: Any) -> list[dict[str, Any]]:
    return [conv('x', 'y', 'w', 'b', **SAME) | fields]


def _linear(**fields: Any) -> list[dict[str, Any]]:
    dense = {'weight': 'dense', 'bias': None, 'blocks': None, 'width': 1}
    return [
        operation('global_avg_pool', ['x'], 'p'),
        operation('linear', ['p'], 'y', **(dense | fields)),
    ]


@pytest.mark.parametrize(
    ('operations', 'message'),
    [
        (_first(weight='nothing'), r"operation 0 \(conv\): weight: .* no tensor 'nothing'"),
        (_first(weight='blocks'), r"'blocks' is int32, expected float32"),
        (
            _first(weight='b'),
            r'weight has shape \(16\), expected \(outputs, fan-in, ',
        ),
        (_first(bias='dense'), r'bias has shape \(5, 16\), expected \(16\)'),
        (_first(kernel=[3]), r'kernel: expected a list of 2, found \[3\]'),
        (_first(kernel=[5, 5]), r'weight has shape \(16, 16, 3, 3\), expected \(16, 16, 5, 5\)'),
        (_first(kernel=[0, 3]), 'a window of kernel 0'),
        (_first(stride=[0, 1]), 'a window of kernel 3, stride 0'),
        (_first(padding=[-1, 0]), 'padding: expected a whole number from 0'),
        (_first(dilation=[8, 8]), 'a kernel that reaches over 17 of 8 pixels'),
        (_first(groups=3), '16 inputs and 16 outputs in 3 groups'),
        (_first(groups=True), 'groups: expected a whole number'),
        (_first(blocks='blocks', width=4), r'blocks has shape \(1, 2\), expected \(1, 4\)'),
        (_first(blocks='blocks', width=3), 'blocks of 3 inputs, expected 4, 8 or 16'),
        (_first(blocks='taps', width=3), 'blocks of 3 inputs, expected 1, 2, 4, 8 or 16'),
        (_linear(weight='vector', blocks='taps', width=1), 'blocks of 1 inputs, expected 4'),
        (_first(weight='sparse', blocks='far', width=4), 'blocks names block 4 of 4'),
        (
            _first(weight='sparse', blocks='few taps', width=4),
            r'blocks has shape \(8, 1, 2\), expected \(9, 1, 2\)',
        ),
        (_first(weight='sparse', blocks='far taps', width=4), 'blocks names block 4 of 4'),
        (
            _linear(weight='vector', blocks='taps', width=4),
            r'blocks has shape \(9, 1, 2\), expected \(1, 2\)',
        ),
        (
            _linear(weight='few', columns='columns', bias='b'),
            r'bias has shape \(16\), ',
        ),
        (_linear(columns='columns'), r'columns has shape \(5, 2\), expected \(5, 16\)'),
        (_linear(weight='w'), r'weight has shape .*, expected \(outputs, fan-in\)'),
        ([operation('relu', ['z'], 'y')], "reads 'z', which no operation before it writes"),
        ([operation('relu', ['x'], 'x')], "writes 'x' a second time"),
        ([operation('relu', ['x'], 'z')], "last operation does not write 'y'"),
        ([operation('relu', [], 'y')], '0 inputs, expected 1'),
        ([operation('relu', ['x', 'x'], 'y')], '2 inputs, expected 1'),
        (
            [conv('x', 'a', 'w', 'b', **SAME), operation('add', ['a', 'x'], 'y', value=1.0)],
            r'operation 1 \(add\): 2 inputs, expected 1',
        ),
        ([operation('concat', ['x', 'x'], 'y')], r'the output is \(32, 8, 8\), not \(16, 8, 8\)'),
        ([operation('concat', [], 'y')], 'a concatenation of nothing'),
        ([operation('pixel_shuffle', ['x'], 'y', factor=3)], '16 channels to 3 times the side'),
        ([operation('add', ['x'], 'y', value='1')], "value: expected a finite number, found '1'"),
        ([{'op': 'relu', 'inputs': ['x'], 'output': 'y'}], "'range' is missing"),
        ([], r'the output is \(16, 8, 8\), not \(5, 1, 1\)'),
    ],
)
def test_a_bad_plan_is_refused_by_name(operations: list[dict[str, Any]], message: str) -> None:
    vector = not operations or operations[-1]['op'] == 'linear'
    with pytest.raises(GraphError, match=message):
        planned(operations, (5,) if vector else (16, 8, 8))


@pytest.mark.parametrize(
    ('operations', 'message'),
    [
        (_first(stride=[9, 9]), 'stride 9'),
        (_first(padding=[3, 3]), 'padding 3 of a kernel 3'),
        ([operation('attention', ['x'], 'y')], r'operation 0 \(attention\): no kernel'),
        (
            [operation('global_avg_pool', ['x'], 'p'), conv('p', 'y', 'w', None, **SAME)],
            'padding around a tensor',
        ),
    ],
)
def test_what_has_no_kernel_is_told_from_what_is_wrong(
    operations: list[dict[str, Any]], message: str
) -> None:
    program = native.Program()
    x = program.tensor(16, 8, 8)
    with pytest.raises(UnsupportedError, match=message):
        write(program, parsed(operations), 'm', x)
    # The program is as it was before and takes the next model.
    number, y = write(program, parsed(_first()), 'm', x)
    assert number == 0
    assert y == x + 1


@pytest.mark.parametrize('precision', ['float32', 'int8'])
def test_blocks_without_a_width_are_refused(precision: str) -> None:
    program = native.Program()
    layer = _first(weight='sparse', blocks='blocks', width=None)
    with pytest.raises(GraphError, match='blocks of 0 inputs, expected 4, 8 or 16'):
        write(program, parsed(layer), 'm', program.tensor(16, 8, 8), precision)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    broken = TENSORS | {'b': np.full(16, value, np.float32)}
    models = {'m': model((16, 8, 8), (16, 8, 8), _first())}
    with pytest.raises(GraphError, match=r'bias: .* not finite'):
        Graph(graph(models), safetensors(broken)).model('m')


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(GraphError, match="format 'sparse_split_graph/2', this release reads"):
        Graph(b'{"format": "sparse_split_graph/2"}', safetensors({}))


def test_weights_are_read_as_the_safetensors_package_writes_them() -> None:
    package = pytest.importorskip('safetensors.numpy')
    read = read_safetensors(package.save(TENSORS))
    assert set(read) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(read[name], tensor)
        assert not read[name].flags.writeable


def test_weights_cut_anywhere_are_refused() -> None:
    data = safetensors(TENSORS)
    for length in [*range(0, 600, 7), *range(600, len(data), 997), len(data) - 1]:
        with pytest.raises(GraphError, match=r'weights\.safetensors'):
            read_safetensors(data[:length])
    with pytest.raises(GraphError, match='the tensors have'):
        read_safetensors(data + b'\0')


def test_tensors_that_overlap_are_refused() -> None:
    header = {
        name: {'dtype': 'F32', 'shape': [2], 'data_offsets': offsets}
        for name, offsets in (('a', [0, 8]), ('b', [4, 12]))
    }
    text = json.dumps(header).encode()
    with pytest.raises(GraphError, match='byte 4 of the values'):
        read_safetensors(len(text).to_bytes(8, 'little') + text + bytes(12))


@pytest.mark.parametrize('shape', [[1] * 70, [0, *[1 << 26] * 4]])
def test_a_shape_that_numpy_cannot_hold_is_refused(shape: list[int]) -> None:
    count = 0 if 0 in shape else 4
    header = {'a': {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, count]}}
    text = json.dumps(header).encode()
    with pytest.raises(GraphError, match=r'a: shape: expected one that numpy can hold, found \['):
        read_safetensors(len(text).to_bytes(8, 'little') + text + bytes(count))


@pytest.fixture(scope='module')
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return add_graph(make_bundle(tmp_path_factory.mktemp('plan')))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)):
            found += _places(value[key])
    return found


ODD = [None, True, -1, 0, 1, 2, 3, 7, 17, 65536, 1 << 40, 0.5, 1e300, '', 'x', 'y', 'relu', [], {}]
ODD += [[1, 1], [3, 3], [0, 0], [2, 2], [16], 'stage_0.0.weight', 'stage_1.0.weight', 'concat']


def test_a_graph_with_any_field_changed_is_refused_or_runs(bundle: Bundle, tmp_path: Path) -> None:
    """No field can bring the engine down: it plans and runs, or says what is wrong."""
    text = (bundle.path / 'graph.json').read_text()
    weights = (bundle.path / 'weights.safetensors').read_bytes()
    other = make_bundle(tmp_path)
    chance = random.Random(0)
    x = np.zeros((1, 3, 16, 16), np.float32)
    refused = 0
    for _ in range(400):
        damaged = json.loads(text)
        for _ in range(chance.choice([1, 1, 2])):
            container, key = chance.choice(_places(damaged['models']))
            container[key] = chance.choice(ODD)
        changed = save_graph(other, json.dumps(damaged).encode(), weights)
        try:
            engine = load_engine(changed, 'native')
        except EngineError:
            refused += 1
        else:
            engine.run(x, 0, 2, [0.0, 0.0, 0.0], stop=False)
    assert 100 < refused < 400


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda p, x: p.unary(x + 9, 'sigmoid'), 'does not exist'),
        (lambda p, x: p.unary(-1, 'sigmoid'), 'does not exist'),
        (lambda p, x: p.end(99), 'does not exist'),
        (lambda p, x: p.begin('second', x), 'when the one before has ended'),
        (lambda p, x: p.finish(), 'after its last model'),
        (lambda p, x: p.tensor(1, 1, 1), 'between models'),
        (lambda p, x: p.binary(x, 5, False), 'does not exist'),
        (lambda p, x: p.concat([x, 44]), 'does not exist'),
        (lambda p, x: p.conv(x, TENSORS['w'], kernel=(3, 3), residual=7), 'does not exist'),
        (lambda p, x: p.conv(x, TENSORS['w'], kernel=(3, 3), residual=x), 'operands of'),
        (lambda p, x: p.linear(x, TENSORS['dense']), 'flatten comes first'),
        (lambda p, x: p.unary(p.flatten(x, False), 'sigmoid'), 'a flat view'),
        (lambda p, x: p.conv(x, TENSORS['w'], kernel=(3, 3), low=2.0, high=1.0), 'a clamp'),
        (
            lambda p, x: p.pool(x, True, kernel=(9, 9), stride=(1, 1), padding=(0, 0)),
            'reaches over 9 of 8',
        ),
        (
            lambda p, x: p.conv(x, TENSORS['w'], kernel=(1 << 30, 3), dilation=(8, 1)),
            'a window of kernel 1073741824',
        ),
    ],
)
def test_a_wrong_call_writes_nothing(call: Any, message: str) -> None:
    program = native.Program()
    x = program.tensor(16, 8, 8)
    program.begin('m', x)
    with pytest.raises(native.PlanError, match=message):
        call(program, x)


def test_a_tensor_of_another_model_is_refused() -> None:
    program = native.Program()
    x = program.tensor(16, 8, 8)
    program.begin('first', x)
    inside = program.unary(x, 'sigmoid')
    program.end(program.unary(inside, 'sigmoid'))
    with pytest.raises(native.PlanError, match='second: its input is inside another model'):
        program.begin('second', inside)
    program.begin('second', x)
    with pytest.raises(native.PlanError, match='a tensor of another model'):
        program.unary(inside, 'sigmoid')


def with_an_exit() -> tuple[native.Program, int, int]:
    """A finished program of a stage and its exit of five classes, and their numbers."""
    program = native.Program()
    x = program.tensor(16, 8, 8)
    stage, features = write(program, parsed(_first()), 'stage', x)
    layers = [conv(a, b, 'w', None, **SAME) for a, b in pairwise(['x', 'a', 'b', 'c'])]
    dense = {'weight': 'dense', 'bias': None, 'blocks': None, 'width': 1}
    answer = [operation('global_avg_pool', ['c'], 'p'), operation('linear', ['p'], 'y', **dense)]
    exit_, _ = write(program, parsed(layers + answer, (5,)), 'exit', features)
    program.finish()
    return program, stage, exit_


@pytest.mark.parametrize(
    ('tasks', 'message'),
    [
        ([(3, 1.0), (1, 1.0)], 'does not answer 4 classes'),
        ([(5, 1.0), (0, 1.0)], '0 classes of a task'),
        ([(3, 1.0), (2, 0.0)], 'a temperature of 0'),
        ([], 'does not answer 0 classes'),
    ],
)
def test_an_exit_answers_its_tasks_and_nothing_else(
    tasks: list[tuple[int, float]], message: str
) -> None:
    program, stage, exit_ = with_an_exit()
    with pytest.raises(native.PlanError, match=message):
        native.Session(program, [(stage, exit_, tasks)], 1)


def test_an_exit_does_not_write_over_the_features_it_reads() -> None:
    program, stage, exit_ = with_an_exit()
    session = native.Session(program, [(stage, exit_, [(5, 1.0)])], 1)
    image = np.random.default_rng(2).normal(size=(1, 16, 8, 8)).astype(np.float32)
    with_exit = session.run(image, 0, 0, [2.0], True)[0]
    np.testing.assert_array_equal(with_exit, session.run(image, 0, 0, [None], True)[0])


@pytest.mark.parametrize(
    ('stages', 'threads', 'message'),
    [
        ([(1, -1, [])], 1, 'model 1 of 1'),
        ([(0, 0, [(4, 0.0)])], 1, 'a temperature of 0'),
        ([(0, 0, [(4, 1.0)])], 1, 'does not read what its stage answers'),
        ([(0, -1, []), (0, -1, [])], 1, 'does not read what the stage before answers'),
        ([(0, -1, [])], 0, '0 threads'),
    ],
)
def test_a_session_that_does_not_fit_its_program_is_refused(
    stages: list[tuple[int, int, float]], threads: int, message: str
) -> None:
    program = native.Program()
    write(program, parsed(_first()), 'm', program.tensor(16, 8, 8))
    program.finish()
    with pytest.raises(native.PlanError, match=message):
        native.Session(program, stages, threads)


def test_an_answer_that_is_no_vector_is_refused_as_one() -> None:
    program = native.Program()
    x = program.tensor(16, 8, 8)
    first, features = write(program, parsed(_first()), 'm', x)
    second, _ = write(program, parsed(_first()), 'n', features)
    program.finish()
    session = native.Session(program, [(first, second, [(16 * 8 * 8, 1.0)])], 1)
    image = np.zeros((1, 16, 8, 8), np.float32)
    with pytest.raises(native.PlanError, match='no vector'):
        session.run(image, 0, 0, [0.0], True)
    with pytest.raises(native.PlanError, match='no vector'):
        session.run_model(first, image, True)


def test_a_program_is_finished_before_it_runs() -> None:
    program = native.Program()
    write(program, parsed(_first()), 'm', program.tensor(16, 8, 8))
    with pytest.raises(native.PlanError, match='finished'):
        native.Session(program, [(0, -1, [])], 1)


def test_the_shipped_family_is_planned_whole(bundle: Bundle) -> None:
    plan = plan_bundle(bundle, range(len(bundle.stages)))
    assert not plan.lacking
    assert len(plan.models) == len(list(bundle.path.glob('*.onnx')))
