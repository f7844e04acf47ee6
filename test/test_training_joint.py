# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Training learns, goes on after a kill as if nothing had been, and names what is wrong."""

from __future__ import annotations

import csv
import dataclasses
import math
import multiprocessing
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')

from sparse_split_ros.data.augment import (  # noqa: E402
    Augmentation,
    AugmentedBatches,
    augment,
    batches,
)
from sparse_split_ros.data.datasets import (  # noqa: E402
    DatasetError,
    LabelledImages,
    find_data,
    join,
)
from sparse_split_ros.training import joint  # noqa: E402
from sparse_split_ros.training.checkpoint import load, load_checkpoint, save  # noqa: E402
from sparse_split_ros.training.joint import fit, joint_loss  # noqa: E402
from sparse_split_ros.training.predict import accuracy, predict  # noqa: E402
from sparse_split_ros.training.recipe import (  # noqa: E402
    Recipe,
    TrainingError,
    build_network,
    input_spec,
)

# A second thread waits more than it works on networks this small.
torch.set_num_threads(1)

TINY = {'widths': (8, 12, 16), 'blocks': 1, 'code_channels': (2, 4, 4)}
RECIPE = Recipe(
    name='tiny',
    dataset='none',
    network_arguments=TINY,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    epochs=4,
    batch_size=16,
    workers=0,
    threads=1,
    average=0.9,
    precision='float32',
)


