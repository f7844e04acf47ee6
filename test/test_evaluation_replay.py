# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A replay is the node's behaviour in virtual time: every frame accounted for, nothing random."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replays import make_world, replayed, request, write_times

from sparse_split_ros.evaluation import jobs as module
from sparse_split_ros.evaluation.contestants import BASELINES
from sparse_split_ros.evaluation.evaluate import evaluate
from sparse_split_ros.evaluation.jobs import EvaluateError
from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.evaluation.rows import gather, read_rows, write_rows
from sparse_split_ros.evaluation.stream import CHUNK, Source, Stream, full_network
from sparse_split_ros.link.codec import CodecError
from sparse_split_ros.policy.decision import Reason, Route
from sparse_split_ros.policy.facts import Energy
from sparse_split_ros.policy.plan import FixedPolicy
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.head import Head

World = tuple[Bundle, Path, Path]
ALL = ('joint', *(name for name in BASELINES if name != 'joint'))


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp('world'))


@pytest.fixture(scope='module')
def compared(world: World) -> dict[str, Any]:
    return replayed(world, *ALL, link='wifi').summary


def row_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    return summary if summary['policy'] == name else summary['baselines'][name]


@pytest.mark.parametrize('name', ALL)
def test_every_frame_is_accounted_for_whoever_answers(compared: dict[str, Any], name: str) -> None:
    row = row_of(compared, name)
    assert row['frames'] == row['received'] == 200
    assert row['received'] == row['accepted'] + row['dropped']
    assert sum(row['route_share'].values()) == pytest.approx(1)
    assert row['answered'] + row['missed_frames'] == 200


def test_the_stable_keys_are_there(compared: dict[str, Any]) -> None:
    names = {
        'frames', 'received', 'accepted', 'dropped', 'answered', 'accuracy', 'accuracy_by_route',
        'route_share', 'exit_share', 'disagreement', 'payload_bytes', 'latency_ms',
        'deadline_hits', 'robot_macs_mean', 'cost_mean', 'policy', 'bundle', 'link', 'robot',
        'seed', 'versions', 'baselines',
    }  # fmt: skip
    assert names <= set(compared)
    assert set(compared['payload_bytes']) == {'mean', 'p95', 'max'}
    assert {'mean', 'p50', 'p95', 'p99'} <= set(compared['latency_ms'])
    json.dumps(compared, allow_nan=False)


def test_jobs_and_runs_change_no_byte(world: World, tmp_path: Path) -> None:
    wanted = request(world, *ALL, link='wifi-bad', robot=3.0)
    for jobs, name in ((1, 'a'), (2, 'b'), (3, 'c')):
        evaluate(wanted, tmp_path / name, jobs=jobs)
    for file in ('decisions.csv', 'summary.json', 'profile.json'):
        found = {(tmp_path / name / file).read_bytes() for name in 'abc'}
        assert len(found) == 1, file


def test_another_seed_is_another_link(world: World) -> None:
    runs = [
        replayed(world, link='wifi-bad', seed=seed, settings={'threshold': 1.0}) for seed in (0, 1)
    ]
    first, second = ([each.latency for each in run.outcomes['fixed']] for run in runs)
    assert first != second


def test_the_full_network_on_the_robot_never_disagrees_with_itself(
    compared: dict[str, Any],
) -> None:
    row = row_of(compared, 'full-local')
    assert row['disagreement'] == 0
    assert row['accuracy'] == row['accuracy_full']
    assert row['sent_bytes'] == 0


def test_the_oracle_always_says_what_the_full_network_says(world: World) -> None:
    # With no loss, what it plans comes true.
    row = row_of(replayed(world, 'oracle', 'full-local').summary, 'oracle')
    assert row['disagreement'] == 0
    assert row['robot_macs_mean'] < row_of(
        replayed(world, 'full-local').summary, 'full-local'
    )['robot_macs_mean']  # fmt: skip


@pytest.mark.parametrize('link', ['none', 'wifi-bad', 'lte'])
def test_no_frame_fails_on_any_link(world: World, link: str) -> None:
    # A slow robot misses deadlines, so that tails are lost and probed.
    run = replayed(world, *ALL, link=link, robot=9.0)
    assert run.problems == []
    assert {row['failed'] for row in (run.summary, *run.summary['baselines'].values())} == {0}


