# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two machines learn what one does, to the same bit, whatever dies between them."""

from __future__ import annotations

import dataclasses
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from processes import Process  # noqa: E402
from test_training_folder import RECIPE as PHOTOS  # noqa: E402
from test_training_folder import draw  # noqa: E402
from test_training_hierarchical import RECIPE, dying_at, same  # noqa: E402
from test_training_joint import blobs  # noqa: E402

from sparse_split_ros.runtime.bundle import Bundle  # noqa: E402
from sparse_split_ros.training import line as lines  # noqa: E402
from sparse_split_ros.training import remote  # noqa: E402
from sparse_split_ros.training.checkpoint import load, load_checkpoint  # noqa: E402
from sparse_split_ros.training.hierarchical import Cloud  # noqa: E402
from sparse_split_ros.training.line import KEY, call, called, place  # noqa: E402
from sparse_split_ros.training.recipe import TrainingError  # noqa: E402
from sparse_split_ros.training.train import train  # noqa: E402

torch.set_num_threads(1)

SAID = 240.0


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
    monkeypatch.setattr(lines, '_GREETING_S', 1)
    monkeypatch.setitem(os.environ, KEY, '')  # as if it were not set
    port = free_port()

    def cloud() -> object:
        with called(host, port) as line:
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
        with silent, call(host, port) as line:
            with pytest.raises(TrainingError, match="said epoch: '1', expected int"):
                line.hear(epoch=int)
            with pytest.raises(TrainingError, match='bytes at once for the cloud'):
                monkeypatch.setattr(lines, '_LONGEST', 10)
                line.give(b'0' * 11)
            monkeypatch.setattr(lines, '_LONGEST', 1000)
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
