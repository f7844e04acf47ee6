# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two sides of a cut learn apart: here in turn, or on two machines to the same bit."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from safetensors.torch import load_file  # noqa: E402
from test_training_folder import RECIPE as PHOTOS  # noqa: E402
from test_training_joint import RECIPE as JOINT  # noqa: E402
from test_training_joint import blobs  # noqa: E402

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.data.datasets import LabelledImages  # noqa: E402
from sparse_split_ros.training import hierarchical, joint, remote  # noqa: E402
from sparse_split_ros.training.checkpoint import load, load_checkpoint  # noqa: E402
from sparse_split_ros.training.hierarchical import Cloud, Edge, Facts, agreed, fit  # noqa: E402
from sparse_split_ros.training.learner import under  # noqa: E402
from sparse_split_ros.training.log import Log  # noqa: E402
from sparse_split_ros.training.messages import Batch, Report, Weights  # noqa: E402
from sparse_split_ros.training.parts import edge_loss  # noqa: E402
from sparse_split_ros.training.predict import accuracies, accuracy, predict  # noqa: E402
from sparse_split_ros.training.processes import Processes  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, TrainingError, build_network, input_spec  # noqa: E402

torch.set_num_threads(1)

RECIPE = dataclasses.replace(JOINT, hierarchical=True)
CPU = torch.device('cpu')
STEPS = 56 // 8  # of an epoch on the photos
SAID = 240.0


def test_it_learns_at_every_exit_and_the_whole_network_is_kept(tmp_path: Path) -> None:
    best = fit(RECIPE, blobs(160, 0), {'blobs': blobs(48, 1)}, tmp_path)
    network, recipe, _ = load_checkpoint(best)
    assert network.split_stages == [recipe.cut] == [recipe.split + 1]
    test, spec = blobs(48, 2), input_spec(recipe, network)
    for split in (recipe.cut, None):  # computed in one place, it is the same network
        said = predict(network, test.images, spec, split)
        right = {stage: accuracy(logits, test.labels) > 0.9 for stage, logits in said.items()}
        assert right == dict.fromkeys([0, 1, 3, 4], True)


def test_the_same_network_can_be_trained_jointly(tmp_path: Path) -> None:
    recipe = dataclasses.replace(JOINT, inline=True, epochs=1)
    best = joint.fit(recipe, blobs(160, 0), {'blobs': blobs(48, 1)}, tmp_path)
    network, _, _ = load_checkpoint(best)
    assert (network.split_stages, network.exit_stages) == ([2], [0, 1, 3, 4])


def test_several_tasks_are_learned_from_the_same_codes(tmp_path: Path) -> None:
    def two(images: LabelledImages) -> LabelledImages:
        blue = (images.labels == 2).astype(np.int64)
        labels = np.stack([images.labels, blue], axis=1)
        tasks = {'colour': images.classes, 'blue': ('no', 'yes')}
        return LabelledImages.of_tasks(images.images, labels, images.groups, tasks)

    best = fit(RECIPE, two(blobs(160, 0)), {'blobs': two(blobs(48, 1))}, tmp_path)
    network, recipe, meta = load_checkpoint(best)
    assert meta['tasks'] == {'colour': ['r', 'g', 'b'], 'blue': ['no', 'yes']}
    test = two(blobs(48, 2))
    said = predict(network, test.images, input_spec(recipe, network), recipe.cut)
    for logits in said.values():
        right = accuracies(logits, test.columns, test.tasks)
        assert min(right.values()) > 0.9


def test_masks_by_other_names_are_refused() -> None:
    arguments = {**RECIPE.network_arguments, 'masks': 'masks.safetensors'}
    with pytest.raises(TrainingError, match='names of a network whose bottleneck is not inline'):
        dataclasses.replace(RECIPE, network_arguments=arguments)


def edge_of(tmp_path: Path, recipe=RECIPE) -> tuple[Facts, Edge]:
    images, chosen = blobs(160, 0), {'blobs': blobs(48, 1)}
    facts = Facts.of(recipe, images, chosen)
    return facts, Edge(facts, images, chosen, tmp_path, CPU)


