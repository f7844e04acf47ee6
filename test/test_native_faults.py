# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the native engine withstands: overflowing values, odd graphs, too few threads, forks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_identity_bundle
from graphs import Tensors, add_graph, conv, graph, model, operation, safetensors

native = pytest.importorskip(
    'sparse_split_ros.native._native', reason='the native engine is not built'
)

from sparse_split_ros.native.graph import Graph, GraphError  # noqa: E402
from sparse_split_ros.native.plan import UnsupportedError, plan_bundle, write  # noqa: E402
from sparse_split_ros.runtime.bundle import Bundle, write_manifest  # noqa: E402
from sparse_split_ros.runtime.engine import load_engine  # noqa: E402

Shape = tuple[int, ...]
Run = Callable[[Any], Any]
RNG = np.random.default_rng(0)
DOT = [1, 1]
POOL = {'stride': [1, 1], 'padding': [0, 0], 'ceil_mode': False}


def weights(*shape: int, gain: float = 1.0) -> Any:
    return (gain * RNG.normal(size=shape) / shape[1] ** 0.5).astype(np.float32)


def made(
    inputs: Shape, output: Shape, operations: list[dict[str, Any]], tensors: Tensors,
    precision: str = 'float32',
) -> Run:  # fmt: skip
    """What runs one model."""
    program = native.Program()
    parsed = Graph(graph({'m': model(inputs, output, operations)}), safetensors(tensors))
    number, _ = write(program, parsed.model('m'), 'm', program.tensor(*inputs), precision)
    program.finish()
    session = native.Session(program, [], 1)
    return lambda x: session.run_model(number, x, len(output) == 1)


def linear(x: str, y: str, weight: str) -> dict[str, Any]:
    return operation('linear', [x], y, weight=weight, bias=None, blocks=None, width=1)


JOINED = (
    (8, 4, 4), (8, 4, 4),
    [
        conv('x', 'p', 'p', None, DOT), conv('x', 'q', 'q', None, DOT),
        operation('concat', ['p', 'q'], 'joined'),  # 21 channels: 11 more in their last block
        conv('joined', 'm', 'm', None, DOT), conv('m', 'wide', 'wide', None, DOT),
        conv('wide', 'y', 'y', None, DOT),
    ],
    {
        'p': weights(8, 8, 1, 1), 'q': weights(13, 8, 1, 1), 'm': weights(8, 21, 1, 1, gain=50),
        'wide': weights(21, 8, 1, 1), 'y': weights(8, 21, 1, 1),
    },
)  # fmt: skip
FLAT = (
    (7, 3, 1), (21,),
    [
        operation('flatten', ['x'], 'f'), linear('f', 'g', 'f'), linear('g', 'h', 'g'),
        linear('h', 'y', 'h'),
    ],
    {'f': weights(40, 21, gain=50), 'g': weights(21, 40, gain=50), 'h': weights(21, 21)},
)  # fmt: skip


@pytest.mark.parametrize('case', [JOINED, FLAT])
def test_an_overflow_leaves_nothing_behind(case: Any) -> None:
    run = made(*case)
    x = RNG.normal(size=(1, *case[0])).astype(np.float32)
    before = run(x)
    with pytest.raises(native.NotFiniteError):
        run(np.full_like(x, 1e38))
    np.testing.assert_array_equal(run(x), before)


@pytest.mark.parametrize('isa', native.kernels.available())
@pytest.mark.parametrize('place', range(4))
def test_a_maximum_of_what_is_no_number_is_none(isa: str, place: int) -> None:
    x = np.zeros((1, 1, 4), np.float32)
    x[0, 0, place] = np.nan
    y = native.kernels.pool(
        isa, x, maximum=True, kernel=(1, 4), stride=(1, 1), padding=(0, 0), size=(1, 1)
    )
    assert np.isnan(y).all()