def blobs(count: int, seed: int) -> LabelledImages:
    """Three classes told apart by colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 60, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 120
    return LabelledImages(images.astype(np.uint8), labels, np.arange(count), ('r', 'g', 'b'))


def test_a_tiny_run_learns_at_every_exit_and_behind_the_bottleneck(tmp_path: Path) -> None:
    best = fit(RECIPE, blobs(160, 0), {'blobs': blobs(48, 1)}, tmp_path)
    network, loaded, meta = load_checkpoint(best)
    assert loaded == Recipe.from_mapping(meta['recipe'])
    test = blobs(48, 2)
    spec = input_spec(loaded, network)
    plain = predict(network, test.images, spec)
    assert all(accuracy(logits, test.labels) > 0.9 for logits in plain.values())
    assert accuracy(predict(network, test.images, spec, split=1)[3], test.labels) > 0.9


def test_log_has_a_row_per_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(dataclasses.replace(RECIPE, epochs=2), blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    words = '32 images of 3 classes to learn from, 12 to choose the epoch on'
    assert capsys.readouterr().out.startswith(words)
    with (tmp_path / 'log.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['epoch'] for row in rows] == ['0', '1']
    assert {'loss', 'blobs_exit_0', 'blobs_exit_3', 'blobs_coded', 'score'} <= set(rows[0])


def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = {'blobs': blobs(12, 1)}
    fit(RECIPE, blobs(48, 0), selection, tmp_path / 'whole')

    epoch = joint._epoch

    def dying(state: joint._State, dataset: AugmentedBatches, index: int) -> float:
        if index == 2:
            raise KeyboardInterrupt
        return epoch(state, dataset, index)

    monkeypatch.setattr(joint, '_epoch', dying)
    with pytest.raises(KeyboardInterrupt):
        fit(RECIPE, blobs(48, 0), selection, tmp_path / 'killed')
    monkeypatch.undo()
    fit(RECIPE, blobs(48, 0), selection, tmp_path / 'killed', resume=True)
    _, whole = load(tmp_path / 'whole' / 'last')
    _, killed = load(tmp_path / 'killed' / 'last')
    assert whole.keys() == killed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, rtol=0, atol=0, msg=name)


def test_a_run_that_ended_no_epoch_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    best = fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path, resume=True)
    assert load_checkpoint(best)[2]['epoch'] == 1
    assert 'holds no whole epoch yet; the training begins' in capsys.readouterr().out


@pytest.mark.parametrize(('gone', 'left'), [('best', 'last'), ('last', 'best')])
def test_half_a_run_is_not_gone_on_with(tmp_path: Path, gone: str, left: str) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    (tmp_path / f'{gone}.safetensors').unlink()
    kept = (tmp_path / f'{left}.safetensors').read_bytes()
    with pytest.raises(TrainingError, match=rf'holds {left}\.safetensors, but no {gone}\.'):
        fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path, resume=True)
    assert (tmp_path / f'{left}.safetensors').read_bytes() == kept


def test_a_checkpoint_from_before_a_setting_existed_resumes(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    for name in ('last', 'best'):
        meta, tensors = load(tmp_path / name)
        del meta['recipe']['patience'], meta['learned_on']
        save(tmp_path / name, meta, tensors)
    best = fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path, resume=True)
    assert load_checkpoint(best)[1].patience == 0


def test_a_run_without_progress_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(joint, '_score', lambda *_: {'score': next(scores)})
    patient = dataclasses.replace(RECIPE, epochs=5, patience=2)
    selection = {'blobs': blobs(12, 1)}
    fit(patient, blobs(32, 0), selection, tmp_path)
    assert len(load(tmp_path / 'last')[0]['history']) == 4
    fit(patient, blobs(32, 0), selection, tmp_path, resume=True)
    assert len(load(tmp_path / 'last')[0]['history']) == 4


def test_a_run_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    fit(dataclasses.replace(RECIPE, epochs=2), blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    picture = cv2.imread(str(tmp_path / 'curves.png'))
    assert picture.shape[1] > 2 * picture.shape[0]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_the_curves_mark_the_epoch_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip('matplotlib.axes')
    marked: list[float] = []
    monkeypatch.setattr(axes.Axes, 'axvline', lambda self, x, **_: marked.append(x))
    one = dataclasses.replace(RECIPE, epochs=3, learning_rate=1e-9)  # nothing changes
    best = fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    assert marked[-1] == load_checkpoint(best)[2]['epoch']


@contextmanager
def full_disk() -> Iterator[None]:
    """To a process, a file that may not grow is a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_nothing_where_nothing_was(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(TrainingError, match=r'new\.safetensors: cannot be') as raised:
        save(tmp_path / 'new', {}, {'weight': torch.zeros(10_000)})
    assert 'older' not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_for_whom_the_umask_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for _ in range(2):
            save(tmp_path / 'last', {}, {'weight': torch.zeros(1)})
    finally:
        os.umask(before)
    assert (tmp_path / 'last.safetensors').stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_one_error_and_keeps_what_was_good(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    selection = {'blobs': blobs(12, 1)}
    fit(one, blobs(32, 0), selection, tmp_path)
    kept = {name: (tmp_path / name).read_bytes() for name in ('best.safetensors', 'log.csv')}
    with (
        full_disk(),
        pytest.raises(TrainingError, match=r'cannot be written .* the older one is kept'),
    ):
        fit(one, blobs(32, 0), selection, tmp_path)
    assert all((tmp_path / name).read_bytes() == data for name, data in kept.items())
    assert not list(tmp_path.glob('*.partial'))
    load_checkpoint(tmp_path)


def test_resuming_with_another_recipe_is_refused(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    other = dataclasses.replace(one, learning_rate=1e-4)
    with pytest.raises(TrainingError, match=r'of another recipe .*\(learning_rate changed\)'):
        fit(other, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path, resume=True)


def test_resuming_with_other_images_is_refused(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    selection = {'blobs': blobs(12, 1)}
    fit(one, blobs(32, 0), selection, tmp_path)
    with pytest.raises(TrainingError, match=r'other data \(learned_on changed\)'):
        fit(one, blobs(32, 2), selection, tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r'other data \(chosen_on changed\)'):
        fit(one, blobs(32, 0), {'blobs': blobs(12, 3)}, tmp_path, resume=True)


def test_a_loss_that_is_not_a_number_keeps_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    kept = (tmp_path / 'last.safetensors').read_bytes()
    monkeypatch.setattr(joint, 'joint_loss', lambda *_: torch.tensor(float('nan')))
    with pytest.raises(
        TrainingError, match='loss became nan in epoch 0; the last whole epoch is kept'
    ):
        fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    assert (tmp_path / 'last.safetensors').read_bytes() == kept


def test_early_exits_learn_from_the_final_answer() -> None:
    labels = torch.tensor([0, 1])
    sure = torch.tensor([[8.0, -8.0], [-8.0, 8.0]])
    agree = joint_loss({0: sure, 1: sure}, labels, RECIPE)
    differ = joint_loss({0: -sure, 1: sure}, labels, RECIPE)
    assert float(agree) < 0.6
    assert float(differ) > 2


def test_the_teacher_gets_no_gradient_from_its_pupils() -> None:
    recipe = dataclasses.replace(RECIPE, distillation=1.0)
    final = torch.randn(4, 3, requires_grad=True)
    early = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    joint_loss({0: early, 1: final}, labels, recipe).backward()
    alone = final.detach().clone().requires_grad_()
    joint_loss({1: alone}, labels, recipe).backward()
    torch.testing.assert_close(final.grad, alone.grad)
    assert early.grad is not None


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'epochs': 0}, 'epochs is 0, expected more than 0'),
        ({'epochs': 'many'}, "epochs is 'many', expected a whole number"),
        ({'epochs': True}, 'epochs is True, expected a whole number'),
        ({'learning_rate': '1e-3'}, "is '1e-3', expected a number, written like .* or 1.0e-3"),
        ({'flip': 'no'}, "flip is 'no', expected true or false"),
        ({'flip': 1}, 'flip is 1, expected true or false'),
        ({'name': ''}, "name is '', expected a text"),
        ({'threads': 100_000}, 'threads is 100000, expected 1 to 256'),
        ({'learning_rate': math.inf}, 'learning_rate is inf, expected more than 0'),
        ({'seed': 1 << 32}, 'seed is 4294967296, expected 0 to 4294967295'),
        ({'early_weight': -1}, 'early_weight is -1, expected 0 or more'),
        ({'distortion': float('nan')}, 'distortion is nan, expected 0 or more'),
        ({'label_smoothing': 2}, 'label_smoothing is 2, expected 0 to 1'),
        ({'distillation_temperature': 0}, 'distillation_temperature is 0, expected more than 0'),
        ({'conditions': 'fog'}, r"conditions is 'fog', expected a list such as \[fog, rain\]"),
        ({'conditions': 5}, 'conditions is 5, expected a list'),
        ({'conditions': [['fog']]}, 'conditions is .*, expected a list'),
        ({'mean': [123.7, 116.8, 103.9]}, 'mean is .*, expected three numbers from 0 to 1'),
        ({'codec': 'fp16+zstd'}, "codec 'fp16.zstd', expected one of none, fp16, int8, int4"),
        ({'epochs': 1.5}, 'epochs is 1.5, expected a whole number'),
        ({'seed': -1}, 'seed is -1, expected 0 to 4294967295'),
        ({'mean': [0.5, 0.5]}, 'mean is .*, expected three numbers'),
        ({'std': [0.2, 0.2, 0.0]}, 'std is .*, expected three numbers'),
        ({'codec': 'int5'}, "codec 'int5', expected one of none, fp16"),
        ({'weather': 1.5}, 'weather is 1.5, expected 0 to 1'),
        ({'precision': 'int3'}, "precision 'int3'"),
        ({'dataset': ['a']}, r"dataset is \('a',\), expected a text"),
        ({'epochz': 3, 'x': 1}, r"unknown 'epochz' \(is it 'epochs'\?\), 'x'; known are name, "),
    ],
)
def test_a_wrong_recipe_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Recipe.from_mapping({'name': 'x', 'dataset': 'gtsrb', **values})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'widths': [0, 8, 8]}, r'widths is .*0, 8, 8.*, expected three whole numbers'),
        ({'widths': [8, 8]}, r'widths is .*8, 8.*, expected three whole numbers'),
        ({'widths': [8, 8, 'x']}, r"widths is .*'x'.*, expected three whole numbers"),
        ({'widths': [8, 8, 8.5]}, r'widths is .*8.5.*, expected three whole numbers'),
        ({'stem': 0.5}, 'stem is 0.5, expected a whole number of 1 or more'),
        ({'density': 0.5, 'pattern': 'tabular'}, "unknown kind of pattern 'tabular'"),
        ({'code_channels': [4, -1, 4]}, 'code_channels is'),
        ({'size': 0}, 'size is'),
        ({'stem': 0}, 'stem is'),
        ({'unstrided': 1, 'bits': 4}, r"takes no 'unstrided', but size, widths, .* density"),
    ],
)
def test_a_network_of_no_channels_is_refused(arguments: dict[str, Any], message: str) -> None:
    values = {'name': 'x', 'dataset': 'gtsrb', 'network_arguments': arguments}
    with pytest.raises(TrainingError, match=message):
        build_network(Recipe.from_mapping(values), 3)


