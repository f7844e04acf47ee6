# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The work of an evaluation, cut into jobs that share nothing but files.

A job is one source and some of the contestants, so the number and order of jobs change nothing.
What it has done so far lies in its folder: rows of decisions, and a checkpoint from which a killed
run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sparse_split_ros.data.bags import BagError
from sparse_split_ros.data.sources import SourceError
from sparse_split_ros.evaluation import checkpoint
from sparse_split_ros.evaluation.contestants import Contestant
from sparse_split_ros.evaluation.link_model import LinkModel, TraceModel, load_spec
from sparse_split_ros.evaluation.replay import Link, Replay, World
from sparse_split_ros.evaluation.robot import StepTimes
from sparse_split_ros.evaluation.rows import write_rows
from sparse_split_ros.evaluation.stream import CHUNK, Source, Stream
from sparse_split_ros.policy.factory import Settings
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import Engine, load_engine

# Frames between two checkpoints; at the required rate, a few seconds.
_CHECKPOINT = 64 * CHUNK
_STATE = 'checkpoint'


class EvaluateError(Exception):
    """An evaluation that cannot be done as asked; says what to change."""


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    ``policies`` are names, the first the one that the report is about. ``link`` is a preset, a
    .yaml or a .csv trace; ``robot`` the factor on the times of ``profile``, a file or 'nominal',
    by default what this machine measured once.
    """

    sources: tuple[Source, ...]
    policies: tuple[str, ...] = ('joint',)
    bundle: str = 'gtsrb32'
    engine: str = 'auto'
    link: str = 'wifi'
    robot: float = 1.0
    profile: str = ''
    settings: Settings = field(default_factory=Settings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources:
            raise EvaluateError('no source to evaluate')
        if self.seed < 0:
            raise EvaluateError(f'seed {self.seed} is negative')
        if not self.settings.deadline_ms > 0:
            raise EvaluateError(f'deadline {self.settings.deadline_ms:g} ms, expected more than 0')

    @property
    def names(self) -> list[str]:
        """What each source is called: by its own name, by its path where two have the same."""
        names = [source.name for source in self.sources]
        return names if len(set(names)) == len(names) else [each.spec for each in self.sources]


@dataclass(frozen=True)
class Job:
    """Some contestants on one source; ``number`` of the source, and the folder for its parts."""

    request: Request
    times: StepTimes
    number: int
    group: tuple[Contestant, ...]
    folder: Path


@dataclass
class Done:
    """What a finished job left behind beside its rows."""

    frames: int = 0
    counts: dict[str, list[int]] = field(default_factory=dict)
    problem: str = ''
    troubles: list[str] = field(default_factory=list)
    unknown_labels: dict[str, int] = field(default_factory=dict)


def make_link(name: str, seed: int) -> Link:
    """A fresh link of a preset, a .yaml or a recorded .csv trace. Raises LinkModelError."""
    return TraceModel(name, seed) if name.endswith('.csv') else LinkModel(load_spec(name), seed)


def world_of(request: Request, engine: Engine, times: StepTimes, number: int) -> World:
    """What all replays of source ``number`` share. Raises RobotError and PolicyError."""
    robot = times.times(request.robot)
    facts = Facts.of(engine.bundle)
    costs = _robot_settings(request, times).costs(facts)
    costs.overhead_ms = robot.prepare
    for split in facts.codings:
        later = range(split + 1, facts.final + 1)
        costs.tail_ms[split] = times.decoder.get(split, 0.0) + times.codec + times.exit[facts.final]
        costs.tail_ms[split] += sum(times.stage[stage] for stage in later)
        costs.encode_ms[split] = robot.encoder.get(split, 0.0) + robot.codec
    return World(
        engine, robot, times, costs, request.settings.deadline_ms / 1e3,
        1000 * request.seed + number,
    )  # fmt: skip


def _robot_settings(request: Request, times: StepTimes) -> Settings:
    """The settings a policy gets: the robot's own times, as its profile would tell it."""
    return replace(
        request.settings, profile=request.robot, seed=request.seed,
        stage_ms=dict(times.stage), exit_ms=dict(times.exit),
    )  # fmt: skip


def progress_of(plan: Sequence[Job]) -> int:
    """Frames done so far, each counted for every contestant."""
    return sum(_frames_of(job) * len(job.group) for job in plan)


