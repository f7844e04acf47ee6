# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Train all stages, exits and bottlenecks of a network together.

Every exit learns from the labels and from the final exit (self-distillation: Zhang et al., "Be your
own teacher", ICCV 2019). In each step one split is drawn and half of the batch passes its
bottleneck, so the stages behind a cut learn on what they will be given: features sent whole, and
features coded.

The run writes log.csv, last.* (everything needed to go on) and best.* (the averaged weights with
the best score on the selection split) to a directory. A checkpoint is a safetensors file with JSON
in its header.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from sparse_split_ros.data.datasets import (
    Augmentation,
    AugmentedBatches,
    LabelledImages,
    batches,
    join,
    load_drawn,
    load_folder,
    load_gtsrb,
)
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.bundle import InputSpec

CHECKPOINT_FORMAT = 'sparse_split_checkpoint/1'
DRAWN_SELECTION = 20
"""Drawn signs per class that help to choose the epoch and the temperatures."""
_EVALUATION_BATCH = 256

Source = Callable[[str | os.PathLike[str] | None, str, int], LabelledImages]
SOURCES: dict[str, Source] = {'gtsrb': load_gtsrb, 'folder': load_folder}


class TrainingError(Exception):
    """A recipe, a checkpoint or a training run that cannot go on."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run gives. Written as YAML under config/training."""

    name: str
    dataset: str
    network: str = 'compact'
    network_arguments: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] | None = None
    """Of red, green and blue in 0 to 1; measured on the training images when left out."""
    std: tuple[float, float, float] | None = None
    seed: int = 0
    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup: float = 0.1
    """Share of the steps in which the rate rises, before it falls along a cosine."""
    average: float = 0.998
    """Decay of the exponential moving average of the weights, which is what is kept."""
    early_weight: float = 0.5
    """Weight of each early exit's loss; the final exit's is 1."""
    distillation: float = 0.5
    """Share of an early exit's loss that the final exit's softened answer has."""
    distillation_temperature: float = 2.0
    label_smoothing: float = 0.05
    coded: float = 0.5
    """Share of the rows that pass a bottleneck: the default split's in half of the steps."""
    distortion: float = 0.05
    """Weight of the bottleneck's relative squared error."""
    precision: str = 'bfloat16'
    threads: int = 2
    workers: int = 1
    drawn: int = 0
    """How many drawn signs (data/drive.py) join the training images."""
    weather: float = 0.0
    conditions: tuple[str, ...] = ()
    flip: bool = False
    split: int = 1
    """The default cut: the one whose coded accuracy counts when the best epoch is chosen."""
    codec: str = 'int4'
    threshold: float = 0.9

    def __post_init__(self) -> None:
        for name in ('epochs', 'batch_size', 'threads', 'learning_rate'):
            if not getattr(self, name) > 0:
                raise TrainingError(
                    f'recipe: {name} is {getattr(self, name)}, expected more than 0'
                )
        for name in ('warmup', 'average', 'distillation', 'coded', 'weather', 'threshold'):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f'recipe: {name} is {getattr(self, name)}, expected 0 to 1')
        if self.precision not in ('float32', 'bfloat16'):
            raise TrainingError(
                f'recipe: precision {self.precision!r}, expected float32 or bfloat16'
            )
        if self.drawn and self.dataset == 'folder':
            raise TrainingError('recipe: drawn signs join GTSRB only, not classes of your own')

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from parsed YAML or JSON. Raises TrainingError for an unknown or missing key."""
        known = {item.name: item for item in fields(cls)}
        unknown = set(values) - set(known)
        if unknown:
            raise TrainingError(f'recipe: unknown {sorted(unknown)}; known are {", ".join(known)}')
        clean: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        for key, value in clean.items():
            default = known[key].default
            if isinstance(default, (int, float)) and not isinstance(value, (int, float)):
                raise TrainingError(f'recipe: {key} is {value!r}, expected a number')
        try:
            return cls(**clean)
        except TypeError as error:
            raise TrainingError(f'recipe: {error}') from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from YAML. Raises TrainingError."""
        try:
            values = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        except (OSError, yaml.YAMLError) as error:
            raise TrainingError(f'{path}: not a readable recipe: {error}') from error
        if not isinstance(values, dict):
            raise TrainingError(
                f'{path}: expected "key: value" lines, found {type(values).__name__}'
            )
        return cls.from_mapping(values)

    @property
    def augmentation(self) -> Augmentation:
        """How the training images are changed."""
        return Augmentation(self.weather, self.conditions, flip=self.flip)


