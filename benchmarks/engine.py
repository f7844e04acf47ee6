# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How fast the native engine is, against the machine's peak, ONNX Runtime and torch.

    python benchmarks/engine.py layers      one 3 x 3 convolution at every feasible density
    python benchmarks/engine.py rivals      the same layers elsewhere, and narrow dense ones
    python benchmarks/engine.py networks    whole networks and heads against their dense parents
    python benchmarks/engine.py start       from a bundle's directory to its first answer

Batch 1; medians of rounds in which all meet in turn, with the first and the ninth decile. Weights
are random: they do not change the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import nn

from sparse_split_ros.native import _native
from sparse_split_ros.native.graph import Graph
from sparse_split_ros.native.plan import write
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.bundle import Bundle, write_manifest
from sparse_split_ros.runtime.engine import OnnxRuntime, load_engine
from sparse_split_ros.sparsity.layers import SparseConv2d
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec, fan_in_step
from sparse_split_ros.training.graph import GRAPH, WEIGHTS, write_graph
from sparse_split_ros.training.onnx_graph import to_onnx
from sparse_split_ros.training.program import trace

Row = dict[str, Any]
Call = Callable[[], Any]

SHAPES = ((64, 32), (64, 16), (128, 16), (128, 8), (256, 16), (256, 8), (256, 4))
DENSITIES = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
DEPTH = 4
"""Equal layers in a row in `rivals`, so that a call's own cost does not count as a layer's."""


def layers(arguments: argparse.Namespace) -> Iterator[Row]:
    """Kernel time of single layers, and their share of this thread's measured peak."""
    peak = _native.kernels.peak_gmacs(_native.kernels.best(), 1.0)
    for channels, side in SHAPES:
        calls: dict[tuple[float, int], tuple[_native.Session, int, int]] = {}
        for density in DENSITIES:
            for width in (4, 8, 16):
                if (density * channels) % fan_in_step(
                    Kind.BLOCK_REGULAR, channels, channels, width
                ) == 0 and (density < 1 or width == 16):
                    module = nn.Sequential(_conv(channels, density, width), nn.ReLU())
                    session, program, number = _planned(module, channels, side, 1)
                    macs, moved = program.steps(number)[0][1:]
                    calls[density, width] = session, macs, moved
        times: dict[tuple[float, int], list[float]] = {key: [] for key in calls}
        for _ in range(arguments.rounds):
            for key, (session, _, _) in calls.items():
                times[key] += [1e3 * ms for ms in session.time_steps(0, 5)[0][1:]]
        for (density, width), (_, macs, moved) in calls.items():
            found = _spread(times[density, width])
            speed = macs / found['µs'] / 1e3
            yield {
                'channels': channels, 'side': side, 'density': density, 'width': width, **found,
                'GMAC/s': speed, 'of peak': speed / peak, 'MAC/byte': macs / moved, 'peak': peak,
            }  # fmt: skip


def rivals(arguments: argparse.Namespace) -> Iterator[Row]:
    """A layer by layer comparison; 'narrow' is dense with as many MACs as the sparse layer has."""
    for channels, side in SHAPES:
        for density in (1, 1 / 4, 1 / 8):
            width = 8
            if (density * channels) % fan_in_step(Kind.BLOCK_REGULAR, channels, channels, width):
                continue
            module = _stack(channels, density, width)
            calls = _everywhere(module, channels, side, arguments.threads)
            if density < 1:
                narrow = max(4, round(channels * density**0.5))
                slim = _everywhere(_stack(narrow, 1, 16), narrow, side, arguments.threads)
                calls |= {f'narrow {name}': call for name, call in slim.items()}
            times = interleaved(list(calls.values()), arguments.rounds)
            row: Row = {'channels': channels, 'side': side, 'density': density}
            row['MMAC'] = 9 * channels**2 * side**2 * density / 1e6
            yield row | {f'{name} µs': found['µs'] / DEPTH for name, found in zip(calls, times)}


