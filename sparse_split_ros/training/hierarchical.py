# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Hierarchical training: the two sides of a cut learn at once, and no gradient crosses it.

After Sepehri et al., arXiv 2303.02384. The network is cut at the recipe's split. The *edge* holds
the images and learns from its own exits. The *cloud* learns the stages behind the cut from what
it is sent: coded features and labels. As nothing is waited for, the edge, the link and the cloud
work at the same time, each on another batch.

Beside the paper, features travel through the split's bottleneck, which is inline, as what lies
behind it never sees anything else. Its encoder learns on the edge from a *mirror*: copies of the
decoder and of the exit at the split, which restore the features and tell the classes from them. The
mirror is no part of the network.

The two learn here in turn, or on two machines (training/remote.py), to the same result bit for bit.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sparse_split_ros.data.augment import AugmentedBatches, batches
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.networks.cut import measure
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.training.checkpoint import begun, check_same, load, save, save_checkpoint
from sparse_split_ros.training.joint import check_weights, tasks_loss
from sparse_split_ros.training.learner import Learner, finite, under
from sparse_split_ros.training.log import Log, Row
from sparse_split_ros.training.messages import Batch, Report, Weights, check_labels, pack, unpack
from sparse_split_ros.training.parts import CloudPart, EdgePart, edge_loss
from sparse_split_ros.training.predict import normalise, rows_at_once, scored
from sparse_split_ros.training.processes import processes
from sparse_split_ros.training.recipe import (
    Recipe,
    TrainingError,
    build_network,
    completed,
    input_spec,
)

EDGE_FILES = ('edge', 'edge_before')
"""What the edge goes on from: after its last epoch, or the one before if the cloud lacks that."""
_BEST = 'edge_best'
P = TypeVar('P', bound=nn.Module)


@dataclass(frozen=True)
class Facts:
    """What both sides have to agree on before the first step."""

    recipe: Recipe
    tasks: Mapping[str, tuple[str, ...]]
    """The classes of each; a single one has no name."""
    steps: int
    """Per epoch."""
    learned_on: str
    chosen_on: Mapping[str, str]

    @classmethod
    def of(
        cls, recipe: Recipe, training: LabelledImages, selection: Mapping[str, LabelledImages]
    ) -> Facts:
        """Those of a run on these images. Raises TrainingError where they are too few."""
        check_weights(training, recipe)
        recipe = completed(recipe, training)
        if recipe.batch_size < 2:
            raise TrainingError('batch_size 1: expected two images or more, for BatchNorm compares')
        steps = len(training) // recipe.batch_size
        if not steps:
            raise TrainingError(
                f'batch_size {recipe.batch_size} for {len(training)} training images: lower it in '
                'the recipe'
            )
        chosen = {name: images.digest() for name, images in selection.items()}
        return cls(recipe, training.tasks, steps, training.digest(), chosen)

    @property
    def width(self) -> int:
        """How many logits an exit gives."""
        return sum(map(len, self.tasks.values()))

    def meta(self) -> dict[str, Any]:
        """The same as JSON has it, as checkpoints do."""
        return {
            'recipe': self.recipe.plain(),
            'classes': list(chain(*self.tasks.values())),
            'tasks': {name: list(classes) for name, classes in self.tasks.items()},
            'steps_per_epoch': self.steps,
            'learned_on': self.learned_on,
            'chosen_on': dict(self.chosen_on),
        }


