# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""For every test: generated cases are the same in every run, on any machine."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from sparse_split_ros.vision import VisionError
from sparse_split_ros.vision import torchvision as installed

settings.register_profile(
    'reproducible',
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('reproducible')


@pytest.fixture
def torchvision() -> ModuleType:
    try:
        return installed()
    except VisionError as error:
        pytest.skip(str(error))
