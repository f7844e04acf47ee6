# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure how long a bundle's stages take on this machine, and keep it beside the bundle.

The figures stand in profile.json, outside the fingerprint, because they differ from robot to robot
while the model stays the same. One file holds every engine, device and thread count measured.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np

from sparse_split_ros.runtime.bundle import PROFILE, Bundle, BundleError, bundle_path
from sparse_split_ros.runtime.engine import Engine, load_engine

WARM_UP = 20


def profile(
    bundle_or_path: str | os.PathLike[str],
    engine: str = 'auto',
    device: str = 'cpu',
    threads: int = 1,
    repeats: int = 200,
) -> dict[str, Any]:
    """Median milliseconds at batch 1 of every model, also written to the bundle's profile.json.

    Returns {"stage_ms", "exit_ms", "encoder_ms", "decoder_ms"}: stage index -> ms. Raises
    BundleError, EngineError.
    """
    bundle = Bundle.load(bundle_path(bundle_or_path))
    loaded = load_engine(bundle, engine, device, threads)
    times = measure(loaded, repeats)
    times |= {'repeats': repeats, 'measured': datetime.now(timezone.utc).isoformat('T', 'seconds')}
    try:
        everything = bundle.profile()
    except BundleError:
        everything = {}  # a damaged file is what measuring again is to mend
    # Times of another machine would mislead whoever copied the bundle's directory.
    if everything.get('machine') != _machine():
        everything = {'machine': _machine(), 'engines': {}}
    everything.setdefault('engines', {})[key(loaded.name, device, threads)] = times
    path = bundle.path / PROFILE
    partial = path.with_name(f'.{PROFILE}')
    try:
        partial.write_text(json.dumps(everything, indent=1) + '\n', encoding='utf-8')
        partial.replace(path)
    except OSError as error:
        raise BundleError(f'{path}: cannot be written: {error.strerror}') from error
    return times


def key(engine: str, device: str, threads: int) -> str:
    """The name of one measurement in profile.json, such as 'native/cpu/1'."""
    return f'{engine}/{device}/{threads}'


def measure(engine: Engine, repeats: int) -> dict[str, Any]:
    """Median milliseconds of every stage, exit, encoder and decoder on random input, batch 1."""
    bundle = engine.bundle
    rng = np.random.default_rng(0)
    times: dict[str, dict[str, float]] = {
        'stage_ms': {},
        'exit_ms': {},
        'encoder_ms': {},
        'decoder_ms': {},
    }
    x = rng.normal(size=(1, *bundle.input.shape)).astype(np.float32)
    splits = {split.stage for split in bundle.splits if split.encoder}
    for stage in range(len(bundle.stages)):
        thresholds: list[float | None] = [None] * len(bundle.stages)
        thresholds[stage] = 0.0
        runs = [
            engine.run(x, stage, stage, thresholds, stop=False) for _ in range(WARM_UP + repeats)
        ]
        kept = runs[WARM_UP:]
        times['stage_ms'][str(stage)] = _median([run.stage_ms[stage] for run in kept])
        if bundle.exit_at(stage) is not None:
            times['exit_ms'][str(stage)] = _median([run.exit_ms[stage] for run in kept])
        features = runs[-1].features
        assert features is not None
        if stage in splits:
            coded = engine.encode(features, stage)
            times['encoder_ms'][str(stage)] = _clocked(engine.encode, features, stage, repeats)
            times['decoder_ms'][str(stage)] = _clocked(engine.decode, coded, stage, repeats)
        x = features
    return dict(times)


def _clocked(
    call: Callable[[np.ndarray, int], np.ndarray], x: np.ndarray, stage: int, repeats: int
) -> float:
    taken = []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        call(x, stage)
        taken.append(1e3 * (time.perf_counter() - start))
    return _median(taken[WARM_UP:])


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 5)


def _machine() -> dict[str, Any]:
    return {
        'node': platform.node(),
        'machine': platform.machine(),
        'system': platform.system(),
        'cores': os.cpu_count(),
    }
