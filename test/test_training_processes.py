# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that torchrun starts train one network together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('safetensors')
if not torch.distributed.is_available():
    pytest.skip('this torch has no torch.distributed', allow_module_level=True)

from safetensors.torch import load_file  # noqa: E402
from test_training_joint import blobs  # noqa: E402

from sparse_split_ros.training.checkpoint import load, load_checkpoint  # noqa: E402
from sparse_split_ros.training.predict import accuracy, predict  # noqa: E402
from sparse_split_ros.training.processes import processes  # noqa: E402
from sparse_split_ros.training.recipe import TrainingError, input_spec  # noqa: E402

WORKER = """
import dataclasses, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from sparse_split_ros.training import joint
from sparse_split_ros.training.recipe import TrainingError
from test_training_joint import RECIPE, blobs

out, rank = Path(sys.argv[1]), os.environ['RANK']
states, make, epoch = [], joint._State, joint._epoch

def remembered(*arguments):
    states.append(make(*arguments))
    return states[-1]

def dying(state, dataset, index):
    if index == 1:
        raise KeyboardInterrupt
    return epoch(state, dataset, index)

def run(name, resume=False, batch=16):
    recipe = dataclasses.replace(RECIPE, epochs=3, batch_size=batch)
    joint.fit(recipe, blobs(160, 0), {'blobs': blobs(48, 1)}, out / name, resume, 'cpu')

torch.distributed.init_process_group('gloo')
joint._State = remembered
run('whole')
weights = {k: p.detach().contiguous() for k, p in states[0].network.named_parameters()}
save_file(weights, out / f'rank_{rank}.safetensors')
joint._epoch = dying
try:
    run('killed')
except KeyboardInterrupt:
    joint._epoch = epoch
run('killed', resume=True)
for name, batch in (('odd', 15), ('large', 162)):
    try:
        run(name, batch=batch)
    except TrainingError as error:
        (out / f'{name}_{rank}').write_text(str(error))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope='module')
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes on this machine left: a run, a resumed run, and an error."""
    directory = tmp_path_factory.mktemp('together')
    here = Path(__file__).parent
    worker = directory / 'worker.py'
    worker.write_text(WORKER)
    environment = {**os.environ, 'PYTHONPATH': f'{here.parent}:{here}', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
            str(worker), str(directory),
        ],
        check=False, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return directory


def test_two_processes_learn_one_network(out: Path) -> None:
    one, other = (load_file(out / f'rank_{rank}.safetensors') for rank in (0, 1))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=0, msg=name)
    network, recipe, _ = load_checkpoint(out / 'whole')
    test = blobs(48, 2)
    logits = predict(network, test.images, input_spec(recipe, network))
    assert accuracy(logits[3], test.labels) > 0.9


def test_two_processes_resume_to_the_same_weights(out: Path) -> None:
    _, one = load(out / 'whole' / 'last')
    _, other = load(out / 'killed' / 'last')
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('odd', 'batch_size 15 does not divide among 2 processes'),
        ('large', 'batch_size 162 for 160 training images: lower it in the recipe'),
    ],
)
def test_a_batch_that_cannot_be_divided_is_named(out: Path, name: str, message: str) -> None:
    for rank in (0, 1):
        assert (out / f'{name}_{rank}').read_text() == message


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(TrainingError, match="unknown device 'tpu'"), processes('tpu'):
        pass
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match='no CUDA device'), processes('cuda'):
            pass
