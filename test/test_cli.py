# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command: help that teaches, one line per error, no trace for what a person can mend."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pytest
from bundles import make_bundle

from sparse_split_ros import __version__
from sparse_split_ros.cli import _missing, main

MODELS = Path(__file__).parents[1] / 'models'
COMMANDS = ('demo', 'make-bag', 'inspect', 'profile', 'classify', 'train', 'export',
            'head', 'tail', 'player')  # fmt: skip


def run(*arguments: str | Path) -> int:
    """The exit status, whether the command returns it or leaves with it."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    make_bundle(tmp_path / 'bundle', classes=['stop', 'yield', 'no entry'])
    return tmp_path / 'bundle'


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / 'sign.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    return path


def test_help_names_every_command_and_gives_examples(capsys) -> None:
    assert run('--help') == 0
    text = capsys.readouterr().out
    assert all(f'\n    {command} ' in text for command in COMMANDS)
    assert 'sparse-split demo' in text.partition('examples:')[2]


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys) -> None:
    assert run(command, '--help') == 0
    text = capsys.readouterr().out
    assert f'usage: sparse-split {command}' in text
    assert f'sparse-split {command}' in text.partition('example')[2]


def test_version_is_the_package_s(capsys) -> None:
    assert run('--version') == 0
    assert capsys.readouterr().out == f'sparse-split {__version__}\n'


def test_help_needs_no_middleware_and_no_network() -> None:
    code = (
        'import sys\n'
        'from sparse_split_ros.cli import main\n'
        'try: main(["demo", "--help"])\n'
        'except SystemExit: pass\n'
        'heavy = {"cyclonedds", "zenoh", "rclpy", "onnxruntime", "torch", "matplotlib", "cv2"}\n'
        'print(sorted(heavy & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[]'


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], 'COMMAND'),
        (['fly'], "'fly'"),
        (['classify', 'gtsrb32'], 'IMAGE'),
        (['inspect', 'no-such-bundle'], "no bundle 'no-such-bundle'"),
        (['profile', 'no-such-bundle'], "no bundle 'no-such-bundle'"),
        (['profile', '{bundle}', '--repeats', '0'], '--repeats 0'),
        (['record', 'flown', '--idle', 'nan'], '--idle nan, expected a number from 0'),
        (['classify', 'no-such-bundle', '{picture}'], "no bundle 'no-such-bundle'"),
        (['classify', '{bundle}', '{tmp}/none.png'], 'none.png'),
        (['classify', '{bundle}', '{bundle}/manifest.json'], 'manifest.json'),
        (['classify', '{bundle}', '{picture}', '--threshold', '1.5'], '--threshold 1.5'),
        (['make-bag', '{tmp}/none', '{tmp}/bag.mcap'], 'none'),
        (['make-bag', '{bundle}', '{tmp}/bag.mcap'], 'bundle'),
        (['demo', '--rate', '0', '--out', '{tmp}/out'], '--rate 0'),
        (['demo', '--frames', '-1', '--out', '{tmp}/out'], '--frames -1'),
        (['demo', '--bundle', 'no-such-bundle', '--out', '{tmp}/out'], 'no-such-bundle'),
        (['demo', '--bundle', '{bundle}', '--out', '{picture}', '--drive', '{picture}'], 'sign'),
        (['head', '--threshold', '1'], "'--threshold' is unknown"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_it(
    arguments: list[str], said: str, bundle: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    places = {'bundle': bundle, 'picture': picture, 'tmp': tmp_path}
    assert run(*(argument.format(**places) for argument in arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('error: ') and said in lines[0]


def test_a_tampered_bundle_is_named(bundle: Path, capsys) -> None:
    (bundle / 'stage_0.onnx').write_bytes(b'something else')
    assert run('inspect', bundle) == 2
    assert 'stage_0.onnx' in capsys.readouterr().err


def test_faults_of_ours_keep_their_trace(bundle: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr('sparse_split_ros.runtime.inspect.inspect', broken)
    with pytest.raises(ZeroDivisionError):
        run('inspect', bundle)


def test_a_missing_package_is_named_with_the_way_to_get_it() -> None:
    code = (
        'import sys; sys.modules["torch"] = None; from sparse_split_ros.cli import main; '
        'sys.exit(main(["train", "recipe.yaml"]))'
    )
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install '.[train]' in the source tree" in done.stderr


@pytest.mark.parametrize(
    ('module', 'distribution'),
    [
        ('cv2', 'opencv-python-headless'),
        ('yaml', 'PyYAML'),
        ('cv2.aruco', 'opencv-python-headless'),
    ],
)
def test_a_missing_module_is_asked_for_by_the_name_of_its_distribution(
    module: str, distribution: str
) -> None:
    missing = ModuleNotFoundError(f'No module named {module!r}', name=module)
    assert _missing(missing).endswith(f': pip install {distribution}')


def test_a_package_that_is_too_old_is_named() -> None:
    old = ImportError("cannot import name 'new' from 'rich.progress'", name='rich.progress')
    assert _missing(old).endswith('rich is too old, or broken: pip install rich --upgrade')


def test_output_that_is_not_of_utf_8_loses_no_run() -> None:
    command = [sys.executable, '-m', 'sparse_split_ros.cli', 'evaluate', '--no-such-option-–']
    done = subprocess.run(
        command, check=False, capture_output=True, env={**os.environ, 'PYTHONIOENCODING': 'ascii'}
    )
    assert done.returncode == 2
    assert b'Traceback' not in done.stderr and b'\\u2013' in done.stderr


def test_a_narrow_terminal_costs_no_figures(bundle: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv('COLUMNS', '40')
    assert run('inspect', bundle) == 0
    assert '…' not in capsys.readouterr().out


def test_inspect_prints_the_stage_table(bundle: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv('COLUMNS', '160')
    assert run('inspect', bundle) == 0
    assert 'fingerprint' in capsys.readouterr().out


def test_the_help_of_inspect_explains_every_column(capsys) -> None:
    from sparse_split_ros.runtime.inspect import _ACCOUNT, _COLUMNS

    assert run('inspect', '--help') == 0
    said = capsys.readouterr().out
    unsaid = {'part', 'shape', 'params'}  # say it themselves
    columns = {*_COLUMNS, *_ACCOUNT.values(), 'all'} - unsaid
    assert [name for name in columns if not re.search(rf'^  {name}\b.*  ', said, re.M)] == []


def test_inspect_sums_what_the_parts_cost(capsys, monkeypatch) -> None:
    monkeypatch.setenv('COLUMNS', '160')
    assert run('inspect', 'gtsrb32') == 0
    rows = [re.split('[│ ]+', line)[1:-1] for line in capsys.readouterr().out.splitlines()]
    whole = next(row for row in rows if row[:1] == ['all'])
    manifest = json.loads((MODELS / 'gtsrb32' / 'manifest.json').read_text())
    parts = [*manifest['stages'], *manifest['exits']]
    macs = sum(part['macs'] for part in parts) / 1e6
    assert float(whole[1]) == pytest.approx(macs, rel=0.005) and whole[2] == 'M'


def test_profile_is_kept_beside_the_bundle(bundle: Path) -> None:
    assert run('profile', bundle, '--repeats', '2') == 0
    assert (bundle / 'profile.json').is_file()


def test_profile_shows_what_it_has_just_measured(bundle: Path, capsys) -> None:
    assert run('inspect', bundle) == 0
    before = capsys.readouterr().out
    # inspect alone shows one thread and the engine of auto.
    assert run('profile', bundle, '--repeats', '2', '--threads', '2') == 0
    assert capsys.readouterr().out != before
    assert run('inspect', bundle) == 0
    assert capsys.readouterr().out == before


@pytest.mark.parametrize(('threshold', 'who'), [('0', 'robot, exit 0'), ('1', 'tail, exit 2')])
def test_classify_says_what_every_exit_thinks_and_who_would_answer(
    threshold: str, who: str, bundle: Path, picture: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv('COLUMNS', '160')
    assert run('classify', bundle, picture, '--threshold', threshold) == 0
    text = capsys.readouterr().out
    assert all(f'exit {stage}' in text for stage in range(3))
    assert 'sign.png' in text and who in text


def test_classify_shows_names_in_brackets(bundle: Path, picture: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv('COLUMNS', '160')
    manifest = bundle / 'manifest.json'
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {'classes': [f'[{k}]' for k in found['classes']]}))
    sign = picture.rename(picture.with_name('sign[left].png'))
    assert run('classify', bundle, sign) == 0
    text = capsys.readouterr().out
    assert sign.name in text
    assert any(f'[{k}] ' in text for k in found['classes'])


def test_make_bag_writes_a_bag_that_reads_back(picture: Path, tmp_path: Path, capsys) -> None:
    from sparse_split_ros.data.bags import read_bag

    folder = tmp_path / 'images' / 'stop'
    folder.mkdir(parents=True)
    picture.rename(folder / 'a.png')
    assert run('make-bag', folder.parent, tmp_path / 'bag.mcap') == 0
    assert '1 frames' in capsys.readouterr().out
    assert [frame.label for frame in read_bag(tmp_path / 'bag.mcap')] == ['stop']


def test_make_bag_passes_over_what_is_no_picture_and_names_it(
    picture: Path, tmp_path: Path, capsys
) -> None:
    (picture.parent / 'broken.png').write_bytes(b'no picture')
    assert run('make-bag', picture.parent, tmp_path / 'bag') == 0
    said = capsys.readouterr()
    assert '1 frames' in said.out and 'broken.png cannot be read' in said.err
    picture.unlink()
    assert run('make-bag', picture.parent, tmp_path / 'none') == 2


def test_output_cut_short_by_its_reader_says_nothing(bundle: Path) -> None:
    command = f'"{sys.executable}" -m sparse_split_ros.cli inspect "{bundle}" | head -n 0'
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, 'PYTHONPATH': root}
    done = subprocess.run(
        ['bash', '-c', f'set -o pipefail; {command}'], capture_output=True, text=True,
        env=environment, check=False,
    )  # fmt: skip
    assert done.stderr == ''


@pytest.mark.parametrize('text', ['threshhold:=0.8', 'head:threshhold:=0.8'])
def test_a_misspelt_parameter_is_refused_with_what_it_may_mean(
    text: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr('sparse_split_ros.commands.nodes.listen', lambda: None)
    assert run('head', '--ros-args', '-p', text) == 2
    assert "unknown parameter 'threshhold' (is it 'threshold'?)" in capsys.readouterr().err


def test_parameters_of_every_ros_node_are_known(capsys, monkeypatch) -> None:
    for name in ('listen', 'import_module'):
        monkeypatch.setattr(f'sparse_split_ros.commands.nodes.{name}', MagicMock())
    of_ros = ('use_sim_time:=false', 'qos_overrides./image.subscription.depth:=2')
    run('head', '--ros-args', *(part for text in of_ros for part in ('-p', text)))
    assert capsys.readouterr().err == ''
