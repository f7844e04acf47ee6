# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What predefined sparsity costs and saves.

    python benchmarks/sparsity.py layers     training step and ONNX Runtime latency of one layer
    python benchmarks/sparsity.py memory     bytes of one training step of a network
    python benchmarks/sparsity.py mnist      the networks of arXiv 2407.11763 and 1812.01164
    python benchmarks/sparsity.py cnn        a convolutional one of as many weights, with an exit

Times are of one thread. MNIST is read from mnist.npz in the directory SPARSE_SPLIT_DATA, or
../shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from engine import interleaved
from rows import Row, show
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLayer, SparseLinear, sparsify
from sparse_split_ros.sparsity.onnx import write_conv
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec, fan_in_step

ROOT = Path(__file__).resolve().parent.parent


def layers(arguments: argparse.Namespace) -> Iterator[Row]:
    """One 3 x 3 convolution, dense and sparse, side by side: medians of interleaved rounds."""
    for channels, side in ((64, 16), (128, 8), (128, 16), (256, 8)):
        torch.manual_seed(arguments.seed)
        made: dict[str, nn.Conv2d | SparseConv2d] = {
            'dense': nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        }
        for density, kind in itertools.product((0.25, 0.125), Kind):
            for width in (4, 8, 16) if kind is Kind.BLOCK_REGULAR else (1,):
                if kind in (Kind.RANDOM_REGULAR, Kind.BLOCK_REGULAR):
                    fan_in = round(density * channels)
                    if fan_in % fan_in_step(kind, channels, channels, width) == 0:
                        spec = PatternSpec(kind, channels, channels, fan_in, arguments.seed, width)
                        made[f'{density:g} {kind.value} {width}'] = SparseConv2d(
                            spec.draw(), 3, padding=1, bias=False
                        )
        x = torch.randn(arguments.batch, channels, side, side)
        steps = interleaved([_step(layer, x) for layer in made.values()], arguments.rounds)
        image = x[:1].numpy()
        calls = [_session(layer, image) for layer in made.values()]
        runs = interleaved(calls, 20 * arguments.rounds)
        for name, layer, step, run in zip(made, made.values(), steps, runs):
            yield {
                'channels': channels,
                'side': side,
                'layer': name,
                'weights': layer.weight.numel(),
                'step ms': step['µs'] / 1e3,
                'step speed-up': steps[0]['µs'] / step['µs'],
                'onnx µs': run['µs'],
                'onnx speed-up': runs[0]['µs'] / run['µs'],
            }


def memory(arguments: argparse.Namespace) -> Iterator[Row]:
    """Parameters, gradients and Adam's state of a network, and the peak of all else in a step."""
    for batch, density in itertools.product((16, arguments.batch), (1.0, 0.25, 0.125)):
        torch.manual_seed(arguments.seed)
        widths = (64, 128, 128, 256, 256)
        network = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1))
        for inputs, outputs in itertools.pairwise(widths):
            stride = 1 + (outputs > inputs)
            network.append(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False))
            network.append(nn.BatchNorm2d(outputs))
            network.append(nn.ReLU(inplace=True))
        network.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(256, 10))
        if density < 1:
            sparsify(network, density, Kind.BLOCK_REGULAR, arguments.seed)
        optimiser = torch.optim.Adam(network.parameters())
        x, labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10

        def step(network: nn.Module = network, x: Tensor = x, labels: Tensor = labels) -> None:
            F.cross_entropy(network(x), labels).backward()  # type: ignore[no-untyped-call]

        step()
        optimiser.step()
        held = list(network.parameters()) + list(network.buffers())
        held += [p.grad for p in network.parameters() if p.grad is not None]
        held += [v for entry in optimiser.state.values() for v in entry.values()]
        state = sum(tensor.nbytes for tensor in held)
        activations = _peak_bytes(step)
        yield {
            'batch': batch,
            'density': density,
            'weights': sum(p.numel() for p in network.parameters()),
            'state MB': state / 1e6,
            'activation peak MB': activations / 1e6,
            'all MB': (state + activations) / 1e6,
        }


