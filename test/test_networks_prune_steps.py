# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of pruning before training, by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from sparse_split_ros.networks import prune as pruning  # noqa: E402
from sparse_split_ros.networks.channels import groups  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402

torch.set_num_threads(1)


def chain() -> StagedNetwork:
    """Four convolutions one after the other and a single exit: the same flow through all."""
    torch.manual_seed(0)
    widths = (3, 32, 96, 64, 128)
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b in itertools.pairwise(widths)
    ]
    exit_ = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 3))
    return StagedNetwork([nn.Sequential(*layers)], {0: exit_}, {}, (3, 16, 16))


@pytest.mark.parametrize('target', [0.1, 0.3, 0.6])
def test_precrop_keeps_the_root_of_a_density_on_either_side(target: float) -> None:
    network = chain()
    found = pruning.prune(network, 'precrop', target, multiple=1)
    sizes = {name: weight.numel() for name, weight in pruning._weights(network).items()}
    flow = {k: float(v.sum()) for k, v in pruning._Flow(network).scores().items()}
    assert list(flow.values()) == pytest.approx([1.0] * 4, rel=1e-3)

    widths = pruning._Widths(network, 1)
    all_groups = groups(network)

    def counts(scale: float) -> dict[str, int]:
        made = {}
        for group in all_groups:
            own = [name for name in sizes if name in group.writers or name in group.readers]
            kept = sum(min(sizes[name], scale * flow[name]) for name in own)
            share = math.sqrt(kept / sum(sizes[name] for name in own))
            made[group.name] = max(group.size if share == 1 else int(share * group.size),
                                   3 if group.size == 128 else 1)  # fmt: skip
        return made

    got = {g.name: found.channels.get(g.name, g.size) for g in all_groups}
    tried = [counts(1.02**k) for k in range(700)]
    largest = [made for made in tried if widths.weights(made) <= target * found.total][-1]
    assert all(abs(got[name] - largest[name]) <= 2 for name in got), (got, largest)


def test_a_network_that_nothing_flows_through_is_refused() -> None:
    with pytest.raises(pruning.PruneError, match='prune less'):
        pruning._best({'a': torch.zeros(3, 4), 'b': torch.zeros(5)}, 0.5)


def test_synflow_prunes_exponentially_in_rounds(monkeypatch: Any) -> None:
    asked, best = [], pruning._best

    def watched(scores: Any, share: float, sample: Any = None) -> Any:
        asked.append(share)
        return best(scores, share, sample)

    monkeypatch.setattr(pruning, '_best', watched)
    pruning.prune(chain(), 'synflow', 0.2)
    assert asked == pytest.approx([0.2 ** (k / 30) for k in range(1, 31)])


def test_a_channel_lives_as_long_as_both_of_its_sides() -> None:
    network = chain()
    widths = pruning._Widths(network, 1)
    scores = {name: torch.ones_like(w) for name, w in pruning._weights(network).items()}
    _, second, third, _ = scores
    scores[second][7] = 0.1  # what writes channel 7
    scores[third][:, 8] = 0.2  # what reads channel 8
    scores[third][:, 9] = 0.3
    scores[third][5, 9] = 3.0  # one strong reader is enough
    vitality = widths.vitality(scores)[second]
    assert vitality[7:10].tolist() == pytest.approx([0.1, 0.2, 1.0])
    assert bool((vitality[:7] == 1).all()) and bool((vitality[10:] == 1).all())
    assert widths.alive({**widths.vitality(scores)}, 0.15)[second] == 95


def test_the_room_that_is_left_goes_to_the_most_vital() -> None:
    network = chain()
    widths = pruning._Widths(network, 1)
    names = [group.name for group in widths.groups]
    vitality = {g.name: torch.full((g.size,), 0.1) for g in widths.groups}
    vitality[names[1]] = torch.linspace(1, 0.2, 96)
    start = dict.fromkeys(names, 10)
    wider = {**start, names[1]: 14}
    filled = widths.filled(start, vitality, widths.weights(wider))
    assert filled == wider


@pytest.mark.parametrize('activation', [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish])
def test_the_flow_is_kept_whatever_the_activations(activation: type[nn.Module]) -> None:
    """The flow through a network without branches is the same through each of its layers."""
    network = chain()
    for layer in network.stages[0]:
        layer[2] = activation()
    flow = pruning._Flow(network)
    assert [float(values.sum()) for values in flow.scores().values()] == pytest.approx([1.0] * 4)
    plain = pruning._Flow(chain()).scores()
    for name, values in flow.scores().items():
        torch.testing.assert_close(values, plain[name])


@pytest.mark.parametrize('function', [nn.Sigmoid, nn.Hardsigmoid])
def test_a_gate_shares_the_flow_of_what_it_lets_through(
    torchvision: Any, function: type[nn.Module]
) -> None:
    network = chain()
    first = network.stages[0][0]
    gate = torchvision.ops.SqueezeExcitation
    first.append(gate(first[0].out_channels, 4, scale_activation=function))
    gated, closed = pruning._Flow(network), pruning._Flow(chain())
    torch.testing.assert_close(gated.exits(), closed.exits())  # a gate makes it no larger
    flow, plain = gated.scores(), closed.scores()
    for name, values in plain.items():
        torch.testing.assert_close(flow[name], values)
    opens, squeezes = (flow[f'stages.0.0.{len(first) - 1}.{name}'] for name in ('fc2', 'fc1'))
    through = plain['stages.0.0.0'].flatten(1).sum(1)
    torch.testing.assert_close(opens.flatten(1).sum(1), through)
    torch.testing.assert_close(squeezes.flatten(1).sum(1), opens.flatten(1).sum(0))
    kept = pruning.prune(network, 'synflow', 0.1).masks
    assert all(bool(mask.any()) for mask in kept.values())