class Edge:
    """The side that holds the images. Gives batches to be learned from, and reports."""

    def __init__(
        self,
        facts: Facts,
        training: LabelledImages,
        selection: Mapping[str, LabelledImages],
        directory: Path,
        device: torch.device,
    ) -> None:
        self._facts, self._selection, self._directory = facts, selection, directory
        recipe = facts.recipe
        network = _network(facts)
        self._spec = input_spec(recipe, network)
        self._device = device
        self._learner = Learner(_placed(EdgePart(network, recipe.cut), device), recipe)
        self._data = AugmentedBatches(training, recipe.batch_size, recipe.seed, recipe.augmentation)
        self.epoch = 0
        self._loss = self._seconds = 0.0

    def held(self) -> list[int]:
        """The epochs from which this side can go on. Raises TrainingError."""
        found = []
        for name in EDGE_FILES:
            if self._file(name).exists():
                meta, _ = load(self._directory / name)
                check_same(meta, self._facts.meta(), self._directory)
                found.append(int(meta['epoch']))
        return found

    def restore(self, epoch: int) -> None:
        """Go on after so many epochs, 0 or one of `held`."""
        if found := self._find(epoch, EDGE_FILES):
            name, _, tensors = found
            self._learner.restore(tensors, epoch * self._facts.steps)
            self.epoch = epoch
            # Or the next report would be kept beside a later epoch, and not beside this one.
            self._file(name).replace(self._file(EDGE_FILES[0]))

    def batches(self) -> Iterator[Batch]:
        """One pass over the images. Between two batches this side learns from the first."""
        recipe, learner = self._facts.recipe, self._learner
        start, total = time.monotonic(), 0.0
        learner.module.train()
        steps = self._facts.steps
        items = batches(self._data, self.epoch, recipe.workers)
        bar = tqdm(
            items, f'epoch {self.epoch + 1}/{recipe.epochs}', recipe.epochs * steps, leave=False,
            initial=self.epoch * steps, unit='step',
        )  # fmt: skip
        for step, (images, truth) in enumerate(bar):
            _seed(recipe, self.epoch, step, 0)
            labels = truth.to(self._device)
            x = normalise(images.to(self._device), self._spec)
            with _mixed(recipe, self._device):
                seen = learner.module(x)
            yield Batch(self.epoch, step, pack(seen.codes.detach(), learner.module.bits), truth)
            loss = edge_loss(seen, labels, self._facts.tasks, recipe)
            total += finite(float(loss.detach()), self.epoch, recipe, "the edge's loss")
            learner.step(loss, recipe.epochs * steps)
        self._loss, self._seconds = total / steps, time.monotonic() - start
        self.epoch += 1

    @torch.inference_mode()
    def report(self) -> Report:
        """What the cloud needs to choose among epochs. Saves what this side goes on from."""
        average = self._learner.average
        row: Row = {'edge_loss': self._loss, 'edge_s': self._seconds}
        codes, labels = {}, {}
        for name, chosen in self._selection.items():
            parts, rows = [], dict[int, list[Tensor]]()
            step = rows_at_once(*chosen.images.shape[1:3])
            for first in range(0, len(chosen), step):
                images = torch.from_numpy(chosen.images[first : first + step]).to(self._device)
                seen = average(normalise(images, self._spec))
                parts.append(pack(seen.codes, average.bits))
                for stage, values in seen.logits.items():
                    rows.setdefault(stage, []).append(values.cpu())
            logits = {stage: torch.cat(said).numpy() for stage, said in rows.items()}
            row |= scored(name, logits, chosen.columns, chosen.tasks)
            codes[name], labels[name] = torch.cat(parts), torch.from_numpy(chosen.labels)
        last, before = map(self._file, EDGE_FILES)
        if last.exists():
            last.replace(before)
        meta = self._facts.meta() | {'epoch': self.epoch}
        save(self._directory / EDGE_FILES[0], meta, self._learner.tensors())
        return Report(self.epoch - 1, row, codes, labels)

    def keep(self, epoch: int) -> None:
        """Remember `epoch` as the best so far; it is one of the last two. Raises TrainingError."""
        found = self._find(epoch, (*EDGE_FILES, _BEST))
        if not found:
            raise TrainingError(
                f'{self._directory}: holds no weights of the best epoch, {epoch - 1}; start both '
                'sides without --resume, each in a new directory'
            )
        name, meta, tensors = found
        if name != _BEST:
            save(self._directory / _BEST, meta, tensors)

    def best(self) -> Weights:
        """The edge's part of the network as of the best epoch. Raises TrainingError."""
        meta, tensors = load(self._directory / _BEST)
        kept = {k: v for k, v in under(tensors, 'average.').items() if not k.startswith('mirror.')}
        return Weights(meta['epoch'] - 1, kept)

    def _find(
        self, epoch: int, names: tuple[str, ...]
    ) -> tuple[str, dict[str, Any], dict[str, Tensor]] | None:
        """The first of the files that was written after so many epochs: its name and content."""
        for name in filter(lambda name: self._file(name).exists(), names):
            meta, tensors = load(self._directory / name)
            if meta['epoch'] == epoch:
                return name, meta, tensors
        return None

    def _file(self, name: str) -> Path:
        return self._directory / f'{name}.safetensors'


