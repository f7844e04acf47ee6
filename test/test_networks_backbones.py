# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Classifiers of torchvision in stages: the same answers, its weights, other classes, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from torch import nn  # noqa: E402

from sparse_split_ros import vision  # noqa: E402
from sparse_split_ros.networks.backbones import backbone, chain  # noqa: E402
from sparse_split_ros.networks.cut import balanced  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402

try:
    models = vision.torchvision().models
except vision.VisionError as error:
    pytest.skip(str(error), allow_module_level=True)

torch.set_num_threads(1)

NAMES = (
    'mobilenet_v2', 'mobilenet_v3_small', 'resnet18', 'resnet50', 'vgg16_bn', 'efficientnet_b0',
)  # fmt: skip


def noise(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', NAMES)
def test_stage_by_stage_equals_the_whole_and_torchvision(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 5, size=64).eval()
    torch.manual_seed(0)
    original = models.get_model(name, num_classes=5).eval()
    features = noise(64)
    whole = network(features).logits
    # At 64 pixels VGG's own classifier would not fit, so there the features are compared.
    answer = original.features(features) if name == 'vgg16_bn' else original(features)
    for stage, body in enumerate(network.stages):
        features = body(features)
        logits = network.exit_at(stage)(features)
        torch.testing.assert_close(logits, whole[stage], atol=1e-5, rtol=0)
        assert logits.shape == (2, 5)
    last = features if name == 'vgg16_bn' else logits
    torch.testing.assert_close(last, answer, atol=1e-5, rtol=1e-5)


def test_a_classifier_of_a_grid_is_kept_at_the_size_it_was_made_for() -> None:
    torch.manual_seed(0)
    original = models.get_model('alexnet', num_classes=3).eval()
    torch.manual_seed(0)
    network = build('alexnet', 3, size=224, cuts=[2]).eval()
    x = noise(224)[:1]
    with torch.inference_mode():
        torch.testing.assert_close(network(x).logits[1], original(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('name', 'size'),
    [('squeezenet1_1', 64), ('mnasnet0_5', 64), ('regnet_y_400mf', 64), ('googlenet', 96)],
)
def test_other_classifiers_are_cut_between_their_blocks(name: str, size: int) -> None:
    torch.manual_seed(0)
    network = build(name, 4, size=size).eval()
    torch.manual_seed(0)
    options = {'init_weights': False, 'aux_logits': False} if name == 'googlenet' else {}
    original = models.get_model(name, num_classes=4, **options).eval()
    x = noise(size)
    logits = network(x).logits
    torch.testing.assert_close(logits[max(logits)], original(x), atol=1e-5, rtol=1e-5)
    assert len(network.stages) >= 3


def test_mobilenet_v2_has_the_exits_of_isplitee() -> None:
    network = build('mobilenet_v2', 10, size=64)
    lengths = [len(stage) for stage in network.stages]
    assert lengths == [3, 3, 3, 3, 3, 3, 1]
    assert network.exit_stages == list(range(7))


def test_features_behind_the_cuts_are_restored_in_their_shape_and_sign() -> None:
    network = build('mobilenet_v2', 10, size=96).eval()
    x = noise(96)
    for stage, body in enumerate(network.stages[:-1]):
        x = body(x)
        restored = network.bottleneck_at(stage)(x)
        assert restored.shape == x.shape
        # A linear convolution ends these blocks, so their features are of both signs.
        assert restored.min() < 0 < restored.max()


def test_small_images_keep_their_resolution_for_longer() -> None:
    sides = {}
    for unstrided in (0, 1, 2):
        network = build('resnet18', 10, size=32, unstrided=unstrided).eval()
        x = noise(32)
        for stage in network.stages:
            x = stage(x)
        sides[unstrided] = x.shape[-1]
    assert sides == {0: 1, 1: 4, 2: 8}


def test_every_row_drops_its_branches_for_itself_in_training() -> None:
    torch.manual_seed(0)
    blocks = [
        m for m in build('efficientnet_b0', 3, size=64).modules() if hasattr(m, 'stochastic_depth')
    ]
    depth: Any = blocks[-1].stochastic_depth
    x = torch.ones(2000, 1, 1, 1)
    kept = depth.train()(x)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - depth.p)])
    assert float((kept == 0).float().mean()) == pytest.approx(depth.p, abs=0.04)
    assert depth.eval()(x) is x


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_weights_from_a_file_fit_other_classes(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    source = models.get_model('mobilenet_v3_small', num_classes=7).state_dict()
    path = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        torch.save(source, path)
    else:
        save_file(source, path)
    network = build('mobilenet_v3_small', 4, pretrained=True, size=64, weights=str(path))
    first = network.stages[0][0][0].weight
    torch.testing.assert_close(first, source['features.0.0.weight'])
    assert network(noise(64)).logits[3].shape == (2, 4)


def test_a_checkpoint_s_network_is_built_without_the_weights_it_began_with() -> None:
    assert build('mobilenet_v3_small', 4, size=64, weights='gone.pth').input_shape == (3, 64, 64)


@pytest.mark.parametrize('smaller', [
    {'narrow': 0.5}, {'channels': {'stages.0.0.0': 8}}, {'density': 0.25},
])  # fmt: skip
def test_trained_weights_are_not_thinned_at_random(smaller: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'weights .* are of the whole network'):
        build('mobilenet_v2', 5, size=32, weights='IMAGENET1K_V2', **smaller)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / 'weights.pth'
    torch.save(models.get_model('squeezenet1_1', num_classes=4).state_dict(), path)
    with pytest.raises(ValueError, match=r'weights\.pth.* are of another network: .* expected \('):
        backbone('mobilenet_v3_small', 4, 64, weights=str(path))


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ('IMAGENET9', 'choose one of IMAGENET1K_V1, DEFAULT, or a .safetensors or .pth file'),
        ('gone.pth', 'cannot be read'),
        ('gone.safetensors', 'cannot be read'),
    ],
)
def test_weights_that_are_not_there_are_named(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"weights '{weights}'.*{message}"):
        backbone('mobilenet_v3_small', 4, 64, weights=weights)


