# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""graph.json and the ONNX models mean what the module computes, for every kind of operation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
onnxruntime = pytest.importorskip('onnxruntime')

import torch.nn.functional as F  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from sparse_split_ros.networks.bottleneck import UnitClip  # noqa: E402
from sparse_split_ros.networks.torch_engine import _Graph  # noqa: E402
from sparse_split_ros.networks.zoo import NETWORKS, build  # noqa: E402
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLinear  # noqa: E402
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec  # noqa: E402
from sparse_split_ros.training.graph import write_graph  # noqa: E402
from sparse_split_ros.training.onnx_graph import to_onnx  # noqa: E402
from sparse_split_ros.training.program import ExportError, check_exportable, trace  # noqa: E402


def answer(model: dict[str, Any], tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """What a reader of graph.json computes, by the words of its description alone."""
    values = {'x': x}
    for op in model['operations']:
        inputs = [values[name] for name in op['inputs']]
        kind = op['op']
        if kind in ('conv', 'linear'):
            y = weighted(op, tensors, inputs[0])
        elif kind in ('add', 'mul'):
            right = inputs[1] if len(inputs) == 2 else op['value']
            y = inputs[0] + right if kind == 'add' else inputs[0] * right
        elif kind == 'concat':
            y = torch.cat(inputs, 1)
        elif kind in ('max_pool', 'avg_pool'):
            window = (op['kernel'], op['stride'], op['padding'])
            if kind == 'max_pool':
                y = F.max_pool2d(inputs[0], *window, ceil_mode=op['ceil_mode'])
            else:
                y = F.avg_pool2d(inputs[0], *window, op['ceil_mode'], op['count_include_pad'])
        else:
            y = {
                'flatten': lambda x, _: x.flatten(1),
                'global_avg_pool': lambda x, _: x.mean((2, 3), keepdim=True),
                'hard_sigmoid': lambda x, op: (op['alpha'] * x + op['beta']).clamp(0, 1),
                'hard_swish': lambda x, _: x * (x + 3).clamp(0, 6) / 6,
                'pixel_shuffle': lambda x, op: F.pixel_shuffle(x, op['factor']),
                'relu': lambda x, _: x.clamp(min=0),
                'relu6': lambda x, _: x.clamp(0, 6),
                'sigmoid': lambda x, _: 1 / (1 + torch.exp(-x)),
            }[kind](inputs[0], op)
        values[op['output']] = y
    return values['y'] if model['operations'] else x


def weighted(op: dict[str, Any], tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    weight = tensors[op['weight']]
    bias = None if op['bias'] is None else tensors[op['bias']]
    inputs = x.shape[1] // op.get('groups', 1)
    if op['blocks'] is not None or 'columns' in op:
        dense = torch.zeros(len(weight), inputs, *weight.shape[2:])
        for o in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                if op['blocks'] is None:
                    source = int(tensors[op['columns']][o, j])
                else:
                    width = op['width']
                    found = tensors[op['blocks']][..., o // 16, j // width]
                    source = found * width + j % width
                    if found.ndim:
                        for tap, channel in enumerate(source.tolist()):
                            place = divmod(tap, weight.shape[3])
                            dense[(o, channel, *place)] += weight[(o, j, *place)]
                        continue
                dense[o, source] += weight[o, j]
        weight = dense
    if op['op'] == 'linear':
        return F.linear(x, weight, bias)
    geometry = (op['stride'], op['padding'], op['dilation'], op['groups'])
    return F.conv2d(x, weight, bias, *geometry)


class Branches(nn.Module):
    """What a chain of modules cannot show: sums, gates, concatenation, functions, methods."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(4, 8, 3, 1, 1), nn.Conv2d(4, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.left(x))
        y += 0.5 * self.right(x)
        y = F.relu(y, inplace=True)
        y = torch.cat([y * self.gate(y), F.relu6(y + 1.0)], dim=1)
        return torch.flatten(F.adaptive_avg_pool2d(y, (2, 2)), 1)


def sparse(kind: Kind, width: int = 1, fan_in: int = 8) -> nn.Sequential:
    pattern = PatternSpec(kind, 16, 32, fan_in, 3, width).draw()
    return nn.Sequential(
        SparseConv2d(pattern, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SparseLinear(PatternSpec(kind, 32, 32, 16, 4, width).draw(), bias=False),
        nn.BatchNorm1d(32),
    )


MODULES = {
    'branches': (Branches(), (4, 8, 8)),
    'pools': (
        nn.Sequential(
            nn.Conv2d(3, 6, (3, 1), (2, 1), (1, 0), (1, 2), groups=3),
            nn.Hardswish(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(2, 1, 1, count_include_pad=False),
            nn.Hardsigmoid(),
        ),
        (3, 12, 11),
    ),
    'codes': (nn.Sequential(nn.Conv2d(2, 8, 1), UnitClip(), nn.PixelShuffle(2)), (2, 4, 4)),
    'one layer': (nn.Conv2d(3, 4, 3), (3, 4, 4)),
    'nothing': (nn.Sequential(nn.Identity(), nn.Dropout(0.5)), (3, 4, 4)),
    'dropped last': (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Dropout(0.5)), (3, 4, 4)),
    'blocks': (sparse(Kind.BLOCK_REGULAR, 4), (16, 8, 8)),
    'taps': (
        nn.Sequential(
            SparseConv2d(
                PatternSpec(Kind.TAP_REGULAR, 16, 32, 8, 3, width=4, taps=9).draw(), 3, 2, 1
            ),
            nn.ReLU(),
        ),
        (16, 8, 8),
    ),
    'regular': (sparse(Kind.RANDOM_REGULAR), (16, 8, 8)),
    'two of four': (sparse(Kind.N_OF_M, 4), (16, 8, 8)),
}


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settled(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With statistics in its BatchNorms, as after training."""
    torch.manual_seed(1)
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(16, *shape) * 2 + 0.5)
    return module.eval()


@pytest.mark.parametrize('name', MODULES)
def test_both_forms_answer_as_the_module(name: str, tmp_path: Path) -> None:
    module, shape = MODULES[name]
    settled(module, shape)
    x = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module(x.clone()).numpy()
    program = trace(module, x.clone())
    np.testing.assert_allclose(program.answer, expected, atol=1e-6)

    write_graph(tmp_path, {'m': program})
    graph = json.loads((tmp_path / 'graph.json').read_text())
    tensors = load_file(tmp_path / 'weights.safetensors')
    got = answer(graph['models']['m'], tensors, x).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5)

    data = to_onnx(program, 'm')
    session = onnxruntime.InferenceSession(data, providers=['CPUExecutionProvider'])
    np.testing.assert_allclose(session.run(['y'], {'x': x.numpy()})[0], expected, atol=2e-5)
    got = _Graph('m', data, torch.device('cpu'))(x).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_ranges_are_those_of_the_images_traced(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU(inplace=True))
    with torch.no_grad():
        module[0].weight.fill_(2.0)
        module[0].bias.fill_(-1.0)
        module[1].weight.fill_(0.5)
    x = torch.tensor([-3.0, 2.0]).view(2, 1, 1, 1)
    program = trace(module, x)
    assert program.reach == 3.0
    # -7 and 3 before the BatchNorm, which halves them (but for its epsilon).
    assert [op.kind for op in program.operations] == ['conv', 'relu']
    assert [op.reach for op in program.operations] == pytest.approx([3.5, 1.5], rel=1e-4)


def test_weights_file_holds_little_but_the_existing_weights(tmp_path: Path) -> None:
    network = build('compact', 43, widths=(32, 64, 128), density=0.125)
    x = torch.zeros(1, *network.input_shape)
    programs = {}
    for index, stage in enumerate(network.stages):
        programs[f'stage_{index}'] = trace(stage, x)
        x = programs[f'stage_{index}'].answer
    write_graph(tmp_path, programs)
    existing = sum(
        op.weight.numel()
        for program in programs.values()
        for op in program.operations
        if op.weight is not None
    )
    assert (tmp_path / 'weights.safetensors').stat().st_size <= 1.1 * 4 * existing + 4096


@pytest.mark.parametrize('name', NETWORKS)
def test_every_network_of_ours_can_be_split_and_exported(name: str) -> None:
    network = build(name, 7).eval()
    assert network.split_stages, 'a network without a bottleneck is never split'
    x = torch.zeros(2, *network.input_shape)
    for index, stage in enumerate(network.stages):
        x = trace(stage, x).answer
        if index in network.exit_stages:
            assert trace(network.exit_at(index), x).answer.shape == (2, 7)
        if index in network.split_stages:
            bottleneck = network.bottleneck_at(index)
            codes = trace(bottleneck.encoder, x).answer
            assert trace(bottleneck.decoder, codes).answer.shape == x.shape


@pytest.mark.parametrize(
    ('module', 'message'),
    [
        (nn.Softplus(), 'cannot export Softplus: no counterpart'),
        (nn.BatchNorm2d(3), 'BatchNorm without a layer to fold into'),
        (nn.Conv2d(3, 3, 3, padding='same'), "padding 'same'"),
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode='circular'), "padding with 'circular'"),
        (nn.AdaptiveAvgPool2d(3), r'from \[4, 4\] to \[3, 3\]'),
        (nn.Flatten(2), 'axes 2 to -1'),
        (nn.MaxPool2d(2, dilation=2), 'dilation 2'),
    ],
)
def test_what_cannot_be_written_is_named(module: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        trace(module, torch.zeros(1, 3, 4, 4))


class _Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


@pytest.mark.parametrize('module', [nn.GELU(), _Root()])
@pytest.mark.parametrize('part', ['stages', 'exits', 'encoder', 'decoder'])
def test_the_part_and_the_layer_that_cannot_be_written_are_named(
    module: nn.Module, part: str
) -> None:
    network = build('compact', 3)
    check_exportable(network)
    body = getattr(network.bottlenecks['1'] if part.endswith('coder') else network, part)
    last = body[1] if part == 'stages' else body['1'] if part == 'exits' else body
    last.append(nn.Sequential(nn.Identity(), module))
    named = f'{part.removesuffix("s")} 1, layer {len(last) - 1}.1: cannot export '
    with pytest.raises(ExportError, match=re.escape(named)):
        check_exportable(network)