def test_a_recipe_without_a_name_is_refused() -> None:
    with pytest.raises(TrainingError, match='has no name; examples'):
        Recipe.from_mapping({'dataset': 'gtsrb'})
    with pytest.raises(TrainingError, match='has no name and no dataset; examples'):
        Recipe.from_mapping({})


@pytest.mark.parametrize('text', ['just words', '- a\n- b', '{', ''])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(TrainingError, match=r'recipe\.yaml'):
        Recipe.load(path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('seed: 1\nflip: true\nseed: 2', r"recipe\.yaml.* 'seed' stands in line 3 and in line 5"),
        ('network_arguments: {size: 32, "size": 64}', "'size' stands in line 3 and in line 3"),
    ],
)
def test_a_key_that_comes_twice_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_text(f'name: x\ndataset: folder\n{text}')
    with pytest.raises(TrainingError, match=message):
        Recipe.load(path)


def test_keys_may_be_merged_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / 'recipe.yaml'
    arguments = '{<<: {size: 32, stem: 8}, size: 64}'
    path.write_text(f'name: x\ndataset: folder\nnetwork_arguments: {arguments}')
    assert Recipe.load(path).network_arguments == {'size': 64, 'stem': 8}


def test_the_committed_recipe_is_valid() -> None:
    path = Path(__file__).parents[1] / 'config' / 'training' / 'gtsrb32.yaml'
    assert Recipe.load(path).name == 'gtsrb32'