def test_frames_that_fail_are_counted_and_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise CodecError('features of no shape')

    monkeypatch.setattr(Head, 'computed', broken)
    run = replayed(world)
    assert run.summary['failed'] == run.summary['missed_frames'] == 200
    assert run.problems == ['fixed: 200 frames failed, first: features of no shape']


def test_a_policy_that_raises_is_named_and_its_frames_still_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError('broken policy')

    monkeypatch.setattr(FixedPolicy, 'choose', broken)
    run = replayed(world)
    (problem,) = run.problems
    assert problem.startswith('fixed: the policy raised ')
    assert "choose: KeyError: 'broken policy'" in problem
    assert run.summary['failed'] == 0


def test_times_are_those_of_the_profile(world: World) -> None:
    # Prepare, three stages and the last exit, at 1 ms each and 2.5 times slower.
    run = replayed(world, 'full-local', robot=2.5)
    assert {round(each.latency, 6) for each in run.outcomes['full-local']} == {12.5}
    assert {round(each.compute, 6) for each in run.outcomes['full-local']} == {10.0}


def test_an_offboard_answer_takes_head_link_and_tail(world: World) -> None:
    run = replayed(world, settings={'threshold': 1.0}, link='ideal')
    outcome = run.outcomes['fixed'][0]
    assert outcome.route is Route.OFFBOARD
    # Prepare 1; stages and exits 0 and 1, encoder, codec: 6; decoder, codec, stage 2, exit 2: 4.
    assert (outcome.compute, outcome.offboard) == pytest.approx((6.0, 4.0))
    assert outcome.latency == pytest.approx(11.0)
    assert outcome.end_to_end == outcome.latency


def test_an_answer_costs_the_energy_of_what_was_computed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dict.fromkeys(range(3), 1.0)
    monkeypatch.setattr(Energy, 'of', lambda bundle: Energy(one, one, one))
    settings = {'threshold': 1.0, 'weights': 'balanced'}
    outcome = replayed(world, settings=settings, link='ideal').outcomes['fixed'][0]
    # Stages and exits 0 and 1 and the encoder.
    joules = 5.0 + 1e-6 * outcome.payload_bytes
    sent = 5.0 * outcome.payload_bytes / 1e3
    assert outcome.cost == pytest.approx(outcome.latency + sent + 100.0 * joules)


def test_a_robot_slower_than_its_camera_drops_the_older_picture(world: World) -> None:
    run = replayed(world, 'full-local', robot=12.0)  # 60 ms a frame, which come every 33
    summary = run.summary
    assert summary['dropped'] == pytest.approx(200 * (1 - 33.3 / 60), abs=4)
    unanswered = [each for each in run.outcomes['full-local'] if each.route is None]
    assert len(unanswered) == summary['dropped'] == summary['missed_frames']
    # The mailbox holds the latest: nobody waits for longer than one frame is computed.
    assert max(each.queue for each in run.outcomes['full-local'] if each.route) < 60


def test_without_a_link_every_doubt_is_answered_at_once(world: World) -> None:
    run = replayed(world, settings={'threshold': 1.0}, link='none')
    assert {each.reason for each in run.outcomes['fixed']} == {Reason.TAIL_UNKNOWN}
    assert run.summary['deadline_hits'] == 1
    assert run.summary['sent_bytes'] == 0


def test_a_tail_too_slow_for_the_deadline_is_mostly_left_alone(world: World) -> None:
    run = replayed(world, settings={'threshold': 1.0, 'deadline_ms': 10.0}, link='ideal')
    reasons = run.summary['reasons']
    # Each probe, which has the whole deadline, finds it, and the next doubtful frame loses it.
    assert reasons['deadline missed'] < reasons['tail down'] / 5
    assert max(each.latency for each in run.outcomes['fixed']) == pytest.approx(10.0)


def test_pictures_without_an_answer_in_time_are_no_answers(world: World) -> None:
    run = replayed(world, 'jpeg-offload', link='none')
    assert run.summary['answered'] == 0
    assert run.summary['deadline_hits'] == 0
    assert run.summary['accuracy'] == 0
    assert run.summary['latency_ms']['max'] == pytest.approx(100)


def test_a_pictures_way_takes_coding_and_the_whole_network(world: World) -> None:
    run = replayed(world, 'webp-offload')
    # Prepare and code on the robot; decode, three stages and an exit on the server.
    assert run.summary['latency_ms']['mean'] == pytest.approx(2 + 5)
    assert run.summary['robot_macs_mean'] == 0


