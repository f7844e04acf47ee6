# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Augmentation: as strong as asked for, and no stronger."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip('torch')

from sparse_split_ros.data import augment as augmenting
from sparse_split_ros.data.augment import Augmentation, AugmentedBatches, augment
from sparse_split_ros.data.datasets import Images, LabelledImages


def flat() -> Images:
    return np.full((32, 32, 3), (60, 120, 180), np.uint8)


def mean_change(photometric: float) -> float:
    """How far the colours of a flat image go, on average; moving its pixels changes nothing."""
    how = Augmentation(photometric=photometric)
    seen = (augment(np.random.default_rng(seed), flat(), how) for seed in range(60))
    return float(np.mean([np.abs(image.astype(int) - flat()).mean() for image in seen]))


def test_without_photometric_changes_only_pixels_move() -> None:
    assert mean_change(0.0) == 0
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    moved = augment(np.random.default_rng(1), image, Augmentation(photometric=0.0))
    assert not np.array_equal(moved, image)


def test_without_geometric_changes_no_pixel_moves() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    still = Augmentation(geometric=0.0, photometric=0.0)
    np.testing.assert_array_equal(augment(np.random.default_rng(1), image, still), image)


def test_less_geometric_strength_moves_less() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[10:22, 10:22] = 255

    def share_kept(geometric: float) -> float:
        how = Augmentation(geometric=geometric, photometric=0.0)
        seen = [augment(np.random.default_rng(seed), image, how) for seed in range(60)]
        return float(np.mean([(one > 127)[image > 127].mean() for one in seen]))

    assert share_kept(1.0) < share_kept(0.3) < 1


def test_less_photometric_strength_changes_less() -> None:
    weak, full = mean_change(0.3), mean_change(1.0)
    assert 0 < weak < 0.6 * full


def test_light_in_weather_is_varied_no_more_than_asked(monkeypatch: Any) -> None:
    monkeypatch.setattr(augmenting.weather, 'apply', lambda name, image, *_: image)
    still = Augmentation(1.0, ('day',), geometric=0.0, photometric=0.0)
    np.testing.assert_array_equal(augment(np.random.default_rng(1), flat(), still), flat())


def test_equal_seeds_give_equal_images() -> None:
    how = Augmentation(0.5, ('fog', 'rain'), photometric=0.5)
    one, other = (augment(np.random.default_rng(7), flat(), how) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def still(monkeypatch: Any) -> None:
    monkeypatch.setattr(augmenting, '_warp', lambda rng, image, *_: image)


def test_half_of_the_images_are_mirrored(monkeypatch: Any) -> None:
    still(monkeypatch)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 0] = 255
    how = Augmentation(flip=True, photometric=0.0)
    seen = [augment(np.random.default_rng(seed), image, how)[0, 0, 0] for seed in range(400)]
    assert np.mean(np.array(seen) == 0) == pytest.approx(0.5, abs=0.08)
    never = Augmentation(photometric=0.0)
    assert all(
        augment(np.random.default_rng(seed), image, never)[0, 0, 0] == 255 for seed in range(40)
    )


def test_a_dark_image_is_made_no_darker() -> None:
    dark = np.full((8, 8, 3), 20, np.uint8)
    means = [
        augmenting._expose(np.random.default_rng(seed), dark, 1.0).mean() for seed in range(300)
    ]
    # Colour and noise move it a little, gamma and gain only up.
    assert np.quantile(means, 0.05) > 17
    assert np.mean(means) > 26
    light = np.full((8, 8, 3), 100, np.uint8)
    means = [
        augmenting._expose(np.random.default_rng(seed), light, 1.0).mean() for seed in range(300)
    ]
    assert np.quantile(means, 0.25) < 85


def test_the_asked_share_of_images_gets_weather_of_the_asked_weight(monkeypatch: Any) -> None:
    met: list[tuple[str, float]] = []

    def apply(name: str, image: Any, severity: float, *_: Any) -> Any:
        met.append((name, severity))
        return image

    monkeypatch.setattr(augmenting.weather, 'apply', apply)
    how = Augmentation(0.3, ('fog', 'fog', 'rain'))
    image = np.zeros((8, 8, 3), np.uint8)
    for seed in range(1000):
        augment(np.random.default_rng(seed), image, how)
    assert len(met) / 1000 == pytest.approx(0.3, abs=0.05)
    assert np.mean([name == 'fog' for name, _ in met]) == pytest.approx(2 / 3, abs=0.09)
    severities = [severity for _, severity in met]
    assert 0.1 <= min(severities) < 0.15 and 0.75 < max(severities) <= 0.8


def test_images_come_in_another_order_in_every_epoch_and_none_twice() -> None:
    count = 40
    images = (
        np.zeros((count, 8, 8, 3), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None]
    )
    data = LabelledImages(images, np.arange(count), np.arange(count), tuple(map(str, range(count))))
    batches = AugmentedBatches(data, 8, 1, Augmentation(photometric=0.0))
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        orders.append([int(label) for k in range(len(batches)) for label in batches[k][1]])
        for images_, labels in (batches[k] for k in range(len(batches))):
            assert (images_[:, 4, 4, 0] == labels).all()
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