def test_a_split_the_network_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r'split 3, the network has \[0, 1, 2\]'):
        fit(dataclasses.replace(RECIPE, split=3), blobs(32, 0), {'b': blobs(12, 1)}, tmp_path)


def test_a_batch_of_one_image_is_refused(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, batch_size=1)
    with pytest.raises(TrainingError, match='batch_size 1 in 1 processes: expected two images'):
        fit(one, blobs(32, 0), {'b': blobs(12, 1)}, tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    one = dataclasses.replace(RECIPE, epochs=1)
    fit(one, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    meta, tensors = load(tmp_path / 'best')
    meta['recipe']['network_arguments']['widths'] = [8, 12, 24]
    save(tmp_path / 'other', meta, tensors)
    with pytest.raises(TrainingError, match="is not of network 'compact'") as raised:
        load_checkpoint(tmp_path / 'other.safetensors')
    assert '\n' not in str(raised.value)


def test_a_checkpoint_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    for epochs, name in ((1, 'signs'), (2, 'signs.v2')):
        recipe = dataclasses.replace(RECIPE, epochs=epochs)
        best = fit(recipe, blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path / str(epochs))
        best.rename(tmp_path / f'{name}.safetensors')
    _, recipe, _ = load_checkpoint(tmp_path / 'signs.v2.safetensors')
    assert recipe.epochs == 2


def test_what_a_run_goes_on_from_is_not_what_it_learned(tmp_path: Path) -> None:
    fit(dataclasses.replace(RECIPE, epochs=1), blobs(32, 0), {'blobs': blobs(12, 1)}, tmp_path)
    with pytest.raises(TrainingError, match=r'goes on from.* give best\.safetensors'):
        load_checkpoint(tmp_path / 'last.safetensors')


@pytest.mark.parametrize('content', [b'', b'not safetensors', b'\xff' * 64])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'best.safetensors').write_bytes(content)
    with pytest.raises(TrainingError, match='not a readable checkpoint'):
        load_checkpoint(tmp_path)


def test_batches_depend_on_seed_epoch_and_position_only() -> None:
    how = Augmentation(0.5, ('fog', 'rain'))
    first, second = (AugmentedBatches(blobs(40, 0), 8, 3, how) for _ in range(2))
    first.set_epoch(1)
    second.set_epoch(0)
    _ = second[2]
    second.set_epoch(1)
    for one, other in zip(first[4], second[4], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first[4][0], first[3][0])


def test_an_interrupt_stops_the_training_and_not_its_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = AugmentedBatches(blobs(64, 0), 8, 3, Augmentation())
    others = set(multiprocessing.active_children())  # of tests before, on their way out
    items = batches(dataset, 0, workers=1)
    (worker,) = set(multiprocessing.active_children()) - others
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(items)) == 8

    started = []

    class Loader:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __iter__(self) -> Iterator[None]:
            os.kill(os.getpid(), signal.SIGINT)
            started.append(True)
            return iter(())

    monkeypatch.setattr('sparse_split_ros.data.augment.DataLoader', Loader)
    with pytest.raises(KeyboardInterrupt):
        batches(dataset, 0, workers=1)
    assert started