class Cloud:
    """The side that learns from what it is sent, and keeps the whole network."""

    def __init__(self, facts: Facts, directory: Path, device: torch.device) -> None:
        self._facts, self._directory, self._device = facts, directory, device
        network = _network(facts)
        cut = facts.recipe.cut
        self._bits = network.bottleneck_at(cut).bits
        self._rows = rows_at_once(*network.input_shape[1:])
        self._shape = measure(list(network.stages[: cut + 1]), network.input_shape)[-1].shape
        self._learner = Learner(_placed(CloudPart(network, cut), device), facts.recipe)
        self.log = Log(facts.recipe)
        self.epoch = 0
        self._best: dict[str, Tensor] = {}
        self._start, self._total = time.monotonic(), 0.0

    def restore(self) -> None:
        """Go on after the last whole epoch, or begin where there is none. Raises TrainingError."""
        if not begun(self._directory):
            return
        meta, tensors = load(self._directory / 'last')
        check_same(meta, self._facts.meta(), self._directory)
        self._learner.restore(tensors, meta['epoch'] * self._facts.steps)
        self.epoch, self.log.rows = meta['epoch'], meta['history']
        self._best = under(tensors, 'best.')

    def learn(self, batch: Batch) -> None:
        """One step. Raises TrainingError for a loss that is no number and for what does not fit."""
        recipe, learner = self._facts.recipe, self._learner
        if not batch.step:
            self._start, self._total = time.monotonic(), 0.0
            learner.module.train()
        _seed(recipe, batch.epoch, batch.step, 1)
        if len(batch.labels) != recipe.batch_size:
            raise TrainingError(
                f'a batch of {len(batch.labels)} images came, expected {recipe.batch_size}'
            )
        check_labels(batch.labels, self._facts.tasks)
        labels = batch.labels.to(self._device)
        codes = unpack(batch.codes.to(self._device), self._shape, self._bits)
        with _mixed(recipe, self._device):
            logits = learner.module(codes)
        loss = tasks_loss(logits, labels, self._facts.tasks, recipe)
        self._total += finite(float(loss.detach()), batch.epoch, recipe, "the cloud's loss")
        learner.step(loss, recipe.epochs * self._facts.steps)

    @torch.inference_mode()
    def close(self, report: Report) -> None:
        """End an epoch: score it, and keep it and what it takes to go on. Raises TrainingError."""
        if report.codes.keys() != self._facts.chosen_on.keys():
            raise TrainingError(
                f'a report on {", ".join(report.codes) or "nothing"} came, expected one on '
                f'{", ".join(self._facts.chosen_on)}'
            )
        for labels in report.labels.values():
            check_labels(labels, self._facts.tasks)
        average = self._learner.average
        row: Row = {'epoch': report.epoch, 'loss': self._total / self._facts.steps}
        row |= {'rate': self._learner.rate, 'train_s': time.monotonic() - self._start}
        row |= {key: value for key, value in report.row.items() if key not in row}
        scores = []
        for name, packed in report.codes.items():
            said: dict[int, list[Tensor]] = {}
            for part in torch.split(packed, self._rows):
                codes = unpack(part.to(self._device), self._shape, self._bits)
                for stage, values in average(codes).items():
                    said.setdefault(stage, []).append(values.cpu())
            columns = report.labels[name].view(len(packed), -1).numpy().T
            logits = {stage: torch.cat(rows).numpy() for stage, rows in said.items()}
            row |= scored(name, logits, columns, self._facts.tasks)
            scores.append(row[f'{name}_exit_{max(logits)}'])
        row |= {'score': fmean(scores)}
        if self.log.rows and row.keys() != self.log.rows[0].keys():
            raise TrainingError(
                f'a report of {", ".join(report.row)} came; in the first epoch it was another'
            )
        self.log.rows.append(row)
        self.epoch = report.epoch + 1
        if self.log.best == self.epoch:
            self._best = {k: v.cpu().clone() for k, v in average.state_dict().items()}
        tensors = self._learner.tensors() | {f'best.{k}': v for k, v in self._best.items()}
        save(self._directory / 'last', self._meta(self.epoch), tensors)
        self.log.write(self._directory)
        self.log.show(self._directory)

    def finish(self, weights: Weights) -> None:
        """Put both parts of the best epoch together and keep them. Raises TrainingError."""
        if weights.epoch + 1 != self.log.best:
            raise TrainingError(
                f"the edge's weights are of epoch {weights.epoch}, the best is {self.log.best - 1}"
            )
        whole = build_network(self._facts.recipe, self._facts.width)
        try:
            whole.load_state_dict({**weights.tensors, **self._best})
        except RuntimeError as error:
            reason = textwrap.shorten(str(error), 300, placeholder=' ...')
            raise TrainingError(f"the edge's weights are of another network: {reason}") from error
        save_checkpoint(self._directory / 'best', self._meta(self.log.best), whole)

    def _meta(self, epoch: int) -> dict[str, Any]:
        steps = epoch * self._facts.steps
        return self._facts.meta() | {
            'epoch': epoch,
            'steps': steps,
            'history': self.log.rows[:epoch],
        }


