# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparse_split_ros.data.drive import random_crop
from sparse_split_ros.data.weather import CONDITIONS, WeatherError, apply, level

WEATHER = [name for name in CONDITIONS if name != 'day']


@pytest.fixture(scope='module')
def crop() -> np.ndarray:
    return random_crop(np.random.default_rng(4), 2, 48)


def change(name: str, crop: np.ndarray, severity: float) -> float:
    """The mean difference to the clean image, over several draws of the weather."""
    changed = [apply(name, crop, severity, np.random.default_rng(seed)) for seed in range(8)]
    return float(np.mean([np.abs(one.astype(float) - crop).mean() for one in changed]))


@pytest.mark.parametrize('name', CONDITIONS)
@pytest.mark.parametrize('shape', [(16, 16), (32, 32), (128, 128), (40, 57)])
def test_shape_and_type_are_kept(name: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for severity in (0.0, 0.01, 0.5, 1.0):
        changed = apply(name, image, severity, np.random.default_rng(1))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8


@pytest.mark.parametrize('name', CONDITIONS)
def test_severity_zero_changes_nothing(name: str, crop: np.ndarray) -> None:
    assert np.array_equal(apply(name, crop, 0.0, np.random.default_rng(0)), crop)


@pytest.mark.parametrize('severity', [0.2, 1.0])
def test_day_changes_nothing(crop: np.ndarray, severity: float) -> None:
    assert np.array_equal(apply('day', crop, severity, np.random.default_rng(0)), crop)


@pytest.mark.parametrize('size', [32, 48, 128])
@pytest.mark.parametrize('name', WEATHER)
def test_every_level_changes_more_than_the_one_before(name: str, size: int) -> None:
    crop = random_crop(np.random.default_rng(4), 2, size)
    changes = [change(name, crop, level(number)) for number in range(1, 6)]
    assert changes[0] > 0.1
    assert all(after > before for before, after in itertools.pairwise(changes)), changes


@pytest.mark.parametrize('name', WEATHER)
def test_equal_generators_give_equal_images(name: str, crop: np.ndarray) -> None:
    first, second = (apply(name, crop, 0.6, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize('name', ['night', 'rain', 'snow', 'sensor_noise', 'shot_noise'])
def test_another_generator_gives_other_noise(name: str, crop: np.ndarray) -> None:
    first, second = (apply(name, crop, 0.6, np.random.default_rng(seed)) for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_the_field_stays_while_frames_change(crop: np.ndarray) -> None:
    shots = [
        apply('fog', crop, 0.6, np.random.default_rng(frame), np.random.default_rng(3))
        for frame in range(2)
    ]
    assert np.array_equal(*shots)


@pytest.mark.parametrize(('name', 'sign'), [('night', -1), ('dusk', -1), ('glare', 1)])
def test_light_goes_where_its_name_says(name: str, sign: int, crop: np.ndarray) -> None:
    changed = apply(name, crop, 0.6, np.random.default_rng(0))
    assert sign * (float(changed.mean()) - float(crop.mean())) > 5.0


def test_contrast_keeps_the_mean_and_the_published_share_of_the_rest(crop: np.ndarray) -> None:
    changed = apply('contrast', crop, level(3), np.random.default_rng(0))
    assert changed.mean((0, 1)) == pytest.approx(crop.mean((0, 1)), abs=1)
    assert changed.std((0, 1)) == pytest.approx(0.4 * crop.std((0, 1)), abs=1)


def test_darkness_is_of_the_light_and_not_of_its_code() -> None:
    grey = np.full((8, 8, 3), 200, np.uint8)
    # 0.18 of the light, by a gamma of 2.2.
    assert set(apply('darkness', grey, level(3), np.random.default_rng(0)).ravel()) == {92}


def test_the_sun_is_above() -> None:
    grey = np.full((32, 32, 3), 80, np.uint8)
    for seed in range(8):
        lit = apply('glare', grey, 0.6, np.random.default_rng(seed))
        assert lit[:16].mean() > lit[16:].mean()


@pytest.mark.parametrize('value', [0, 255])
@pytest.mark.parametrize('name', CONDITIONS)
def test_black_and_white_images_are_no_trouble(name: str, value: int) -> None:
    image = np.full((24, 24, 3), value, np.uint8)
    assert apply(name, image, 1.0, np.random.default_rng(0)).shape == image.shape


def test_an_unknown_condition_is_named_with_the_known_ones(crop: np.ndarray) -> None:
    with pytest.raises(WeatherError, match=r"'hail'.*fog"):
        apply('hail', crop, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize('severity', [-0.1, 1.1, 3, float('nan')])
def test_a_severity_out_of_range_is_named(severity: float, crop: np.ndarray) -> None:
    with pytest.raises(WeatherError, match=str(severity)):
        apply('fog', crop, severity, np.random.default_rng(0))


@pytest.mark.parametrize('number', [0, 6])
def test_a_level_out_of_range_is_named(number: int) -> None:
    with pytest.raises(WeatherError, match=str(number)):
        level(number)


@pytest.mark.parametrize(
    'image', [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)]
)
def test_what_is_no_rgb_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(WeatherError, match='expected uint8'):
        apply('fog', image, 0.5, np.random.default_rng(0))