@pytest.mark.parametrize('name', ['vit_b_16', 'swin_t'])
def test_a_transformer_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f'{name} is no chain of convolutional blocks'):
        build(name, 4)


def test_branches_between_blocks_are_refused() -> None:
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x)

    with pytest.raises(ValueError, match='branched is no chain'):
        chain(Branched(), 'branched')


@pytest.mark.parametrize('cuts', [[3, 2], [0, 4], [4, 4], [99]])
def test_cuts_that_cannot_be_are_refused(cuts: list[int]) -> None:
    with pytest.raises(ValueError, match='expected ascending numbers of blocks'):
        build('resnet18', 4, size=32, cuts=cuts)


def test_a_size_that_is_too_small_is_named() -> None:
    with pytest.raises(ValueError, match=r'32 x 32 pixels: block 4 .* choose another size'):
        build('alexnet', 4, size=32)


def test_a_negative_number_of_blocks_keeps_no_resolution() -> None:
    with pytest.raises(ValueError, match='unstrided is -1, expected a whole number of 0 or more'):
        build('resnet18', 4, size=32, unstrided=-1)


def test_cuts_divide_the_work_evenly() -> None:
    blocks = [nn.Conv2d(3, 8, 1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(8))]
    assert balanced(blocks, (3, 8, 8)) == [3, 5, 7]


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown network 'resnet19'; .*resnet18"):
        build('resnet19', 4)


def test_a_missing_torchvision_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    vision.torchvision.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"unknown network 'resnet18'.*'\.\[vision\]'"):
            build('resnet18', 4)
        assert build('compact', 4).input_shape == (3, 32, 32)
    finally:
        vision.torchvision.cache_clear()
