# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Schedules of conditions and links: read, played, compared, and the command that does it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparse_split_ros import cli
from sparse_split_ros.evaluation.link_model import PRESETS, LinkModelError, TraceModel
from sparse_split_ros.evaluation.schedule import Part, ScheduleError, Study
from sparse_split_ros.evaluation.simulate import Run, calibration_of
from sparse_split_ros.evaluation.table import TableError, synthetic, synthetic_facts
from sparse_split_ros.policy.bandit import INDICES
from sparse_split_ros.policy.cost import WEIGHTS
from sparse_split_ros.policy.factory import POLICIES, Settings

SKILL = (4.0, 5.0, 6.0, 7.0)
TABLE = synthetic(1, tracks=60, skill=SKILL)
CALIBRATION = calibration_of(synthetic(2, tracks=60, skill=SKILL))


def study(*parts: str, **settings: float) -> Study:
    schedule = [Part.parse(part) for part in parts]
    wanted = Settings(**{'profile': 8.0, 'target_disagreement': 0.02, **settings})  # type: ignore[arg-type]
    return Study(TABLE, synthetic_facts(TABLE), schedule, wanted, CALIBRATION)


def test_a_part_names_condition_link_and_frames() -> None:
    part = Part.parse('fog@wifi-bad:500')
    assert (part.condition, part.link.name, part.frames) == ('fog', 'wifi-bad', 500)
    usual = Part.parse('day')
    assert (usual.condition, usual.link.name, usual.frames) == ('day', 'wifi', 2000)


@pytest.mark.parametrize('text', ['', '@wifi', 'day:many', 'day:5', 'day:-100', 'day:1e9'])
def test_a_malformed_part_says_how_one_is_written(text: str) -> None:
    with pytest.raises(ScheduleError, match='day@wifi:2000'):
        Part.parse(text)


def test_an_unknown_link_or_condition_is_refused() -> None:
    with pytest.raises(LinkModelError, match='wifi-bad'):
        Part.parse('day@pigeon')
    with pytest.raises(TableError, match='hail'):
        study('hail')


def test_a_table_of_another_network_is_refused() -> None:
    other = synthetic_facts(synthetic(1, tracks=5, stages=(0, 1, 2)))
    with pytest.raises(TableError, match='make the table from this bundle'):
        Study(TABLE, other, [Part.parse('day')], Settings())
    # Networks of one recipe look alike.
    with pytest.raises(TableError, match=r'is of bundle cafe.*--bundle'):
        Study(replace(TABLE, bundle='cafe'), synthetic_facts(TABLE), [], Settings())


@pytest.mark.parametrize('name', ['prediction', 'coded'])
@pytest.mark.parametrize('label', [-1, 43])
def test_a_table_with_classes_the_bundle_lacks_is_refused(name: str, label: int) -> None:
    said = getattr(TABLE, name).copy()
    said[0, 0] = label
    with pytest.raises(TableError, match=rf'{name} .*{label}.* 43 classes'):
        Study(replace(TABLE, **{name: said}), synthetic_facts(TABLE), [], Settings())


def test_another_seed_has_other_frames() -> None:
    labels = [study('day:600', seed=seed).tables(0)[0].label for seed in (0, 0, 7)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[0], labels[2])


def test_every_policy_has_its_figures_in_every_part() -> None:
    result, runs = study('day:600', 'fog@none:400').result(['joint', 'splitee', 'fixed'])
    assert {name: len(run) for name, run in runs.items()} == dict.fromkeys(runs, 1000)
    assert [part['frames'] for part in result['parts']] == [600, 400]
    for part in result['parts']:
        for row in part['policies'].values():
            assert row['frames'] == part['frames']
            assert row['local'] + row['offboard'] + row['fallback'] == pytest.approx(1)
            assert row['regret'] == pytest.approx(row['cost'] - part['best_fixed'])
    assert all(row['offboard'] == 0 for row in result['parts'][1]['policies'].values())
    assert result['simulated'] is True


def test_where_nobody_may_know_better_the_best_is_all_local() -> None:
    final, best = study('day@none:500', target_disagreement=1e-5).references(0)[0]
    assert best.cost <= final.cost and best.disagreement <= 1e-5


def test_a_recorded_link_carries_answers(tmp_path: Path) -> None:
    trace = tmp_path / 'trace.csv'
    trace.write_text('time_s,rtt_ms,loss,rate_mbit\n0,6,0,20\n5,10,0,20\n')
    assert isinstance(Part.parse(f'day@{trace}').link, TraceModel)
    recorded = study(f'day@{trace}:400', 'day@none:200')
    run = recorded.run('fixed')
    assert (run.route[:400] == 1).any() and not (run.route[400:] == 1).any()
    mean = recorded.schedule[0].link.mean()  # type: ignore[union-attr]
    assert (mean.delay_ms, mean.rate_mbit) == (4.0, 20.0)


def test_runs_over_a_recorded_link_are_repeatable(tmp_path: Path) -> None:
    trace = tmp_path / 'trace.csv'
    trace.write_text('time_s,rtt_ms,loss\n0,6,0.3\n5,10,0.3\n')
    recorded = study(f'day@{trace}:400', threshold=1.0)
    assert (recorded.run('fixed').cost == recorded.run('fixed').cost).all()
    assert (recorded.run('fixed', 0).route != recorded.run('fixed', 1).route).any()


