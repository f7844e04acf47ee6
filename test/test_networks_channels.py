# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Channels are removed from every layer that shares them, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip('torch')

from sparse_split_ros import vision  # noqa: E402
from sparse_split_ros.networks.channels import groups, remove, shrink  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402

torch.set_num_threads(1)

OURS: list[tuple[str, dict[str, Any]]] = [
    ('compact', {'widths': (16, 24, 32)}),
    ('resnet20', {'width': 8}),
]
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ('resnet18', {'size': 32}),
    ('mobilenet_v2', {'size': 32}),
    ('vgg16_bn', {'size': 32}),
    ('mobilenet_v3_small', {'size': 32}),
]


def make(name: str, options: dict[str, Any]) -> StagedNetwork:
    if (name, options) in THEIRS:
        try:
            vision.torchvision()
        except vision.VisionError as error:
            pytest.skip(str(error))
    torch.manual_seed(0)
    return build(name, 5, **options).eval()


@torch.no_grad()
def silence(network: StagedNetwork, channels: dict[str, torch.Tensor]) -> None:
    """Let the channels carry nothing: no layer reads them."""
    for group in groups(network):
        for name, repeat in group.readers.items():
            layer = network.get_submodule(name)
            silent = channels[group.name][:, None] * repeat + torch.arange(repeat)
            layer.weight[:, silent.flatten()] = 0  # type: ignore[index,operator]


# Fixed shortcuts and gates, which others have, pass silent channels on.
@pytest.mark.parametrize(
    ('name', 'options'), [OURS[0], *THEIRS[:2]], ids=lambda item: str(item)[:15]
)
def test_removing_channels_that_carry_nothing_changes_no_answer(
    name: str, options: dict[str, Any]
) -> None:
    network = make(name, options)
    silent = {group.name: torch.arange(0, group.size, 3) for group in groups(network)}
    silence(network, silent)
    x = torch.randn(2, *network.input_shape)
    split = network.split_stages[0]
    before = network(x, split)
    sizes = {group.name: group.size for group in groups(network)}
    keep = {name: torch.tensor([i for i in range(size) if i % 3]) for name, size in sizes.items()}
    remove(network, keep)
    after = network(x, split)
    for stage, logits in before.logits.items():
        torch.testing.assert_close(after.logits[stage], logits, atol=1e-4, rtol=1e-4)
    assert {g.name: g.size for g in groups(network)} == {k: len(v) for k, v in keep.items()}


@pytest.mark.parametrize(('name', 'options'), OURS + THEIRS, ids=lambda item: str(item)[:15])
def test_every_group_can_lose_half_of_its_channels(name: str, options: dict[str, Any]) -> None:
    network = make(name, options)
    whole = sum(p.numel() for p in network.stages.parameters())
    shrink(network, {group.name: group.size // 2 for group in groups(network)})
    half = sum(p.numel() for p in network.stages.parameters())
    assert half < 0.45 * whole
    logits = network.train()(torch.randn(4, *network.input_shape), 0).logits
    sum(values.sum() for values in logits.values()).backward()
    assert all(
        p.grad is not None and p.grad.shape == p.shape
        for p in network.stages.parameters()
        if p.requires_grad
    )


def test_a_residual_stream_is_one_group_with_its_decoder() -> None:
    network = make(*OURS[0])
    stream = next(group for group in groups(network) if group.name == 'stages.1.0')
    assert {'stages.1.0', 'stages.2.0.second', 'stages.2.1.second'} <= set(stream.writers)
    # The decoder's pixel shuffle makes one channel of four.
    assert stream.writers['bottlenecks.1.decoder.0'] == 4
    assert {'exits.1.conv', 'bottlenecks.1.encoder.0', 'stages.3.0.0'} <= set(stream.readers)


def test_image_codes_and_logits_keep_their_channels() -> None:
    network = make(*OURS[0])
    written = {name for group in groups(network) for name in group.writers}
    assert not written & {'exits.0.linear', 'exits.3.linear', 'bottlenecks.0.encoder.3'}


class Skipping(torch.nn.Module):
    """f(x) + x, where x is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + x


def test_what_is_added_to_the_image_keeps_its_channels_too() -> None:
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2))
    assert groups(StagedNetwork([Skipping()], {0: classifier}, {}, (3, 4, 4))) == []


def test_shortcuts_without_parameters_stay_fixed_and_still_select() -> None:
    network = build('resnet20', 3, width=8)
    stream = next(g for g in groups(network) if 'stages.1.1.shortcut' in g.writers)
    shrink(network, {stream.name: 12})
    shortcut = network.get_submodule('stages.1.1.shortcut')
    assert not shortcut.weight.requires_grad
    assert shortcut.weight.shape == (12, 8, 1, 1)
    assert set(shortcut.weight.unique().tolist()) == {0.0, 1.0}


def test_what_is_left_is_as_if_drawn_for_its_size() -> None:
    torch.manual_seed(0)
    network = build('compact', 5, widths=(32, 96, 192))
    drawn = build('compact', 5, widths=(32, 24, 192))
    shrink(network, {'stages.1.0': 24})
    for name in ('stages.2.0.first.0', 'stages.3.0.0'):
        shrunk, fresh = (n.get_submodule(name).weight.detach().std() for n in (network, drawn))
        assert float(shrunk / fresh) == pytest.approx(1, rel=0.1)


def test_a_narrow_network_is_the_one_drawn_with_fewer_channels() -> None:
    narrow = build('compact', 5, widths=(16, 32, 48), narrow=0.5)
    drawn = build('compact', 5, widths=(8, 16, 24))
    for one, other in zip(narrow.stages.parameters(), drawn.stages.parameters()):
        assert one.shape == other.shape
    least = build('compact', 5, widths=(16, 32, 48), narrow=0.001)
    assert {layer.out_channels for layer in least.stages.modules() if hasattr(layer, 'groups')} == {
        1
    }
    with pytest.raises(ValueError, match='narrow is 2, expected a share more than 0 and at most 1'):
        build('compact', 5, narrow=2)


@pytest.mark.usefixtures('torchvision')
def test_blocks_with_channels_on_the_last_axis_keep_them() -> None:
    network = build('convnext_tiny', 3, size=32)
    assert not [group.name for group in groups(network) if '.block.' in group.name]
    with pytest.raises(ValueError, match='no channels of convnext_tiny can be removed'):
        build('convnext_tiny', 3, size=32, narrow=0.5)


def test_predefined_sparse_layers_keep_their_channels() -> None:
    network = build('compact', 5, widths=(32, 64, 64), density=0.25)
    sparse = build('compact', 5, widths=(32, 64, 64), channels={'stages.2.0.first.0': 32}, density=0.25)  # fmt: skip  # noqa: E501
    assert not any('stages.2.0.second' in group.readers for group in groups(network))
    # Pruned first, sparse after.
    assert sparse.stages[2][0].second.pattern.spec.inputs == 32


@pytest.mark.parametrize(
    ('channels', 'message'),
    [({'stages.9': 3}, "no channels to prune are called 'stages.9'"),
     ({'stages.1.0': 0}, '0 channels, expected a whole number, 1 or more'),
     ({'stages.1.0': 99}, 'expected 1 to 24 of its channels, found 99'),
     ({'stages.1.0': 4.5}, '4.5 channels')],
)  # fmt: skip
def test_channels_that_are_not_there_are_refused(channels: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build('compact', 5, widths=(16, 24, 32), channels=channels)
