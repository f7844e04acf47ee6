# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several tasks learned together: from a table of labels to a bundle, and the weather as a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_data_labels import COLOURS, SIZES, photos

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from test_training_folder import RECIPE  # noqa: E402

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.data import weather  # noqa: E402
from sparse_split_ros.data.augment import Augmentation, AugmentedBatches  # noqa: E402
from sparse_split_ros.data.datasets import DatasetError, LabelledImages  # noqa: E402
from sparse_split_ros.data.drawn import load_drawn  # noqa: E402
from sparse_split_ros.data.drive import SCENES  # noqa: E402
from sparse_split_ros.data.signs import CLASSES  # noqa: E402
from sparse_split_ros.runtime.bundle import Bundle, BundleError  # noqa: E402
from sparse_split_ros.training.checkpoint import load_checkpoint  # noqa: E402
from sparse_split_ros.training.joint import fit, joint_loss, tasks_loss  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, TrainingError  # noqa: E402
from sparse_split_ros.training.train import train  # noqa: E402

torch.set_num_threads(1)

TASKS = {'sign': CLASSES, weather.TASK: SCENES}


def written(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(RECIPE | changes), encoding='utf-8')
    return path


def test_a_table_of_labels_becomes_a_bundle_that_answers_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(photos(tmp_path / 'photos', count=40))
    recipe = str(written(tmp_path / 'tiny.yaml', task_weights={'colour': 0.5}))
    run, out = str(tmp_path / 'run'), tmp_path / 'bundle'
    assert main(['train', recipe, '--data', data, '--out', run]) == 0
    assert main(['export', run, str(out), '--data', data]) == 0
    bundle = Bundle.load(out)
    assert bundle.tasks == {'colour': COLOURS, 'size': SIZES}
    report = bundle.training['report']['folder']
    for exit_ in bundle.exits:
        marks = report['exits'][str(exit_.stage)]
        assert len(exit_.temperatures) == 2
        assert exit_.tasks == {name: each['accuracy'] for name, each in marks['tasks'].items()}
        # All tasks at once are right at most as often as each, and at least as their errors add up.
        wrong = sum(1 - share for share in exit_.tasks.values())
        assert exit_.accuracy is not None
        assert 1 - wrong - 1e-4 <= exit_.accuracy <= min(exit_.tasks.values()) + 1e-4
    assert min(exit_.tasks['colour'] for exit_ in bundle.exits) > 0.7
    assert main(['inspect', str(out)]) == 0
    assert '2 classes of colour, 2 classes of size' in ' '.join(capsys.readouterr().out.split())


def test_the_loss_is_the_weighted_sum_of_the_tasks(tmp_path: Path) -> None:
    recipe = Recipe.from_mapping(RECIPE | {'task_weights': {'b': 3.0}})
    rng = torch.Generator().manual_seed(0)
    logits = {stage: torch.randn(6, 5, generator=rng) for stage in (0, 1)}
    labels = torch.tensor([[0, 1], [1, 0], [2, 1], [0, 0], [1, 1], [2, 0]])
    total = tasks_loss(logits, labels, {'a': 'xyz', 'b': 'uv'}, recipe)
    first = joint_loss({k: v[:, :3] for k, v in logits.items()}, labels[:, 0], recipe)
    second = joint_loss({k: v[:, 3:] for k, v in logits.items()}, labels[:, 1], recipe)
    assert float(total) == pytest.approx(float(first + 3 * second), rel=1e-6)
    alone = tasks_loss({k: v[:, :3] for k, v in logits.items()}, labels[:, 0], {'': 'xyz'}, recipe)
    assert torch.equal(alone, first)


def test_a_weight_of_no_task_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    data = photos(tmp_path / 'photos', count=40)
    recipe = written(tmp_path / 'tiny.yaml', task_weights={'shape': 2.0})
    with pytest.raises(TrainingError, match='task_weights has shape; the tasks are colour, size'):
        train(recipe, tmp_path / 'run', data)


def test_a_task_whose_name_is_no_topic_is_refused_before_anything_is_learned(
    tmp_path: Path,
) -> None:
    table = photos(tmp_path / 'photos', count=40) / 'labels.csv'
    table.write_text(table.read_text().replace('file,colour,size', 'file,how large,size'))
    with pytest.raises(BundleError, match=r"a part of a topic's name: .*'how large'"):
        train(written(tmp_path / 'tiny.yaml'), tmp_path / 'run', tmp_path / 'photos')


