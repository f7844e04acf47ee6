# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Staged networks: what runs, what passes a bottleneck, and what it costs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from sparse_split_ros.networks.account import account  # noqa: E402
from sparse_split_ros.networks.bottleneck import Bottleneck, quantise  # noqa: E402
from sparse_split_ros.networks.cut import balanced  # noqa: E402
from sparse_split_ros.networks.exits import conv_exit, final_exit, light_exit  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork, inlined  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLayer  # noqa: E402


@pytest.fixture
def network() -> StagedNetwork:
    torch.manual_seed(0)
    return build('compact', 7, widths=(8, 12, 16), blocks=1).eval()


@pytest.mark.parametrize('size', [32, 64, 96])
def test_every_exit_answers_for_every_input_size(size: int) -> None:
    network = build('compact', 7, size=size, widths=(8, 12, 16), blocks=1).eval()
    logits = network(torch.zeros(2, 3, size, size)).logits
    assert {stage: tuple(v.shape) for stage, v in logits.items()} == dict.fromkeys(range(4), (2, 7))


def test_stages_by_hand_equal_the_whole(network: StagedNetwork) -> None:
    x = torch.randn(3, 3, 32, 32)
    whole = network(x).logits
    for stage, body in enumerate(network.stages):
        x = body(x)
        torch.testing.assert_close(network.exit_at(stage)(x), whole[stage], atol=1e-5, rtol=0)


def test_a_sparse_network_has_the_patterns_asked_for_but_where_it_is_kept_dense() -> None:
    arguments = {'density': 0.5, 'pattern': 'tap-regular', 'block_width': 16}
    network = build('compact', 7, widths=(32, 32, 64), **arguments, keep_dense=['stages.0.*'])
    layers = {n: m for n, m in network.named_modules() if isinstance(m, SparseConv2d)}
    assert layers and not any(name.startswith('stages.0.') for name in layers)
    for layer in layers.values():
        spec = layer.pattern.spec
        assert (spec.width, spec.taps) == (16, layer.weight[0, 0].numel())
    everywhere = build('compact', 7, widths=(32, 32, 64), **arguments)
    assert any(isinstance(module, SparseConv2d) for module in everywhere.stages[0].modules())


def test_every_exit_keeps_its_logits_dense_whatever_the_pattern() -> None:
    for pattern in ('random-regular', 'block-regular'):
        network = build('compact', 64, widths=(32, 64, 128), density=0.25, pattern=pattern)
        assert set(network.last_linears()) == {f'exits.{stage}.linear' for stage in range(4)}


def test_only_rows_marked_coded_pass_the_bottleneck(network: StagedNetwork) -> None:
    x = torch.randn(4, 3, 32, 32)
    plain, coded = network(x).logits[3], network(x, 1).logits[3]
    mixed = network(x, 1, torch.tensor([True, False, True, False])).logits[3]
    torch.testing.assert_close(mixed[0::2], coded[0::2])
    torch.testing.assert_close(mixed[1::2], plain[1::2])
    assert (plain - coded).abs().max() > 1e-3


def test_exits_up_to_the_split_do_not_see_the_bottleneck(network: StagedNetwork) -> None:
    x = torch.randn(2, 3, 32, 32)
    plain, coded = network(x).logits, network(x, 1).logits
    torch.testing.assert_close(plain[0], coded[0])
    torch.testing.assert_close(plain[1], coded[1])


def test_distortion_is_zero_only_without_loss() -> None:
    stages = [nn.Identity(), nn.Identity()]
    exits = {1: nn.Sequential(nn.Flatten(), nn.Linear(48, 2))}
    bottleneck = Bottleneck(3, 2, 4)
    network = StagedNetwork(stages, exits, {0: bottleneck}, (3, 4, 4))
    assert network(torch.randn(2, 3, 4, 4)).distortion is None
    assert float(network(torch.randn(2, 3, 4, 4), 0).distortion.detach()) > 0
    bottleneck.forward = lambda features: features  # type: ignore[method-assign]
    assert float(network(torch.randn(2, 3, 4, 4), 0).distortion) == 0
    bottleneck.forward = torch.zeros_like  # type: ignore[method-assign]
    assert float(network(5 * torch.randn(2, 3, 4, 4), 0).distortion) == pytest.approx(1)