def test_sweeps_are_held_to_their_cheapest_good_setting(compared: dict[str, Any]) -> None:
    row = row_of(compared, 'branchynet')
    best = max(each['accuracy'] for each in row['sweep'])
    near = [each for each in row['sweep'] if each['accuracy'] >= best - 0.01]
    assert row['cost_mean'] == min(each['cost_mean'] for each in near)
    assert row['setting'] in [each['setting'] for each in row['sweep']]


def test_branchynet_stops_by_entropy(world: World) -> None:
    bundle, _, _ = world
    sweep = replayed(world, 'branchynet').summary['sweep']
    macs = [each['robot_macs_mean'] for each in sweep]
    assert macs == sorted(macs, reverse=True), 'the more entropy is allowed, the earlier it stops'
    assert macs[0] <= sum(stage.macs for stage in bundle.stages) + sum(
        exit_.macs for exit_ in bundle.exits
    )


def test_macs_are_counted_once_per_step(world: World) -> None:
    bundle, _, _ = world
    run = replayed(world, settings={'threshold': 1.0})
    expected = sum(stage.macs for stage in bundle.stages[:2])
    expected += sum(exit_.macs for exit_ in bundle.exits if exit_.stage < 2)
    expected += bundle.split_at(1).encoder_macs
    assert {each.macs for each in run.outcomes['fixed']} == {expected}


def test_answers_do_not_depend_on_who_else_is_replayed(
    world: World, compared: dict[str, Any]
) -> None:
    alone = replayed(world, 'splitee', link='wifi').summary
    among = row_of(compared, 'splitee')
    assert {k: alone[k] for k in among if k != 'name'} == {
        k: v for k, v in among.items() if k != 'name'
    }


def test_several_sources_are_counted_together_from_blank_starts(world: World) -> None:
    _, data, _ = world
    twice = replayed(world, sources=(Source(str(data)), Source(str(data))))
    once = replayed(world)
    outcomes = twice.outcomes['fixed']
    assert [each.index for each in outcomes] == list(range(400))
    answers = [each.answer for each in outcomes]
    assert answers[:200] == answers[200:] == [each.answer for each in once.outcomes['fixed']]
    assert [each.time for each in outcomes] == sorted(each.time for each in outcomes)


@pytest.mark.parametrize('limit', [1, 20])
def test_joints_between_sources_are_no_pauses(world: World, limit: int) -> None:
    sources = tuple(Source(str(world[1]), rate=20.0, limit=limit) for _ in range(9))
    summary = replayed(world, 'full-local', sources=sources).summary
    assert summary['mean_frame_rate'] == pytest.approx(20.0, rel=1e-3)
    assert summary['jitter_ms']['max'] < 0.1


class Killed(BaseException):
    """As a kill would, this ends a run without a chance to say goodbye."""


def test_a_killed_run_goes_on_where_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = request(world, *ALL, link='wifi-bad', robot=3.0)
    evaluate(wanted, tmp_path / 'whole')
    monkeypatch.setattr(module, '_CHECKPOINT', 2 * CHUNK)
    starts: list[int] = []
    chunks = Stream.chunks

    def cut(stream: Stream, skip: int = 0) -> Any:
        starts.append(skip)
        for number, views in enumerate(chunks(stream, skip)):
            if number == 3 and len(starts) == 1:
                raise Killed
            yield views

    monkeypatch.setattr(Stream, 'chunks', cut)
    with pytest.raises(Killed):
        evaluate(wanted, tmp_path / 'cut')
    evaluate(wanted, tmp_path / 'cut', resume=True)
    assert starts == [0, 2 * CHUNK]
    for file in ('decisions.csv', 'summary.json'):
        assert (tmp_path / 'cut' / file).read_bytes() == (tmp_path / 'whole' / file).read_bytes()
    assert not (tmp_path / 'cut' / '.parts').exists()


def test_another_request_does_not_go_on_with_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Stream, 'chunks', die)
        with pytest.raises(Killed):
            evaluate(request(world), tmp_path)
    with pytest.raises(EvaluateError, match='another request'):
        evaluate(request(world, robot=2.0), tmp_path, resume=True)


@pytest.mark.parametrize('text', ['', '{"request": ', '[]', '{}'])
def test_a_plan_that_was_cut_off_does_not_go_on(world: World, tmp_path: Path, text: str) -> None:
    (tmp_path / '.parts').mkdir()
    (tmp_path / '.parts' / 'plan.json').write_text(text)
    with pytest.raises(EvaluateError, match='leave --resume out'):
        evaluate(request(world), tmp_path, resume=True)


