# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two sides of a cut learn apart: here in turn, or on two machines to the same bit."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from processes import Process  # noqa: E402
from safetensors.torch import load_file, save  # noqa: E402
from test_training_folder import RECIPE as PHOTOS  # noqa: E402
from test_training_folder import draw  # noqa: E402
from test_training_joint import RECIPE as JOINT  # noqa: E402
from test_training_joint import blobs  # noqa: E402

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.data.datasets import LabelledImages  # noqa: E402
from sparse_split_ros.networks.bottleneck import quantise  # noqa: E402
from sparse_split_ros.runtime.bundle import Bundle  # noqa: E402
from sparse_split_ros.training import hierarchical, joint, remote  # noqa: E402
from sparse_split_ros.training.checkpoint import load, load_checkpoint  # noqa: E402
from sparse_split_ros.training.cuts import Cut, Place, Whole, measure  # noqa: E402
from sparse_split_ros.training.hierarchical import (  # noqa: E402
    Batch,
    Cloud,
    Edge,
    Facts,
    Report,
    Weights,
    agreed,
    check_labels,
    edge_loss,
    fit,
    pack,
    unpack,
)
from sparse_split_ros.training.learner import under  # noqa: E402
from sparse_split_ros.training.predict import accuracies, accuracy, predict  # noqa: E402
from sparse_split_ros.training.processes import Processes  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, TrainingError, build_network, input_spec  # noqa: E402
from sparse_split_ros.training.remote import KEY, parse, place, to_bytes  # noqa: E402
from sparse_split_ros.training.train import train  # noqa: E402

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