@pytest.mark.parametrize('stride', [1, 2, 4, 8])
def test_an_encoder_reads_every_pixel(stride: int) -> None:
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    codes = Bottleneck(3, 2, 4, stride).eval().encoder[0](x)
    assert codes.shape[-1] == 16 // stride
    codes.square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad.abs().sum(1) > 0).all())


def test_only_signed_features_come_back_below_zero() -> None:
    x = torch.randn(4, 6, 8, 8)
    assert Bottleneck(6, 3, 5).eval()(x).min() >= 0
    assert Bottleneck(6, 3, 5, signed=True).eval()(x).min() < 0


@pytest.mark.parametrize(
    ('shape', 'halved'),
    [
        ((4, 1, 1), (1, 1)), ((4, 3, 8), (3, 8)), ((24, 7, 7), (4, 4)), ((8, 15, 30), (8, 15)),
        ((200, 56, 56), (28, 28)),
    ],
)  # fmt: skip
def test_a_light_exit_takes_features_of_any_shape(
    shape: tuple[int, int, int], halved: tuple[int, int]
) -> None:
    exit_, x = light_exit(shape, 9).eval(), torch.randn(2, *shape)
    assert exit_(x).shape == (2, 9)
    assert exit_.conv(x).shape[2:] == halved


def test_codes_have_few_levels_in_the_unit_interval() -> None:
    bottleneck = Bottleneck(6, 3, 5, stride=2, bits=2).eval()
    codes = quantise(bottleneck.encoder(torch.randn(16, 6, 8, 8) * 3), 2)
    assert codes.shape == (16, 3, 4, 4)
    levels = torch.unique(torch.round(codes * 3 * 1e4) / 1e4)
    assert set(levels.tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert bottleneck(torch.randn(2, 6, 8, 8)).shape == (2, 6, 8, 8)


def test_quantisation_lets_the_gradient_through() -> None:
    x = torch.tensor([0.1, 0.4, 0.9], requires_grad=True)
    quantise(x, 1).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3))


def test_account_counts_a_convolution_by_hand() -> None:
    cost = account(nn.Conv2d(3, 8, 3, 2, 1, bias=False), (3, 10, 10))
    assert cost.parameters == 8 * 27 + 8
    assert cost.macs == 8 * 27 * 25
    assert cost.output_shape == (8, 5, 5)


def test_account_leaves_the_mode_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    module[1].eval()  # as one does to fine-tune
    account(module, (3, 4, 4))
    assert [part.training for part in module.modules()] == [True, True, False]