def _frames_of(job: Job) -> int:
    try:
        return int((job.folder / 'progress').read_text() or 0)
    except (OSError, ValueError):
        return 0


def run_all(plan: Sequence[Job], jobs: int, scheduler: str) -> list[Done]:
    """Do all jobs, here, in so many processes, or on the cluster of that address."""
    if not scheduler and (jobs <= 1 or len(plan) == 1):
        return [_work(job) for job in plan]
    from joblib import Parallel, delayed, parallel_backend

    with _backend(scheduler, jobs) as given, parallel_backend(**given):
        done: list[Done] = Parallel()(delayed(_work)(job) for job in plan)
    return done


@contextmanager
def _backend(scheduler: str, jobs: int) -> Iterator[dict[str, Any]]:
    """What joblib is told of where the work goes."""
    if not scheduler:
        yield {'backend': 'loky', 'n_jobs': jobs, 'inner_max_num_threads': 1}
    elif scheduler.startswith('ray'):
        import ray
        from ray.util.joblib import register_ray

        with ray.init(address=scheduler):
            register_ray()
            yield {'backend': 'ray', 'n_jobs': -1}
    else:
        from distributed import Client

        with Client(scheduler):
            yield {'backend': 'dask', 'n_jobs': -1}


def _work(job: Job) -> Done:
    """Do one job, or what is left of it. Its errors of source are part of what it found."""
    finished = job.folder / 'done.json'
    if finished.is_file():
        return Done(**json.loads(finished.read_text(encoding='utf-8')))
    job.folder.mkdir(exist_ok=True)
    request = job.request
    engine = load_engine(Bundle.load(bundle_path(request.bundle)), request.engine, threads=1)
    stream = Stream(request.sources[job.number], engine.bundle, engine)
    start, replays = _start(job, engine)
    done = Done(frames=start)
    try:
        for views in stream.chunks(start):
            for label, replay in replays.items():
                replay.prepare(views)
                for view in views:
                    replay.feed(view)
                _append(job, label, replay)
            done.frames = views[-1].index + 1
            (job.folder / 'progress').write_text(str(done.frames))
            if done.frames % _CHECKPOINT == 0:
                _save(job, done.frames, replays, engine)
    except (BagError, SourceError) as error:
        done.problem = str(error)
    for label, replay in replays.items():
        replay.finish()
        _append(job, label, replay)
        done.counts[label] = list(asdict(replay.counts()).values())
        if troubles := replay.troubles():
            done.troubles.append(f'{label}: {"; ".join(troubles)}')
    done.problem = done.problem or stream.problem
    done.unknown_labels = stream.unknown_labels
    partial = job.folder / 'done.part'
    partial.write_text(to_json(asdict(done)), encoding='utf-8')
    partial.replace(finished)
    return done


def _start(job: Job, engine: Engine) -> tuple[int, dict[str, Replay]]:
    """Where to begin, and the replays as they were then."""
    path = job.folder / _STATE
    if path.is_file():
        frames, sizes, replays = checkpoint.load(path, engine)
        for label, size in sizes.items():
            with rows_of(job, label).open('r+b') as file:
                file.truncate(size)
        return frames, replays
    world = world_of(job.request, engine, job.times, job.number)
    settings = _robot_settings(job.request, job.times)
    found = {}
    for contestant in job.group:
        rows_of(job, contestant.label).write_bytes(b'')
        link = make_link(job.request.link, world.seed)
        found[contestant.label] = contestant.replay(world, link, settings)
    return 0, found


def _save(job: Job, frames: int, replays: dict[str, Replay], engine: Engine) -> None:
    sizes = {label: rows_of(job, label).stat().st_size for label in replays}
    checkpoint.save(job.folder / _STATE, (frames, sizes, replays), engine)


def _append(job: Job, label: str, replay: Replay) -> None:
    with rows_of(job, label).open('a', encoding='utf-8', newline='') as file:
        write_rows(replay.take(), file)


def rows_of(job: Job, label: str) -> Path:
    """Where a job keeps the rows of one contestant."""
    return job.folder / f'{label}.csv'


def to_json(value: Mapping[str, Any]) -> str:
    """The text of a JSON file, the same bytes for the same value."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + '\n'
