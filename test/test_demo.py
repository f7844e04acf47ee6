# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo as a user runs it: two processes, the tail killed on the way, a report at the end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from rich.console import Console

pytest.importorskip('matplotlib')

from sparse_split_ros.data.bags import Frame, write_bag
from sparse_split_ros.data.drive import Drive
from sparse_split_ros.data.signs import CLASSES
from sparse_split_ros.demo import Camera, DemoError, Options, Role, run_demo
from sparse_split_ros.nodes.domain import private_domain
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.preprocess import prepare

ROOT = Path(__file__).resolve().parents[1]
FRAMES = 210
LOCALHOST_ONLY = os.environ.get('ROS_LOCALHOST_ONLY')  # which a user of Humble may have set


@pytest.fixture(scope='module')
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive of dark and bright crops in turn, and a bundle that is sure of one kind only."""
    folder = tmp_path_factory.mktemp('demo')
    crops = [np.full((24, 24, 3), grey, np.uint8) for grey in (20, 220)]
    write_bag(
        folder / 'drive',
        (
            Frame(10**9 + index * 33_333_333, 'camera', crops[index % 2], CLASSES[index % 2],
                  'day' if index < FRAMES // 2 else 'night')
            for index in range(FRAMES)
        ),
    )  # fmt: skip
    network = {'classes': CLASSES[:5], 'exits': [1, 2], 'split': 1}
    bundle = make_bundle(folder / 'untuned', **network, threshold=0.5)
    engine = load_engine(bundle)
    sure = [
        float(engine.run(prepare(crop, bundle.input), 0, 1, [None, 0.0, None]).exits[1].max())
        for crop in crops
    ]
    assert abs(sure[0] - sure[1]) > 0.01
    make_bundle(folder / 'bundle', **network, threshold=sum(sure) / 2)
    return folder


@pytest.fixture(scope='module')
def shown(workplace: Path) -> tuple[int, str, dict[str, Any], Path]:
    """Exit status, terminal output, summary and folder of one run, which takes seconds."""
    out = io.StringIO()
    options = Options(
        drive=workplace / 'drive',
        out=workplace / 'report',
        bundle=str(workplace / 'bundle'),
        rate=0.6,
    )
    status = run_demo(options, Console(file=out, width=200))
    summary = json.loads((options.out / 'summary.json').read_text('utf-8'))
    return status, out.getvalue(), summary, options.out


def test_every_accepted_frame_gets_exactly_one_answer(shown) -> None:
    status, _, summary, _ = shown
    assert summary['errors'] == [] and status == 0
    assert (summary['format'], summary['kind']) == ('sparse_split_summary/1', 'demo')
    assert summary['frames'] == FRAMES
    assert summary['answered'] == summary['accepted'] > 0.9 * FRAMES
    assert summary['received'] == summary['accepted'] + summary['dropped']


def test_the_summary_holds_what_was_promised(shown) -> None:
    _, _, summary, _ = shown
    assert set(summary['route_share']) == {'local', 'offboard', 'fallback'}
    assert {'mean', 'p50', 'p95', 'p99', 'max'} <= set(summary['latency_ms'])
    assert {'mean', 'p95', 'max'} <= set(summary['payload_bytes'])
    assert set(summary['accuracy_by_scene']) == {'day', 'night'}
    for name in ('accuracy', 'accuracy_by_route', 'exit_share', 'deadline_hits', 'tail_outage',
                 'machine', 'versions', 'bundle', 'runtime', 'seed'):  # fmt: skip
        assert summary[name] is not None, name


def test_the_lost_tail_is_noticed_and_found_again(shown) -> None:
    _, text, summary, _ = shown
    outage = summary['tail_outage']
    assert outage['fallbacks'] > 0 and outage['waited'] > 0
    # One deadline of 100 ms; the rest is for a machine that is busy with other tests.
    assert outage['longest_wait_ms'] < 200
    assert outage['fallbacks_after_return'] <= outage['fallbacks']
    assert 'killed (SIGKILL)' in text and 'first answer' in text
    assert all(share > 0 for share in summary['route_share'].values())


def test_the_report_and_both_logs_are_there(shown) -> None:
    _, text, _, out = shown
    assert (out / 'index.html').stat().st_size > 100_000
    assert 'head runs bundle' in (out / 'head.log').read_text()
    # The second start is in the same log.
    assert (out / 'tail.log').read_text().count('tail serves bundle') == 2
    assert str(out / 'index.html') in text


def test_the_environment_is_left_as_it_was(shown) -> None:
    assert shown[0] == 0
    assert os.environ.get('ROS_LOCALHOST_ONLY') == LOCALHOST_ONLY


@pytest.mark.parametrize(('distro', 'old'), [('humble', '1'), ('jazzy', None)])
def test_only_humble_is_kept_here_the_old_way(monkeypatch, distro: str, old: str | None) -> None:
    monkeypatch.setenv('ROS_DISTRO', distro)
    monkeypatch.delenv('ROS_LOCALHOST_ONLY', raising=False)
    monkeypatch.setenv('CYCLONEDDS_URI', 'an interface of the user')
    with private_domain(range(100, 200)):
        assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        assert os.environ.get('ROS_LOCALHOST_ONLY') == old
        # It would have both, which Cyclone DDS refuses where they are the same.
        assert bool(os.environ['CYCLONEDDS_URI']) == (old is None)
    assert os.environ['CYCLONEDDS_URI'] == 'an interface of the user'


def test_the_camera_does_not_wait_for_a_clock_that_was_set() -> None:
    crop = np.zeros((24, 24, 3), np.uint8)
    frames = [Frame(stamp, 'camera', crop) for stamp in (0, 1_700_000_000 * 10**9)]
    sent: list[int] = []

    class Noting:
        def send(self, index: int, frame: Frame) -> None:
            sent.append(frame.stamp_ns)

    with Camera(Noting(), frames, 1.0) as camera:  # type: ignore[arg-type]
        camera.join(20.0)
        assert sent == [frame.stamp_ns for frame in frames]


def test_a_drive_that_is_not_there_is_rendered(
    tmp_path: Path, workplace: Path, monkeypatch
) -> None:
    monkeypatch.setattr(
        'sparse_split_ros.demo.Drive',
        lambda seed: Drive(seed=seed, tracks_per_scene=1, frames_per_track=4, scenes=('day',)),
    )
    options = Options(
        drive=tmp_path / 'new' / 'drive', out=tmp_path / 'report',
        bundle=str(workplace / 'bundle'), kill=False, seed=5,
    )  # fmt: skip
    said = io.StringIO()
    assert run_demo(options, Console(file=said)) == 0
    assert options.drive is not None and options.drive.exists()
    assert f'{options.drive} is not there: a drive is drawn into it' in said.getvalue()
    summary = json.loads((options.out / 'summary.json').read_text())
    assert summary['frames'] == 4
    # The bundle knows five of the 43 signs that are drawn.
    assert summary['labelled'] == 0 and summary['accuracy'] is None
    assert 'are no class of synthetic: such frames count as unlabelled' in said.getvalue()


def test_a_bag_that_fills_the_memory_is_refused_before_it_does(
    tmp_path: Path, workplace: Path, monkeypatch
) -> None:
    monkeypatch.setattr('sparse_split_ros.demo._MEMORY', 10 * 24 * 24 * 3)
    options = Options(
        drive=workplace / 'drive', out=tmp_path / 'report', bundle=str(workplace / 'bundle')
    )
    with pytest.raises(DemoError, match='play no more by --frames 10'):
        run_demo(options, Console(file=io.StringIO()))
    assert not options.out.exists()


def test_a_missing_answer_is_an_error(workplace: Path, tmp_path: Path, monkeypatch) -> None:
    answer = 'sparse_split_ros.evaluation.ledger.Ledger.answer'
    monkeypatch.setattr(answer, lambda self, key, name, received: None)
    monkeypatch.setattr('sparse_split_ros.demo._DRAIN_S', 1.0)
    options = Options(
        drive=workplace / 'drive', out=tmp_path, bundle=str(workplace / 'bundle'),
        frames=20, rate=2.0, kill=False,
    )  # fmt: skip
    out = io.StringIO()
    assert run_demo(options, Console(file=out, width=200)) == 1
    assert 'error: 0 answers to' in out.getvalue()
    assert 'did not keep what it promises' in (tmp_path / 'index.html').read_text('utf-8')


def test_a_node_that_does_not_start_is_an_error_with_its_last_words(
    workplace: Path, tmp_path: Path, monkeypatch
) -> None:
    start = Role.__init__

    def broken(self: Role, name: str, folder: Path, parameters: dict[str, Any]) -> None:
        start(self, name, folder, {**parameters, 'threads': -5})

    monkeypatch.setattr(Role, '__init__', broken)
    options = Options(drive=workplace / 'drive', out=tmp_path, bundle=str(workplace / 'bundle'))
    with pytest.raises(DemoError, match='did not start') as caught:
        run_demo(options, Console(file=io.StringIO()))
    assert 'threads' in str(caught.value)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(
    number: signal.Signals, workplace: Path, tmp_path: Path
) -> None:
    psutil = pytest.importorskip('psutil')
    # Where the suite runs in the background of a shell, all it starts would ignore SIGINT.
    command = [
        'env', '--default-signal=INT',
        sys.executable, '-m', 'sparse_split_ros.cli', 'demo', '--rate', '0.1',
        '--drive', workplace / 'drive', '--bundle', workplace / 'bundle', '--out', tmp_path,
    ]  # fmt: skip
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        # The first line is printed while frames are played.
        assert 'frames' in demo.stdout.readline()
        children = psutil.Process(demo.pid).children()
        assert len(children) == 2
        demo.send_signal(number)
        demo.stdout.read()
        assert demo.wait(10) == 130
    deadline = time.monotonic() + 5
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(child.is_running() for child in children)