def test_no_gradient_crosses_the_cut(tmp_path: Path) -> None:
    learned = []
    for name, taught in (('alone', False), ('taught', True)):
        (tmp_path / name).mkdir()
        facts, edge = edge_of(tmp_path / name)
        cloud = Cloud(facts, tmp_path / name, CPU)
        for batch in edge.batches():
            if taught:
                wrong = (batch.labels + 1) % 3
                cloud.learn(dataclasses.replace(batch, labels=wrong))
        edge.report()
        edge.keep(1)
        learned.append(edge.best().tensors)
    alone, taught = learned
    assert alone and all(torch.equal(alone[key], taught[key]) for key in alone)


def test_the_encoder_learns_what_tells_classes_apart(tmp_path: Path) -> None:
    _, edge = edge_of(tmp_path)
    before = {k: v.clone() for k, v in edge._learner.module.state_dict().items()}
    for _ in edge.batches():
        pass
    after = edge._learner.module.state_dict()
    encoder = [key for key in before if key.startswith(f'stages.{RECIPE.cut}.')]
    assert encoder and not any(
        torch.equal(before[key], after[key]) for key in encoder if key.endswith('weight')
    )


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, monkeypatch) -> None:
    sets = (blobs(160, 0), {'blobs': blobs(48, 1)})
    whole = fit(RECIPE, *sets, tmp_path / 'whole')
    learn = Cloud.learn

    def dying(cloud: Cloud, batch: Batch) -> None:
        if (batch.epoch, batch.step) == (2, 3):
            raise KeyboardInterrupt
        learn(cloud, batch)

    monkeypatch.setattr(Cloud, 'learn', dying)
    with pytest.raises(KeyboardInterrupt):
        fit(RECIPE, *sets, tmp_path / 'killed')
    monkeypatch.undo()
    resumed = fit(RECIPE, *sets, tmp_path / 'killed', resume=True)
    assert same(whole, resumed)


