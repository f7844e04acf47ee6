# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scene's measures follow light and weather, and hold for any image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.policy import scene as scene_module
from sparse_split_ros.policy.scene import SceneMeter, measure

# Smooth patches: white noise would be a scene of its own.
TEXTURE = np.kron(np.random.default_rng(0).integers(60, 200, (8, 8, 3)), np.ones((8, 8, 1))).astype(
    np.uint8
)


def blend(image: np.ndarray, grey: float, share: float) -> np.ndarray:
    return np.clip(image * (1 - share) + grey * share, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ('image', 'name'),
    [
        (TEXTURE, 'day'),
        (TEXTURE // 8, 'night'),
        (TEXTURE // 3, 'dusk'),
        (blend(TEXTURE, 180, 0.9), 'haze'),
        (np.where(np.arange(64)[:, None, None] < 20, 255, TEXTURE).astype(np.uint8), 'glare'),
    ],
)
def test_coarse_scenes_are_named(image: np.ndarray, name: str) -> None:
    assert measure(image).name == name


CLEAR = {
    'luminance': 0.4, 'contrast': 0.2, 'saturation': 0.5, 'glare': 0.0, 'noise': 0.0,
    'sharpness': 0.5, 'haze': 0.0, 'streaks': 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ('luminance', 'now', 'name'),
    [
        (0.195, '', 'dusk'), (0.205, '', 'day'),
        (0.195, 'day', 'day'), (0.185, 'day', 'dusk'),
        (0.205, 'dusk', 'dusk'), (0.215, 'dusk', 'day'),
    ],
)  # fmt: skip
def test_a_scene_is_entered_and_left_with_a_margin(luminance: float, now: str, name: str) -> None:
    assert scene_module._name(CLEAR | {'luminance': luminance}, now) == name


def test_one_measurement_changes_no_scene_and_two_do() -> None:
    meter = SceneMeter(every=1, fast=1.0)
    shown = [TEXTURE, TEXTURE // 3, TEXTURE, TEXTURE // 3, TEXTURE // 3]
    assert [meter(image).name for image in shown] == ['day'] * 4 + ['dusk']
    assert meter.changes == 1


def test_a_jump_within_a_scene_is_a_change_counted_once() -> None:
    meter = SceneMeter(every=1, fast=1.0)
    meter._count = 200  # what is usual is known
    for _ in range(200):
        meter._update(tuple(CLEAR.values()))
    for haze in (0.5, 0.0, 0.5, 0.0):
        meter._update(tuple((CLEAR | {'haze': haze}).values()))
    assert (meter._scene.name, meter.changes) == ('day', 1)


def test_after_the_first_frames_one_in_five_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, real = [], scene_module._measures
    monkeypatch.setattr(
        scene_module, '_measures', lambda image: (measured.append(0), real(image))[1]
    )
    meter = SceneMeter(every=5)
    for _ in range(20):
        meter(TEXTURE)
    assert len(measured) == 5 + 3


def test_fog_lowers_contrast_and_raises_haze() -> None:
    clear, fog = measure(TEXTURE), measure(blend(TEXTURE, 200, 0.6))
    assert fog.contrast < clear.contrast and fog.haze > clear.haze


def test_grey_has_no_saturation_and_a_pure_colour_has_all() -> None:
    grey, red = np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    assert measure(grey).saturation == 0.0
    assert measure(red).saturation == 1.0


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_any_image_has_every_measure_in_range(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scene = measure(image)
    values = (scene.luminance, scene.contrast, scene.saturation, scene.glare, scene.noise)
    # The Laplacian of uint8 reaches 4 * 255; noise is its median over 255.
    assert all(type(value) is float for value in values)
    assert all(0 <= value <= 1 for value in values[:4]) and 0 <= scene.noise <= 4
