# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Augmentation: as strong as asked for, and no stronger."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('torch')

from sparse_split_ros.data.augment import Augmentation, augment
from sparse_split_ros.data.datasets import Images


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


def test_equal_seeds_give_equal_images() -> None:
    how = Augmentation(0.5, ('fog', 'rain'), photometric=0.5)
    one, other = (augment(np.random.default_rng(7), flat(), how) for _ in range(2))
    np.testing.assert_array_equal(one, other)
