# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The CIFAR ResNet-20: its size, its shortcuts, and its stages."""

from __future__ import annotations

import pytest

torch = pytest.importorskip('torch')

from sparse_split_ros.networks.account import account  # noqa: E402
from sparse_split_ros.networks.resnet import spread  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402

torch.set_num_threads(1)


def test_it_has_the_published_number_of_parameters() -> None:
    network = build('resnet20', 10)
    parts = [*network.stages, network.exit_at(3)]
    trained = sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)
    # 0.27 M in table 6 of the paper, exactly this many with parameter-free shortcuts.
    assert trained == 269_722


def test_it_has_the_published_work() -> None:
    network = build('resnet20', 10)
    shape, macs = network.input_shape, 0
    for stage in network.stages:
        cost = account(stage, shape)
        macs, shape = macs + cost.macs, cost.output_shape  # type: ignore[assignment]
    assert macs == pytest.approx(40.6e6, rel=0.01)


def test_stage_by_stage_equals_the_whole() -> None:
    torch.manual_seed(0)
    network = build('resnet20', 10, width=8).eval()
    x = torch.randn(2, 3, 32, 32)
    whole = network(x).logits
    for stage, body in enumerate(network.stages):
        x = body(x)
        torch.testing.assert_close(network.exit_at(stage)(x), whole[stage], atol=1e-5, rtol=0)


@pytest.mark.parametrize(('size', 'side'), [(32, 4), (36, 9)])
def test_codes_are_as_small_as_whole_strides_make_them_but_four_by_four(
    size: int, side: int
) -> None:
    network = build('resnet20', 10, size=size, width=4).eval()
    x = torch.zeros(1, 3, size, size)
    for stage, body in enumerate(network.stages[:-1]):
        x = body(x)
        assert network.bottleneck_at(stage).encoder(x).shape[2:] == (side, side)


def test_a_shortcut_takes_every_other_pixel_and_adds_empty_channels() -> None:
    x = torch.randn(2, 3, 6, 6)
    y = spread(3, 6, 2)(x)
    torch.testing.assert_close(y[:, ::2], x[:, :, ::2, ::2])
    assert not y[:, 1::2].any()


def test_training_leaves_the_shortcuts_as_they_are() -> None:
    network = build('resnet20', 3, width=8)
    fixed = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    sum(v.sum() for v in network(torch.randn(4, 3, 32, 32)).logits.values()).backward()
    optimiser.step()
    assert len(fixed) == 2
    assert all(set(m.weight.unique().tolist()) == {0.0, 1.0} for m in fixed)