def test_shipped_network_keeps_its_budget() -> None:
    network = build('compact', 43)
    costs, shape = [], network.input_shape
    for stage in network.stages:
        costs.append(account(stage, shape))
        shape = costs[-1].output_shape  # type: ignore[assignment]
    total = sum(cost.macs for cost in costs)
    first_exit = account(network.exit_at(0), costs[0].output_shape)
    encoder = account(network.bottleneck_at(1).encoder, costs[1].output_shape)
    assert costs[0].macs + first_exit.macs <= 0.25 * total
    assert costs[0].macs + costs[1].macs + encoder.macs <= 0.30 * total
    assert 4 * sum(p.numel() for p in network.parameters()) < 3_000_000


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: build('vgg99', 4), "unknown network 'vgg99'"),
        (lambda: build('compact', 4, size=40), 'multiple of 32'),
        (lambda: build('compact', 4, density=12.5), 'density is 12.5, expected a share'),
        (lambda: build('compact', 4, density=float('nan')), 'density is nan'),
        (lambda: build('compact', 4, density='1/8'), "density is '1/8'"),
        (lambda: build('compact', 4, keep_dense='stages.0.*'), 'expected a list'),
        (lambda: build('compact', 4, density=0.5, keep_dense=['stage.0.*']), "'stage.0.*' matches"),
        (lambda: build('compact', 4, pattern='diagonal'), "unknown kind of pattern 'diagonal'"),
        (lambda: conv_exit(4, 10, 4, 3), 'cannot pool'),
        (lambda: conv_exit(4, 9, 4, 3), '9x9 features cannot pool to 4x4'),
        (lambda: final_exit(4, 3, 3), '3x3 features cannot pool to 2x2'),
        (lambda: balanced([nn.Conv2d(3, 4, 1)], (3, 8, 8)), 'a single block cannot be cut'),
        (lambda: Bottleneck(4, 2, 4, stride=0), 'stride is 0'),
        (lambda: build('compact', 4, bits=4.0), 'bits is 4.0, expected a whole number'),
        (lambda: build('compact', 4, bits=9), 'bits is 9, expected 1 to 8'),
        (lambda: build('compact', 4, widths=32), 'widths is 32, expected three whole numbers'),
        (lambda: build('compact', 4, widths=None), 'widths is None, expected three whole'),
        (lambda: build('compact', 4, narrow='1/2'), "narrow is '1/2', expected a share"),
        (lambda: build('compact', 4, channels=['a']), r"channels is \['a'\], expected"),
        (lambda: build('compact', 4, masks=5), 'masks is 5, expected the name of a file'),
        (lambda: build('compact', 4, erk_power=4), 'erk_power is 4, expected a number from 0 to 3'),
        (lambda: build('compact', 4, erk_power=2), 'erk_power is 2: it shapes allocation: erk'),
        (lambda: build('compact', 4, keep_dense=[5]), r'keep_dense is \[5\], expected a list'),
        (lambda: build('compact', 4, block_width='8'), "block_width is '8', expected a whole"),
        (
            lambda: build('compact', 4, density=0.5, pattern='random-regular', block_width=4),
            'block_width is 4: random-regular has no blocks',
        ),
        (lambda: build('compact', 4, pattern_seed=1.5), 'pattern_seed is 1.5, expected a whole'),
        (lambda: build('resnet20', 4, width=-1), 'width is -1, expected a whole number of 1'),
        (lambda: build('resnet20', 4, size='32'), "size is '32', expected a whole number of 1"),
        (lambda: build('resnet20', 4, code_channels=0), 'code_channels is 0, expected a whole'),
        (lambda: build('resnet20', 4, cuts=3), 'cuts is 3, expected a list'),
        (lambda: build('resnet20', 4, cuts=[3.0, 5]), r'cuts is \[3.0, 5\], expected a list'),
        (lambda: StagedNetwork([nn.Identity()], {}, {}, (3, 4, 4)), 'needs one'),
        (
            lambda: StagedNetwork([nn.Identity()], {0: nn.Identity()}, {0: Bottleneck(3, 1, 2)}, (3, 4, 4)),  # noqa: E501
            'cuts are after',
        ),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_named(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_the_m_of_an_n_of_m_pattern_is_its_block_width() -> None:
    for given, width in (({}, 4), ({'block_width': 8}, 8)):
        network = build('compact', 4, widths=(16, 32, 64), density=0.5, pattern='n:m', **given)
        found = {m.pattern.spec.width for m in network.modules() if isinstance(m, SparseLayer)}
        assert found == {width}


def test_an_inline_bottleneck_answers_as_the_cut_did() -> None:
    torch.manual_seed(0)
    network = build('compact', 4, widths=(8, 12, 16), blocks=1, code_channels=(2, 4, 4)).eval()
    whole = inlined(network, 1)
    assert (whole.split_stages, whole.exit_stages) == ([2], [0, 1, 3, 4])
    x = torch.randn(3, *network.input_shape)
    with torch.inference_mode():
        before, after = network(x, 1).logits, whole(x, 2).logits
        uncut = whole(x).logits
    for old, new in {0: 0, 1: 1, 2: 3, 3: 4}.items():
        torch.testing.assert_close(after[new], before[old])
    # Only rounding to levels is missing where nothing is sent.
    assert not torch.equal(uncut[4], after[4])
    torch.testing.assert_close(uncut[4], after[4], atol=0.2, rtol=0.2)


def test_what_has_no_bottleneck_is_not_inlined() -> None:
    network = build('compact', 4, widths=(8, 12, 16), blocks=1, code_channels=(2, 4, 4))
    with pytest.raises(ValueError, match=r'split 3: bottlenecks stand after \[0, 1, 2\]'):
        inlined(network, 3)
