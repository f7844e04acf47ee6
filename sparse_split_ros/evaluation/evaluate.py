# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation by replay: sources in, decisions and figures out, the same every time."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sparse_split_ros.data.pace import Pace
from sparse_split_ros.evaluation.contestants import Contestant, best, contestants
from sparse_split_ros.evaluation.jobs import (
    Done,
    EvaluateError,
    Job,
    Request,
    make_link,
    progress_of,
    rows_of,
    run_all,
    to_json,
    world_of,
)
from sparse_split_ros.evaluation.link_model import load_spec
from sparse_split_ros.evaluation.metrics import SUMMARY_FORMAT, Counts, Outcome, summarise
from sparse_split_ros.evaluation.output import PARTS, PLAN
from sparse_split_ros.evaluation.provenance import machine, versions
from sparse_split_ros.evaluation.robot import StepTimes, step_times
from sparse_split_ros.evaluation.rows import check_table, gather, read_rows
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import load_engine


@dataclass(frozen=True)
class Result:
    """``summary`` is what summary.json holds; ``outcomes`` the chosen policy's and the oracle's."""

    summary: dict[str, Any]
    outcomes: dict[str, list[Outcome]]
    problems: list[str]
    bundle: Bundle
    fps: float


def evaluate(
    request: Request,
    out: Path | None = None,
    *,
    decisions: str = 'decisions.csv',
    jobs: int = 1,
    scheduler: str = '',
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Replay, and write ``decisions``, profile.json and summary.json into ``out`` if it is given.

    ``jobs`` processes share the work, or the cluster of ``scheduler``, a Dask (tcp://…) or Ray
    (ray://…) address whose workers see the same files. ``progress`` is told the frames done, one
    per contestant. Raises EvaluateError and the errors of bundle, source, link, robot and policy.
    """
    began = time.monotonic()
    check_table(decisions)
    for source in request.sources:
        if out is not None and source.holds(out):
            raise EvaluateError(
                f'the output {out} lies in the source {source.spec}, whose frames its pictures '
                'would be: name a folder outside by --out'
            )
    bundle = Bundle.load(bundle_path(request.bundle))
    engine = load_engine(bundle, request.engine)
    request = replace(request, engine=engine.name)
    times = step_times(bundle, engine, request.profile)
    make_link(request.link, 0)
    entrants = contestants(request.policies)
    world = world_of(request, engine, times, 0)
    for contestant in entrants:
        contestant.replay(world, make_link(request.link, 0), request.settings)
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix='sparse_split_')))
        else:
            out.mkdir(parents=True, exist_ok=True)
            folder = out.resolve() / PARTS
        plan = _plan(request, times, entrants, jobs, folder, resume)
        before = progress_of(plan)
        with _watched(plan, progress):
            done = run_all(plan, jobs, scheduler)
        if any(each.frames for each in done):
            result = _result(request, times, bundle, entrants, plan, done)
            if out is not None:
                gather(_parts(request, entrants, plan), out / decisions)
                (out / 'profile.json').write_text(to_json(times.to_json()), encoding='utf-8')
                (out / 'summary.json').write_text(to_json(result.summary), encoding='utf-8')
        # What was interrupted stays for --resume, what is done does not.
        shutil.rmtree(folder, ignore_errors=True)
    if not any(each.frames for each in done):
        raise EvaluateError('; '.join(dict.fromkeys(each.problem for each in done)))
    frames = sum(each.frames * len(job.group) for job, each in zip(plan, done)) - before
    return replace(result, fps=frames / max(1e-9, time.monotonic() - began))


def _plan(
    request: Request,
    times: StepTimes,
    entrants: Sequence[Contestant],
    jobs: int,
    folder: Path,
    resume: bool,
) -> list[Job]:
    """The jobs: of an unfinished run if there is one to resume, else as many as keep busy."""
    # A group of contestants shares the network's stages, so it is cut only to use idle processes.
    groups = max(1, min(len(entrants), -(-jobs // len(request.sources))))
    wanted = _identity(request, times)
    path = folder / PLAN
    if resume and path.is_file():
        try:
            stored = json.loads(path.read_text(encoding='utf-8'))
            begun, groups = stored['request'], stored['groups']
        except (ValueError, TypeError, KeyError) as error:
            raise EvaluateError(
                f'{path}: not the plan of a run that can go on ({error!r}); leave --resume out to '
                'begin anew'
            ) from error
        if begun != wanted:
            raise EvaluateError(
                f'{folder.parent} holds an unfinished run of another request; give the same '
                'options as then, or leave --resume out to begin anew'
            )
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        path.write_text(to_json({'request': wanted, 'groups': groups}), encoding='utf-8')
    return [
        Job(request, times, number, tuple(entrants[first::groups]), folder / f'{number}_{first}')
        for number in range(len(request.sources))
        for first in range(groups)
    ]


def _identity(request: Request, times: StepTimes) -> dict[str, Any]:
    """All that the decisions depend on, as JSON."""
    values = {**asdict(request), 'profile': times.to_json(), 'versions': versions()}
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found


@contextmanager
def _watched(plan: Sequence[Job], progress: Callable[[int], None] | None) -> Iterator[None]:
    """Tell the progress of all jobs, whichever process does them."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            if progress is not None:
                progress(progress_of(plan))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _parts(
    request: Request, entrants: Sequence[Contestant], plan: Sequence[Job]
) -> Iterator[tuple[str, str, Path]]:
    for contestant in entrants:
        for job in plan:
            if contestant in job.group:
                yield contestant.label, request.names[job.number], rows_of(job, contestant.label)


def _outcomes(
    contestant: Contestant, plan: Sequence[Job], done: Sequence[Done]
) -> tuple[list[Outcome], Counts]:
    """All sources of one contestant one after the other, with one count of frames and time."""
    found: list[Outcome] = []
    start = 0.0
    totals = [0] * 5
    for job, each in zip(plan, done):
        if contestant not in job.group:
            continue
        first = len(found)
        for row in read_rows(rows_of(job, contestant.label)):
            found.append(
                replace(row, index=first + row.index, time=start + row.time, wall=start + row.wall)
                if first else row
            )  # fmt: skip
        if len(found) > first:
            # A pause as between any two frames, or rate and jitter would be of the joints too.
            steps, taken = len(found) - first - 1, found[-1].time - start
            pace = Pace(job.request.sources[job.number].rate)
            start += taken + (taken / steps if steps else pace.step)
        totals = [sum(pair) for pair in zip(totals, each.counts[contestant.label])]
    return found, Counts(*totals)


def _result(
    request: Request,
    times: StepTimes,
    bundle: Bundle,
    entrants: Sequence[Contestant],
    plan: Sequence[Job],
    done: Sequence[Done],
) -> Result:
    deadline = request.settings.deadline_ms
    figures: dict[str, list[dict[str, Any]]] = {}
    for contestant in entrants:
        outcomes, counts = _outcomes(contestant, plan, done)
        found = summarise(outcomes, counts, deadline, tuple(bundle.tasks))
        found |= {'name': contestant.name, 'setting': contestant.setting}
        figures.setdefault(contestant.name, []).append(found)
    chosen = {name: {**sweep[best(sweep)], 'sweep': sweep} if len(sweep) > 1 else sweep[0]
              for name, sweep in figures.items()}  # fmt: skip
    # Of long runs only what is drawn is kept.
    kept = {
        each.name: _outcomes(each, plan, done)[0]
        for each in entrants
        if each.name in (request.policies[0], 'oracle')
        and each.setting == chosen[each.name]['setting']
    }
    problems = list(dict.fromkeys(each.problem for each in done if each.problem))
    # In the order of the contestants, however they were grouped.
    troubles = {text.partition(':')[0]: text for each in done for text in each.troubles}
    problems += [troubles[each.label] for each in entrants if each.label in troubles]
    # Every contestant met the same labels of a source: counted once per source.
    unknown: Counter[str] = Counter()
    for labels in {job.number: each.unknown_labels for job, each in zip(plan, done)}.values():
        unknown.update(labels)
    main = dict(chosen.pop(request.policies[0]))
    name = main.pop('name')
    summary = {
        'format': SUMMARY_FORMAT,
        'kind': 'evaluation',
        'simulated': ['link', 'robot', 'tail', 'all times'],
        **main,
        'policy': name,
        'settings': _public(request),
        'bundle': {'name': bundle.name, 'fingerprint': bundle.fingerprint.hex()},
        'engine': request.engine,
        'link': {'name': request.link, **_link(request.link)},
        'robot': {'factor': request.robot, 'times_from': times.origin,
                  'full_local_ms': times.times(request.robot).full},
        'seed': request.seed,
        'sources': _sources(request, plan, done),
        'unknown_labels': dict(unknown),
        'errors': problems,
        'baselines': chosen,
        'machine': machine(),
        'versions': versions(),
    }  # fmt: skip
    return Result(summary, kept, problems, bundle, 0.0)


def _public(request: Request) -> dict[str, Any]:
    """The settings that a user gave or could have given; what is negative is the bundle's."""
    settings = asdict(request.settings)
    names = ('split', 'threshold', 'codec', 'target_disagreement', 'weights', 'audit_budget',
             'deadline_ms', 'index')  # fmt: skip
    return {name: settings[name] for name in names}


def _link(name: str) -> dict[str, Any]:
    if name.endswith('.csv'):
        return {'trace': name}
    values = asdict(load_spec(name))
    # JSON has no infinity.
    return {key: None if value == float('inf') else value for key, value in values.items()}


def _sources(request: Request, plan: Sequence[Job], done: Sequence[Done]) -> list[dict[str, Any]]:
    frames = {job.number: each.frames for job, each in zip(plan, done)}
    return [
        {
            'name': request.names[number],
            'sha256': source.fingerprint(),
            'frames': frames[number],
            'part': source.part,
            'weather': None if source.weather is None else str(source.weather),
        }
        for number, source in enumerate(request.sources)
    ]
