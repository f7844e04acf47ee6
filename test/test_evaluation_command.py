# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command `evaluate`: what it prints, what it writes, how it fails."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from replays import make_world, write_times

from sparse_split_ros.cli import main
from sparse_split_ros.evaluation.contestants import NAMES
from sparse_split_ros.evaluation.output import PICTURES, reserved
from sparse_split_ros.link.codec import CodecError
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.head import Head

World = tuple[Bundle, Path, Path]


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp('world'), 60)


def arguments(world: World, *more: str) -> list[str]:
    bundle, data, times = world
    return ['evaluate', str(data), '--bundle', str(bundle.path), '--profile', str(times),
            '--engine', 'onnxruntime', *more]  # fmt: skip


@pytest.fixture(scope='module')
def written(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip('matplotlib')
    pytest.importorskip('jinja2')
    out = tmp_path_factory.mktemp('out') / 'report'
    options = ('--policy', 'fixed', '--baselines', '--link', 'wifi-bad', '--out', str(out))
    assert main(arguments(world, *options)) == 0
    return out


def test_help_names_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(['evaluate', '--help'])
    shown = capsys.readouterr().out.replace(',', ' ').split()
    missing = [name for name in NAMES if name not in shown]
    assert missing == [], 'add them to the help of --policies'


def test_json_is_all_that_is_printed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(world, '--json', '--policy', 'fixed')) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary['policy'] == 'fixed' and summary['frames'] == 60


def test_the_table_names_the_policy_and_every_rival(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ('--policy', 'fixed', '--policies', 'full-local', 'oracle', '--no-report')
    assert main(arguments(world, *options, '--out', str(tmp_path))) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ('fixed', 'full-local', 'oracle', 'frames a second'))
    assert not (tmp_path / 'index.html').exists()


def test_the_page_loads_nothing_and_says_what_is_simulated(written: Path) -> None:
    links: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value or '' for name, value in attrs if name in ('src', 'href'))

    page = (written / 'index.html').read_text('utf-8')
    Links().feed(page)
    assert links and all(link.startswith('data:image/png;base64,') for link in links)
    for text in ('Simulated: all times', 'SHA-256', 'fingerprint', 'wifi-bad', 'seed', 'versions'):
        assert text in page


def test_every_picture_of_the_report_is_drawn(written: Path) -> None:
    names = {path.stem for path in written.glob('*.png')}
    assert names == PICTURES
    for path in written.glob('*.png'):
        picture = cv2.imread(str(path))
        assert picture.shape[1] > 500 and picture.std() > 1, f'{path.name} is empty'


def test_the_files_are_the_documented_ones(written: Path) -> None:
    files = {path.name for path in written.iterdir() if path.suffix != '.png'}
    assert files == {'index.html', 'summary.json', 'decisions.csv', 'profile.json'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--policy', 'magic'], "unknown policy 'magic'"),
        (['--link', 'pigeon'], "unknown link 'pigeon'"),
        (['--robot', '0'], 'robot factor 0'),
        (['--deadline', '-1'], 'deadline -1 ms'),
        (['--deadline', 'inf'], 'deadline inf ms'),
        (['--weather', 'storm'], "unknown condition 'storm'"),
        (['--table', 'decisions.xls'], '.csv or .parquet'),
        (['--jobs', '0'], '--jobs 0'),
        (['--seed', '-1'], 'seed -1'),
        (['--rate', 'nan'], 'rate nan Hz'),
        (['--limit', '0'], 'limit of 0 frames, expected 1 or more'),
        (['--threshold', 'nan', '--policy', 'fixed'], 'threshold is nan'),
        (['--threshold', '7', '--policy', 'fixed'], 'threshold 7'),
        (['--profile', 'nowhere.json'], 'nowhere.json'),
        (['--bundle', 'nowhere'], 'nowhere'),
        (['--split', '9', '--policy', 'fixed'], 'split'),
        (['--split', '1'], '--split is for --policy fixed, not joint'),
        (['--threshold', '0.5', '--policy', 'oracle'], '--threshold is for --policy fixed'),
        (['--codec', 'int8', '--policy', 'full-local'], '--codec is for --policy joint'),
        (['--target-disagreement', '0.1', '--policy', 'fixed'], 'is for --policy joint, not fixed'),
        (['--topic', '/image'], '--topic is for a bag, not'),
        (['--decisions', 'flown'], '--decisions and the SOURCE'),
    ],
)
def test_what_cannot_be_done_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str],
    message: str,
) -> None:  # fmt: skip
    assert main(arguments(world, *options, '--out', str(tmp_path))) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith('error: ') and message in said and '\n' not in said