def networks(arguments: argparse.Namespace) -> Iterator[Row]:
    """The compact family of 64-128-256 and of 128-256-512 channels, dense and at one eighth."""
    for widths, stem in (((64, 128, 256), 32), ((128, 256, 512), 16)):
        calls: dict[tuple[str, str, int, str], Call] = {}
        macs, overhead = {}, {}
        with tempfile.TemporaryDirectory() as directory:
            for density, name in ((1.0, 'dense'), (1 / 8, 'sparse')):
                torch.manual_seed(0)
                network = build(
                    'compact', 43, widths=widths, stem=stem, density=density, pattern_seed=1
                )
                bundle = save(network.eval(), Path(directory, name))
                x = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
                for threads in (1, 2):
                    for engine in ('native', 'native-int8', 'onnxruntime'):
                        loaded = load_engine(bundle, engine, threads=threads)
                        for part, last in (('head', 1), ('whole', bundle.final)):
                            asked: list[float | None] = [None] * len(bundle.stages)
                            asked[last] = 0.0
                            calls[name, part, threads, engine] = _run(loaded, x, last, asked)
                            models = [*bundle.stages[: last + 1], bundle.exit_at(last)]
                            macs[name, part] = sum(item.macs for item in models if item)
                            if engine == 'native' and threads == 1:
                                call = calls[name, part, threads, engine]
                                overhead[name, part] = _overhead_us(loaded, models, call)
            times = dict(zip(calls, interleaved(list(calls.values()), arguments.rounds)))
        for (name, part, threads, engine), found in times.items():
            row = {
                'widths': '-'.join(map(str, widths)), 'network': name, 'part': part,
                'threads': threads, 'engine': engine, 'MMAC': macs[name, part] / 1e6, **found,
            }  # fmt: skip
            if engine == 'native' and threads == 1:
                row['overhead µs'] = overhead[name, part]
            if name == 'sparse' and engine != 'onnxruntime':
                row['fewer MACs'] = macs['dense', part] / macs[name, part]
                for other in ('native', 'onnxruntime'):
                    parent = times['dense', part, threads, other]['µs']
                    row[f'× dense in {other}'] = parent / found['µs']
            yield row