def test_augmentation_changes_an_image_and_keeps_its_form() -> None:
    image = blobs(1, 0).images[0]
    changed = augment(np.random.default_rng(0), image, Augmentation(1.0, ('night',)))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - image).mean() > 1


def test_unknown_weather_is_named() -> None:
    with pytest.raises(DatasetError, match='hail'):
        Augmentation(0.5, ('hail',))


def test_joined_sets_keep_their_groups_apart() -> None:
    both = join(blobs(4, 0), blobs(6, 1))
    assert len(both) == 10
    assert len(set(both.groups.tolist())) == 10


def test_labels_out_of_range_are_refused() -> None:
    data = blobs(4, 0)
    with pytest.raises(DatasetError, match='labels from 0 to 2 for 2 classes'):
        LabelledImages(data.images, data.labels, data.groups, ('a', 'b'))


def test_a_missing_data_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('SPARSE_SPLIT_DATA', raising=False)
    with pytest.raises(DatasetError, match='SPARSE_SPLIT_DATA'):
        find_data(None)
    with pytest.raises(DatasetError, match='no such data directory'):
        find_data('/nowhere/at/all')


def test_how_far_a_density_was_reached_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {**RECIPE.network_arguments, 'widths': [8, 16, 32], 'density': 0.25}
    recipe = dataclasses.replace(RECIPE, epochs=1, network_arguments=arguments)
    fit(recipe, blobs(16, 0), {'blobs': blobs(8, 1)}, tmp_path)
    assert re.search(r'^\d+ of \d+ layers are sparse; \d+% of all weights stay$',
                     capsys.readouterr().out, re.MULTILINE)  # fmt: skip


@pytest.mark.parametrize('name', ['coded', 'exit_3'])
def test_a_task_with_a_name_of_the_logs_own_is_refused(name: str, tmp_path: Path) -> None:
    data = blobs(16, 0)
    labels = np.stack([data.labels, data.labels], axis=1)
    tasks = {'colour': data.classes, name: data.classes}
    both = LabelledImages.of_tasks(data.images, labels, data.groups, tasks)
    with pytest.raises(TrainingError, match=f"the task '{name}' has a name that the log needs"):
        fit(RECIPE, both, {'blobs': both}, tmp_path)
