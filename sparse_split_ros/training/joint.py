# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Train all stages, exits and bottlenecks of a network together.

Every exit learns from the labels and from the final exit (self-distillation: Zhang et al., "Be your
own teacher", ICCV 2019), or from a teacher that was trained before. In each step one split is drawn
and half of the batch passes its bottleneck, so the stages behind a cut learn on what they will be
given: features sent whole, and features coded.

The run writes log.csv, curves.png, last.* (everything needed to go on) and best.* (the averaged
weights with the best score on the selection split) to a directory.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sized
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sparse_split_ros.data.augment import AugmentedBatches, batches
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.runtime.bundle import InputSpec, check_tasks
from sparse_split_ros.sparsity.layers import SparseLayer
from sparse_split_ros.training.checkpoint import begun, check_same, load, save, save_checkpoint
from sparse_split_ros.training.learner import Learner, finite
from sparse_split_ros.training.log import Log
from sparse_split_ros.training.predict import accuracies, normalise, predict, scored
from sparse_split_ros.training.processes import Processes, processes
from sparse_split_ros.training.recipe import (
    Recipe,
    TrainingError,
    build_network,
    completed,
    input_spec,
)
from sparse_split_ros.training.teacher import Teacher


def fit(
    recipe: Recipe,
    training: LabelledImages,
    selection: Mapping[str, LabelledImages],
    out: str | os.PathLike[str],
    resume: bool = False,
    device: str = 'auto',
) -> Path:
    """Train on `training`, choose the epoch on the sets of `selection`; the best checkpoint's path.

    With `resume` an interrupted run in `out` goes on from its last whole epoch, to the same result
    as a run that was never interrupted. Under `torchrun` the processes divide each batch. Raises
    TrainingError.
    """
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    check_weights(training, recipe)
    recipe = completed(recipe, training)
    chosen_on = {name: chosen.digest() for name, chosen in selection.items()}
    with processes(device) as group:
        share, rest = divmod(recipe.batch_size, group.world)
        if rest:
            raise TrainingError(
                f'batch_size {recipe.batch_size} does not divide among {group.world} processes'
            )
        if share < 2:
            raise TrainingError(
                f'batch_size {recipe.batch_size} in {group.world} processes: expected two images '
                'or more in each, for BatchNorm compares them'
            )
        state = _State(recipe, training.tasks, training.digest(), chosen_on, group)
        if resume:
            state.restore(directory)
        dataset = AugmentedBatches(training, share, recipe.seed, recipe.augmentation)
        if len(dataset) < group.world:
            raise TrainingError(
                f'batch_size {recipe.batch_size} for {len(training)} training images: lower it in '
                'the recipe'
            )
        if group.first:  # what was passed over is missed here
            tqdm.write(
                f'{len(training)} images of {len(training.classes)} classes to learn from, '
                f'{sum(map(len, selection.values()))} to choose the epoch on'
                f'{_passed_over(training.passed_over)}'
            )
            if told := _sparse(state.network):
                tqdm.write(told)
        while group.share(lambda: state.log.goes_on):
            start = time.monotonic()
            loss = _epoch(state, dataset, state.epoch)
            state.epoch += 1
            if not group.first:
                continue
            row = {'epoch': state.epoch - 1, 'loss': loss, 'rate': state.learner.rate}
            row |= {'train_s': time.monotonic() - start}
            row |= _score(state.learner.average, selection, recipe, state.spec)
            state.log.rows.append(row)
            state.save(directory)
            state.log.show(directory)
    return directory / 'best.safetensors'


def _passed_over(counts: Mapping[str, int]) -> str:
    """What to say of what was passed over, which a person may have taken for images."""
    total = sum(counts.values())
    return f'; {total} passed over ({", ".join(counts)})' if total else ''


def _sparse(network: nn.Module) -> str:
    """How far a density was reached: shapes that cannot have it leave their layers dense."""
    sparse = layers = kept = 0
    whole = 0.0
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear, SparseLayer)):
            density = layer.pattern.spec.density if isinstance(layer, SparseLayer) else 1.0
            layers += 1
            sparse += isinstance(layer, SparseLayer)
            kept += layer.weight.numel()
            whole += layer.weight.numel() / density
    if not sparse:
        return ''
    return f'{sparse} of {layers} layers are sparse; {kept / whole:.0%} of all weights stay'