@pytest.mark.parametrize('option', [['--resume'], ['--table', 'decisions.parquet']])
def test_what_is_about_a_folder_needs_one(
    world: World, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert main(arguments(world, '--json', *option)) == 2
    assert f'error: {option[0]} needs the --out' in capsys.readouterr().err


def test_a_report_that_cannot_be_drawn_is_said_before_the_work(
    world: World, tmp_path: Path
) -> None:
    script = (
        'import sys; sys.modules["matplotlib"] = None; from sparse_split_ros.cli import main; '
        'sys.exit(main(sys.argv[1:]))'
    )
    command = [sys.executable, '-c', script, *arguments(world, '--out', str(tmp_path / 'out'))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install '.[report]'" in done.stderr
    assert not (tmp_path / 'out').exists()
    assert subprocess.run([*command, '--no-report'], check=False).returncode == 0


@pytest.mark.parametrize(
    ('raised', 'status', 'words'),
    [
        (OSError(errno.ENOSPC, 'No space left on device'), 2, 'error: {out}: No space left'),
        (KeyboardInterrupt(), 130, 'interrupted; the same command with --resume goes on'),
    ],
)
def test_what_stops_a_run_says_where_and_how_to_go_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], raised: BaseException, status: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr('sparse_split_ros.evaluation.evaluate.run_all', Mock(side_effect=raised))
    assert main(arguments(world, '--no-report', '--out', str(tmp_path))) == status
    assert words.format(out=tmp_path) in capsys.readouterr().err


def test_a_source_that_is_not_there_is_one_line(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _, times = world
    command = ['evaluate', 'nowhere', '--bundle', str(bundle.path), '--profile', str(times)]
    assert main([*command, '--json']) == 2
    assert "source 'nowhere' does not exist" in capsys.readouterr().err


def test_a_source_of_which_nothing_is_shown_costs_no_report(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('matplotlib')
    monkeypatch.setattr('sparse_split_ros.evaluation.compared._SHOWN', 10)  # every sixth frame
    single = tmp_path / 'single.npz'
    np.savez(single, images=np.zeros((1, 32, 32, 3), np.uint8))
    command = arguments(world, '--out', str(tmp_path / 'out'))
    assert main([*command[:2], *[str(single)] * 3, *command[2:]]) == 0
    assert (tmp_path / 'out' / 'index.html').is_file()


def test_a_run_in_which_every_frame_failed_has_a_report_too(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip('matplotlib')

    def broken(*_: object) -> None:
        raise CodecError('features of no shape')

    monkeypatch.setattr(Head, 'computed', broken)
    command = arguments(world, '--policies', 'full-local', 'jpeg-offload', '--out', str(tmp_path))
    assert main(command) == 1
    assert '60 frames failed, first: features of no shape' in capsys.readouterr().err
    assert 'No frame was decided.' in (tmp_path / 'index.html').read_text('utf-8')


def folder_of(world: World, root: Path, count: int = 10) -> Path:
    """So many images in a folder for each of two classes."""
    with np.load(world[1]) as packed:
        for number, image in enumerate(packed['images'][: 2 * count]):
            file = root / f'class {number % 2}' / f'{number}.png'
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)
    return root


def trained_on(world: World, folder: Path, dataset: str) -> World:
    """That world, with a bundle that says which data set it was trained on."""
    bundle = shutil.copytree(world[0].path, folder / 'bundle')
    manifest = json.loads((bundle / 'manifest.json').read_text())
    manifest['training'] = {'recipe': {'dataset': dataset}}
    (bundle / 'manifest.json').write_text(json.dumps(manifest))
    loaded = Bundle.load(bundle)
    return loaded, folder_of(world, folder / 'photos'), write_times(folder / 'times.json', loaded)


@pytest.mark.parametrize(
    ('dataset', 'options', 'frames', 'part'),
    [
        ('folder', [], 4, 'report'), ('folder', ['--part', 'all'], 20, 'all'),
        ('gtsrb', [], 20, None), ('gtsrb', ['--part', 'report'], 4, 'report'),
    ],
)  # fmt: skip
def test_what_a_bundle_was_trained_on_is_no_test_of_it(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str,
    options: list[str], frames: int, part: str | None,
) -> None:  # fmt: skip
    own = trained_on(world, tmp_path, dataset)
    assert main(arguments(own, '--json', *options)) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary['frames'] == summary['labelled'] == frames
    assert summary['sources'][0]['part'] == part
    assert ('4 of 20 images; the others' in said.err) == (dataset == 'folder' and not options)


def test_a_folder_that_training_would_refuse_is_taken_whole(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, photos, times = trained_on(world, tmp_path, 'folder')
    assert main(arguments((bundle, photos / 'class 0', times), '--json')) == 0
    assert json.loads(capsys.readouterr().out)['frames'] == 10


def test_a_picture_that_is_damaged_is_told_in_the_report(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('matplotlib')
    bundle, _, times = world
    photos = folder_of(world, tmp_path / 'photos')
    (photos / 'class 0' / '0.png').write_bytes(b'no picture')
    command = arguments((bundle, photos, times), '--out', str(tmp_path / 'out'))
    assert main(command) == 1
    assert '1 of 20 images are rejected' in capsys.readouterr().err
    page = (tmp_path / 'out' / 'index.html').read_text('utf-8')
    assert '1 frame could not be decoded' in page and 'overtaken' not in page


def test_a_folder_is_of_one_run_at_a_time(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    command = arguments(world, '--no-report', '--out', str(out))
    with reserved(out):
        (out / '.parts').mkdir()
        assert main(command) == 2
        assert 'out: another run is writing there' in capsys.readouterr().err
        (out / '.parts').rmdir()
    assert not out.exists(), 'nothing came into it'
    assert main(command) == 0


@pytest.mark.parametrize('file', ['index.html', 'summary.json', 'notes.txt'])
def test_what_is_no_evaluation_is_not_written_over(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    (tmp_path / file).write_text('{}')
    assert main(arguments(world, '--out', str(tmp_path))) == 2
    assert 'holds files and no summary.json of an evaluation' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert (tmp_path / file).read_text() == '{}'


def test_what_an_earlier_run_wrote_goes_with_it(
    world: World, written: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(written, tmp_path / 'out')
    (out / 'notes.txt').write_text('mine')
    assert main(arguments(world, '--no-report', '--table', 'rows.csv', '--out', str(out))) == 0
    assert {path.name for path in out.iterdir()} == {
        'summary.json', 'profile.json', 'rows.csv', 'notes.txt',
    }  # fmt: skip


def test_labels_of_no_class_are_named(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'names.yaml').write_text('0: owl')
    command = arguments(world, '--json', '--labels', str(tmp_path / 'names.yaml'))
    assert main(command) == 0
    assert "labels that are no class of the bundle, such as 'owl'" in capsys.readouterr().err


def test_labels_of_no_frame_are_named(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data, times = world
    with np.load(data) as packed:
        np.savez(tmp_path / 'bare.npz', images=packed['images'][:3])
    (tmp_path / 'labels.csv').write_text('frame,label\n1000,0\n')
    command = ['evaluate', str(tmp_path / 'bare.npz'), '--bundle', str(bundle.path), '--json',
               '--profile', str(times), '--labels', str(tmp_path / 'labels.csv')]  # fmt: skip
    assert main(command) == 0
    assert 'labels.csv: none of its labels is of a frame' in capsys.readouterr().err


def test_unlabelled_images_have_a_report_too(world: World, tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    bundle, data, times = world
    with np.load(data) as packed:
        np.savez(tmp_path / 'bare.npz', images=packed['images'][:12])
    command = ['evaluate', str(tmp_path / 'bare.npz'), '--bundle', str(bundle.path), '--policy',
               'fixed', '--policies', 'jpeg-offload', '--profile', str(times), '--link', 'none',
               '--out', str(tmp_path / 'out')]  # fmt: skip
    assert main(command) == 0
    assert (tmp_path / 'out' / 'index.html').is_file()