@pytest.mark.parametrize('weights', [{'sign': 0}, {'sign': 'much'}, [1, 2]])
def test_weights_that_are_none_are_refused(weights: Any) -> None:
    with pytest.raises(TrainingError, match=r'task_weights is .*expected "task: number" lines'):
        Recipe.from_mapping(RECIPE | {'task_weights': weights})


def grey(count: int = 64, scenes: int = 0) -> LabelledImages:
    images = np.full((count, 32, 32, 3), 120, np.uint8)
    labels = np.stack([np.arange(count) % 43, np.full(count, scenes)], axis=1)
    return LabelledImages.of_tasks(images, labels, np.arange(count), TASKS)


EVERY = Augmentation(0.9, SCENES[1:], (0.8, 0.8))


def test_the_weather_that_is_put_on_is_the_label() -> None:
    batches = AugmentedBatches(grey(), 64, 3, EVERY)
    images, labels = batches[0]
    names = [SCENES[label] for label in labels[:, 1]]
    assert {*names} == {*SCENES}
    brightness = images.float().mean(dim=(1, 2, 3))
    by_name = {name: brightness[[each == name for each in names]].mean() for name in SCENES}
    assert by_name['night'] < by_name['dusk'] < by_name['day'] < by_name['glare']
    again = AugmentedBatches(grey(), 64, 3, EVERY)[0]
    assert all(torch.equal(one, other) for one, other in zip((images, labels), again))


def test_images_that_come_with_weather_keep_it() -> None:
    data = grey(scenes=SCENES.index('fog'))
    labels = AugmentedBatches(data, 64, 3, EVERY)[0][1]
    assert {SCENES[label] for label in labels[:, 1]} == {'fog'}


@pytest.mark.parametrize(
    'how', [Augmentation(), Augmentation(0.5, ('fog',)), Augmentation(0.5, (*SCENES[1:], 'jpeg'))]
)
def test_weather_that_cannot_be_told_is_refused(how: Augmentation) -> None:
    with pytest.raises(DatasetError, match="the task 'weather' is to tell day, dusk"):
        AugmentedBatches(grey(), 64, 3, how)


def test_weather_is_put_on_by_the_name_of_its_class() -> None:
    """Tables and bags name classes in the order of their names."""
    tasks = {'sign': CLASSES, weather.TASK: ('darkness', 'day', 'fog')}
    how = Augmentation(1.0, ('darkness', 'fog'), (0.8, 0.8))
    data = grey(scenes=1)
    made = LabelledImages.of_tasks(data.images, data.labels, data.groups, tasks)
    assert set(AugmentedBatches(made, 64, 3, how)[0][1][:, 1].tolist()) == {0, 2}
    dark = LabelledImages.of_tasks(data.images, data.labels * [1, 0], data.groups, tasks)
    assert set(AugmentedBatches(dark, 64, 3, how)[0][1][:, 1].tolist()) == {0}
    others = tasks | {weather.TASK: ('cloudy', 'fog', 'sunny')}
    with pytest.raises(DatasetError, match="weather is put onto images of 'day', and none is"):
        AugmentedBatches(
            LabelledImages.of_tasks(data.images, data.labels, data.groups, others), 64, 3, how
        )


def test_a_drawing_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    kept = tmp_path / 'drawn.npz'
    whole = load_drawn(4, 32, 5, kept).images
    kept.write_bytes(kept.read_bytes()[:1000])
    np.testing.assert_array_equal(load_drawn(4, 32, 5, kept).images, whole)
    assert [*tmp_path.iterdir()] == [kept]


def test_drawn_signs_are_labelled_with_the_weather_they_were_drawn_in() -> None:
    plain, both = load_drawn(60, 32, 5), load_drawn(60, 32, 5, tasks=TASKS)
    np.testing.assert_array_equal(plain.images, both.images)
    np.testing.assert_array_equal(plain.labels, both.columns[0])
    scenes = np.array(SCENES)[both.columns[1]]
    light = both.images.mean(axis=(1, 2, 3))
    assert light[scenes == 'night'].mean() < light[scenes == 'day'].mean()


def test_a_run_of_several_tasks_goes_on_and_remembers_them(tmp_path: Path) -> None:
    recipe = Recipe.from_mapping(
        RECIPE | {'weather': 0.8, 'conditions': [*SCENES[1:]], 'epochs': 1}
    )
    fit(recipe, grey(), {'select': grey(16)}, tmp_path)
    fit(recipe, grey(), {'select': grey(16)}, tmp_path, resume=True)
    assert load_checkpoint(tmp_path)[2]['tasks'] == {k: list(v) for k, v in TASKS.items()}
