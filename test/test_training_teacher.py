# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A network learns from the answers of one that was trained before, or is told why it cannot."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip('torch')

from test_training_joint import RECIPE, blobs  # noqa: E402

from sparse_split_ros.training import joint  # noqa: E402
from sparse_split_ros.training.checkpoint import load, load_checkpoint, save  # noqa: E402
from sparse_split_ros.training.joint import fit  # noqa: E402
from sparse_split_ros.training.predict import predict  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, TrainingError, input_spec  # noqa: E402
from sparse_split_ros.training.teacher import Teacher  # noqa: E402

torch.set_num_threads(1)
SELECTION = {'blobs': blobs(12, 1)}


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp('teacher')
    fit(dataclasses.replace(RECIPE, epochs=1, mean=(0.2, 0.3, 0.4)), blobs(32, 0), SELECTION,
        directory)  # fmt: skip
    return directory


def teacher(recipe: Recipe, shape: tuple[int, int, int] | None = None) -> Teacher:
    data = blobs(32, 0)
    size = data.images.shape[1]
    return Teacher(recipe, data.tasks, shape or (3, size, size), torch.device('cpu'))


def test_its_answer_is_that_of_its_final_exit_by_its_own_normalisation(run: Path) -> None:
    images = blobs(6, 2).images
    found = teacher(dataclasses.replace(RECIPE, teacher=str(run))).answer(torch.from_numpy(images))
    network, own, _ = load_checkpoint(run)
    said = predict(network, images, input_spec(own, network))
    torch.testing.assert_close(found, torch.from_numpy(said[max(said)]), atol=1e-5, rtol=1e-4)
    assert not found.requires_grad


def test_a_training_has_its_teachers_answers_to_what_it_sees(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1, teacher=str(run))
    answers: list[Any] = []
    given: list[Any] = []
    answer, loss = Teacher.answer, joint.joint_loss

    def answering(self: Teacher, images: Any) -> Any:
        answers.append(answer(self, images))
        return answers[-1]

    def losing(logits: Any, labels: Any, recipe: Recipe, taught: Any) -> Any:
        given.append(taught)
        return loss(logits, labels, recipe, taught)

    monkeypatch.setattr(Teacher, 'answer', answering)
    monkeypatch.setattr(joint, 'joint_loss', losing)
    fit(recipe, blobs(32, 0), SELECTION, tmp_path)
    assert len(answers) == 32 // recipe.batch_size
    for ours, theirs in zip(given, answers, strict=True):
        torch.testing.assert_close(ours, theirs)
    meta, _ = load(tmp_path / 'best')
    assert meta['recipe']['teacher'] == str(run)
    assert meta['taught_by'] == teacher(recipe).digest


def test_going_on_needs_the_same_teacher(run: Path, tmp_path: Path) -> None:
    copied, out = tmp_path / 'teacher', tmp_path / 'run'
    shutil.copytree(run, copied)
    recipe = dataclasses.replace(RECIPE, epochs=1, teacher=str(copied))
    fit(recipe, blobs(32, 0), SELECTION, out)
    fit(recipe, blobs(32, 0), SELECTION, out, resume=True)
    other = dataclasses.replace(RECIPE, epochs=1, seed=5)
    fit(other, blobs(32, 0), SELECTION, copied)
    with pytest.raises(TrainingError, match=r'\(taught_by changed\)'):
        fit(recipe, blobs(32, 0), SELECTION, out, resume=True)
    shutil.rmtree(copied)
    with pytest.raises(TrainingError, match='teacher'):
        fit(recipe, blobs(32, 0), SELECTION, out, resume=True)
    load_checkpoint(out)  # what was learned needs no teacher


def test_a_teacher_of_something_else_is_refused(run: Path) -> None:
    recipe = dataclasses.replace(RECIPE, teacher=str(run))
    with pytest.raises(TrainingError, match=r'image shape \(3, .*, this training has \(3, 7, 7\)'):
        teacher(recipe, (3, 7, 7))
    data = blobs(32, 0)
    size = data.images.shape[1]
    with pytest.raises(TrainingError, match=r'classes .*: give one that was trained on the same'):
        Teacher(recipe, {'': ('x', 'y')}, (3, size, size), torch.device('cpu'))
    with pytest.raises(TrainingError, match=r'no/such/run.* not a readable checkpoint'):
        teacher(dataclasses.replace(RECIPE, teacher='no/such/run'))


def test_a_hierarchical_training_has_none() -> None:
    with pytest.raises(TrainingError, match='has no teacher, as the cloud sees no images'):
        dataclasses.replace(RECIPE, teacher='runs/a', hierarchical=True)


def test_a_teacher_of_the_same_tasks_in_another_order_is_refused(run: Path) -> None:
    """Logits of several tasks stand side by side, in the order of the tasks."""
    meta, tensors = load(run / 'best')
    tasks = {'one': ['r'], 'two': ['g', 'b']}
    turned = run.parent / 'turned'
    save(turned, meta | {'tasks': tasks}, tensors)
    recipe = dataclasses.replace(RECIPE, teacher=str(turned))
    shape = (3, *blobs(1, 0).images.shape[1:3])
    Teacher(recipe, {name: tuple(own) for name, own in tasks.items()}, shape, torch.device('cpu'))
    other = {'two': ('g', 'b'), 'one': ('r',)}
    with pytest.raises(TrainingError, match=r'teacher .*classes .*one.*two.*this training has'):
        Teacher(recipe, other, shape, torch.device('cpu'))
