# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The recipe: everything that decides what a training run gives, written as YAML."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sparse_split_ros.data.augment import Augmentation
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.data.registry import SOURCES
from sparse_split_ros.networks.prune import Batch
from sparse_split_ros.networks.staged import StagedNetwork, inlined
from sparse_split_ros.networks.zoo import build
from sparse_split_ros.runtime.bundle import InputSpec
from sparse_split_ros.runtime.engine import MAX_THREADS
from sparse_split_ros.training.predict import normalise

SHIPPED_CODECS = ('none', 'fp16', 'int8', 'int4', 'int8+zstd', 'int4+zstd')
"""Those that a bundle is calibrated for."""
_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    'bool': (bool, 'true or false'),
    'float': ((int, float), 'a number, written like 0.001 or 1.0e-3'),
    'int': (int, 'a whole number'),
    'str': (str, 'a text'),
    'str | None': ((str, type(None)), 'a text'),
}
"""What values of a field of each type are, and how to say so."""
_RANGES: tuple[tuple[str, Callable[[Any], bool], tuple[str, ...]], ...] = (
    ('0 to 1', lambda value: 0 <= value <= 1, (
        'warmup', 'average', 'distillation', 'label_smoothing', 'coded', 'weather', 'threshold',
        'geometric', 'photometric',
    )),
    ('0 or more', lambda value: 0 <= value < math.inf, (
        'workers', 'patience', 'drawn', 'weight_decay', 'early_weight', 'distortion',
    )),
    ('more than 0', lambda value: 0 < value < math.inf, (
        'epochs', 'batch_size', 'learning_rate', 'distillation_temperature',
    )),
    (f'1 to {MAX_THREADS}', lambda value: 1 <= value <= MAX_THREADS, ('threads',)),
    (f'0 to {(1 << 32) - 1}', lambda value: 0 <= value < 1 << 32, ('seed',)),
)  # fmt: skip
"""What numbers are allowed, how to say so, and of which fields."""