@pytest.mark.parametrize('precision', ['float32', 'int8'])
def test_an_overflow_on_the_way_is_refused_in_eight_bits_too(precision: str) -> None:
    tensors = {
        'a': np.full((16, 3, 1, 1), 10, np.float32),
        'b': np.ones((16, 16, 1, 1), np.float32),
    }
    tensors['a'][:, 1] = -10
    squared = [
        operation('mul', ['x', 'x'], 's'), conv('s', 'a', 'a', None, DOT),
        conv('a', 'y', 'b', None, DOT),
    ]  # fmt: skip
    run = made((3, 4, 4), (16, 4, 4), squared, tensors, precision)
    with pytest.raises(native.NotFiniteError, match='not finite'):
        run(np.full((1, 3, 4, 4), 1e20, np.float32))


@pytest.mark.parametrize('kind', ['add', 'mul'])
@pytest.mark.parametrize('last', ['map', 'dot'])
@pytest.mark.parametrize('clamp', [False, True])
def test_a_value_per_channel_joins_a_convolution(kind: str, last: str, clamp: bool) -> None:
    tensors = {'w': weights(16, 16, 3, 3), 'v': weights(16, 16, 1, 1)}
    steps = {
        'map': [conv('x', 'map', 'w', None, [3, 3], padding=[1, 1])],
        'dot': [operation('global_avg_pool', ['x'], 'g'), conv('g', 'dot', 'v', None, DOT)],
    }
    first = 'dot' if last == 'map' else 'map'
    joined = operation(kind, ['map', 'dot'], 'z' if clamp else 'y')
    end = [operation('relu', ['z'], 'y')] if clamp else []
    run = made((16, 8, 8), (16, 8, 8), [*steps[first], *steps[last], joined, *end], tensors)
    map_ = made(
        (16, 8, 8), (16, 8, 8), [conv('x', 'y', 'w', None, [3, 3], padding=[1, 1])], tensors
    )
    dot = made(
        (16, 8, 8), (16, 1, 1),
        [operation('global_avg_pool', ['x'], 'g'), conv('g', 'y', 'v', None, DOT)], tensors,
    )  # fmt: skip
    x = RNG.normal(size=(1, 16, 8, 8)).astype(np.float32)
    expected = map_(x) + dot(x) if kind == 'add' else map_(x) * dot(x)
    if clamp:
        expected = expected.clip(0)
    np.testing.assert_allclose(run(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    'first', [operation('max_pool', ['x'], 'a', kernel=DOT, **POOL), conv('x', 'a', 'w', None, DOT)]
)
def test_a_relu_of_two_is_refused_wherever_it_stands(first: dict[str, Any]) -> None:
    two = operation('relu', ['x', 'a'], 'y')
    with pytest.raises(GraphError, match='2 inputs, expected 1'):
        made((16, 4, 4), (16, 4, 4), [first, two], {'w': weights(16, 16, 1, 1)})


def test_a_shuffle_that_is_too_far_has_no_kernel() -> None:
    with pytest.raises(UnsupportedError, match='a shuffle to 9 times the side'):
        made((81, 2, 2), (1, 18, 18), [operation('pixel_shuffle', ['x'], 'y', factor=9)], {})


def test_a_program_is_as_it_was_after_a_wrong_output() -> None:
    program = native.Program()
    x = program.tensor(4, 2, 2)
    relu = [operation('relu', ['x'], 'y')]
    models = {'bad': model((4, 2, 2), (5, 2, 2), relu), 'good': model((4, 2, 2), (4, 2, 2), relu)}
    parsed = Graph(graph(models), safetensors({}))
    with pytest.raises(GraphError, match='the output is'):
        write(program, parsed.model('bad'), 'bad', x)
    write(program, parsed.model('good'), 'good', x)


def test_one_file_in_two_places_runs_in_onnx_runtime(tmp_path: Path) -> None:
    bundle = add_graph(make_identity_bundle(tmp_path))
    manifest = json.loads((bundle.path / 'manifest.json').read_text())
    for key in ('format', 'files'):
        manifest.pop(key)
    manifest['exits'][0]['model'] = manifest['exits'][1]['model']
    bundle = write_manifest(bundle.path, manifest)
    x = RNG.normal(size=(1, *bundle.input_shape(0))).astype(np.float32)
    ours, theirs = (load_engine(bundle, name).run(x, 0, 1, [2.0] * 2)
                    for name in ('native', 'onnxruntime'))  # fmt: skip
    assert sorted(ours.exits) == [0, 1]
    for stage in (0, 1):
        np.testing.assert_allclose(ours.logits[stage], theirs.logits[stage], atol=1e-5)
    lacking = plan_bundle(bundle, range(2)).lacking
    assert 'stands in two places' in lacking[bundle.exit_at(0).model]


def test_in_eight_bits_a_tail_answers_as_the_whole_network_does() -> None:
    bundle = Bundle.load(Path(__file__).parent.parent / 'models' / 'gtsrb32')
    x = RNG.normal(size=(4, *bundle.input_shape(0))).astype(np.float32)
    nothing: list[float | None] = [None] * len(bundle.stages)
    final = [*nothing[:-1], 2.0]
    whole = load_engine(bundle, 'native-int8', threads=1)
    for split in bundle.splits:
        behind = range(split.stage + 1, len(bundle.stages))
        tail = load_engine(bundle, 'native-int8', threads=1, stages=behind)
        features = whole.run(x, 0, split.stage, nothing).features
        sent = whole.decode(whole.encode(features, split.stage), split.stage)
        ours, theirs = (
            engine.run(sent, split.stage + 1, bundle.final, final).logits[bundle.final]
            for engine in (tail, whole)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_thresholds_that_are_worked_out_by_running_an_engine() -> None:
    program = native.Program()
    x = program.tensor(4, 1, 1)
    stage = program.begin('stage', x)
    features = program.unary(x, 'clamp', -1e9, 1e9)
    program.end(features)
    exit_ = program.begin('exit', features)
    program.end(program.unary(features, 'clamp', -1e9, 1e9))
    program.finish()
    session = native.Session(program, [(stage, exit_, [(4, 1.0)])], 1)
    sure = np.array([9, 0, 0, 0], np.float32).reshape(1, 4, 1, 1)

    class Lazy:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> float:
            if index:
                raise IndexError
            session.run(np.zeros_like(sure), 0, 0, [2.0], True)
            return 0.5

    assert session.run(sure, 0, 0, Lazy(), True)[4] == 0


FEW_THREADS = """
import resource, sys
sys.path[:0] = sys.argv[1:]
from test_native_team import IMAGE, session
expected = session(1).run_model(0, IMAGE, False)
pages = int(open('/proc/self/statm').read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (100 << 20),) * 2)
assert (session(256).run_model(0, IMAGE, False) == expected).all()
"""
FORK = """
import os, sys, threading, time
sys.path[:0] = sys.argv[1:]
import numpy as np
from sparse_split_ros.native import _native as native

program = native.Program()
x = program.tensor(1, 1, 1)
program.begin('m', x)
program.end(program.unary(x, 'clamp', -1.0, 1.0))
program.finish()
session = native.Session(program, [], 1)
value = np.ones((1, 1, 1, 1), np.float32)

def run():
    while True:
        session.run_model(0, value, False)

for _ in range(2):
    threading.Thread(target=run, daemon=True).start()
for _ in range(300):
    child = os.fork()
    if child == 0:
        session.run_model(0, value, False)
        os._exit(0)
    until = time.monotonic() + 30
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > until:
            os.kill(child, 9)
            os._exit(1)
        time.sleep(0.0005)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='looks at /proc, and forks beside threads')
@pytest.mark.parametrize('script', [FEW_THREADS, FORK])
def test_a_system_that_has_no_more_threads_or_forks_ends_nothing(script: str) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, '-c', script, str(here.parent), str(here)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