def start(arguments: argparse.Namespace) -> Iterator[Row]:
    """From a bundle's directory to its first answer, in processes of their own, after imports."""
    code = (
        'import sys, time, numpy as np\n'
        'from sparse_split_ros.runtime.bundle import Bundle\n'
        'from sparse_split_ros.runtime.engine import load_engine\n'
        '{extra}\n'
        'x = np.zeros((1, 3, 32, 32), np.float32)\n'
        'start = time.perf_counter()\n'
        'bundle = Bundle.load(sys.argv[1])\n'
        'engine = load_engine(bundle, {engine!r})\n'
        'engine.run(x, 0, bundle.final, [None] * bundle.final + [0.0])\n'
        'print(1e3 * (time.perf_counter() - start))\n'
    )
    imports = {
        'native': 'import sparse_split_ros.native.engine',
        'onnxruntime': 'import onnxruntime',
    }
    with tempfile.TemporaryDirectory() as directory:
        network = build('compact', 43, widths=(64, 128, 256), stem=32, density=1 / 8)
        save(network.eval(), Path(directory))
        for engine, extra in imports.items():
            command = [sys.executable, '-c', code.format(engine=engine, extra=extra), directory]
            root = Path(__file__).parents[1]
            times = [
                float(subprocess.run(command, check=True, capture_output=True, cwd=root).stdout)
                for _ in range(max(3, arguments.rounds // 10))
            ]
            yield {'engine': engine, 'ms': statistics.median(times), 'most': max(times)}


def save(network: StagedNetwork, directory: Path) -> Bundle:
    """A bundle of `network` without calibration: for times, not for answers."""
    directory.mkdir(exist_ok=True)
    x = torch.randn(4, *network.input_shape)
    programs, stages, exits = {}, [], []

    def add(name: str, module: nn.Module, x: torch.Tensor) -> tuple[Row, torch.Tensor]:
        programs[name] = program = trace(module, x)
        data = to_onnx(program, name)
        (directory / f'{name}.onnx').write_bytes(data)
        record = {'model': f'{name}.onnx', 'parameters': 0, 'stored_bytes': len(data)}
        return record | {'macs': _macs(module, x)}, program.answer

    for index, stage in enumerate(network.stages):
        record, x = add(f'stage_{index}', stage, x)
        stages.append(record | {'name': f'stage {index}', 'output_shape': list(x.shape[1:])})
        record, _ = add(f'exit_{index}', network.exit_at(index), x)
        exits.append(record | {'stage': index, 'temperature': 1.0})
    write_graph(directory, programs)
    classes = programs[f'exit_{len(stages) - 1}'].output_shape[0]
    split = {'stage': 0, 'shape': stages[0]['output_shape'], 'codecs': {'none': {}}}
    return write_manifest(
        directory,
        {
            'name': 'benchmark', 'classes': [str(index) for index in range(classes)],
            'input': {
                'shape': list(network.input_shape), 'color': 'rgb', 'scale': 1 / 255,
                'mean': [0.5] * 3, 'std': [0.25] * 3,
            },
            'stages': stages, 'exits': exits, 'splits': [split],
            'defaults': {'split': 0, 'threshold': 0.9, 'codec': 'none'},
            'graph': GRAPH, 'weights': WEIGHTS, 'training': {},
        },
    )  # fmt: skip


def picture(rows: Sequence[Row], path: Path) -> None:
    """The roofline: speed over intensity, one mark per layer of `layers`."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    peak = rows[0]['peak']
    axes.axhline(peak, color='black', linewidth=1, label=f'measured peak, {peak:.0f} GMAC/s')
    axes.axhline(0.75 * peak, color='grey', linewidth=1, linestyle=':', label='three quarters')
    for density, colour in zip(DENSITIES, plt.get_cmap('viridis')(np.linspace(0, 0.9, 5))):
        for width, mark in ((4, 'v'), (8, 'o'), (16, 's')):
            found = [row for row in rows if (row['density'], row['width']) == (density, width)]
            label = f'density 1/{round(1 / density)}' if width == 16 else None
            axes.plot(
                [row['MAC/byte'] for row in found], [row['GMAC/s'] for row in found],
                mark, color=colour, label=label, markersize=5,
            )  # fmt: skip
    axes.set(
        xscale='log', ylim=(0, None), xlabel='multiply-adds per byte of weights and activations',
        ylabel='GMAC/s, one thread', title='3 × 3 convolutions, blocks of 4 (▾), 8 (●), 16 (■)',
    )  # fmt: skip
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _conv(channels: int, density: float, width: int) -> nn.Module:
    if density == 1:
        return nn.Conv2d(channels, channels, 3, padding=1)
    spec = PatternSpec(Kind.BLOCK_REGULAR, channels, channels, round(density * channels), 0, width)
    return SparseConv2d(spec.draw(), 3, padding=1)


def _stack(channels: int, density: float, width: int) -> nn.Sequential:
    made = [(_conv(channels, density, width), nn.ReLU()) for _ in range(DEPTH)]
    return nn.Sequential(*(module for pair in made for module in pair)).eval()


def _planned(
    module: nn.Module, channels: int, side: int, threads: int
) -> tuple[_native.Session, _native.Program, int]:
    """A session of one model for channels x side x side features."""
    with tempfile.TemporaryDirectory() as directory, torch.inference_mode():
        write_graph(Path(directory), {'m': trace(module, torch.randn(1, channels, side, side))})
        parts = [Path(directory, name).read_bytes() for name in (GRAPH, WEIGHTS)]
    program = _native.Program()
    number, _ = write(program, Graph(*parts).model('m'), 'm', program.tensor(channels, side, side))
    program.finish()
    return _native.Session(program, [], threads), program, number


def _everywhere(module: nn.Module, channels: int, side: int, threads: int) -> dict[str, Call]:
    """One call of `module` in our engine, in ONNX Runtime and in torch; all give the same."""
    x = np.random.default_rng(0).normal(size=(1, channels, side, side)).astype(np.float32)
    tensor = torch.from_numpy(x)
    torch.set_num_threads(threads)
    session, _, number = _planned(module, channels, side, threads)
    with torch.inference_mode():
        run = OnnxRuntime('cpu', threads).load('m', to_onnx(trace(module, tensor), 'm'))

    def in_torch() -> Any:
        with torch.inference_mode():
            return module(tensor).numpy()

    calls: dict[str, Call] = {
        'native': lambda: session.run_model(number, x, False),
        'onnxruntime': lambda: run(x),
        'torch': in_torch,
    }
    answers = [call() for call in calls.values()]
    for answer in answers[1:]:
        np.testing.assert_allclose(answers[0], answer, atol=1e-4)
    return calls


def _run(engine: Any, x: Any, last: int, asked: list[float | None]) -> Call:
    return lambda: engine.run(x, 0, last, asked, stop=False)


def _overhead_us(engine: Any, models: Sequence[Any], call: Call) -> float:
    """What a frame takes beyond its kernels: the median difference of one after the other."""
    numbers = [engine.plan.models[model.model] for model in models]
    differences = []
    for _ in range(400):
        before = time.perf_counter()
        call()
        whole = 1e6 * (time.perf_counter() - before)
        steps = [ms for number in numbers for (ms,) in engine.session.time_steps(number, 1)]
        differences.append(whole - 1e3 * sum(steps))
    return statistics.median(differences)


def _macs(module: nn.Module, x: torch.Tensor) -> int:
    from sparse_split_ros.networks.account import account

    return account(module, tuple(x.shape[1:])).macs


def _spread(times: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.quantile(times, (0.1, 0.5, 0.9))
    return {'µs': float(middle), 'low': float(low), 'high': float(high)}


def interleaved(calls: Sequence[Call], rounds: int) -> list[dict[str, float]]:
    """Microseconds of each call; all are called in every round, so that all meet the same load."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 2):
        for call, found in zip(calls, times):
            call()  # brings its weights back into the caches, as a frame after a frame has them
            before = time.perf_counter()
            call()
            if number > 1:
                found.append(1e6 * (time.perf_counter() - before))
    return [_spread(found) for found in times]


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for row in ({key: key for key in columns}, *rows):
        cells = []
        for key in columns:
            value = row.get(key, '')
            cells.append(f'{value:.3g}' if isinstance(value, float) and value < 100 else
                         f'{value:.0f}' if isinstance(value, float) else str(value))  # fmt: skip
        print('  '.join(f'{cell:>{max(7, len(key))}}' for key, cell in zip(columns, cells)))


def main() -> None:
    """Run the parts that are asked for, print their tables, write figures and the picture."""
    parts = {'layers': layers, 'rivals': rivals, 'networks': networks, 'start': start}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', choices=[*parts, []], help='all without a name')
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--threads', type=int, default=1, help='of rivals (%(default)s)')
    parser.add_argument('--json', type=Path, help='where to write the figures')
    parser.add_argument('--picture', type=Path, help='where to draw the roofline of layers')
    arguments = parser.parse_args()
    found: dict[str, list[Row]] = {}
    for name in arguments.parts or parts:
        print(f'\n{name}')
        found[name] = list(parts[name](arguments))
        _print(found[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + '\n')
    if arguments.picture and 'layers' in found:
        picture(found['layers'], arguments.picture)


if __name__ == '__main__':
    main()