def train(
    config_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> Path:
    """Train the recipe at `config_path` into the directory `out`; the path of the best checkpoint.

    `data` is the data directory (SPARSE_SPLIT_DATA without it). Raises TrainingError, DatasetError.
    """
    recipe = Recipe.load(config_path)
    training = load_split(recipe, data, 'train')
    selection = {recipe.dataset: load_split(recipe, data, 'select')}
    if recipe.drawn:
        size, seed = training.images.shape[1], 2 * recipe.seed
        Path(out).mkdir(parents=True, exist_ok=True)
        cache = Path(out) / 'drawn.npz'
        training = join(training, load_drawn(recipe.drawn, size, seed, cache))
        count = DRAWN_SELECTION * len(training.classes)
        selection['drawn'] = load_drawn(count, size, seed + 1)
    return fit(recipe, training, selection, out, resume)


def load_split(recipe: Recipe, data: str | os.PathLike[str] | None, split: str) -> LabelledImages:
    """The split 'train', 'select' or 'report' of the recipe's data set."""
    if recipe.dataset not in SOURCES:
        raise TrainingError(
            f'unknown data set {recipe.dataset!r}; choose one of {", ".join(SOURCES)}'
        )
    size = _network(recipe, 2).input_shape[1]
    return SOURCES[recipe.dataset](data, split, size)


def _network(recipe: Recipe, classes: int) -> StagedNetwork:
    try:
        return build(recipe.network, classes, **recipe.network_arguments)
    except (TypeError, ValueError) as error:
        raise TrainingError(f'recipe: network {recipe.network!r}: {error}') from error


def fit(
    recipe: Recipe,
    training: LabelledImages,
    selection: Mapping[str, LabelledImages],
    out: str | os.PathLike[str],
    resume: bool = False,
) -> Path:
    """Train on `training`, choose the epoch on the sets of `selection`; the best checkpoint's path.

    With `resume` an interrupted run in `out` goes on from its last whole epoch, to the same result
    as a run that was never interrupted. Raises TrainingError.
    """
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(recipe.threads)
    mean, std = training.statistics()
    recipe = replace(recipe, mean=recipe.mean or mean, std=recipe.std or std)
    chosen_on = {name: chosen.digest() for name, chosen in selection.items()}
    state = _State(recipe, training.classes, chosen_on)
    if resume:
        state.restore(directory)
    dataset = AugmentedBatches(training, recipe.batch_size, recipe.seed, recipe.augmentation)
    for epoch in range(state.epoch, recipe.epochs):
        start = time.monotonic()
        loss = _epoch(state, dataset, epoch)
        row: dict[str, float] = {'epoch': epoch, 'loss': loss, 'rate': state.rate}
        row |= {'train_s': time.monotonic() - start}
        row |= _score(state.average, selection, recipe, state.spec)
        state.epoch = epoch + 1
        state.history.append(row)
        best = max(item['score'] for item in state.history)
        if row['score'] == best:
            save_checkpoint(directory / 'best', state.meta(), state.average)
        state.save(directory)
        _write_log(directory / 'log.csv', state.history)
        shown = '  '.join(f'{key} {value:.4g}' for key, value in row.items())
        tqdm.write(shown)
    return directory / 'best.safetensors'


class _State:
    """What a run is made of and what it takes to go on with it."""

    def __init__(
        self, recipe: Recipe, classes: tuple[str, ...], chosen_on: Mapping[str, str]
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.classes, self.chosen_on = recipe, classes, dict(chosen_on)
        self.network = _network(recipe, len(classes))
        if recipe.split not in self.network.split_stages:
            raise TrainingError(
                f'recipe: split {recipe.split}, the network has {self.network.split_stages}'
            )
        self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.spec = input_spec(recipe, self.network)
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        free = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{'params': decayed}]
        groups.append({'params': free, 'weight_decay': 0.0})
        self.optimiser = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.epoch = self.steps = 0
        self.rate = 0.0
        self.history: list[dict[str, float]] = []

    def meta(self) -> dict[str, Any]:
        return {
            'format': CHECKPOINT_FORMAT,
            'recipe': asdict(self.recipe),
            'classes': list(self.classes),
            'chosen_on': self.chosen_on,
            'epoch': self.epoch,
            'steps': self.steps,
            'history': self.history,
        }

    def save(self, directory: Path) -> None:
        tensors = {f'network.{k}': v for k, v in self.network.state_dict().items()}
        tensors |= {f'average.{k}': v for k, v in self.average.state_dict().items()}
        for index, entry in self.optimiser.state_dict()['state'].items():
            tensors |= {f'optimiser.{index}.{k}': v for k, v in entry.items()}
        _save(directory / 'last', self.meta(), tensors)

    def restore(self, directory: Path) -> None:
        meta, tensors = _load(directory / 'last')
        now = json.loads(json.dumps(self.meta()))
        if any(meta.get(key) != now[key] for key in ('recipe', 'classes', 'chosen_on')):
            raise TrainingError(
                f'{directory}: the checkpoint is of another recipe or other data; use a new '
                'directory'
            )
        self.network.load_state_dict(_under(tensors, 'network.'))
        self.average.load_state_dict(_under(tensors, 'average.'))
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, 'optimiser.').items():
            index, name = key.split('.', 1)
            entries.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()['param_groups']
        self.optimiser.load_state_dict({'state': entries, 'param_groups': groups})
        self.epoch, self.steps = meta['epoch'], meta['steps']
        self.history = meta['history']

    def step(self, loss: Tensor, total: int) -> None:
        """One step of the optimiser at the rate due now, and of the average."""
        recipe = self.recipe
        progress = self.steps / total
        if progress < recipe.warmup:
            self.rate = recipe.learning_rate * (progress / recipe.warmup + 0.01)
        else:
            phase = (progress - recipe.warmup) / (1 - recipe.warmup)
            self.rate = recipe.learning_rate * (
                0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * phase))
            )
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.steps += 1
        # A young average forgets its random start.
        decay = min(recipe.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mean, now in zip(
                self.average.state_dict().values(), self.network.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)


def _epoch(state: _State, dataset: AugmentedBatches, epoch: int) -> float:
    """One pass over the data; the mean loss. Raises TrainingError when the loss is not a number."""
    recipe, network = state.recipe, state.network
    network.train()
    items = batches(dataset, epoch, recipe.workers)
    torch.manual_seed(recipe.seed * 100_003 + epoch)
    rng = np.random.default_rng([recipe.seed, epoch, 1 << 20])
    total = 0.0
    bar = tqdm(items, f'epoch {epoch + 1}/{recipe.epochs}', len(dataset), leave=False, disable=None)
    for images, labels in bar:
        x = normalise(images, state.spec)
        split = recipe.split if rng.random() < 0.5 else int(rng.choice(network.split_stages))
        coded = torch.from_numpy(rng.random(len(labels)) < recipe.coded)
        with torch.autocast('cpu', torch.bfloat16, enabled=recipe.precision == 'bfloat16'):
            output = network(x, split, coded)
        loss = joint_loss(output.logits, labels, recipe)
        if output.distortion is not None:
            loss = loss + recipe.distortion * output.distortion.float()
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(
                f'the loss became {value} in epoch {epoch}; the last whole epoch is kept. Lower '
                f'learning_rate ({recipe.learning_rate:g}) or use precision: float32'
            )
        state.step(loss, recipe.epochs * len(dataset))
        total += value
    return total / len(dataset)


def joint_loss(logits: Mapping[int, Tensor], labels: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy of every exit, and of the early ones towards the final exit's answer.

    `logits` are (N, K) by stage, `labels` (N,). The softened loss is scaled by the squared
    temperature (Hinton et al., arXiv 1503.02531), so that its gradient keeps its size.
    """
    final = max(logits)
    temperature = recipe.distillation_temperature
    teacher = F.softmax(logits[final].detach().float() / temperature, dim=1)
    total = logits[final].new_zeros((), dtype=torch.float32)
    for stage, values in logits.items():
        hard = F.cross_entropy(values.float(), labels, label_smoothing=recipe.label_smoothing)
        if stage == final:
            total = total + hard
            continue
        student = F.log_softmax(values.float() / temperature, dim=1)
        soft = F.kl_div(student, teacher, reduction='batchmean') * temperature**2
        share = recipe.distillation
        total = total + recipe.early_weight * ((1 - share) * hard + share * soft)
    return total


def normalise(images: Tensor, spec: InputSpec) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in channels-last memory."""
    scaled = images.float() * spec.scale
    return ((scaled - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(0, 3, 1, 2)


def input_spec(recipe: Recipe, network: StagedNetwork) -> InputSpec:
    """The bundle's input of this recipe."""
    if recipe.mean is None or recipe.std is None:
        raise TrainingError('recipe: no mean and std, and no training images to measure them on')
    return InputSpec(network.input_shape, 'rgb', 1 / 255, recipe.mean, recipe.std)


@torch.inference_mode()
def predict(
    network: StagedNetwork, images: NDArray[np.uint8], spec: InputSpec, split: int | None = None
) -> dict[int, NDArray[np.float32]]:
    """Logits (N, K) of every exit for images (N, H, W, 3), all coded at `split` if given."""
    network.eval()
    rows: dict[int, list[NDArray[np.float32]]] = {stage: [] for stage in network.exit_stages}
    for first in range(0, len(images), _EVALUATION_BATCH):
        x = normalise(torch.from_numpy(images[first : first + _EVALUATION_BATCH]), spec)
        for stage, logits in network(x, split).logits.items():
            rows[stage].append(logits.numpy())
    return {stage: np.concatenate(parts) for stage, parts in rows.items()}


def _score(
    network: StagedNetwork,
    selection: Mapping[str, LabelledImages],
    recipe: Recipe,
    spec: InputSpec,
) -> dict[str, float]:
    """Accuracy of every exit, of the final one coded, and the score that chooses the epoch."""
    row: dict[str, float] = {}
    scores = []
    for name, chosen in selection.items():
        plain = predict(network, chosen.images, spec)
        final = max(plain)
        coded = predict(network, chosen.images, spec, recipe.split)[final]
        row |= {f'{name}_exit_{k}': accuracy(v, chosen.labels) for k, v in plain.items()}
        row[f'{name}_coded'] = accuracy(coded, chosen.labels)
        scores += [row[f'{name}_exit_{final}'], row[f'{name}_coded']]
    return row | {'score': sum(scores) / len(scores)}


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of the rows of logits (N, K) whose largest is the label."""
    return float((logits.argmax(1) == labels).mean())


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def save_checkpoint(path: Path, meta: Mapping[str, Any], network: StagedNetwork) -> None:
    """Write the network's weights and what they are to PATH.safetensors."""
    _save(path, meta, dict(network.state_dict()))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[StagedNetwork, Recipe, dict[str, Any]]:
    """The network of a checkpoint in evaluation mode, its recipe, and its JSON part.

    `path` is the .safetensors file, or a training directory, whose best checkpoint it is. Raises
    TrainingError.
    """
    given = Path(path)
    stem = given / 'best' if given.is_dir() else given.with_suffix('')
    meta, tensors = _load(stem)
    recipe = Recipe.from_mapping(meta['recipe'])
    network = _network(recipe, len(meta['classes']))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise TrainingError(
            f'{stem}.safetensors is not of network {recipe.network!r}: {error}'
        ) from error
    return network.eval(), recipe, meta


def _save(path: Path, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Weights and JSON in one file, the JSON in its header, so that the two cannot part."""
    partial = path.with_suffix('.partial')
    try:
        contiguous = {k: v.contiguous() for k, v in tensors.items()}
        save_file(contiguous, partial, metadata={'meta': json.dumps(meta)})
        partial.replace(path.with_suffix('.safetensors'))
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f'{path}: cannot be written ({error}); the older one is kept'
        ) from error


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    file = path.with_suffix('.safetensors')
    try:
        with safe_open(file, framework='pt') as checkpoint:
            meta = json.loads((checkpoint.metadata() or {}).get('meta', 'null'))
            tensors = {key: checkpoint.get_tensor(key) for key in checkpoint.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f'{file}: not a readable checkpoint: {error}') from error
    if not isinstance(meta, dict) or meta.get('format') != CHECKPOINT_FORMAT:
        raise TrainingError(f'{file}: not a checkpoint of format {CHECKPOINT_FORMAT!r}')
    return meta, tensors


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