def check_weights(training: LabelledImages, recipe: Recipe) -> None:
    """Raise what a long training would only end in: names that no bundle takes, weights of none."""
    if len(training.tasks) > 1:
        check_tasks(training.tasks)
    if taken := [name for name in training.tasks if re.fullmatch(r'coded|exit_\d+', name)]:
        raise TrainingError(f'the task {taken[0]!r} has a name that the log needs: rename it')
    if unknown := set(recipe.task_weights) - set(training.tasks):
        known = ', '.join(filter(None, training.tasks)) or 'a single one, which has no weight'
        raise TrainingError(
            f'recipe: task_weights has {", ".join(sorted(unknown))}; the tasks are {known}'
        )


class _State:
    """What a run is made of and what it takes to go on with it."""

    def __init__(
        self,
        recipe: Recipe,
        tasks: Mapping[str, tuple[str, ...]],
        learned_on: str,
        chosen_on: Mapping[str, str],
        group: Processes,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.tasks, self.group = recipe, tasks, group
        self.classes = tuple(chain(*tasks.values()))
        self.learned_on, self.chosen_on = learned_on, dict(chosen_on)
        network = build_network(recipe, len(self.classes), pretrained=True)
        self.network: StagedNetwork = network.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learner = Learner(self.network, recipe)
        self.spec = input_spec(recipe, self.network)
        self.teacher = (
            Teacher(recipe, tasks, self.spec.shape, group.device) if recipe.teacher else None
        )
        # Every step leaves the bottlenecks of the other splits without a gradient.
        self.parallel: nn.Module = (
            self.network
            if group.world == 1
            else DistributedDataParallel(self.network, find_unused_parameters=True)
        )
        self.epoch = 0
        self.log = Log(recipe)

    def meta(self) -> dict[str, Any]:
        """What a checkpoint says beside its weights."""
        return {
            'recipe': self.recipe.plain(),
            'classes': list(self.classes),
            **({'tasks': self.tasks} if len(self.tasks) > 1 else {}),
            'learned_on': self.learned_on,
            'chosen_on': self.chosen_on,
            **({'taught_by': self.teacher.digest} if self.teacher else {}),
            'epoch': self.epoch,
            'steps': self.learner.steps,
            'history': self.log.rows,
        }

    def save(self, directory: Path) -> None:
        """Write what the last epoch gave: first what was learned, then what it takes to go on."""
        if self.log.best == self.epoch:
            save_checkpoint(directory / 'best', self.meta(), self.learner.average)
        save(directory / 'last', self.meta(), self.learner.tensors())
        self.log.write(directory)

    def restore(self, directory: Path) -> None:
        """Go on after the last whole epoch, or begin where there is none. Raises TrainingError."""
        # Only the first process is sure to see the directory.
        kept = self.group.share(lambda: _kept(directory))
        if kept is None:
            return
        meta, tensors = kept
        check_same(meta, self.meta(), directory)
        self.learner.restore(tensors, meta['steps'])
        self.epoch = meta['epoch']
        self.log.rows = meta['history']


def _kept(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What a run in `directory` goes on from, if it has ended an epoch. Raises TrainingError."""
    if not begun(directory):
        return None
    if not (directory / 'best.safetensors').exists():
        raise TrainingError(
            f'{directory}: holds last.safetensors, but no best.safetensors, the weights of the '
            'best epoch so far: put that back, or train again with another --out'
        )
    return load(directory / 'last')


def _epoch(state: _State, dataset: AugmentedBatches, epoch: int) -> float:
    """One pass over the data; the mean loss. Raises TrainingError when the loss is not a number."""
    recipe, network, group = state.recipe, state.network, state.group
    network.train()
    steps = len(dataset) // group.world
    items = batches(dataset, epoch, recipe.workers, group.rank, group.world)
    torch.manual_seed(recipe.seed * 100_003 + epoch + (group.rank << 40))
    rng = np.random.default_rng([recipe.seed, epoch, 1 << 20])
    total = 0.0
    quiet = None if group.first else True
    # One bar for the whole run, whose end people ask for.
    bar = tqdm(
        items, f'epoch {epoch + 1}/{recipe.epochs}', recipe.epochs * steps, leave=False,
        disable=quiet, initial=epoch * steps, unit='step',
    )  # fmt: skip
    for images, truth in bar:
        labels = truth.to(group.device)
        seen = images.to(group.device)
        x = normalise(seen, state.spec)
        split = recipe.cut if rng.random() < 0.5 else int(rng.choice(network.split_stages))
        rows = rng.random(len(labels) * group.world)[group.rank :: group.world] < recipe.coded
        coded = torch.from_numpy(rows).to(group.device)
        mixed = recipe.precision == 'bfloat16'
        with torch.autocast(group.device.type, torch.bfloat16, enabled=mixed):
            output = state.parallel(x, split, coded)
            taught = state.teacher.answer(seen) if state.teacher else None
        loss = tasks_loss(output.logits, labels, state.tasks, recipe, taught)
        if output.distortion is not None:
            loss = loss + recipe.distortion * output.distortion.float()
        value = finite(group.mean(loss), epoch, recipe)
        state.learner.step(loss, recipe.epochs * steps)
        total += value
    return total / steps


def tasks_loss(
    logits: Mapping[int, Tensor],
    labels: Tensor,
    tasks: Mapping[str, Sized],
    recipe: Recipe,
    taught: Tensor | None = None,
) -> Tensor:
    """The weighted sum of the `joint_loss` of each task (Capogrosso et al., MTL-Split, DAC 2024).

    `logits` are (N, K) by stage, of all tasks side by side, and so are `taught`, a teacher's;
    `labels` (N,), or (N, T) of T tasks.
    """
    total = torch.zeros((), device=labels.device)
    first = 0
    for (name, classes), column in zip(tasks.items(), labels.view(len(labels), -1).unbind(1)):
        own = slice(first, first + len(classes))
        part = {stage: values[:, own] for stage, values in logits.items()}
        answer = None if taught is None else taught[:, own]
        weight = recipe.task_weights.get(name, 1.0)
        total = total + weight * joint_loss(part, column, recipe, answer)
        first += len(classes)
    return total


def joint_loss(
    logits: Mapping[int, Tensor], labels: Tensor, recipe: Recipe, taught: Tensor | None = None
) -> Tensor:
    """Cross-entropy of every exit, and of the early ones towards the final exit's answer.

    With `taught`, a teacher's logits (N, K), it is of all exits towards the teacher's answer.
    `logits` are (N, K) by stage, `labels` (N,). The softened loss is scaled by the squared
    temperature (Hinton et al., arXiv 1503.02531), so that its gradient keeps its size.
    """
    final = max(logits)
    temperature = recipe.distillation_temperature
    answer = logits[final].detach() if taught is None else taught
    teacher = F.softmax(answer.float() / temperature, dim=1)
    total = logits[final].new_zeros((), dtype=torch.float32)
    for stage, values in logits.items():
        hard = F.cross_entropy(values.float(), labels, label_smoothing=recipe.label_smoothing)
        if stage == final and taught is None:
            total = total + hard
            continue
        student = F.log_softmax(values.float() / temperature, dim=1)
        soft = F.kl_div(student, teacher, reduction='batchmean') * temperature**2
        weight, share = 1.0 if stage == final else recipe.early_weight, recipe.distillation
        total = total + weight * ((1 - share) * hard + share * soft)
    return total


def _score(
    network: StagedNetwork,
    selection: Mapping[str, LabelledImages],
    recipe: Recipe,
    spec: InputSpec,
) -> dict[str, float]:
    """Accuracy of every exit, of the final one coded, and the score that chooses the epoch.

    Of several tasks it is their mean, and the final exit's of each stands beside it.
    """
    row: dict[str, float] = {}
    scores = []
    for name, chosen in selection.items():
        plain = predict(network, chosen.images, spec)
        final = max(plain)
        coded = predict(network, chosen.images, spec, recipe.cut)[final]
        row |= scored(name, plain, chosen.columns, chosen.tasks)
        right_coded = accuracies(coded, chosen.columns, chosen.tasks)
        row[f'{name}_coded'] = fmean(right_coded.values())
        scores += [row[f'{name}_exit_{final}'], row[f'{name}_coded']]
    return row | {'score': sum(scores) / len(scores)}
