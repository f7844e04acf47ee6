# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of class folders becomes a bundle of those classes; what is wrong with it is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.data.augment import Augmentation, augment  # noqa: E402
from sparse_split_ros.data.folder import FolderError, load_folder, scan  # noqa: E402
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.policy.factory import bundle_calibration  # noqa: E402
from sparse_split_ros.runtime.bundle import Bundle  # noqa: E402
from sparse_split_ros.training.checkpoint import load_checkpoint  # noqa: E402
from sparse_split_ros.training.export import export  # noqa: E402
from sparse_split_ros.training.program import ExportError  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, TrainingError, build_network, load_split  # noqa: E402
from sparse_split_ros.training.train import alone, train  # noqa: E402

torch.set_num_threads(1)

CLASSES = ('blue cup', 'green box')
RECIPE = {
    'name': 'tiny',
    'dataset': 'folder',
    'network_arguments': {'widths': [8, 12, 16], 'blocks': 1, 'code_channels': [2, 4, 4]},
    'epochs': 3,
    'batch_size': 8,
    'threads': 1,
    'workers': 0,
    'average': 0.8,
}


def draw(path: Path, label: int, rng: np.random.Generator) -> None:
    """One image of some size, blue or green."""
    height, width = rng.integers(20, 60, 2)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    image[..., label] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images of each class, of several formats."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for index in range(20):
            suffix = ('png', 'jpg', 'bmp')[index % 3]
            draw(tmp_path / 'photos' / name / f'{index}.{suffix}', label, rng)
    return tmp_path / 'photos'


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with photos, recipe.yaml and the run of it."""
    directory = tmp_path_factory.mktemp('trained')
    rng = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        for index in range(40):
            draw(directory / 'photos' / name / f'{index}.png', label, rng)
    (directory / 'recipe.yaml').write_text(yaml.safe_dump(RECIPE))
    train(directory / 'recipe.yaml', directory / 'run', directory / 'photos')
    return directory


def names(photos: Path, split: str) -> set[str]:
    return {str(path.relative_to(photos)) for path, _, _ in scan(photos).files(split)}


def test_every_image_falls_to_one_part(photos: Path) -> None:
    parts = [names(photos, split) for split in ('train', 'select', 'report')]
    assert [len(part) for part in parts] == [28, 4, 8]
    assert len(set.union(*parts)) == 40


def test_the_division_is_the_same_wherever_the_folder_lies(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / 'moved')
    assert names(photos, 'report') == names(tmp_path / 'moved', 'report')


def test_a_folder_inside_a_class_stays_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for label, name in enumerate(CLASSES):
        for index in range(24):
            draw(tmp_path / name / f'object {index // 4}' / f'{index}.png', label, rng)
    folder = scan(tmp_path)
    owner = {
        path.parent: split
        for split in ('train', 'select', 'report')
        for path, _, _ in folder.files(split)
    }
    for split in ('train', 'select', 'report'):
        assert {owner[path.parent] for path, _, _ in folder.files(split)} == {split}
    assert len(set(load_folder(tmp_path, 'train', 32).groups)) == 8


def test_images_of_any_size_come_as_rgb_of_the_network_s_size(photos: Path) -> None:
    recipe = Recipe.from_mapping({**RECIPE, 'network_arguments': {'size': 64}})
    data = load_split(recipe, photos, 'select')
    assert data.images.shape == (4, 64, 64, 3)
    assert data.classes == CLASSES
    # OpenCV wrote blue first; the network reads red first.
    assert data.images.mean(axis=(1, 2)).argmax(axis=1).tolist() == [2, 2, 1, 1]


def test_mean_and_std_are_of_the_training_part(trained: Path) -> None:
    _, recipe, _ = load_checkpoint(trained / 'run')
    images = load_split(recipe, trained / 'photos', 'train').images / 255
    assert recipe.mean == pytest.approx(images.mean(axis=(0, 1, 2)), abs=1e-3)
    assert recipe.std == pytest.approx(images.std(axis=(0, 1, 2)), abs=1e-3)


def test_the_bundle_knows_the_classes_and_reports_only_what_it_saw(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, target = str(trained / 'photos'), str(trained / 'bundle')
    assert main(['export', str(trained / 'run'), target, '--data', photos]) == 0
    bundle = Bundle.load(target)
    assert bundle.classes == CLASSES
    assert set(bundle.training['report']) == {'folder'}
    assert bundle.training['images'] == {'train': 56, 'select': 8}
    assert bundle.training['report']['folder']['frames'] == 16
    assert bundle.training['report']['folder']['exits']['3']['accuracy'] > 0.9
    image = next((trained / 'photos' / CLASSES[1]).iterdir())
    capsys.readouterr()
    assert main(['classify', target, str(image)]) == 0
    assert 'green' in capsys.readouterr().out
    assert main(['inspect', target]) == 0
    shown = capsys.readouterr().out
    assert all(column in shown for column in ('if dense', 'one by one', 'training', 'µJ'))

    calibration = bundle_calibration(bundle)
    assert calibration is not None
    assert calibration.splits == (0, 1, 2)
    assert sum(len(sample.confidence) for sample in calibration.scenes.values()) == 8
    record = json.loads((trained / 'run' / 'report.json').read_text())
    assert record['fingerprint'] == bundle.fingerprint.hex()
    assert record['report'] == bundle.training['report']
    exit_ = record['report']['folder']['exits']['3']
    assert {'accuracy', 'ece', 'aurc', 'excess_aurc'} <= set(exit_)


@pytest.mark.parametrize('inside', ['thesis.txt', 'other_bundle/manifest.json', ''])
def test_export_replaces_nothing_but_a_bundle(trained: Path, tmp_path: Path, inside: str) -> None:
    kept = tmp_path / 'mine' / inside
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text('kept')
    with pytest.raises(ExportError, match='mine: holds something else than a bundle'):
        export(trained / 'run', tmp_path / 'mine', trained / 'photos')
    assert kept.read_text() == 'kept'


def test_a_link_to_a_bundle_stays_one(trained: Path, tmp_path: Path) -> None:
    (tmp_path / 'first').mkdir()
    (tmp_path / 'link').symlink_to('first')
    for _ in range(2):
        export(trained / 'run', tmp_path / 'link', trained / 'photos')
    assert (tmp_path / 'link').is_symlink()
    assert Bundle.load(tmp_path / 'first').classes == CLASSES
    assert {path.name for path in tmp_path.iterdir()} == {'first', 'link'}


def test_data_that_changed_after_the_training_is_not_reported_on(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / 'photos', tmp_path / 'photos')
    rng = np.random.default_rng(3)
    for index in range(10):
        draw(tmp_path / 'photos' / CLASSES[0] / f'more {index}.png', 0, rng)
    with pytest.raises(TrainingError, match='the data has changed since the training'):
        export(trained / 'run', tmp_path / 'bundle', tmp_path / 'photos')
    for index in range(3):
        draw(tmp_path / 'photos' / 'red ball' / f'{index}.png', 2, rng)
    with pytest.raises(TrainingError, match='the checkpoint knows the classes blue cup, green box'):
        export(trained / 'run', tmp_path / 'bundle', tmp_path / 'photos')


def test_images_moved_from_training_to_test_are_not_reported_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for label, name in enumerate(CLASSES):
        for part, count in {'train': 9, 'val': 3, 'test': 3}.items():
            for index in range(count):
                draw(tmp_path / 'photos' / part / name / f'{part} {index}.png', label, rng)
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(RECIPE | {'epochs': 1}))
    train(tmp_path / 'recipe.yaml', tmp_path / 'run', tmp_path / 'photos')
    learned = tmp_path / 'photos' / 'train' / CLASSES[0] / 'train 0.png'
    learned.rename(tmp_path / 'photos' / 'test' / CLASSES[0] / learned.name)
    with pytest.raises(TrainingError, match='the data has changed since the training'):
        export(tmp_path / 'run', tmp_path / 'bundle', tmp_path / 'photos')


def test_a_second_training_does_not_take_the_place_of_the_first(trained: Path) -> None:
    before = (trained / 'run' / 'best.safetensors').read_bytes()
    with pytest.raises(TrainingError, match='go on with it by --resume'):
        train(trained / 'recipe.yaml', trained / 'run', trained / 'photos')
    assert (trained / 'run' / 'best.safetensors').read_bytes() == before


def test_what_was_learned_is_not_overwritten_where_the_rest_of_the_run_is_gone(
    trained: Path, tmp_path: Path
) -> None:
    shutil.copy(trained / 'run' / 'best.safetensors', tmp_path)
    with pytest.raises(TrainingError, match='holds a run, which would be lost'):
        train(trained / 'recipe.yaml', tmp_path, trained / 'photos')


def test_two_trainings_do_not_write_to_one_directory(trained: Path, tmp_path: Path) -> None:
    given = (trained / 'recipe.yaml', tmp_path, trained / 'photos')
    code = (
        'import sys; from sparse_split_ros.training.train import alone\n'
        'with alone(sys.argv[1], cloud=True): print("held", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b'held\n'
        with pytest.raises(TrainingError, match=f'{tmp_path}: another training is at work there'):
            train(*given)
        assert {path.name for path in tmp_path.iterdir()} == {'.cloud.lock', '.edge.lock'}
        other.kill()
    train(*given)


def test_where_nothing_can_be_locked_a_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.flock', unknown)
    assert free(tmp_path, 'cloud')
    assert 'cannot be locked (No locks available): start no other run' in caplog.text


def test_edge_and_cloud_and_processes_of_one_training_may_share_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alone(tmp_path, edge=True), alone(tmp_path, cloud=True):
        monkeypatch.setenv('RANK', '1')
        with alone(tmp_path, edge=True, cloud=True):
            pass
    assert free(tmp_path, 'edge') and free(tmp_path, 'cloud')


def free(directory: Path, side: str) -> bool:
    """Whether a training could lock the directory now."""
    with alone(directory, **{side: True}):
        return True


def test_a_killed_training_leaves_no_worker_that_holds_its_lock(tmp_path: Path) -> None:
    worker = (
        'import os, sys, time; from sparse_split_ros.training.train import alone\n'
        'with alone(sys.argv[1], cloud=True):\n'
        '    worker = os.fork()\n'
        '    if worker: print(worker, flush=True)\n'
        '    time.sleep(60)'
    )
    command = [sys.executable, '-c', worker, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as training:
        assert training.stdout is not None
        left = int(training.stdout.readline())
        training.kill()
        training.wait()
        try:
            assert free(tmp_path, 'cloud')
        finally:
            os.kill(left, signal.SIGKILL)


def test_a_network_that_export_would_refuse_is_said_before_it_is_trained(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def odd(recipe: Recipe, classes: int) -> StagedNetwork:
        network = build_network(recipe, classes)
        network.stages[2].append(torch.nn.GELU())
        return network

    given = (trained / 'recipe.yaml', tmp_path / 'run', trained / 'photos')
    monkeypatch.setattr('sparse_split_ros.training.train.build_network', odd)
    train(*given)
    assert 'refuse to make a bundle of it: stage 2, layer 1: cannot export GELU' in caplog.text
    monkeypatch.undo()
    caplog.clear()
    train(*given, resume=True)
    assert not caplog.records


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(yaml.safe_dump(RECIPE))
    nowhere = str(tmp_path / 'nowhere')
    assert main(['train', str(recipe), '--data', nowhere, '--out', str(tmp_path / 'run')]) == 2
    assert capsys.readouterr().err == f'error: {nowhere}: no such data directory\n'


def test_a_file_name_that_is_not_utf_8_is_divided_like_any_other(photos: Path) -> None:
    before = {split: names(photos, split) for split in ('train', 'select', 'report')}
    odd = photos / os.fsdecode(b'blue cup/lat\xfc.png')
    shutil.copy(photos / 'blue cup' / '0.png', odd)
    parts = {split: scan(photos).files(split) for split in before}
    assert [path for part in parts.values() for path, _, _ in part].count(odd) == 1
    for split, part in parts.items():
        assert len(load_folder(photos, split, 32)) == len(part)
    odd.unlink()
    assert {split: names(photos, split) for split in before} == before


def test_a_class_whose_name_is_no_text_is_refused(photos: Path) -> None:
    shutil.copytree(photos / CLASSES[0], photos / os.fsdecode(b'lat\xfc'))
    with pytest.raises(FolderError, match=r"class folder b'lat.xfc' is not UTF-8, .* rename it"):
        scan(photos)


def test_one_class_is_too_few(photos: Path) -> None:
    shutil.rmtree(photos / CLASSES[1])
    with pytest.raises(FolderError, match="at least two class folders in it, found 'blue cup'"):
        scan(photos)


@pytest.mark.parametrize('names', [('train', 'valid', 'test'), ('train', 'val'), ('Train', 'Test')])
def test_parts_of_a_division_are_no_classes(photos: Path, names: tuple[str, ...]) -> None:
    for name in names:
        shutil.copytree(photos, photos.with_name('divided') / name)
    with pytest.raises(FolderError, match=r'parts and no classes; .* train and test'):
        scan(photos.with_name('divided'))


def test_an_empty_class_is_named(photos: Path) -> None:
    (photos / 'nothing').mkdir()
    (photos / 'nothing' / 'notes.txt').write_text('no image')
    with pytest.raises(
        FolderError, match=r'nothing: no image in this class folder; .* \.bmp, \.jpeg'
    ):
        scan(photos)


def test_a_class_that_cannot_be_divided_is_named(photos: Path) -> None:
    shutil.copytree(photos / CLASSES[0], photos / 'few' / 'one object')
    with pytest.raises(FolderError, match='few: 1 to divide into train, select, report'):
        scan(photos)


@pytest.mark.parametrize(
    ('content', 'what'),
    [
        (b'', 'compressed image without data'),
        (b'no image', 'compressed image of 8 bytes starting 6e6f2069 is damaged, or no image'),
        (
            b'\x89PNG\r\n\x1a\n',
            'compressed image of 8 bytes starting 89504e47 is damaged, or no image',
        ),
    ],
)
def test_an_unreadable_image_is_named(photos: Path, content: bytes, what: str) -> None:
    broken, *_ = scan(photos).files('train')[0]
    broken.write_bytes(content)
    with pytest.raises(FolderError) as raised:
        load_folder(photos, 'train', 32)
    told = f'{broken}: not a readable image: {what}; mend it or take it away'
    assert str(raised.value) == told


@pytest.mark.parametrize(('count', 'told'), [(3, '3'), (10, '10 or more'), (28, '10 or more')])
def test_unreadable_images_are_named_together(photos: Path, count: int, told: str) -> None:
    broken = [path for path, _, _ in scan(photos).files('train')][:count]
    for path in broken:
        path.write_bytes(b'')
    with pytest.raises(FolderError, match=f'^{told} files are not readable images') as raised:
        load_folder(photos, 'train', 32)
    assert str(raised.value).endswith(': ' + ', '.join(map(str, broken[:10])))


def test_files_that_are_passed_over_are_counted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(RECIPE | {'epochs': 1}))
    (photos / 'notes.txt').write_text('of no class')
    for name, told in (('a.GIF', '1 passed over (.gif)'),
                       ('b.heic', '2 passed over (.gif, .heic)')):  # fmt: skip
        (photos / CLASSES[0] / name).write_bytes(b'')
        train(tmp_path / 'recipe.yaml', tmp_path / name, photos)
        assert f'4 to choose the epoch on; {told}\n' in capsys.readouterr().out


def test_hidden_files_and_notes_are_passed_over(photos: Path) -> None:
    before = names(photos, 'train')
    (photos / '.cache').mkdir()
    (photos / CLASSES[0] / '.0.png').write_bytes(b'')
    (photos / CLASSES[0] / 'Thumbs.db').write_bytes(b'')
    assert names(photos, 'train') == before


def test_a_size_the_network_cannot_have_is_named(photos: Path) -> None:
    recipe = Recipe.from_mapping({**RECIPE, 'network_arguments': {'size': 48}})
    with pytest.raises(TrainingError, match='size 48: expected a multiple of 32'):
        load_split(recipe, photos, 'train')


def test_drawn_signs_do_not_join_other_classes() -> None:
    with pytest.raises(TrainingError, match='drawn signs join GTSRB only'):
        Recipe.from_mapping({**RECIPE, 'drawn': 100})


def test_only_a_recipe_that_says_so_mirrors() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, :16] = 255

    def mirrored(flip: bool) -> int:
        seen = (
            augment(np.random.default_rng(i), image, Augmentation(flip=flip)) for i in range(40)
        )
        return sum(bool(one[:, :12].mean() < one[:, 20:].mean()) for one in seen)

    assert mirrored(False) == 0
    assert 8 < mirrored(True) < 32


def test_the_committed_recipe_is_valid() -> None:
    path = Path(__file__).parents[1] / 'config' / 'training' / 'own_classes.yaml'
    assert Recipe.load(path).dataset == 'folder'
