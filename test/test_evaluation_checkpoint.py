# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint brings back what a replay is made of, and nothing else."""

from __future__ import annotations

import os
import pickle
import threading
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle

from sparse_split_ros.evaluation import checkpoint
from sparse_split_ros.evaluation.checkpoint import CheckpointError
from sparse_split_ros.link.codec import Codec
from sparse_split_ros.runtime.engine import Engine, load_engine


@pytest.fixture(scope='module')
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return load_engine(make_bundle(tmp_path_factory.mktemp('bundle')), 'onnxruntime')


def test_engine_and_bundle_are_those_of_the_process(engine: Engine, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / 'state', {'engine': engine, 'bundle': engine.bundle}, engine)
    state = checkpoint.load(tmp_path / 'state', engine)
    assert state['engine'] is engine and state['bundle'] is engine.bundle


def test_codecs_locks_generators_and_partials_come_back(engine: Engine, tmp_path: Path) -> None:
    split = engine.bundle.split_at(1)
    codec = Codec.from_calibration('int8+zstd', split.shape, split.codecs['int8+zstd'])
    rng = np.random.default_rng(7)
    state = (codec, threading.Lock(), rng, deque([1], maxlen=3), partial(codec.encode))
    checkpoint.save(tmp_path / 'state', state, engine)
    again, lock, other, queue, encode = checkpoint.load(tmp_path / 'state', engine)
    features = np.ones((1, *split.shape), np.float32)
    assert again.encode(features) == codec.encode(features) == encode(features)
    assert lock.acquire(blocking=False)
    assert other.random() == rng.random()
    assert queue.maxlen == 3


def test_what_a_replay_is_not_made_of_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / 'state').write_bytes(pickle.dumps(os.system))
    with pytest.raises(CheckpointError, match='system'):
        checkpoint.load(tmp_path / 'state', engine)


@pytest.mark.parametrize('share', [0.0, 0.5])
def test_a_damaged_checkpoint_is_refused(engine: Engine, tmp_path: Path, share: float) -> None:
    checkpoint.save(tmp_path / 'state', list(range(1000)), engine)
    data = (tmp_path / 'state').read_bytes()
    (tmp_path / 'state').write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match='--resume'):
        checkpoint.load(tmp_path / 'state', engine)