MNIST: dict[str, tuple[Sequence[int], Sequence[int] | None]] = {
    'dense 800-3-3-10': ((800, 3, 3, 10), None),
    'sparse 800-40-40-10': ((800, 40, 40, 10), (2, 9, 10)),
    'dense 800-40-40-10': ((800, 40, 40, 10), None),
    'sparse 800-100-10': ((800, 100, 10), (50, 10)),
    'dense 800-100-10': ((800, 100, 10), None),
}
"""Sizes of the layers, and the outputs that read each input (fan-outs)."""


def mnist(arguments: argparse.Namespace) -> Iterator[Row]:
    """Test accuracy over seeds after the last epoch, which is ours, and of the best epoch.

    The second is chosen on the test set: it stands beside figures of code that reports its maximum.
    """
    x, y, test_x, test_y = _mnist()
    x, test_x = (F.pad(images.flatten(1), (0, 16)) for images in (x, test_x))
    for name, (sizes, fan_outs) in MNIST.items():
        if arguments.only not in name:
            continue
        last, best = [], []
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            torch.manual_seed(seed)
            network = _perceptron(sizes, fan_outs, Kind(arguments.kind), seed)
            optimiser = torch.optim.Adam(network.parameters(), arguments.rate)
            epochs: list[float] = []
            for _ in range(arguments.epochs):
                for rows in torch.split(torch.randperm(len(x)), arguments.batch):
                    optimiser.zero_grad()
                    F.cross_entropy(network(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                with torch.inference_mode():
                    right = (network(test_x).argmax(1) == test_y).float().mean().item()
                epochs.append(100 * right)
            last.append(epochs[-1])
            best.append(max(epochs))
        weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
        row = {'network': name, 'weights': weights}
        yield row | {'epoch': 'last'} | _summary(last)
        yield row | {'epoch': 'best'} | _summary(best)


def cnn(arguments: argparse.Namespace) -> Iterator[Row]:
    """Three convolutions, two of them sparse by the kernel, an exit after the second."""
    x, y, test_x, test_y = _mnist()
    found: dict[str, list[float]] = {'exit': [], 'final': []}
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        torch.manual_seed(seed)
        body, exits = _stages(seed)
        network = nn.ModuleList([*body, *exits])
        optimiser = torch.optim.Adam(network.parameters())
        steps = arguments.epochs * -(-len(x) // arguments.batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 10 * arguments.rate, steps)
        for _ in range(arguments.epochs):
            for rows in torch.split(torch.randperm(len(x)), arguments.batch):
                # Shifts of up to one pixel, the same for a batch.
                shifts = torch.randint(-1, 2, (2,)).tolist()
                early, final = _answers(body, exits, x[rows].roll(shifts, (2, 3)))
                loss = F.cross_entropy(final, y[rows]) + 0.3 * F.cross_entropy(early, y[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        network.eval()
        with torch.inference_mode():
            for name, logits in zip(found, _answers(body, exits, test_x)):
                found[name].append(100 * (logits.argmax(1) == test_y).float().mean().item())
    # A BatchNorm folds into the convolution before it and leaves one bias per channel.
    biases = sum(p.numel() for p in network.parameters() if p.ndim == 1)
    biases -= sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    for name, accuracies in found.items():
        yield {'network': f'sparse CNN, {name}', 'weights': weights, 'biases': biases} | _summary(
            accuracies
        )


def _stages(seed: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Two stages, 28 x 28 to 7 x 7 pixels, and the exit after each."""

    def sparse(inputs: int, outputs: int) -> SparseConv2d:
        spec = PatternSpec(Kind.RANDOM_REGULAR, inputs, outputs, 4, 1000 * seed + outputs)
        return SparseConv2d(spec.draw(), 3, padding=1, bias=False)

    def after(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]

    first = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), *after(8), nn.MaxPool2d(2),
        sparse(8, 16), *after(16), nn.MaxPool2d(2),
    )  # fmt: skip
    second = nn.Sequential(sparse(16, 32), *after(32))
    exits: list[nn.Module] = [
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
        for channels in (16, 32)
    ]
    return [first, second], exits


def _answers(body: list[nn.Module], exits: list[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    features = body[0](x)
    return exits[0](features), exits[1](body[1](features))


def _summary(accuracies: Sequence[float]) -> Row:
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float('nan')
    return {
        'seeds': len(accuracies),
        'mean %': statistics.mean(accuracies),
        'standard error': spread / len(accuracies) ** 0.5,
        'lowest': min(accuracies),
        'highest': max(accuracies),
    }


def _mnist() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (60000, 1, 28, 28) from 0 to 1 and labels, then those of the test."""
    data = Path(os.environ.get('SPARSE_SPLIT_DATA', ROOT.parent / 'shared' / 'data')) / 'mnist.npz'
    if not data.is_file():
        sys.exit(f'{data} is absent; set SPARSE_SPLIT_DATA to the directory that holds mnist.npz')
    with np.load(data) as file:
        x, y, test_x, test_y = (
            torch.from_numpy(file[f'{part}_{what}'])
            for part in ('train', 'test')
            for what in ('images', 'labels')
        )
    return x[:, None] / 255, y.long(), test_x[:, None] / 255, test_y.long()


def _perceptron(
    sizes: Sequence[int], fan_outs: Sequence[int] | None, kind: Kind, seed: int
) -> nn.Sequential:
    """Linear layers with ReLU between, started as arXiv 1812.01164 does: He, biases of 0.1."""
    network = nn.Sequential()
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        fan_in = inputs if fan_outs is None else inputs * fan_outs[index] // outputs
        layer: nn.Linear | SparseLayer = nn.Linear(inputs, outputs)
        if fan_in < inputs:
            parallelism = 1 if kind is Kind.RANDOM_REGULAR else outputs
            # Every layer its own pattern: seeds that no other run has.
            own = 1000 * seed + index
            spec = PatternSpec(kind, inputs, outputs, fan_in, own, parallelism=parallelism)
            layer = SparseLinear(spec.draw())
        nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
        assert isinstance(layer.bias, Tensor)
        nn.init.constant_(layer.bias, 0.1)
        network.extend([nn.ReLU(), layer] if index else [layer])
    return network


def _step(layer: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward and backward, to the input and to the weight."""
    x = x.clone().requires_grad_()
    gradient = torch.randn_like(layer(x))

    def step() -> None:
        torch.autograd.grad(layer(x), (x, *layer.parameters()), gradient)

    return step


class _Model:
    """Collects one ONNX model."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f'v{len(self.nodes)}'
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, value: Tensor) -> str:
        return self.integers(value.detach().numpy())

    def integers(self, value: Any) -> str:
        self.constants.append(onnx.numpy_helper.from_array(value, f'w{len(self.constants)}'))
        return str(self.constants[-1].name)


def _session(layer: nn.Conv2d | SparseConv2d, x: Any) -> Callable[[], Any]:
    model = _Model()
    if isinstance(layer, SparseConv2d):
        y = write_conv(model, layer, 'x', layer.weight, layer.bias)
    else:
        y = model.add('Conv', ['x', model.weight(layer.weight)], pads=[1, 1, 1, 1])
    start, end = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (('x', x.shape), (y, [None] * 4))
    )
    graph = onnx.helper.make_graph(model.nodes, 'layer', start, end, model.constants)
    opset = [onnx.helper.make_opsetid('', 17)]
    data = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    expected = layer(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(session.run(None, {'x': x})[0], expected, rtol=1e-4, atol=1e-4)
    return lambda: session.run(None, {'x': x})


def _peak_bytes(step: Callable[[], None]) -> int:
    """The most bytes that torch has allocated at once during `step`, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    recorded = profiler.profiler
    assert recorded is not None and recorded.kineto_results is not None
    changes = [e for e in recorded.kineto_results.events() if e.name() == '[memory]']
    changes.sort(key=lambda event: event.start_ns())
    return int(max(itertools.accumulate(event.nbytes() for event in changes)))


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    'layers': layers,
    'memory': memory,
    'mnist': mnist,
    'cnn': cnn,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('what', choices=list(PARTS))
    parser.add_argument('--seed', type=int, default=0, help='the first seed')
    parser.add_argument('--seeds', type=int, default=10, help='how many (mnist, cnn)')
    parser.add_argument('--epochs', type=int, default=50)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--rate', type=float, default=1e-3, help="Adam's rate")
    parser.add_argument('--kind', default='random-regular', help='kind of pattern (mnist)')
    parser.add_argument('--only', default='', help='networks whose name holds this (mnist)')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--json', type=Path, help='write the rows to this file too')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    show(PARTS[arguments.what](arguments), arguments.json)


if __name__ == '__main__':
    main()
