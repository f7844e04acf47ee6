# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of the policies: regret, cost, the promise, adaptation, time per decision.

``python benchmarks/policy.py`` runs on a synthetic table; with ``--calibration A.npz --report
B.npz`` on confidence tables of a bundle's selection and report splits, which ``--data DIR`` makes
where they do not exist yet (minutes). Costs are simulated: stage times from MACs times the robot
profile, links from their presets.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.weather import CONDITIONS
from sparse_split_ros.evaluation.link_model import PRESETS, LinkSpec
from sparse_split_ros.evaluation.simulate import (
    Fixed,
    Run,
    Segment,
    Simulation,
    Tail,
    calibration_of,
    hindsight,
    steady,
    time_to_adapt,
)
from sparse_split_ros.evaluation.table import (
    ConfidenceTable,
    synthetic,
    synthetic_facts,
    tabulate,
)
from sparse_split_ros.link.frame import ReplyFrame, Status
from sparse_split_ros.policy.bandit import UCB1
from sparse_split_ros.policy.cost import AbstractCosts, CostModel
from sparse_split_ros.policy.decision import Decision, ExitAnswer, Reason, Route
from sparse_split_ros.policy.factory import Settings, make_policy
from sparse_split_ros.policy.facts import Coding, Facts
from sparse_split_ros.policy.plan import Policy
from sparse_split_ros.policy.scene import Scene
from sparse_split_ros.policy.splitee import (
    OneArm,
    PairedElimination,
    SideObservations,
    play,
    published_i_splitee,
    rewards,
)
from sparse_split_ros.runtime.bundle import Bundle, bundle_path

BETAS = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


class Bench:
    """What all tables share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.streams: int = options.streams
        self.frames: int = options.frames
        self.deadline_ms: float = options.deadline_ms
        self.profiles: list[float] = options.profiles
        self.target: float = options.target
        self.alpha: float = options.alpha
        self.memory_frames: int = options.memory_frames
        skill = (3.6, 4.4, 5.4, 6.4)
        if options.report:
            self.report = ConfidenceTable.load(options.report)
            self.calibration = calibration_of(ConfidenceTable.load(options.calibration))
            self.facts = Facts.of(Bundle.load(bundle_path(options.bundle)))
            self.facts = replace(self.facts, codings=_few(self.facts))
        else:
            self.report = synthetic(1, tracks=260, skill=skill)
            self.calibration = calibration_of(synthetic(2, tracks=130, skill=skill))
            self.facts = synthetic_facts(self.report)
        self.conditions = tuple(options.conditions or self.report.conditions)

    def truth(self, profile: float) -> CostModel:
        """The robot's real costs."""
        return CostModel(self.facts, profile=profile, deadline_ms=self.deadline_ms)

    def policy(
        self, name: str, profile: float, seed: int, target: float = 0.01, all_local: bool = True
    ) -> Policy:
        """A policy by name."""
        settings = Settings(
            profile=profile, deadline_ms=self.deadline_ms, target_disagreement=target, seed=seed,
            all_local=all_local,
        )  # fmt: skip
        return make_policy(name, self.facts, settings, self.calibration)

    def run(
        self, policy: Policy, segments: list[Segment], profile: float, seed: int, **options: bool
    ) -> Run:
        """One simulated run."""
        return Simulation(policy, self.facts, self.truth(profile), seed=seed, **options).run(
            segments
        )

    def always_final(self, table: ConfidenceTable, profile: float, link: LinkSpec) -> Fixed:
        """Always the network's last exit, computed on the robot, late or not: what papers save."""
        every = hindsight(table, self.facts, self.truth(profile), steady(link))
        return next(item for item in every if item.threshold > 1 and item.local == 1.0)

    def all_sent(self, table: ConfidenceTable, profile: float, link: LinkSpec) -> float:
        """The cost of sending every frame by the cheapest split and codec; NaN where too late."""
        every = hindsight(table, self.facts, self.truth(profile), steady(link))
        return min((item.cost for item in every if item.local == 0.0), default=math.nan)


def _few(facts: Facts) -> dict[int, dict[str, Coding]]:
    """The default codec and the mildest: the others lie between."""
    kept = {}
    for split, codings in facts.codings.items():
        mildest = min(codings, key=lambda name: (codings[name].disagreement, codings[name].bytes))
        kept[split] = {k: v for k, v in codings.items() if k in (facts.default[2], mildest)}
    return kept


