# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of one's own with what is legal in torch and unusual: counted, pruned and exported."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
onnxruntime = pytest.importorskip('onnxruntime')

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from sparse_split_ros.networks.account import account  # noqa: E402
from sparse_split_ros.networks.channels import groups, shrink  # noqa: E402
from sparse_split_ros.networks.prune import prune  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.sparsity.layers import sparsify  # noqa: E402
from sparse_split_ros.training.onnx_graph import to_onnx  # noqa: E402
from sparse_split_ros.training.program import ExportError, trace  # noqa: E402

torch.set_num_threads(1)


class Own(nn.Module):
    """A forward of its own over some layers."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layers, x)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)


def staged(stage: nn.Module, channels: int) -> StagedNetwork:
    exit_ = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))
    return StagedNetwork([stage], {0: exit_}, {}, (3, 8, 8))


def beside(layers: Any, x: Tensor) -> Tensor:
    y = layers[0](x)
    layers[1](y)
    return y


@pytest.mark.parametrize(
    ('module', 'shape'),
    [
        (Own(lambda m, x: m[1](m[0](x)) + x, nn.ReLU(inplace=True), conv(4, 4)), (2, 4, 9, 7)),
        (Own(lambda m, x: operator.iadd(m[0](x), x) * x, conv(4, 4)), (2, 4, 9, 7)),
        (Own(beside, conv(4, 4), conv(4, 4)), (2, 4, 9, 7)),
        (Own(lambda m, x: m[0](input=x), conv(4, 4)), (2, 4, 9, 7)),
        (nn.Sequential(conv(3, 4), nn.MaxPool2d(2, 2, 1, ceil_mode=True)), (1, 3, 9, 9)),
        (nn.Sequential(conv(3, 4), nn.AvgPool2d(2, 2, 1, ceil_mode=True)), (1, 3, 9, 9)),
        (nn.Sequential(conv(3, 4), nn.MaxPool2d(3, 2, ceil_mode=True)), (1, 3, 8, 8)),
    ],
)
def test_what_is_exported_is_what_torch_computes(module: nn.Module, shape: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    with torch.inference_mode():
        expected = module.eval()(x.clone()).numpy()
    model = onnxruntime.InferenceSession(
        to_onnx(trace(module, x.clone()), 'm'), providers=['CPUExecutionProvider']
    )
    (found,) = model.run(None, {'x': x.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_range_of_an_input_is_taken_before_it_is_worked_on() -> None:
    x = torch.tensor([[[[-10.0, 1.0]]]])
    assert trace(nn.Sequential(nn.ReLU(inplace=True)), x).reach == 10


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, padding=1)


@pytest.mark.parametrize(
    'module',
    [
        nn.Sequential(conv(4, 4), nn.BatchNorm2d(4, track_running_stats=False)),
        Own(lambda m, x: x if x.sum() > 0 else -x),
        nn.Sequential(conv(4, 4), Own(lambda m, x: F.dropout(x, 0.5))),
        Standardised(4, 4, 3, padding=1),
    ],
)
def test_what_cannot_be_exported_is_one_kind_of_error(module: nn.Module) -> None:
    with pytest.raises(ExportError, match='cannot'):
        trace(module, torch.randn(2, 4, 9, 7))


@pytest.mark.parametrize(
    ('stage', 'channels'),
    [
        (nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, affine=False), nn.ReLU()), 16),
        (nn.Sequential(conv(3, 16), nn.BatchNorm2d(16, track_running_stats=False)), 16),
        (nn.Sequential(conv(3, 16), nn.PReLU(16)), 16),
        (nn.Sequential(conv(3, 16), nn.InstanceNorm2d(16, affine=True)), 16),
        (nn.Sequential(conv(3, 16), nn.ConvTranspose2d(16, 8, 2, 2)), 8),
        (Own(lambda m, x: m[0](x) * torch.sigmoid(m[1](m[0](x).mean(1, keepdim=True))),
             conv(3, 16), conv(1, 1)), 16),
    ],
)  # fmt: skip
def test_a_network_without_some_channels_still_runs(stage: nn.Module, channels: int) -> None:
    network = staged(stage, channels)
    shrink(network, {group.name: group.size // 2 for group in groups(network)})
    network.eval()(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize('method', ['reconvene', 'precrop'])
def test_pruning_knows_layers_in_two_places_and_depth_multipliers(method: str) -> None:
    torch.manual_seed(0)
    shared = conv(16, 16)
    twice = nn.Sequential(
        conv(3, 16), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), conv(16, 64), conv(64, 16)
    )
    multiplied = nn.Sequential(conv(3, 16), conv(16, 32, groups=16), conv(32, 48), conv(48, 16))
    for stage in (twice, multiplied):
        network = staged(stage, 16)
        plan = prune(network, method, 0.5)
        assert plan.kept <= 0.5 * plan.total
        smaller = copy.deepcopy(network)
        shrink(smaller, plan.channels)
        smaller.eval()(torch.randn(1, 3, 8, 8))


def test_a_layer_in_two_places_is_stored_once_and_stays_one() -> None:
    shared = nn.Conv2d(16, 16, 3, padding=1)
    assert account(nn.Sequential(shared, shared), (16, 8, 8)).parameters == 16 * 16 * 9 + 16
    module = nn.Sequential(nn.Conv2d(3, 16, 3), shared, nn.ReLU(), shared)
    sparsify(module, 0.5, 'random-regular')
    assert module[1] is module[3] and module[1] is not shared


def test_the_order_of_operands_costs_no_memory() -> None:
    def gated(swapped: bool) -> nn.Module:
        def forward(layers: Any, x: Tensor) -> Tensor:
            y = layers[0](x)
            gate = torch.sigmoid(layers[1](F.adaptive_avg_pool2d(y, 1)))
            return gate * y if swapped else y * gate

        return nn.Sequential(Own(forward, conv(4, 8), conv(8, 8, 1)), conv(8, 16))

    one, other = (account(gated(swapped), (4, 8, 8)) for swapped in (False, True))
    assert (one.peak_bytes, one.moved_bytes) == (other.peak_bytes, other.moved_bytes)
    # A value that is still to be read is not written over: three maps of 4096 bytes at once.
    still = Own(lambda m, x: x + m[0](F.relu(x)), conv(16, 16))
    assert account(still, (16, 8, 8)).peak_bytes == 3 * 4096


@pytest.mark.parametrize(
    'layer', [nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.ReLU6(), nn.MaxPool2d(2)]
)
def test_what_training_keeps_is_what_autograd_saves(layer: nn.Module) -> None:
    module = nn.Sequential(conv(4, 8), nn.BatchNorm2d(8), layer, conv(8, 8))
    x, saved = torch.randn(1, 4, 8, 8), {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module.train()(x)
    kept = sum(saved.values()) + 4 * output.numel()  # which the loss keeps
    assert account(module, (4, 8, 8)).kept_bytes == pytest.approx(kept, rel=0.05)