def fit(
    recipe: Recipe,
    training: LabelledImages,
    selection: Mapping[str, LabelledImages],
    out: str | os.PathLike[str],
    resume: bool = False,
    device: str = 'auto',
) -> Path:
    """Train both sides here, in turn; the path of the best checkpoint, which is of both.

    As `joint.fit` in all else. Raises TrainingError.
    """
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    facts = Facts.of(recipe, training, selection)
    with one_process(device) as place:
        edge = Edge(facts, training, selection, directory, place)
        cloud = Cloud(facts, directory, place)

        def keep_best() -> None:
            edge.keep(cloud.log.best)
            cloud.finish(edge.best())

        if resume:
            cloud.restore()
            edge.restore(agreed(edge.held(), cloud.epoch))
            if cloud.epoch:  # after which it may have ended before this
                keep_best()
        while cloud.log.goes_on:
            for batch in edge.batches():
                cloud.learn(batch)
            cloud.close(edge.report())
            if cloud.log.best == cloud.epoch:
                keep_best()
    return directory / 'best.safetensors'


@contextmanager
def one_process(device: str) -> Iterator[torch.device]:
    """Where a side computes. Raises TrainingError where `torchrun` started several processes."""
    with processes(device) as group:
        if group.world > 1:
            raise TrainingError(
                f'{group.world} processes: hierarchical training has two sides, and no processes '
                'on each; start it without torchrun'
            )
        yield group.device


def agreed(held: list[int], epoch: int) -> int:
    """The epoch after which both sides go on. Raises TrainingError."""
    # The edge is ahead by one where the cloud did not end that epoch.
    if epoch not in held and (epoch or max(held, default=0) > 1):
        raise TrainingError(
            f'the cloud goes on after {epoch} epochs, the edge can after {held or "none"}: they '
            'are of different runs; start both without --resume, each in a new directory'
        )
    return epoch


def _network(facts: Facts) -> StagedNetwork:
    """The whole network as both sides start from, each to take its part."""
    torch.manual_seed(facts.recipe.seed)
    return build_network(facts.recipe, facts.width, pretrained=True)


def _placed(part: P, device: torch.device) -> P:
    return part.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _seed(recipe: Recipe, epoch: int, step: int, side: int) -> None:
    """Draw alike whether the two sides share a process or not."""
    sequence = np.random.SeedSequence([recipe.seed, epoch, step, side])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def _mixed(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == 'bfloat16')
