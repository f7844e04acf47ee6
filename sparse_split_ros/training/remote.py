# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two sides of a hierarchical training on two machines, over one TCP connection.

The edge calls the cloud, so only the cloud has to be reachable. Batches and reports travel one way
as safetensors; back come a welcome and, after each epoch, a verdict, as JSON. Nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.training.hierarchical import Cloud, Edge, Facts, agreed, one_process
from sparse_split_ros.training.line import Line, call, called, place
from sparse_split_ros.training.messages import Batch, Report, Weights, parse, to_bytes
from sparse_split_ros.training.recipe import Recipe, TrainingError

_FORMAT = 'sparse_split_training/1'
_OF_A_MACHINE = ('mean', 'std', 'threads', 'workers')
"""What recipes may differ in: the edge measures the first two, the others each side chooses."""


def at_the_edge(
    recipe: Recipe,
    training: LabelledImages,
    selection: Mapping[str, LabelledImages],
    out: str | os.PathLike[str],
    address: str,
    resume: bool = False,
    device: str = 'auto',
) -> None:
    """Be the edge of a training whose cloud is, or will be, at `address` HOST:PORT.

    What is learned is kept there; `out` holds what this side goes on from. Raises TrainingError.
    """
    directory = _directory(out)
    torch.set_num_threads(recipe.threads)
    facts = Facts.of(recipe, training, selection)
    with one_process(device) as where:
        edge = Edge(facts, training, selection, directory, where)
        held = edge.held() if resume else []
        with call(*place(address)) as line:
            line.tell({'format': _FORMAT, **facts.meta(), 'held': held})
            _teach(line, edge)


def _teach(line: Line, edge: Edge) -> None:
    answer = line.hear(epoch=int, best=int, goes_on=bool)
    if answer['epoch']:
        edge.restore(answer['epoch'])
        edge.keep(answer['best'])
    while answer['goes_on']:
        with line.sending() as send:
            for batch in edge.batches():
                send(to_bytes(batch))
            send(to_bytes(edge.report()))
        answer = line.hear(epoch=int, best=int, goes_on=bool, score=float)
        if answer['best'] == edge.epoch:
            edge.keep(edge.epoch)
        tqdm.write(
            f'epoch {answer["epoch"] - 1}  score {answer["score"]:.4g}  '
            f'sent {line.sent / 1e6:.1f} MB'
        )
    line.give(to_bytes(edge.best()))
    line.hear()


def in_the_cloud(
    recipe: Recipe,
    out: str | os.PathLike[str],
    address: str,
    resume: bool = False,
    device: str = 'auto',
) -> Path:
    """Be the cloud of a training, for the edge that calls `address` [HOST:]PORT.

    The path of the best checkpoint, which is of the whole network. Raises TrainingError.
    """
    directory = _directory(out)
    torch.set_num_threads(recipe.threads)
    with one_process(device) as where, called(*place(address)) as line:
        try:
            _serve(line, recipe, directory, resume, where)
        except TrainingError as error:
            with suppress(TrainingError):
                line.tell({'error': str(error)})
            raise
    return directory / 'best.safetensors'


def _serve(line: Line, recipe: Recipe, directory: Path, resume: bool, device: torch.device) -> None:
    hello = line.hear()
    if hello.get('format') != _FORMAT:
        raise TrainingError(
            f'the edge speaks {hello.get("format")!r}, expected {_FORMAT!r}: install the same '
            'release on both machines'
        )
    try:
        facts = Facts(
            Recipe.from_mapping(hello['recipe']),
            {name: tuple(map(str, classes)) for name, classes in hello['tasks'].items()},
            int(hello['steps_per_epoch']), str(hello['learned_on']), dict(hello['chosen_on']),
        )  # fmt: skip
        if facts.steps < 1 or not facts.width or not facts.chosen_on:
            raise ValueError('no steps, classes or images to choose the epoch on')
        held = [int(epoch) for epoch in hello['held']]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TrainingError(f'the edge said what is no greeting: {error!r}') from error
    theirs, ours = facts.recipe.plain(), recipe.plain()
    if differ := [key for key in ours if ours[key] != theirs[key] and key not in _OF_A_MACHINE]:
        raise TrainingError(
            f"the edge's recipe differs in {', '.join(differ)}: give both sides the same file"
        )
    facts = replace(
        facts, recipe=replace(facts.recipe, threads=recipe.threads, workers=recipe.workers)
    )
    cloud = Cloud(facts, directory, device)
    if resume:
        cloud.restore()
    agreed(held, cloud.epoch)
    line.tell({'epoch': cloud.epoch, 'goes_on': cloud.log.goes_on, 'best': cloud.log.best})
    while cloud.log.goes_on:
        bar = tqdm(
            range(facts.steps), f'epoch {cloud.epoch + 1}/{recipe.epochs}',
            recipe.epochs * facts.steps, leave=False, initial=cloud.epoch * facts.steps,
            unit='step',
        )  # fmt: skip
        for step in bar:
            batch = parse(line.take())
            if not isinstance(batch, Batch) or (batch.epoch, batch.step) != (cloud.epoch, step):
                raise TrainingError(f'the edge is not at step {step} of epoch {cloud.epoch}')
            cloud.learn(batch)
        report = parse(line.take())
        if not isinstance(report, Report) or report.epoch != cloud.epoch:
            raise TrainingError(f'the edge did not report on epoch {cloud.epoch}')
        cloud.close(report)
        score = cloud.log.rows[-1]['score']
        verdict = {'epoch': cloud.epoch, 'goes_on': cloud.log.goes_on, 'best': cloud.log.best}
        line.tell(verdict | {'score': score})
    weights = parse(line.take())
    if not isinstance(weights, Weights):
        raise TrainingError('the edge did not send its part of the network')
    cloud.finish(weights)
    line.tell({'epoch': cloud.epoch})


def _directory(out: str | os.PathLike[str]) -> Path:
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
