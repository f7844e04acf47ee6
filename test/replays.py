# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of the replay share: a small bundle, images for it, fixed step times, one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from bundles import make_bundle

from sparse_split_ros.evaluation.evaluate import Result, evaluate
from sparse_split_ros.evaluation.jobs import Request
from sparse_split_ros.evaluation.robot import FORMAT
from sparse_split_ros.evaluation.stream import Source
from sparse_split_ros.policy.factory import Settings
from sparse_split_ros.runtime.bundle import Bundle

CLASSES = 5


def make_world(folder: Path, frames: int = 200, seed: int = 0) -> tuple[Bundle, Path, Path]:
    """A bundle, an .npz of images with labels, and a profile that takes 1 ms for each step."""
    bundle = make_bundle(folder / 'bundle', classes=CLASSES, threshold=0.9)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    # Smooth ones beside noisy ones, so that confidences differ.
    images[::2] = images[::2, :1, :1]
    data = folder / 'images.npz'
    np.savez(data, images=images, labels=rng.integers(CLASSES, size=frames))
    return bundle, data, write_times(folder / 'times.json', bundle)


def write_times(path: Path, bundle: Bundle, ms: float = 1.0) -> Path:
    """A profile in which every step takes as long."""
    stages = {str(stage): ms for stage in range(len(bundle.stages))}
    splits = {str(split.stage): ms for split in bundle.splits if split.encoder}
    times = {
        'format': FORMAT, 'stage': stages, 'exit': stages, 'encoder': splits, 'decoder': splits,
        'prepare': ms, 'codec': ms, 'jpeg': ms, 'webp': ms, 'origin': 'made up',
        'fingerprint': bundle.fingerprint.hex(),
    }  # fmt: skip
    path.write_text(json.dumps(times), encoding='utf-8')
    return path


def request(world: tuple[Bundle, Path, Path], *policies: str, **given: Any) -> Request:
    """A request on that world; settings and sources may be given, and whatever Request takes."""
    bundle, data, times = world
    settings = Settings(**{'deadline_ms': 100.0, **given.pop('settings', {})})
    sources = given.pop('sources', (Source(str(data)),))
    values: dict[str, Any] = {'engine': 'onnxruntime', 'link': 'ideal', **given}
    return Request(
        sources, policies or ('fixed',), str(bundle.path), profile=str(times), settings=settings,
        **values,
    )  # fmt: skip


def replayed(world: tuple[Bundle, Path, Path], *policies: str, **given: Any) -> Result:
    """Evaluate without writing anything."""
    return evaluate(request(world, *policies, **given))