def same(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope='module')
def unhurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a short run that nothing interrupts."""
    return short(tmp_path_factory.mktemp('unhurt'))


def short(out: Path, resume: bool = False, rising: bool = True) -> Path:
    recipe = dataclasses.replace(RECIPE, epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        if rising:  # each epoch is the best so far, whatever a release of torch makes of them
            patch.setattr(Log, 'best', property(lambda log: len(log.rows)))
        return fit(recipe, blobs(48, 0), {'blobs': blobs(24, 1)}, out, resume)


def dying_at(monkeypatch: pytest.MonkeyPatch, what: type, name: str, count: int) -> None:
    """End what calls this method the `count`th time, before it has done anything."""
    method, calls = getattr(what, name), iter(range(1, 100))

    def dying(*given: object) -> object:
        if next(calls) == count:
            raise KeyboardInterrupt
        return method(*given)

    monkeypatch.setattr(what, name, dying)


@pytest.mark.parametrize(
    ('what', 'name', 'count'),
    [
        (Cloud, 'close', 3),
        (Edge, 'report', 2),
        (Edge, 'keep', 3),
        (Cloud, 'finish', 3),
    ],
)
def test_after_two_deaths_at_one_place_it_goes_on_to_the_same_end(
    tmp_path: Path, monkeypatch, unhurt: Path, what: type, name: str, count: int
) -> None:
    for resume, calls in ((False, count), (True, 1)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            dying_at(patch, what, name, calls)
            short(tmp_path, resume)
    assert same(unhurt, short(tmp_path, resume=True))


def test_a_full_disk_at_the_edge_costs_no_more_than_the_epoch(
    tmp_path: Path, monkeypatch, unhurt: Path
) -> None:
    saves = iter([True, False, False])
    save = hierarchical.save

    def full(path: Path, *given: object) -> None:
        # Of the edge's own, the first is written and the second is not.
        if path.stem == 'edge' and not next(saves):
            raise TrainingError('no space left')
        save(path, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match='no space'):
        patch.setattr(hierarchical, 'save', full)
        short(tmp_path)
    assert same(unhurt, short(tmp_path, resume=True))


def test_the_epoch_whose_final_exit_was_best_is_kept(tmp_path: Path, monkeypatch) -> None:
    finals = iter([0.5, 0.9, 0.4, 0.4])
    exits = iter([0.0, 0.0, 0.3] * 4)  # the third is the cloud's first
    calls = iter(range(100))

    def scripted(*_: object) -> dict[str, float]:
        return {'': next(finals if next(calls) % 4 == 3 else exits)}

    monkeypatch.setattr('sparse_split_ros.training.predict.accuracies', scripted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dying_at(patch, Cloud, 'learn', 7)
        short(tmp_path, rising=False)
    after_two = load_file(tmp_path / 'best.safetensors')
    for _ in range(2):  # through the third epoch, and after it
        last = load_file(short(tmp_path, resume=True, rising=False))
        assert all(torch.equal(last[key], after_two[key]) for key in last)
    meta, _ = load(tmp_path / 'best')
    assert (meta['epoch'], len(meta['history'])) == (2, 2)
    assert [row['score'] for row in load(tmp_path / 'last')[0]['history']] == [0.5, 0.9, 0.4]


def test_both_sides_are_judged_by_what_is_kept_of_them(tmp_path: Path, monkeypatch) -> None:
    judged = []

    def watched(logits: np.ndarray, *given: object) -> dict[str, float]:
        judged.append(logits)
        return accuracies(logits, *given)  # type: ignore[arg-type]

    monkeypatch.setattr('sparse_split_ros.training.predict.accuracies', watched)
    chosen = blobs(24, 1)
    best = fit(dataclasses.replace(RECIPE, epochs=1), blobs(48, 0), {'blobs': chosen}, tmp_path)
    _, tensors = load(tmp_path / 'last')
    averages = under(tensors, 'average.')
    kept = load_file(best)
    assert averages and all(torch.equal(kept[key], averages[key]) for key in averages)
    network, recipe, _ = load_checkpoint(best)
    said = predict(network, chosen.images, input_spec(recipe, network), recipe.cut)
    assert len(said) == len(judged) == 4
    for logits, seen in zip(said.values(), judged):
        np.testing.assert_allclose(seen, logits, atol=1e-4)  # convolutions add up in any order


def test_the_edge_learns_classes_and_features_out_of_the_codes(tmp_path: Path) -> None:
    facts, edge = edge_of(tmp_path)
    seen = edge._learner.module(torch.rand(6, 3, 32, 32))
    labels = torch.arange(6) % 3
    whole = edge_loss(seen, labels, facts.tasks, facts.recipe)
    exits = joint.tasks_loss(seen.logits, labels, facts.tasks, facts.recipe)
    mirror = torch.nn.functional.cross_entropy(seen.mirrored, labels)
    expected = exits + mirror + facts.recipe.distortion * seen.distortion
    torch.testing.assert_close(whole, expected)


@pytest.mark.parametrize(
    ('held', 'epoch', 'fine'),
    [
        ([], 0, True), ([1], 0, True), ([3, 2], 2, True), ([3, 2], 3, True),
        ([3, 2], 0, False), ([3, 2], 1, False), ([], 2, False),
    ],
)  # fmt: skip
def test_sides_of_different_runs_do_not_go_on(held: list[int], epoch: int, fine: bool) -> None:
    with nullcontext() if fine else pytest.raises(TrainingError, match='of different runs'):
        assert agreed(held, epoch) == epoch


def test_the_cloud_refuses_what_is_not_of_its_run(tmp_path: Path) -> None:
    facts, edge = edge_of(tmp_path)
    cloud = Cloud(facts, tmp_path, CPU)
    batch = next(edge.batches())
    few = dataclasses.replace(batch, codes=batch.codes[:1], labels=batch.labels[:1])
    with pytest.raises(TrainingError, match='batch of 1 images came, expected 16'):
        cloud.learn(few)
    with pytest.raises(TrainingError, match='labels -1 to'):
        cloud.learn(dataclasses.replace(batch, labels=batch.labels - 1))
    with pytest.raises(TrainingError, match='a report on nothing came, expected one on blobs'):
        cloud.close(Report(0, {}, {}, {}))


def test_a_side_is_one_process(tmp_path: Path, monkeypatch) -> None:
    two = nullcontext(Processes(0, 2, CPU))
    monkeypatch.setattr(hierarchical, 'processes', lambda device: two)
    sets = (blobs(160, 0), {'blobs': blobs(48, 1)})
    with pytest.raises(TrainingError, match='2 processes: hierarchical training has two sides'):
        fit(RECIPE, *sets, tmp_path)
    with pytest.raises(TrainingError, match='start it without torchrun'):
        remote.at_the_edge(RECIPE, *sets, tmp_path, '127.0.0.1:5600')
    with pytest.raises(TrainingError, match='start it without torchrun'):
        remote.in_the_cloud(RECIPE, tmp_path, '127.0.0.1:5600')


def test_the_edge_goes_on_from_the_epoch_that_the_cloud_has(tmp_path: Path) -> None:
    _, edge = edge_of(tmp_path)
    for _ in range(3):
        for _ in edge.batches():
            pass
        edge.report()
    _, again = edge_of(tmp_path)
    assert sorted(again.held()) == [2, 3]
    again.restore(2)
    assert again.epoch == 2
    again.keep(2)
    assert again.best().epoch == 1
    with pytest.raises(TrainingError, match='no weights of the best epoch, 0'):
        again.keep(1)


def test_weights_of_another_epoch_or_network_are_refused(tmp_path: Path) -> None:
    facts, edge = edge_of(tmp_path)
    cloud = Cloud(facts, tmp_path, CPU)
    for batch in edge.batches():
        cloud.learn(batch)
    cloud.close(edge.report())
    edge.keep(1)
    best = edge.best()
    with pytest.raises(TrainingError, match='of epoch 3, the best is 0'):
        cloud.finish(dataclasses.replace(best, epoch=3))
    with pytest.raises(TrainingError, match='of another network'):
        cloud.finish(Weights(0, {'stages.0.0.0.weight': torch.zeros(1)}))
    cloud.finish(best)
    assert (tmp_path / 'best.safetensors').exists()


def test_a_side_of_another_run_is_refused(tmp_path: Path) -> None:
    _, edge = edge_of(tmp_path)
    for _ in edge.batches():
        pass
    edge.report()
    _, other = edge_of(tmp_path, dataclasses.replace(RECIPE, seed=5))
    with pytest.raises(TrainingError, match=r'another recipe or other data \(seed changed\)'):
        other.held()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'batch_size': 500}, 'batch_size 500 for 160 training images'),
        ({'learning_rate': 1e30, 'warmup': 0.0}, "'s loss became"),
        ({'split': 7}, 'split 7, the network has'),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        recipe = dataclasses.replace(RECIPE, **change)
        fit(recipe, blobs(160, 0), {'blobs': blobs(48, 1)}, tmp_path)


def test_channels_of_a_hierarchical_recipe_can_be_pruned_and_single_weights_cannot(
    tmp_path: Path, capsys
) -> None:
    out, recipe = tmp_path / 'pruned.yaml', tmp_path / 'recipe.yaml'
    recipe.write_text(yaml.safe_dump({**PHOTOS, 'hierarchical': True}))
    words = ['prune', str(recipe), '--classes', '2', '--out', str(out)]
    assert main([*words, '--target', '0.5', '--method', 'reconvene']) == 0
    pruned = Recipe.load(out)
    assert pruned.hierarchical and pruned.network_arguments['channels']
    build_network(pruned, 2)
    assert main([*words, '--target', '0.5', '--method', 'synflow']) == 2
    assert 'choose reconvene or precrop' in capsys.readouterr().err


def test_a_batch_of_one_is_refused() -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=1)
    with pytest.raises(TrainingError, match='batch_size 1: expected two images or more'):
        Facts.of(recipe, blobs(8, 0), {'blobs': blobs(8, 1)})


def test_a_report_cannot_say_what_is_the_clouds_to_say(tmp_path: Path) -> None:
    selection = {'blobs': blobs(8, 1)}
    facts = Facts.of(RECIPE, blobs(16, 0), selection)
    edge = Edge(facts, blobs(16, 0), selection, tmp_path / 'edge', CPU)
    cloud = Cloud(facts, tmp_path / 'cloud', CPU)
    for folder in ('edge', 'cloud'):
        (tmp_path / folder).mkdir()
    for _ in edge.batches():
        pass
    report = edge.report()
    cloud.close(dataclasses.replace(report, row=report.row | {'epoch': 7.0, 'loss': -1.0}))
    assert (cloud.log.rows[0]['epoch'], cloud.log.rows[0]['loss']) == (0, 0.0)
    with pytest.raises(TrainingError, match=r'a report of .*mood came; in the first epoch'):
        cloud.close(dataclasses.replace(report, epoch=1, row=report.row | {'mood': 1.0}))
    assert len(cloud.log.rows) == 1