class TrainingError(Exception):
    """A recipe, a checkpoint or a training run that cannot go on."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML's own would take the last and say nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As the SafeLoader's. Raises ComposerError."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, Any], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if first := lines.get(name):
                raise yaml.composer.ComposerError(
                    problem=f'{key.value!r} stands in line {first} and in line {line}: leave one'
                )
            lines[name] = line
        return node


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run gives; examples are under config/training."""

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
    teacher: str | None = None
    """A run, or a checkpoint, whose answers all exits learn from instead, the final one too."""
    label_smoothing: float = 0.05
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Of several tasks: the weight of each one's loss by its name, 1 where it is left out."""
    coded: float = 0.5
    """Share of the rows that pass a bottleneck: the default split's in half of the steps."""
    distortion: float = 0.05
    """Weight of the bottleneck's relative squared error."""
    precision: str = 'bfloat16'
    threads: int = 2
    workers: int = 1
    patience: int = 0
    """Stop after this many epochs without a better score; 0: never."""
    drawn: int = 0
    """How many drawn signs (data/drive.py) join the training images."""
    weather: float = 0.0
    conditions: tuple[str, ...] = ()
    flip: bool = False
    geometric: float = 1.0
    """How strongly rotation, scale, shift and perspective are varied in training."""
    photometric: float = 1.0
    """How strongly blur, light, colour and noise are varied in training."""
    split: int = 1
    """The default cut: the one whose coded accuracy counts when the best epoch is chosen."""
    codec: str = 'int4'
    threshold: float = 0.9
    inline: bool = False
    """Make the bottleneck of `split` a stage of the network, in use whether or not it is cut."""
    hierarchical: bool = False
    """Train what lies before and behind the split apart, no gradient between; `inline` with it."""

    def __post_init__(self) -> None:
        for expected, holds, names in _RANGES:
            for name in names:
                if not holds(value := getattr(self, name)):
                    raise TrainingError(f'recipe: {name} is {value}, expected {expected}')
        for name in ('mean', 'std'):
            _check_triple(name, getattr(self, name))
        if self.codec not in SHIPPED_CODECS:
            raise TrainingError(
                f'recipe: codec {self.codec!r}, expected one of {", ".join(SHIPPED_CODECS)}'
            )
        if not isinstance(self.conditions, tuple) or not all(
            isinstance(name, str) for name in self.conditions
        ):
            raise TrainingError(
                f'recipe: conditions is {self.conditions!r}, expected a list such as [fog, rain]'
            )
        if self.precision not in ('float32', 'bfloat16'):
            raise TrainingError(
                f'recipe: precision {self.precision!r}, expected float32 or bfloat16'
            )
        if not isinstance(self.network_arguments, Mapping):
            raise TrainingError(
                f'recipe: network_arguments is {self.network_arguments!r}, expected "key: value" '
                'lines'
            )
        if self.cut != self.split and 'masks' in self.network_arguments:
            raise TrainingError(
                'recipe: masks are by the names of a network whose bottleneck is not inline; prune '
                'by reconvene or precrop, or choose a density'
            )
        if not isinstance(self.task_weights, Mapping) or not all(
            isinstance(weight, (int, float)) and 0 < weight < math.inf
            for weight in self.task_weights.values()
        ):
            raise TrainingError(
                f'recipe: task_weights is {self.task_weights!r}, expected "task: number" lines, '
                'each number more than 0'
            )
        if self.teacher and self.hierarchical:
            raise TrainingError(
                'recipe: a hierarchical training has no teacher, as the cloud sees no images'
            )
        if self.drawn and self.dataset not in ('gtsrb', 'gtsrb_weather'):
            raise TrainingError('recipe: drawn signs join GTSRB only, not classes of your own')

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from parsed YAML or JSON. Raises TrainingError for an unknown or missing key."""
        known = {item.name: item for item in fields(cls)}
        if unknown := [key for key in values if key not in known]:
            close = {key: difflib.get_close_matches(str(key), known, 1) for key in unknown}
            named = (
                f'{key!r}' + ''.join(f' (is it {k!r}?)' for k in close[key]) for key in unknown
            )
            raise TrainingError(f'recipe: unknown {", ".join(named)}; known are {", ".join(known)}')
        if missing := [name for name in ('name', 'dataset') if name not in values]:
            raise TrainingError(
                f'recipe: has no {" and no ".join(missing)}; examples are under config/training'
            )
        clean: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        for key, value in clean.items():
            kind, expected = _KINDS.get(known[key].type, (object, ''))
            odd = isinstance(value, bool) and kind is not bool  # to Python they are numbers
            if expected and (odd or value == '' or not isinstance(value, kind)):
                raise TrainingError(f'recipe: {key} is {value!r}, expected {expected}')
        try:
            return cls(**clean)
        except TypeError as error:
            raise TrainingError(f'recipe: {error}') from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from YAML. Raises TrainingError."""
        try:
            values = yaml.load(Path(path).read_text(encoding='utf-8'), _Loader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = ' '.join(str(error).split())
            raise TrainingError(f'{path}: not a readable recipe: {reason}') from error
        if not isinstance(values, dict):
            raise TrainingError(
                f'{path}: expected "key: value" lines, found {type(values).__name__}'
            )
        return cls.from_mapping(values)

    def plain(self) -> dict[str, Any]:
        """The recipe as JSON and YAML have it."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @property
    def cut(self) -> int:
        """`split` as the built network counts it: an inline encoder is a stage, and before it."""
        return self.split + (self.inline or self.hierarchical)

    @property
    def augmentation(self) -> Augmentation:
        """How the training images are changed."""
        return Augmentation(
            self.weather,
            self.conditions,
            flip=self.flip,
            geometric=self.geometric,
            photometric=self.photometric,
        )


def _check_triple(name: str, values: tuple[float, ...] | None) -> None:
    if values is None:
        return
    low = 0.0 if name == 'mean' else 1e-6
    if not isinstance(values, tuple) or len(values) != 3 or not all(
        isinstance(value, (int, float)) and low <= value <= 1 for value in values
    ):  # fmt: skip
        raise TrainingError(
            f'recipe: {name} is {values!r}, expected three numbers from {low:g} to 1, where black '
            'is 0 and white is 1'
        )


def load_split(recipe: Recipe, data: str | os.PathLike[str] | None, split: str) -> LabelledImages:
    """The split 'train', 'select' or 'report' of the recipe's data set."""
    if recipe.dataset not in SOURCES:
        raise TrainingError(
            f'unknown data set {recipe.dataset!r}; choose one of {", ".join(SOURCES)}'
        )
    # The size is that of the whole network, and a file of masks may be gone since the training.
    arguments = {k: v for k, v in recipe.network_arguments.items() if k != 'masks'}
    size = build_network(replace(recipe, network_arguments=arguments), 2).input_shape[1]
    return SOURCES[recipe.dataset](data, split, size)


def build_network(recipe: Recipe, classes: int, pretrained: bool = False) -> StagedNetwork:
    """The recipe's network; `pretrained` starts it from the weights its arguments name, if any.

    Raises TrainingError.
    """
    try:
        network = build(recipe.network, classes, pretrained, **recipe.network_arguments)
    except (TypeError, ValueError) as error:
        raise TrainingError(f'recipe: network {recipe.network!r}: {error}') from error
    if recipe.split not in network.split_stages:
        raise TrainingError(f'recipe: split {recipe.split}, the network has {network.split_stages}')
    return network if recipe.cut == recipe.split else inlined(network, recipe.split)


def completed(recipe: Recipe, training: LabelledImages) -> Recipe:
    """The recipe with mean and standard deviation of the training images where it has none."""
    mean, std = training.statistics()
    return replace(recipe, mean=recipe.mean or mean, std=recipe.std or std)


def first_batch(recipe: Recipe, training: LabelledImages, count: int = 128) -> Batch:
    """Some training images as the network reads them (N, 3, H, W), for `prune`."""
    recipe = completed(recipe, training)
    order = np.random.default_rng(recipe.seed).permutation(len(training))
    some = training.take(order[:count])
    spec = input_spec(recipe, build_network(recipe, len(training.classes)))
    return normalise(torch.from_numpy(some.images), spec), torch.from_numpy(some.labels), some.sizes


def input_spec(recipe: Recipe, network: StagedNetwork) -> InputSpec:
    """The bundle's input of this recipe."""
    if recipe.mean is None or recipe.std is None:
        raise TrainingError('recipe: no mean and std, and no training images to measure them on')
    return InputSpec(network.input_shape, 'rgb', 1 / 255, recipe.mean, recipe.std)