def short(out: Path, resume: bool = False) -> Path:
    recipe = dataclasses.replace(RECIPE, epochs=3)
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
        short(tmp_path)
    after_two = load_file(tmp_path / 'best.safetensors')
    for _ in range(2):  # through the third epoch, and after it
        last = load_file(short(tmp_path, resume=True))
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


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        ([0, -100], '-100 to 0 came, expected 0 to 2'),
        ([0, 3], '0 to 3 came, expected 0 to 2'),
        ([[0, 1]], 'expected 1 of an image'),
        ([], 'expected 1 of an image'),
    ],
)
def test_labels_of_no_class_are_refused(labels: list, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        check_labels(torch.tensor(labels, dtype=torch.int64), {'': ('r', 'g', 'b')})


def test_every_task_has_its_labels() -> None:
    tasks = {'colour': ('r', 'g', 'b'), 'blue': ('no', 'yes')}
    check_labels(torch.tensor([[2, 1], [0, 0]]), tasks)
    with pytest.raises(TrainingError, match='0 to 2 came, expected 0 to 1'):
        check_labels(torch.tensor([[2, 2], [0, 0]]), tasks)
    with pytest.raises(TrainingError, match='expected 2 of an image'):
        check_labels(torch.tensor([0, 1]), tasks)


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


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_codes_arrive_as_they_left(bits: int, channels: int, side: int, seed: int) -> None:
    x = torch.rand(3, channels, side, side, generator=torch.Generator().manual_seed(seed))
    codes = quantise(x, bits)
    packed = pack(codes, bits)
    assert packed.shape[1] == (codes[0].numel() if bits > 4 else -(-codes[0].numel() // 2))
    torch.testing.assert_close(unpack(packed, tuple(codes.shape[1:]), bits), codes)


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(TrainingError, match=r'7 bytes came, \(2, 4, 4\) needs 16'):
        unpack(torch.zeros(1, 7, dtype=torch.uint8), (2, 4, 4), 4)


def test_what_travels_arrives_whole() -> None:
    batch = Batch(
        2, 5, torch.randint(0, 255, (4, 6), dtype=torch.uint8), torch.tensor([0, 2, 1, 1])
    )
    came = parse(to_bytes(batch))
    assert isinstance(came, Batch) and (came.epoch, came.step) == (2, 5)
    assert torch.equal(came.codes, batch.codes) and torch.equal(came.labels, batch.labels)
    report = Report(2, {'edge_s': 1.5}, {'x': batch.codes}, {'x': batch.labels})
    back = parse(to_bytes(report))
    assert isinstance(back, Report) and (back.epoch, back.row) == (2, report.row)
    assert torch.equal(back.codes['x'], batch.codes) and torch.equal(back.labels['x'], batch.labels)
    weights = parse(to_bytes(Weights(2, {'a.b': (part := torch.rand(2))})))
    assert isinstance(weights, Weights) and weights.epoch == 2
    assert torch.equal(weights.tensors['a.b'], part)


def saying(words: bytes) -> bytes:
    return save({'about': torch.from_numpy(np.frombuffer(words, np.uint8).copy())})


def damaged() -> Iterator[bytes]:
    good = to_bytes(Batch(0, 0, torch.zeros(4, 6, dtype=torch.uint8), torch.zeros(4).long()))
    yield b''
    yield good[:20]
    yield good[:-1]
    yield b'\xff' * 8 + good[8:]
    yield to_bytes(Batch(0, 0, torch.zeros(4, 6), torch.zeros(4).long()))
    yield to_bytes(Batch(0, 0, torch.zeros(3, 6, dtype=torch.uint8), torch.zeros(4).long()))
    for about in ({'row': []}, {'row': {'a': 'b'}}, {'row': {'a': 10**400}}, {'epoch': '0'}):
        yield saying(json.dumps({'kind': 'Report', 'epoch': 0, 'row': {}} | about).encode())
    yield saying(b'[' * 100_000)
    bits = Report(0, {}, {'x': torch.zeros(4, 6, dtype=torch.uint8)}, {'x': torch.zeros(4)})
    yield to_bytes(bits)
    rng = np.random.default_rng(0)
    for _ in range(30):
        yield rng.integers(0, 256, 200, np.uint8).tobytes()


@pytest.mark.parametrize('data', list(damaged()))
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(TrainingError, match='no message of the edge'):
        parse(data)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('5600', ('0.0.0.0', 5600)), ('robot:5600', ('robot', 5600)), ('[::1]:7', ('::1', 7))],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert place(text) == expected


@pytest.mark.parametrize('text', ['robot', 'robot:', ':5600', '99999', 'robot:x', ''])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(TrainingError, match='expected HOST:PORT'):
        place(text)


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with photos of two classes, and recipe.yaml."""
    directory = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(1)
    for label, name in enumerate(('cup', 'box')):
        for index in range(40):
            draw(directory / 'photos' / name / f'{index}.png', label, rng)
    (directory / 'recipe.yaml').write_text(yaml.safe_dump({**PHOTOS, 'hierarchical': True}))
    return directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize('host', ['127.0.0.1', '::1'])
def test_the_edge_is_heard_behind_a_caller_that_says_nothing(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, '_GREETING_S', 1)
    monkeypatch.setitem(os.environ, KEY, '')  # as if it were not set
    port = free_port()

    def cloud() -> object:
        with remote.called(host, port) as line:
            line.tell({'epoch': '1'})
            return line.hear(epoch=int)

    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(cloud)
        silent = None
        while silent is None:
            try:
                silent = socket.create_connection((host, port))
            except ConnectionRefusedError:
                assert not heard.done()
        with silent, remote.call(host, port) as line:
            with pytest.raises(TrainingError, match="said epoch: '1', expected int"):
                line.hear(epoch=int)
            with pytest.raises(TrainingError, match='bytes at once for the cloud'):
                monkeypatch.setattr(remote, '_LONGEST', 10)
                line.give(b'0' * 11)
            monkeypatch.setattr(remote, '_LONGEST', 1000)
            line.tell({'epoch': 1})
            assert heard.result() == {'epoch': 1}


def test_what_died_in_its_first_epoch_goes_on_as_well(tmp_path: Path, monkeypatch) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=1)
    address = f'127.0.0.1:{free_port()}'

    def edge() -> None:
        sets = (blobs(48, 0), {'blobs': blobs(24, 1)})
        remote.at_the_edge(recipe, *sets, tmp_path / 'edge', address, resume, 'cpu')

    with ThreadPoolExecutor(1) as pool:
        for resume in (False, True):
            done = pool.submit(edge)
            if resume:
                best = remote.in_the_cloud(recipe, tmp_path / 'cloud', address, resume, 'cpu')
                done.result()
                continue
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                dying_at(patch, Cloud, 'close', 1)
                remote.in_the_cloud(recipe, tmp_path / 'cloud', address, resume, 'cpu')
            with pytest.raises(TrainingError, match='start both sides again with --resume'):
                done.result()
    assert load_checkpoint(best)[2]['epoch'] == 1


def side(photos: Path, out: Path, *words: str) -> Process:
    recipe = str(photos / 'recipe.yaml')
    return Process('-m', 'sparse_split_ros.cli', 'train', recipe, '--out', str(out), *words)


def cloud_and_edge(photos: Path, out: Path, *words: str) -> tuple[Process, Process]:
    port = free_port()
    cloud = side(photos, out / 'cloud', '--cloud', f'127.0.0.1:{port}', *words)
    data = ('--data', str(photos / 'photos'))
    return cloud, side(photos, out / 'edge', '--edge', f'127.0.0.1:{port}', *data, *words)


def test_two_machines_learn_what_one_does(photos: Path, tmp_path: Path) -> None:
    here = train(photos / 'recipe.yaml', tmp_path / 'here', photos / 'photos')
    cloud, edge = cloud_and_edge(photos, tmp_path)
    with cloud, edge:
        assert (edge.wait(SAID), cloud.wait(SAID)) == (0, 0), edge.output + cloud.output
    assert here is not None
    assert same(here, tmp_path / 'cloud' / 'best.safetensors')
    assert not list((tmp_path / 'edge').glob('best*'))
    command = ('export', str(tmp_path / 'cloud'), str(tmp_path / 'bundle'))
    exporting = Process('-m', 'sparse_split_ros.cli', *command, '--data', str(photos / 'photos'))
    with exporting:
        assert exporting.wait(SAID) == 0, exporting.output
    assert [split.stage for split in Bundle.load(tmp_path / 'bundle').splits] == [2]


def test_after_a_kill_both_sides_go_on_to_the_same_end(photos: Path, tmp_path: Path) -> None:
    here = train(photos / 'recipe.yaml', tmp_path / 'here', photos / 'photos')
    cloud, edge = cloud_and_edge(photos, tmp_path)
    with cloud, edge:
        edge.wait_for('epoch 0  score', patience=SAID)
        edge.kill()
        assert cloud.wait(SAID) == 2
        assert 'is gone' in cloud.output and '--resume' in cloud.output
    cloud, edge = cloud_and_edge(photos, tmp_path, '--resume')
    with cloud, edge:
        assert (edge.wait(SAID), cloud.wait(SAID)) == (0, 0), edge.output + cloud.output
    assert here is not None and same(here, tmp_path / 'cloud' / 'best.safetensors')
    meta, _ = load(tmp_path / 'cloud' / 'last')
    assert [row['epoch'] for row in meta['history']] == [0, 1, 2]


def test_sides_with_different_recipes_say_so_on_both(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'recipe.yaml').write_text(
        yaml.safe_dump({**PHOTOS, 'hierarchical': True, 'learning_rate': 0.5})
    )
    port = free_port()
    cloud = side(other, tmp_path / 'cloud', '--cloud', f'127.0.0.1:{port}')
    data = ('--data', str(photos / 'photos'))
    edge = side(photos, tmp_path / 'edge', '--edge', f'127.0.0.1:{port}', *data)
    with cloud, edge:
        assert (edge.wait(SAID), cloud.wait(SAID)) == (2, 2)
        for process in (edge, cloud):
            assert 'differs in learning_rate: give both sides the same file' in process.output


def test_another_key_is_no_way_in(photos: Path, tmp_path: Path, monkeypatch) -> None:
    port = free_port()
    cloud = side(photos, tmp_path / 'cloud', '--cloud', f'127.0.0.1:{port}')
    monkeypatch.setitem(os.environ, KEY, 'another')
    data = ('--data', str(photos / 'photos'))
    edge = side(photos, tmp_path / 'edge', '--edge', f'127.0.0.1:{port}', *data)
    with cloud, edge:
        assert edge.wait(SAID) == 2
        assert f'another key: set {KEY} alike' in edge.output
        cloud.wait_for('another key')
        assert cloud.popen.poll() is None, 'goes on waiting'


def test_two_machines_need_a_hierarchical_recipe(photos: Path, tmp_path: Path) -> None:
    (tmp_path / 'joint.yaml').write_text(yaml.safe_dump(PHOTOS))
    with pytest.raises(TrainingError, match='says hierarchical: true'):
        train(tmp_path / 'joint.yaml', tmp_path / 'out', photos / 'photos', cloud='5600')


def test_a_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    (tmp_path / 'edge.safetensors').write_bytes(b'a run')
    with pytest.raises(TrainingError, match='would be lost'):
        train(photos / 'recipe.yaml', tmp_path, photos / 'photos', edge='127.0.0.1:5600')


CUT = Cut(split=1, forward_ms=1.0, backward_ms=3.0, cloud_ms=5.0, bytes=125.0)
WHOLE = Whole(ms=6.0, bytes=12_500.0)


@pytest.mark.parametrize(
    ('slower', 'mbit', 'cut', 'waiting'),
    [(1, 1000, 5.0, 1 + 5.001), (10, 1000, 40.0, 10 + 30), (1, 0.1, 10.0, 1 + 10 + 5)],
)
def test_the_slowest_of_edge_link_and_cloud_decides(
    slower: float, mbit: float, cut: float, waiting: float
) -> None:
    where = Place(slower, mbit)
    assert where.ms(CUT) == pytest.approx(cut)
    assert where.waiting_ms(CUT) == pytest.approx(waiting)


def test_images_sent_whole_are_waited_for_by_the_link_or_the_cloud() -> None:
    fast, slow = Place(1, 1000), Place(1, 10)
    assert fast.whole_ms(WHOLE) == pytest.approx(6.0)
    assert slow.whole_ms(WHOLE) == pytest.approx(10.0)
    assert slow.whole_waiting_ms(WHOLE) == pytest.approx(16.0)


def test_every_cut_is_timed_with_the_bytes_that_travel() -> None:
    whole, cuts = measure(RECIPE, 3, rounds=1)
    assert [cut.split for cut in cuts] == [0, 1, 2]
    assert whole.bytes == 3 * 32 * 32 + 4
    # Two, four and four channels of 4 bits.
    sides = {0: 8, 1: 4, 2: 4}
    channels = {0: 2, 1: 4, 2: 4}
    for cut in cuts:
        assert cut.bytes == channels[cut.split] * sides[cut.split] ** 2 / 2 + 4
        assert min(cut.forward_ms, cut.backward_ms, cut.cloud_ms) > 0


@pytest.mark.parametrize('words', [('--slower', 'inf'), ('--mbit', 'nan'), ('--classes', '0')])
def test_what_no_cut_can_be_reckoned_with_is_named(
    photos: Path, words: tuple[str, str], capsys
) -> None:
    assert main(['cut', str(photos / 'recipe.yaml'), '--rounds', '1', *words]) == 2
    assert f'{words[0]} is {words[1]}, expected' in capsys.readouterr().err


def test_channels_of_a_hierarchical_recipe_can_be_pruned_and_single_weights_cannot(
    photos: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / 'pruned.yaml'
    words = ['prune', str(photos / 'recipe.yaml'), '--classes', '2', '--out', str(out)]
    assert main([*words, '--target', '0.5', '--method', 'reconvene']) == 0
    pruned = Recipe.load(out)
    assert pruned.hierarchical and pruned.network_arguments['channels']
    build_network(pruned, 2)
    assert main([*words, '--target', '0.5', '--method', 'synflow']) == 2
    assert 'choose reconvene or precrop' in capsys.readouterr().err