def test_the_command_prints_writes_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('matplotlib')
    given = ['simulate', '--profile', '8', '--schedule', 'day:300', 'fog@wifi-bad:300']
    assert cli.main([*given, '--policy', 'joint', 'fixed', '--out', str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert 'SIMULATED' in shown and 'joint' in shown
    result = json.loads((tmp_path / 'simulate.json').read_text())
    assert result['table'] == 'synthetic' and result['robot_profile'] == 8.0
    assert set(result['parts'][0]['policies']) == {'joint', 'fixed'}
    assert (tmp_path / 'simulate.png').read_bytes()[:4] == b'\x89PNG'


def test_the_table_is_whole_on_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('COLUMNS', '80')
    given = ['simulate', '--schedule', 'day:300', 'fog@wifi-bad:300', '--profile', '30']
    assert cli.main([*given, '--policy', 'joint', 'splitee-paired']) == 0
    shown = capsys.readouterr().out
    assert '…' not in shown and '...' not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert [line for line in shown.splitlines() if line.startswith('fog @ wifi-bad, 300 frames')]
    (heading, *_) = (line for line in shown.splitlines() if line.startswith('policy'))
    rows = [line for line in shown.splitlines() if line.startswith(('joint', 'splitee-paired'))]
    assert [len(row.split()) for row in rows] == [len(heading.split())] * 4


def test_a_robot_without_the_last_stage_has_policies_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ['simulate', '--no-all-local', '--schedule', 'day:300']
    assert cli.main(given) == 0
    shown = capsys.readouterr().out
    assert 'joint' in shown and 'fixed' in shown and 'splitee' not in shown
    assert cli.main([*given, '--policy', 'isplitee']) == 2
    assert 'isplitee' in (said := capsys.readouterr().err) and 'leave out --no-all-local' in said


def test_a_folder_that_cannot_be_made_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').write_text('')
    assert cli.main(['simulate', '--schedule', 'day:300', '--out', str(tmp_path / 'file')]) == 2
    shown = capsys.readouterr()
    assert shown.out == '' and str(tmp_path / 'file') in shown.err


def test_the_picture_shows_a_change_when_it_comes_and_not_before() -> None:
    pytest.importorskip('matplotlib')
    it = study('day:300')
    run = it.run('fixed')
    late = replace(run, cost=np.where(np.arange(300) < 200, 1.0, 9.0))
    line = it.picture({'fixed': late}, window=50).axes[0].lines[0]
    (changed,) = np.flatnonzero(np.diff(line.get_ydata()) > 0)[:1]
    assert line.get_xdata()[changed + 1] == 200


def test_a_picture_that_cannot_be_drawn_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    assert cli.main(['simulate', '--out', str(tmp_path / 'out')]) == 2
    said = capsys.readouterr()
    assert 'matplotlib is not installed' in said.err and said.out == ''


def test_a_policy_is_simulated_once_for_figures_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('matplotlib')
    played, run = [], Study.run

    def counted(self: Study, name: str, stream: int = 0) -> Run:
        played.append((name, stream))
        return run(self, name, stream)

    monkeypatch.setattr(Study, 'run', counted)
    given = ['--schedule', 'day:300', '--policy', 'fixed', '--streams', '2']
    assert cli.main(['simulate', *given, '--out', str(tmp_path)]) == 0
    assert played == [('fixed', 0), ('fixed', 1)]


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (['--profile', '0'], '--profile 0 is outside'),
        (['--target', '2'], '--target 2 is outside'),
        (['--table', 'nowhere.npz'], 'nowhere.npz'),
        (['--schedule', 'hail'], "no condition 'hail'"),
        (['--policy', 'fixed', '--split', '9'], 'no split after stage 9'),
        (['--policy', 'guess'], "unknown policy 'guess'"),
        (['--cost-weights', 'free'], "unknown cost_weights 'free'"),
        (['--index', 'ucb9'], "unknown index 'ucb9'"),
        (['--bundle', 'mine'], '--bundle is the network of a --table'),
        (['--policy', 'joint', '--split', '1'], '--split is for --policy fixed, not joint'),
        (['--policy', 'fixed', '--index', 'ucb-v'], '--index is for --policy splitee'),
    ],
)
def test_bad_input_is_one_line_of_error(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(['simulate', *given]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith('error: ') and words in shown and shown.count('\n') == 1


def test_help_names_every_policy_and_every_weighting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(['simulate', '--help'])
    shown = capsys.readouterr().out
    missing = [n for n in (*POLICIES, *WEIGHTS, *PRESETS, *INDICES) if n not in shown]
    assert missing == [], 'add them to the help in commands/simulate.py'


def test_the_index_of_a_bandit_can_be_chosen(tmp_path: Path) -> None:
    pytest.importorskip('matplotlib')
    costs = set()
    for index in ('ucb1', 'ucb-tuned'):
        given = ['--policy', 'splitee', '--index', index, '--schedule', 'day:1000']
        assert cli.main(['simulate', *given, '--out', str(tmp_path)]) == 0
        result = json.loads((tmp_path / 'simulate.json').read_text())
        costs.add(result['parts'][0]['policies']['splitee']['cost'])
    assert len(costs) == 2


def test_streams_are_independent_and_repeatable() -> None:
    twice = replace(study('day:400'), streams=2)
    assert (twice.run('joint', 0).cost == twice.run('joint', 0).cost).all()
    assert (twice.run('joint', 0).cost != twice.run('joint', 1).cost).any()