def test_labels_are_names_or_numbers_and_others_are_counted(world: World, tmp_path: Path) -> None:
    _, data, _ = world
    with np.load(data) as packed:
        images = packed['images'][:6]
    names = ['class 1', '1', '00001', 'elephant', 'class 4', '99']
    np.savez(tmp_path / 'named.npz', images=images, labels=np.array(names))
    run = replayed(world, sources=(Source(str(tmp_path / 'named.npz')),))
    labels = [each.label for each in run.outcomes['fixed']]
    assert labels == ['class 1', 'class 1', 'class 1', None, 'class 4', None]
    assert run.summary['unknown_labels'] == {'elephant': 1, '99': 1}
    assert run.summary['labelled'] == 4


def test_unlabelled_images_have_results_without_accuracy(world: World, tmp_path: Path) -> None:
    _, data, _ = world
    with np.load(data) as packed:
        np.savez(tmp_path / 'bare.npz', images=packed['images'][:20])
    summary = replayed(world, *ALL, sources=(Source(str(tmp_path / 'bare.npz')),)).summary
    assert summary['accuracy'] is None and summary['labelled'] == 0
    assert summary['answered'] == 20 and summary['disagreement'] is not None


def test_times_of_another_bundle_are_refused(world: World, tmp_path: Path) -> None:
    bundle, _, _ = world
    path = write_times(tmp_path / 'times.json', replace(bundle, fingerprint=b'\1' * 8))
    with pytest.raises(ValueError, match='times of bundle 0101'):
        evaluate(replace(request(world), profile=str(path)))
    path.write_text('{"machine": {}, "engines": {}}')  # the profile.json of a bundle
    with pytest.raises(ValueError, match=r'times\.json: is of `sparse-split profile`'):
        evaluate(replace(request(world), profile=str(path)))


def test_the_full_networks_answer_is_that_of_one_batch(world: World) -> None:
    bundle, data, _ = world
    engine = load_engine(bundle, 'onnxruntime')
    views = [v for chunk in Stream(Source(str(data)), bundle, engine).chunks() for v in chunk]
    for view in views[:5]:
        assert view.full == int(full_network(engine, view.x).argmax())


def test_decisions_are_one_table(world: World, tmp_path: Path) -> None:
    evaluate(request(world, 'fixed', 'full-local'), tmp_path)
    with (tmp_path / 'decisions.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['policy'] for row in rows] == ['fixed'] * 200 + ['full-local'] * 200
    assert [int(row['index']) for row in rows[:200]] == list(range(200))
    assert {row['route'] for row in rows} <= {'local', 'offboard', 'fallback'}


def test_the_times_of_a_long_run_are_those_of_its_frames(tmp_path: Path) -> None:
    times = [index / 30 for index in range(3_000_000, 3_000_100)]
    with (tmp_path / 'rows.csv').open('w') as file:
        write_rows([Outcome(index, time, time) for index, time in enumerate(times)], file)
    back = list(read_rows(tmp_path / 'rows.csv'))
    assert [each.time for each in back] == pytest.approx(times, rel=0, abs=1e-4)


def test_parquet_takes_columns_that_begin_otherwise_than_they_go_on(tmp_path: Path) -> None:
    parquet = pytest.importorskip('pyarrow.parquet')
    quiet = [Outcome(index, 0.0) for index in range(20_000)]
    asked = Outcome(20_000, 0.5, codec='int8', offboard=2.5, rtt=1.5)
    with (tmp_path / 'rows.csv').open('w') as file:
        write_rows([*quiet, asked], file)
    gather([('joint', 'bag', tmp_path / 'rows.csv')], tmp_path / 'decisions.parquet')
    last = parquet.read_table(tmp_path / 'decisions.parquet').to_pylist()[-1]
    assert (last['codec'], last['offboard'], last['rtt']) == ('int8', 2.5, 1.5)


def test_parquet_holds_the_same(world: World, tmp_path: Path) -> None:
    parquet = pytest.importorskip('pyarrow.parquet')
    evaluate(request(world), tmp_path, decisions='decisions.parquet')
    table = parquet.read_table(tmp_path / 'decisions.parquet').to_pydict()
    known = replayed(world).outcomes['fixed']
    assert table['answer'] == [each.answer for each in known]
    assert table['confidence'] == pytest.approx([each.confidence for each in known], rel=1e-6)
    assert not (tmp_path / 'decisions.csv').exists()
