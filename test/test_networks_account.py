# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Costs counted by hand, and what sparse layers really save."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip('torch')

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from sparse_split_ros.networks.account import (  # noqa: E402
    PJ_CACHE_BYTE,
    PJ_DRAM_BYTE,
    PJ_MAC,
    account,
    single_bytes,
    stored,
)
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLinear  # noqa: E402
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec  # noqa: E402

BLOCKS = PatternSpec(Kind.BLOCK_REGULAR, 64, 64, 16, 0, width=16)


class Shortcut(nn.Module):
    """x + f(x), which keeps x alive while f runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


def test_a_sparse_convolution_costs_its_existing_weights() -> None:
    layer = SparseConv2d(BLOCKS.draw(), 3, 1, 1)
    cost = account(layer, (64, 5, 5))
    weights = 64 * 16 * 9
    assert cost.parameters == weights + 64
    assert cost.macs == weights * 25
    assert cost.dense_macs == 64 * 64 * 9 * 25
    # Four groups of outputs, each with one block of inputs.
    assert cost.stored_bytes == 4 * (weights + 64) + 4 * 4
    assert cost.dense_bytes == 4 * (64 * 64 * 9 + 64)


def test_a_layer_of_one_s_own_that_is_a_convolution_is_counted_as_one() -> None:
    class Padded(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)

    own, usual = account(Padded(3, 8, 3), (3, 9, 9)), account(nn.Conv2d(3, 8, 3, 1, 1), (3, 9, 9))
    for name in ('macs', 'parameters', 'stored_bytes', 'output_shape'):
        assert getattr(own, name) == getattr(usual, name)


def test_single_weights_are_counted_by_the_smaller_of_csr_and_bit_mask() -> None:
    dense = PatternSpec(Kind.RANDOM_REGULAR, 64, 32, 32).draw()
    rare = PatternSpec(Kind.RANDOM_REGULAR, 256, 32, 8).draw()
    # Half of the places: a bit each is less than a column of two bytes beside every weight.
    assert stored(SparseLinear(dense))[2] == 4 * (32 * 32 + 32) + 32 * 64 // 8
    assert stored(SparseLinear(rare))[2] == 4 * (32 * 8 + 32) + 2 * 256 + 4 * 33


def test_zeros_of_a_mask_are_saved_only_one_by_one() -> None:
    layer = nn.Linear(64, 32)
    with torch.no_grad():
        layer.weight[:, 8:] = 0
    assert stored(layer) == (4 * 32 * 65, 4 * 32 * 65, 4 * 32 * 9 + 32 * 64 // 8)
    assert stored(nn.Linear(64, 32))[2] == 4 * 32 * 65  # a mask of ones would only be added


def test_columns_above_65536_take_four_bytes() -> None:
    assert single_bytes(16, 32, 64) == 4 * 16 + 2 * 16 + 4 * 33
    assert single_bytes(16, 32, 1 << 16) == 4 * 16 + 2 * 16 + 4 * 33
    assert single_bytes(16, 32, (1 << 16) + 1) == 4 * 16 + 4 * 16 + 4 * 33


def test_a_shortcut_keeps_its_input_alive() -> None:
    chain = account(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)), (4, 10, 10))
    block = account(Shortcut(), (4, 10, 10))
    assert chain.peak_bytes == 4 * 100 * (4 + 8)
    assert block.peak_bytes == 4 * 100 * (4 + 8 + 4)


class Ended(nn.Module):
    """A convolution of 4 x 4 x 4 values, and a function of them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(4, 4, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ('function', 'new'),
    [
        (torch.relu, 0),
        (lambda x: x.mean((2, 3)), 4),
        (lambda x: F.avg_pool2d(x, 2), 16),
        (lambda x: F.pixel_shuffle(x, 2), 64),
        (lambda x: torch.cat([x, x], 1), 128),
    ],
    ids=['relu', 'mean', 'pool', 'shuffle', 'cat'],
)
def test_a_function_that_cannot_work_in_place_makes_new_values(
    function: Callable[[Tensor], Tensor], new: int
) -> None:
    assert account(Ended(function), (4, 4, 4)).kept_bytes == 4 * (64 + 64 + new)


def test_memory_of_a_training_step_has_both_parts() -> None:
    cost = account(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), (2, 4, 4))
    # Input, output of the convolution and output of the BatchNorm.
    assert cost.kept_bytes == 4 * 16 * (2 + 3 + 3)
    assert cost.training_bytes(10) == 16 * cost.parameters + 10 * cost.kept_bytes


def test_energy_is_the_sum_of_its_sources() -> None:
    cost = account(nn.Conv2d(2, 3, 1), (2, 4, 4))
    moved = 4 * 16 * (2 + 3) + 4 * 16 * 2
    expected = PJ_MAC * cost.macs + PJ_DRAM_BYTE * 4 * (6 + 3) + PJ_CACHE_BYTE * moved
    assert cost.energy_uj == pytest.approx(1e-6 * expected)