def interval(values: list[float] | NDArray[np.float64], seed: int = 0) -> list[float]:
    """The mean and its 95 % bootstrap interval."""
    data = np.asarray(values, float)
    rng = np.random.default_rng(seed)
    means = data[rng.integers(len(data), size=(2000, len(data)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return [round(float(x), 5) for x in (data.mean(), low, high)]


def ratio(a: list[float], b: list[float], seed: int = 0) -> list[float]:
    """The ratio of means of paired streams and its 95 % bootstrap interval."""
    x, y = np.asarray(a), np.asarray(b)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(x), size=(2000, len(x)))
    low, high = np.percentile(x[rows].mean(1) / y[rows].mean(1), [2.5, 97.5])
    return [round(float(v), 4) for v in (x.mean() / y.mean(), low, high)]


def regret(bench: Bench) -> dict[str, Any]:
    """Pseudo-regret with the papers' arms and rewards, no warm start, β tuned on other streams."""
    arms = len(bench.report.stages)
    settings = {
        'SplitEE α=0.9 o=0.5': (AbstractCosts.splitee(arms), 0.9),
        'I-SplitEE α=0.5 o=0.5': (AbstractCosts.i_splitee(arms), 0.5),
        'I-SplitEE α=0.9 o=0.5': (AbstractCosts.i_splitee(arms), 0.9),
    }
    clean = bench.report.only(bench.conditions[0])
    result = {}
    for name, (costs, threshold) in settings.items():
        stated = OneArm(costs, threshold, UCB1(arms))
        tuning: dict[float, float] = dict.fromkeys(BETAS, 0.0)
        for stream in range(max(4, bench.streams // 4)):
            confidence = clean.shuffled(10_000 + stream, bench.frames).confidence
            gaps = _gaps(stated, confidence)
            for beta in BETAS:
                learner = OneArm(costs, threshold, UCB1(arms, beta=beta))
                tuning[beta] += gaps[play(learner, confidence)].sum()
        beta = min(tuning, key=lambda key: tuning[key])
        found: dict[str, list[float]] = {}
        for stream in range(bench.streams):
            confidence = clean.shuffled(stream, bench.frames).confidence
            gaps = _gaps(stated, confidence)
            stays = confidence >= threshold
            stays[:, -1] = True
            played = {
                'UCB1 β=1': play(OneArm(costs, threshold, UCB1(arms)), confidence),
                'UCB1 tuned': play(OneArm(costs, threshold, UCB1(arms, beta=beta)), confidence),
                'SplitEE-S causal': play(
                    SideObservations(costs, threshold, UCB1(arms)), confidence
                ),
                'paired': play(PairedElimination(costs, threshold, UCB1(arms)), confidence),
                'published I-SplitEE loop': published_i_splitee(
                    rewards(stated, confidence), stays, seed=stream
                ),
            }
            for key, chosen in played.items():
                found.setdefault(key, []).append(float(gaps[chosen].sum()))
        result[name] = {
            'tuned beta': beta,
            'gaps': gaps.round(3).tolist(),
            'regret': {key: interval(values) for key, values in found.items()},
            'paired / tuned UCB1': ratio(found['paired'], found['UCB1 tuned']),
            'paired / published loop': ratio(found['paired'], found['published I-SplitEE loop']),
        }
    return result


def _gaps(learner: OneArm, confidence: NDArray[Any]) -> NDArray[np.float64]:
    means = rewards(learner, confidence).mean(0)
    gaps: NDArray[np.float64] = means.max() - means
    return gaps


def published(bench: Bench) -> dict[str, Any]:
    """SplitEE and I-SplitEE as published, in their own cost, against always-final."""
    result: dict[str, Any] = {}
    arms = len(bench.report.stages)
    clean = bench.report.only(bench.conditions[0])
    for name, kind, costs, threshold in (
        ('SplitEE', OneArm, AbstractCosts.splitee(arms), 0.9),
        ('SplitEE-S', SideObservations, AbstractCosts.splitee(arms), 0.9),
        ('I-SplitEE', SideObservations, AbstractCosts.i_splitee(arms), bench.alpha),
    ):
        saved, lost = [], []
        for stream in range(bench.streams):
            table = clean.shuffled(stream, bench.frames)
            chosen = play(kind(costs, threshold, UCB1(arms)), table.confidence)
            rows = np.arange(len(table))
            stays = (table.confidence[rows, chosen] >= threshold) | (chosen == arms - 1)
            said = np.where(stays, table.prediction[rows, chosen], table.full)
            spent = [costs.spent(int(a), not s) for a, s in zip(chosen, stays)]
            saved.append(1 - float(np.mean(spent)) / costs.spent(arms - 1, False))
            lost.append(100 * float((table.full == table.label).mean()
                                    - (said == table.label).mean()))  # fmt: skip
        result[name] = {'cost saved': interval(saved), 'points lost': interval(lost)}
    return result


def joint(bench: Bench) -> dict[str, Any]:
    """The joint policy by profile and condition, against always-final and the best in hindsight."""
    result: dict[str, Any] = {}
    link = PRESETS['wifi']
    for profile in bench.profiles:
        for condition in bench.conditions:
            rows: dict[str, list[float]] = {}
            for stream in range(bench.streams):
                table = bench.report.only(condition).shuffled(stream, bench.frames)
                policy = bench.policy('joint', profile, stream, bench.target)
                run = bench.run(policy, [Segment(table, link)], profile, stream)
                final = bench.always_final(table, profile, link)
                best = hindsight(
                    table, bench.facts, bench.truth(profile), steady(link), bench.target
                )[0]
                summary = run.summary()
                points = 100 * (final.accuracy - summary['accuracy'])
                for key, value in (
                    ('cost saved', 1 - summary['cost'] / final.cost),
                    ('points lost', points),
                    (
                        'cost saved over all sent',
                        1 - summary['cost'] / bench.all_sent(table, profile, link),
                    ),
                    ('cost over best fixed', summary['cost'] / best.cost - 1),
                    ('disagreement', summary['disagreement']),
                    ('sent', float((run.sent > 0).mean())),
                    ('offboard', summary['offboard']),
                    ('fallback', summary['fallback']),
                    ('answered early', float((run.exit < bench.facts.final).mean())),
                    ('audits', summary['audits']),
                ):
                    rows.setdefault(key, []).append(value)
            result[f'profile {profile:g} {condition}'] = {
                key: interval(values) for key, values in rows.items()
            }
    return result


def thin(bench: Bench) -> dict[str, Any]:
    """The joint policy on a robot that is too slow for the last stage and does not hold it."""
    result: dict[str, Any] = {}
    link, profile, target = PRESETS['wifi'], 15.0, 0.02
    for condition in bench.conditions:
        rows: dict[str, list[float]] = {}
        for stream in range(bench.streams):
            table = bench.report.only(condition).shuffled(stream, max(3060, bench.frames))
            policy = bench.policy('joint', profile, stream, target, all_local=False)
            run = bench.run(policy, [Segment(table, link)], profile, stream)
            final, summary = bench.always_final(table, profile, link), run.summary()
            for key, value in (
                ('cost saved', 1 - summary['cost'] / final.cost),
                ('points lost', 100 * (final.accuracy - summary['accuracy'])),
                ('disagreement', summary['disagreement']),
                ('sent', float((run.sent > 0).mean())),
                ('offboard', summary['offboard']),
                ('fallback', summary['fallback']),
            ):
                rows.setdefault(key, []).append(value)
        result[condition] = {key: interval(values) for key, values in rows.items()}
    return result


def promise(bench: Bench) -> dict[str, Any]:
    """How often the promise is kept from frame 2,000 on, and what share still answers early.

    In every scene: from the scene's own frame 2,000 on, of runs that stay in one for so long.
    """
    result: dict[str, Any] = {}
    link, profile = PRESETS['wifi'], 10.0
    for target in (0.005, 0.01, 0.02, 0.05):
        kept, scenes, shares = [], [], []
        broken: dict[str, int] = {}
        for stream in range(bench.streams):
            condition = bench.conditions[stream % len(bench.conditions)]
            table = bench.report.only(condition).shuffled(stream, max(4000, bench.frames))
            policy = bench.policy('joint', profile, stream, target)
            run = bench.run(policy, [Segment(table, link)], profile, stream)
            kept.append(float(run.disagreement()[2000:].max() <= target))
            broken[condition] = broken.get(condition, 0) + (kept[-1] == 0)
            for scene in range(len(run.scenes)):
                differs = run.differs[run.promised & (run.scene == scene)]
                if len(differs) >= 2500:
                    share = np.cumsum(differs) / np.arange(1, len(differs) + 1)
                    scenes.append(float(share[2000:].max() <= target))
            best = [
                item.local for item in
                hindsight(table, bench.facts, bench.truth(profile), steady(link), target)
                if item.threshold <= 1
            ]  # fmt: skip
            early = float((run.exit[1000:] < bench.facts.final).mean())
            shares.append(early / max(best) if best and max(best) > 0 else 1.0)
        result[f'{target:.1%}'] = {
            'runs that keep it': interval(kept),
            'scenes of 2500 frames that keep it': [len(scenes), *interval(scenes or [math.nan])],
            'early answers / most by a fixed threshold': interval(shares),
            'broken in': {name: count for name, count in broken.items() if count},
        }
    return result


def bound(bench: Bench) -> dict[str, Any]:
    """What keeping the promise in 95 % of runs costs even those who know the condition.

    The cheapest threshold of one exit, the rest computed on the robot, that keeps the promise in
    95 of 100 runs, over each run's own best in hindsight, which keeps it exactly; and the cost of
    the joint policy, which knows neither, over both.
    """
    result: dict[str, Any] = {}
    profile, link = 10.0, steady(PRESETS['wifi'])
    truth, final = bench.truth(profile), bench.facts.final
    thresholds = [*np.linspace(0.3, 0.95, 27), *(float(1 - x) for x in np.geomspace(0.04, 5e-4, 9))]
    for condition in bench.conditions:
        table = bench.report.only(condition)
        streams = [table.shuffled(50_000 + i, max(2500, bench.frames)) for i in range(100)]
        for target in (0.01, 0.05):
            hindsights = [
                hindsight(stream, bench.facts, truth, link, target)[0].cost for stream in streams
            ]
            costs = [
                _promised_cost(streams, column, stage, threshold, target, truth, final)
                for column, stage in enumerate(table.stages[:-1]) for threshold in thresholds
            ]  # fmt: skip
            known = [cost for cost in costs if cost is not None]
            least = min(known, default=math.nan)
            played = [
                bench.run(
                    bench.policy('joint', profile, i, target),
                    [Segment(stream, PRESETS['wifi'])], profile, i,
                ).cost.mean()
                for i, stream in enumerate(streams[: bench.streams])
            ]  # fmt: skip
            best = hindsights[: bench.streams]
            result[f'{condition} {target:.0%}'] = {
                'attainable over hindsight': round(least / float(np.mean(hindsights)) - 1, 4),
                'joint over hindsight': interval(np.array(played) / best - 1),
                'joint over attainable': interval(np.array(played) / least - 1),
            }
    return result


def _promised_cost(
    streams: list[ConfidenceTable], column: int, stage: int, threshold: float, target: float,
    truth: CostModel, final: int,
) -> float | None:  # fmt: skip
    """Mean cost of one fixed threshold; None when it breaks the promise in over 5 % of streams."""
    kept, share = 0, 0.0
    for stream in streams:
        stop = stream.confidence[:, column] >= threshold
        wrong = stop & (stream.prediction[:, column] != stream.full)
        so_far = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
        kept += so_far[2000:].max() <= target
        share += stop.mean() / len(streams)
    if kept < 0.95 * len(streams):
        return None
    return share * truth.local(stage, (stage,)) + (1 - share) * truth.local(final, (stage, final))


def adaptation(bench: Bench) -> dict[str, Any]:
    """Frames 200 to 400 after a change, as a share of the gap between always-final and the best."""
    result: dict[str, Any] = {}
    first, profile = bench.conditions[0], 10.0
    good = PRESETS['wifi']
    cases: dict[str, tuple[str, LinkSpec]] = {'good to bad link': (first, PRESETS['wifi-bad'])}
    for wanted in ('night', 'fog'):
        found = [name for name in bench.conditions if name.startswith(wanted)]
        if found:
            cases[f'{first} to {found[len(found) // 2]}'] = (found[len(found) // 2], good)
    for name, (condition, link) in cases.items():
        rows: dict[str, list[float]] = {}
        for stream in range(bench.streams):
            before = bench.report.only(first).shuffled(stream, 2000)
            after = bench.report.only(condition).shuffled(stream, 1500)
            truth = bench.truth(profile)
            best = hindsight(after, bench.facts, truth, steady(link), 0.01)[0].cost
            gap = max(bench.always_final(after, profile, link).cost - best, 1e-9)
            for kind in ('joint', 'splitee'):
                segments = [Segment(before, good), Segment(after, link)]
                run = bench.run(bench.policy(kind, profile, stream), segments, profile, stream)
                lag = (run.cost[2200:2400].mean() - best) / gap
                settled = (run.cost[3000:].mean() - best) / gap
                rows.setdefault(f'{kind} regret / gap', []).append(float(lag))
                rows.setdefault(f'{kind} regret / gap when settled', []).append(float(settled))
                if kind == 'joint':
                    allowed = 0.01 * np.arange(1, 1501)
                    excess = np.cumsum(run.differs[2000:] & run.promised[2000:]) - allowed
                    rows.setdefault('joint excess disagreements', []).append(
                        float(max(excess.max(), 0.0))
                    )
                    frames = time_to_adapt(run, 2000, best, gap)
                    rows.setdefault('joint frames to adapt', []).append(
                        1500.0 if frames is None else float(frames)
                    )
        result[name] = {key: interval(values) for key, values in rows.items()}
    return result


def poisoned(bench: Bench) -> dict[str, Any]:
    """Whether and when a tail that answers nonsense is noticed; an honest one must not be."""
    result: dict[str, Any] = {}
    past: list[int] = []
    profile = 2 * max(bench.profiles)

    def replayed(said: int, classes: int, chance: random.Random) -> int:
        past.append(said)
        return past[-10] if len(past) >= 10 else chance.randrange(classes)

    tails: dict[str, Tail | None] = {
        'random': lambda said, classes, chance: chance.randrange(classes),
        'constant': lambda said, classes, chance: 11,
        'replay': replayed,
        'honest': None,
    }
    for kind, tail in tails.items():
        noticed, drift, asked = [], [], []
        for stream in range(bench.streams):
            past.clear()
            table = bench.report.only(bench.conditions[0])
            # Slow enough, and a target wide enough, that the tail is asked at all.
            policy: Any = bench.policy('joint', profile, stream, 0.05)
            bench.run(policy, [Segment(table.shuffled(stream, 1500))], profile, stream)
            before = {n: s.risk.curve.copy() for n, s in policy._scenes.items()}
            run = bench.run(
                policy, [Segment(table.shuffled(stream + 1, 3000), tail=tail)], profile, stream
            )
            asked.append(float((run.route == 1).mean()))
            noticed.append(float(policy.feedback.poisoned or bool(policy.feedback.reason)))
            drift.append(max(float(np.abs(policy._scenes[n].risk.curve - c)[:, 12:].max())
                             for n, c in before.items()))  # fmt: skip
        result[kind] = {
            'noticed': interval(noticed),
            'asked': interval(asked),
            'largest move of a curve': interval(drift),
        }
    return result


def timing(bench: Bench) -> dict[str, Any]:
    """Microseconds per decision, and frames the simulation does in a minute."""
    result: dict[str, Any] = {}
    for name in ('joint', 'splitee', 'splitee-s'):
        table = bench.report.shuffled(0, 20_000)
        start = time.perf_counter()
        run = bench.run(bench.policy(name, 10.0, 0), [Segment(table)], 10.0, 0, timed=True)
        taken = time.perf_counter() - start
        result[name] = {
            'choose_us p50, p99, p99.9': np.percentile(run.choose_us, [50, 99, 99.9]).round(1)
            .tolist(),
            'observe_us p50, p99, mean': [
                *np.percentile(run.observe_us, [50, 99]).round(1).tolist(),
                round(float(run.observe_us.mean()), 1),
            ],
            'frames a minute': round(60 * len(run) / taken),
        }  # fmt: skip
    return result


def memory(bench: Bench) -> dict[str, Any]:
    """Resident memory and the size of the saved state while the joint policy decides for long.

    The policy alone, without link and tracker: every frame is chosen and observed; frames that no
    exit is sure of are answered by the tail, and audits late, one in ten never.
    """
    table = bench.report.shuffled(0, 100_000)
    final = bench.facts.final
    policy: Any = bench.policy('joint', 10.0, 0, all_local=False)
    scenes = [Scene(name=name) for name in table.scenes]
    link, chance = steady(PRESETS['wifi']), random.Random(0)
    said = [
        [ExitAnswer(*item) for item in zip(table.stages[:-1], labels, sure)]
        for labels, sure in zip(table.prediction.tolist(), table.confidence.tolist())
    ]
    full, scene_of = table.full.tolist(), table.scene.tolist()
    one_hot = np.eye(bench.facts.classes, dtype=np.float32)
    marks = [round(bench.memory_frames * share) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)]
    result: dict[str, Any] = {}
    for frame in range(1, bench.memory_frames + 1):
        row = frame % len(table)
        plan = policy.choose(scenes[scene_of[row]], link)
        audit = chance.random() < plan.audit_probability
        exits, stopped = [], None
        for answer in said[row]:
            threshold = plan.thresholds[answer.stage]
            if answer.stage > plan.split or threshold is None:
                continue
            exits.append(answer)
            if answer.confidence >= threshold and stopped is None:
                stopped = answer
                if not audit:
                    break
        label = full[row] if stopped is None else stopped.label
        route, reason = Route.LOCAL, Reason.CONFIDENT
        if stopped is None:
            route, reason = Route.OFFBOARD, Reason.ANSWERED
        policy.observe(Decision(
            frame, 0, None, route, reason, stopped.stage if stopped else final, one_hot[label],
            1.0, 0.9, plan, scenes[scene_of[row]], 100 * (audit or stopped is None), audit,
            exits=tuple(exits), stage_ms={0: 1.0}, exit_ms={0: 0.1},
        ))  # fmt: skip
        if audit and stopped is not None and chance.random() < 0.9:
            reply = ReplyFrame(Status.OK, b'\0' * 8, 1, frame, one_hot[full[row]], 1000)
            policy.observe_reply(frame, reply, False)
        if frame in marks:
            with open('/proc/self/statm', encoding='ascii') as file:
                pages = int(file.read().split()[1])
            result[f'{frame:,} frames'] = {
                'resident MiB': round(pages * resource.getpagesize() / 2**20, 2),
                'state kB': round(len(json.dumps(policy.state())) / 1e3, 1),
            }
            print(f'{frame:,} frames: {result[f"{frame:,} frames"]}', flush=True)
    return result


def pictures(bench: Bench, folder: Path) -> None:
    """Regret over time, and cost and disagreement through a change of weather."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    arms = len(bench.report.stages)
    costs = AbstractCosts.i_splitee(arms)
    table = bench.report.only(bench.conditions[0]).shuffled(0, bench.frames)
    stated = OneArm(costs, 0.9, UCB1(arms))
    gaps = _gaps(stated, table.confidence)
    stays = table.confidence >= 0.9
    stays[:, -1] = True
    figure, axis = plt.subplots(figsize=(6, 4))
    for label, chosen in (
        ('published loop', published_i_splitee(rewards(stated, table.confidence), stays)),
        ('UCB1, β = 1', play(stated, table.confidence)),
        ('paired', play(PairedElimination(costs, 0.9, UCB1(arms)), table.confidence)),
    ):
        axis.plot(np.cumsum(gaps[chosen]), label=label)
    axis.set(xlabel='frame', ylabel='cumulative pseudo-regret', title='I-SplitEE costs')
    axis.legend()
    figure.tight_layout()
    figure.savefig(folder / 'regret.png', dpi=120)
    segments = [
        Segment(bench.report.only(name).shuffled(0, 1500), PRESETS['wifi'])
        for name in bench.conditions[:: max(1, len(bench.conditions) // 4)]
    ]
    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(7, 5))
    for name in ('joint', 'splitee'):
        run = bench.run(bench.policy(name, 10.0, 0), segments, 10.0, 0)
        kernel = np.ones(100) / 100
        axes[0].plot(np.convolve(run.cost, kernel, 'same'), label=name)
        axes[1].plot(100 * run.disagreement(), label=name)
    for at in range(1500, 1500 * len(segments), 1500):
        for axis in axes:
            axis.axvline(at, color='grey', lw=0.5)
    axes[0].set(ylabel='cost, ms (simulated)')
    axes[1].set(ylabel='disagreement so far, %', xlabel='frame')
    axes[1].axhline(1.0, color='grey', ls='--')
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(folder / 'weather.png', dpi=120)


TABLES = {
    'regret': regret, 'published': published, 'joint': joint, 'thin': thin,
    'promise': promise, 'bound': bound, 'adaptation': adaptation,
    'poisoned': poisoned, 'timing': timing, 'memory': memory,
}  # fmt: skip


# The report split is also met by distortions that neither training nor calibration has seen.
SEEN = ('dusk', 'night', 'glare', 'fog', 'rain', 'motion_blur')
CALIBRATED = (*SEEN, 'snow', 'sensor_noise')
REPORTED = (*SEEN, 'shot_noise', 'contrast')


def make_tables(options: argparse.Namespace) -> None:
    """Tabulate the bundle on a data set, unless that was done."""
    from sparse_split_ros.data.registry import SOURCES
    from sparse_split_ros.runtime.engine import load_engine

    engine = load_engine(Bundle.load(bundle_path(options.bundle)))
    for path, split, names, every in (
        (options.calibration, 'select', CALIBRATED, 2),
        (options.report, 'report', options.distortions, options.every),
    ):
        if Path(path).exists():
            continue
        data = SOURCES[options.dataset](options.data, split, engine.bundle.input.shape[1])
        data = data.take(np.arange(0, len(data), every))
        conditions = [('day', 0), *((name, level) for name in names for level in (1, 3, 5))]
        print(f'tabulating {split}: {len(data)} images, {len(conditions)} conditions', flush=True)
        tabulate(engine, data.images, data.labels, data.groups, conditions).save(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument(
        'tables', nargs='*', choices=[*TABLES, []], help='all but memory by default'
    )
    parser.add_argument('--streams', type=int, default=20, help='repetitions of every table')
    parser.add_argument('--frames', type=int, default=3060)
    parser.add_argument('--memory-frames', type=int, default=10_000_000)
    parser.add_argument('--deadline-ms', type=float, default=120.0)
    parser.add_argument('--profiles', type=float, nargs='+', default=[1.0, 10.0, 15.0])
    parser.add_argument('--target', type=float, default=0.01, help='of the table joint')
    parser.add_argument(
        '--alpha', type=float, default=0.5, help="I-SplitEE's threshold in the table published"
    )
    parser.add_argument('--conditions', nargs='+', help='of the report table, all by default')
    parser.add_argument('--bundle', default='gtsrb32')
    parser.add_argument('--calibration', help='table of the selection split, .npz')
    parser.add_argument('--report', help='table of the report split, .npz')
    parser.add_argument('--data', help='directory of the data set, to make the two tables')
    parser.add_argument(
        '--dataset',
        default='gtsrb',
        help='by name (%(default)s); one of tracks is shuffled by track, others by image',
    )
    parser.add_argument(
        '--distortions', nargs='+', default=REPORTED, choices=CONDITIONS,
        help='of the report table that is made, each at severities 1, 3 and 5',
    )  # fmt: skip
    parser.add_argument('--every', type=int, default=1, help='report images to take: every N-th')
    parser.add_argument('--out', type=Path, help='write the tables as JSON')
    parser.add_argument('--pictures', type=Path, help='draw into this folder')
    options = parser.parse_args()
    if bool(options.report) != bool(options.calibration):
        parser.error('--calibration and --report go together')
    if options.data:
        if not options.report:
            parser.error('--data needs --calibration and --report, the tables to make')
        make_tables(options)
    bench = Bench(options)
    result: dict[str, Any] = {
        'command': ' '.join(sys.argv), 'machine': platform.processor() or platform.machine(),
        'simulated': True, 'streams': bench.streams, 'frames': bench.frames,
    }  # fmt: skip
    for name in options.tables or [name for name in TABLES if name != 'memory']:
        start = time.perf_counter()
        result[name] = TABLES[name](bench)
        print(f'{name} ({time.perf_counter() - start:.0f} s)')
        print(json.dumps(result[name], indent=1, ensure_ascii=False), flush=True)
    if options.pictures:
        pictures(bench, options.pictures)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding='utf-8')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
