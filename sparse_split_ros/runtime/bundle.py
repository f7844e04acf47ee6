# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bundle: a directory with everything a robot or a tail needs to run one model.

A bundle comes over a network or a USB stick and is loaded by a process that steers a robot, so
nothing in it is believed: every field is checked, every file is verified against its SHA-256, and
names are plain file names that cannot leave the directory. Head and tail agree on a model by its
fingerprint, the hash of the manifest, which holds the hashes of all the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.data.labels import TASK_NAME
from sparse_split_ros.policy.tasks import judge, places

FORMAT = 'sparse_split_bundle/1'
TASKS_FORMAT = 'sparse_split_bundle/2'
"""Of a bundle of several tasks, which releases that know of one alone are to refuse."""
GRAPH_FORMAT = 'sparse_split_graph/1'
MANIFEST = 'manifest.json'
PROFILE = 'profile.json'
BETWEEN_TASKS = ' / '
"""Stands between the tasks' classes in the name of an answer."""

_MAX_MANIFEST_BYTES = 8 << 20
_MAX_FILE_BYTES = 1 << 30
_MAX_ELEMENTS = 1 << 26
_MAX_FLOAT32 = 3.4e38
_MAX_FLOAT64 = sys.float_info.max
_MAX_LABELS = 1 << 31
_ROWS = re.compile(r'\[\n[-\s\d.,e+]+\]')
"""A list of numbers, one per line; a string has no line breaks in JSON."""
_TIMES = frozenset({'stage_ms', 'exit_ms', 'encoder_ms', 'decoder_ms'})
"""What `PROFILE` has of an engine: ms by stage."""


class BundleError(Exception):
    """A bundle is missing, malformed, of another format version, or not what its manifest says."""


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the network's input: NCHW float32 = (pixel * scale - mean) / std."""

    shape: tuple[int, int, int]
    color: str
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Stage:
    """Features of the stage before, or the input -> features of `output_shape` (C, H, W)."""

    name: str
    model: str
    output_shape: tuple[int, int, int]
    parameters: int
    stored_bytes: int
    macs: int
    account: Mapping[str, float] = field(default_factory=dict)
    """What else it costs: see `_account`; empty in older bundles."""


@dataclass(frozen=True)
class Exit:
    """A classifier on the features of `stage`.

    Its logits are those of all tasks, side by side; a task's probabilities are softmax(logits /
    temperature), each with a temperature of its own. `accuracy` is the share of images that all
    tasks are right of, `tasks` that of each where there are several.
    """

    stage: int
    model: str
    temperatures: tuple[float, ...]
    parameters: int
    stored_bytes: int
    macs: int
    accuracy: float | None
    ece: float | None
    account: Mapping[str, float] = field(default_factory=dict)
    tasks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """A cut after `stage`. What travels has `shape` (C, H, W): the features if no encoder."""

    stage: int
    shape: tuple[int, int, int]
    encoder: str | None
    decoder: str | None
    codecs: Mapping[str, Mapping[str, Any]]
    encoder_macs: int = 0
    decoder_macs: int = 0
    account: Mapping[str, float] = field(default_factory=dict)
    """Of the encoder."""


@dataclass(frozen=True)
class Defaults:
    """The split, exit threshold and codec a node uses unless its parameters say otherwise."""

    split: int
    threshold: float
    codec: str


@dataclass(frozen=True)
class Bundle:
    """A loaded and validated bundle. The models stay on disk until an engine asks for them.

    `tasks` are the classes of each task, by its name; a single task has none, ''. `classes` are
    those of all tasks, side by side.
    """

    path: Path
    name: str
    tasks: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]
    input: InputSpec
    stages: tuple[Stage, ...]
    exits: tuple[Exit, ...]
    splits: tuple[Split, ...]
    defaults: Defaults
    training: Mapping[str, Any]
    files: Mapping[str, str]
    fingerprint: bytes = field(repr=False)
    """First 8 bytes of the SHA-256 of manifest.json."""
    graph: str | None = None
    """The file with the operations of every model, for engines that are not ONNX."""
    weights: str | None = None
    """The safetensors file with what `graph` refers to; both are there or neither."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the bundle at `path`, and every file of it once to hash it. Raises BundleError."""
        directory = Path(path)
        if not directory.is_dir():
            raise BundleError(f'{directory}: no such bundle directory')
        raw = _read(directory / MANIFEST, _MAX_MANIFEST_BYTES)
        bundle = _parse(directory, raw)
        for name in bundle.files:
            if not (directory / name).is_file():
                raise BundleError(
                    f'{directory / name}: listed in the manifest but missing; copy the whole bundle'
                )
            bundle.read(name)
        return bundle

    @property
    def final(self) -> int:
        """Index of the last stage, whose exit is the network's own classifier."""
        return len(self.stages) - 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many classes each task has."""
        return tuple(map(len, self.tasks.values()))

    def judge(self, scores: NDArray[np.float32]) -> tuple[Any, Any]:
        """Labels and confidences (...,) of scores (..., K) of all classes; see policy/tasks.py."""
        return judge(scores, self.sizes)

    def named(self, label: int) -> str:
        """The class of a label; of several tasks, their classes with BETWEEN_TASKS in between."""
        return BETWEEN_TASKS.join(self.classes[place] for place in places(label, self.sizes))

    def input_shape(self, stage: int) -> tuple[int, int, int]:
        """Shape (C, H, W) of what `stage` reads: the network's input for stage 0."""
        return self.input.shape if stage == 0 else self.stages[stage - 1].output_shape

    def exit_at(self, stage: int) -> Exit | None:
        """The exit after `stage`, or None where the stage has none."""
        return next((exit_ for exit_ in self.exits if exit_.stage == stage), None)

    def split_at(self, stage: int) -> Split:
        """The split after `stage`. Raises BundleError when the bundle has none there."""
        for split in self.splits:
            if split.stage == stage:
                return split
        stages = [split.stage for split in self.splits]
        raise BundleError(f'bundle {self.name!r} has no split after stage {stage}; it has {stages}')

    def read(self, name: str) -> bytes:
        """The verified bytes of one file. Raises BundleError when they were changed."""
        expected = self.files.get(name)
        if expected is None:
            raise BundleError(f'{name!r} is not a file of bundle {self.name!r}')
        data = _read(self.path / name, _MAX_FILE_BYTES)
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise BundleError(
                f'{self.path / name}: SHA-256 is {found[:16]}…, expected {expected[:16]}…; '
                'the file was changed or damaged, fetch the bundle again'
            )
        return data

    def profile(self) -> dict[str, Any]:
        """Stage times of this machine (`sparse-split profile`), or {} when never measured.

        Raises BundleError for what is no profile of this bundle.
        """
        path = self.path / PROFILE
        if not path.is_file():
            return {}
        try:
            root = _Value(_json(path, _read(path, _MAX_MANIFEST_BYTES)), str(path))
            _check_profile(root, {str(stage) for stage in range(len(self.stages))})
        except BundleError as error:
            again = f'sparse-split profile {self.path}'
            raise BundleError(f'{error}; measure again: {again}') from error
        return root.mapping()


def write_manifest(directory: str | os.PathLike[str], manifest: Mapping[str, Any]) -> Bundle:
    """Hash the files of `directory`, write its manifest and load it back.

    `manifest` is everything but "format" and "files", with "classes" or with "tasks". The old
    manifest is replaced only by a complete new one. Raises BundleError when the result is not a
    valid bundle.
    """
    root = Path(directory)
    names = sorted(path.name for path in root.iterdir() if path.is_file())
    files = {
        name: hashlib.sha256((root / name).read_bytes()).hexdigest()
        for name in names
        if name not in {MANIFEST, PROFILE}
    }
    whole = {'format': TASKS_FORMAT if 'tasks' in manifest else FORMAT, **manifest, 'files': files}
    text = json.dumps(whole, indent=1, allow_nan=False)
    text = _ROWS.sub(lambda row: f'[{" ".join(row[0][1:-1].split())}]', text)
    partial = root / f'.{MANIFEST}'
    partial.write_text(text + '\n', encoding='utf-8')
    partial.replace(root / MANIFEST)
    return Bundle.load(root)


def check_tasks(tasks: Mapping[str, Sequence[str]]) -> None:
    """Raise BundleError for names of tasks and classes that no bundle of several can have."""
    _tasks(_Value([{'name': name, 'classes': [*names]} for name, names in tasks.items()], 'tasks'))


def bundle_path(name_or_path: str | os.PathLike[str]) -> Path:
    """The directory of a bundle, by shipped name or by path. Raises BundleError."""
    given = Path(name_or_path)
    if (given / MANIFEST).is_file():
        return given
    roots = _model_roots()
    if given.name == str(name_or_path):
        for root in roots:
            if (root / given / MANIFEST).is_file():
                return root / given
    looked = ', '.join(str(root) for root in roots) or 'no models directory'
    raise BundleError(
        f'no bundle {str(name_or_path)!r}: neither a directory with a {MANIFEST} nor a bundle that '
        f'is shipped (looked in {looked})'
    )


def _model_roots() -> list[Path]:
    """Existing `models` directories, the nearest to this file first.

    A source tree has models/ beside the package. A wheel and a colcon install have it under
    <prefix>/share, where the prefix is some parent of site-packages; a symlinked colcon install
    is only known by its prefix path.
    """
    here = Path(__file__).resolve()
    share = Path('share') / 'sparse_split_ros' / 'models'
    candidates = [here.parents[2] / 'models', *(parent / share for parent in here.parents)]
    for variable in ('AMENT_PREFIX_PATH', 'COLCON_PREFIX_PATH'):
        for prefix in filter(None, os.environ.get(variable, '').split(os.pathsep)):
            candidates += [Path(prefix) / share, Path(prefix) / 'sparse_split_ros' / share]
    return [path for path in dict.fromkeys(candidates) if path.is_dir()]


def _read(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise BundleError(f'{path}: {size} bytes, more than the {limit} a bundle may hold')
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f'{path}: cannot be read: {error.strerror}') from error


def _json(path: Path, raw: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f'{constant} is not JSON')

    try:
        return json.loads(raw.decode('utf-8'), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BundleError(f'{path}: not valid JSON: {error}') from error


class _Value:
    """A value of the manifest and its place in it, so that every complaint can name both."""

    def __init__(self, value: Any, where: str) -> None:
        self._value = value
        self.where = where

    def fail(self, expected: str) -> BundleError:
        shown = repr(self._value)
        shown = shown if len(shown) <= 60 else shown[:57] + '...'
        return BundleError(f'{self.where}: expected {expected}, found {shown}')

    def get(self, key: str) -> _Value:
        if not isinstance(self._value, dict):
            raise self.fail('an object')
        if key not in self._value:
            raise BundleError(f'{self.where}: {key!r} is missing')
        return _Value(self._value[key], f'{self.where}: {key}')

    def optional(self, key: str) -> _Value | None:
        present = isinstance(self._value, dict) and self._value.get(key) is not None
        return self.get(key) if present else None

    def mapping(self) -> dict[str, Any]:
        if not isinstance(self._value, dict):
            raise self.fail('an object')
        return self._value

    def sequence(self, length: int | None = None) -> list[_Value]:
        if not isinstance(self._value, list) or (length is not None and len(self._value) != length):
            raise self.fail('a list' if length is None else f'a list of {length}')
        return [_Value(item, f'{self.where}[{i}]') for i, item in enumerate(self._value)]

    def text(self) -> str:
        if not isinstance(self._value, str) or not self._value:
            raise self.fail('a non-empty string')
        return self._value

    def integer(self, low: int, high: int = 1 << 48) -> int:
        value = self._value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(f'a whole number from {low} to {high}')
        return value

    def number(self, low: float = -math.inf, high: float = math.inf) -> float:
        value = self._value
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.fail('a number')
        # A whole number may be too large for a float; comparisons take any.
        if not -_MAX_FLOAT64 <= value <= _MAX_FLOAT64 or not low <= value <= high:
            raise self.fail(f'a number from {low:g} to {high:g}')
        return float(value)

    def shape(self) -> tuple[int, int, int]:
        c, h, w = (item.integer(1, 1 << 16) for item in self.sequence(3))
        if c * h * w > _MAX_ELEMENTS:
            raise self.fail(f'a shape of at most {_MAX_ELEMENTS} elements')
        return c, h, w

    def triple(self, low: float = -math.inf) -> tuple[float, float, float]:
        r, g, b = (item.number(low) for item in self.sequence(3))
        return r, g, b

    def file(self, files: Mapping[str, str]) -> str:
        name = _file_name(self.text(), self.where)
        if name not in files:
            raise BundleError(f'{self.where}: {name!r} has no hash under "files"')
        return name


def _file_name(name: str, where: str) -> str:
    if name in {'.', '..'} or any(mark in name for mark in '/\\:\0'):
        raise BundleError(
            f'{where}: {name!r} would leave the bundle; files are plain names inside its directory'
        )
    return name


def _parse(directory: Path, raw: bytes) -> Bundle:
    path = directory / MANIFEST
    root = _Value(_json(path, raw), str(path))
    version = root.get('format').text()
    if version not in (FORMAT, TASKS_FORMAT):
        raise BundleError(
            f'{path}: format {version!r}, this release reads {FORMAT!r} and {TASKS_FORMAT!r}: '
            'export it again'
        )
    files = _files(root.get('files'))
    tasks = {'': _classes(root.get('classes'))} if version == FORMAT else _tasks(root.get('tasks'))
    stages = tuple(_stage(item, files) for item in root.get('stages').sequence())
    if not stages:
        raise root.get('stages').fail('at least one stage')
    exits = tuple(_exit(item, files, len(stages), tasks) for item in root.get('exits').sequence())
    if len({item.stage for item in exits}) != len(exits):
        raise root.get('exits').fail('at most one exit per stage')
    if not exits or exits[-1].stage != len(stages) - 1:
        raise root.get('exits').fail(f'the last exit after the last stage, {len(stages) - 1}')
    splits = tuple(_split(item, files, stages) for item in root.get('splits').sequence())
    if len({item.stage for item in splits}) != len(splits):
        raise root.get('splits').fail('at most one split per stage')
    graph, weights = root.optional('graph'), root.optional('weights')
    if (graph is None) != (weights is None):
        raise BundleError(f'{path}: expected both "graph" and "weights", or neither')
    return Bundle(
        path=directory,
        name=root.get('name').text(),
        tasks=tasks,
        classes=tuple(chain(*tasks.values())),
        input=_input(root.get('input')),
        stages=stages,
        exits=exits,
        splits=splits,
        defaults=_defaults(root.get('defaults'), splits),
        training=root.get('training').mapping(),
        files=files,
        fingerprint=hashlib.sha256(raw).digest()[:8],
        graph=None if graph is None else graph.file(files),
        weights=None if weights is None else weights.file(files),
    )


def _classes(value: _Value) -> tuple[str, ...]:
    classes = tuple(item.text() for item in value.sequence())
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise value.fail('two or more different class names')
    return classes


def _tasks(value: _Value) -> dict[str, tuple[str, ...]]:
    """The classes of each task by its name, which becomes a part of topics' names."""
    items = value.sequence()
    tasks = {item.get('name').text(): _classes(item.get('classes')) for item in items}
    if len(tasks) < 2 or len(tasks) != len(items):
        raise value.fail('two or more tasks of different names')
    for item in items:
        if not TASK_NAME.fullmatch(item.get('name').text()):
            raise item.get('name').fail(
                "a part of a topic's name: a letter, then letters, digits and single underscores"
            )
        for name in item.get('classes').sequence():
            if BETWEEN_TASKS in name.text():
                raise name.fail(
                    f'no {BETWEEN_TASKS!r}, which stands between the tasks of an answer'
                )
    if math.prod(map(len, tasks.values())) > _MAX_LABELS:
        raise value.fail(f'at most {_MAX_LABELS} ways to answer all tasks')
    return tasks


def _check_profile(root: _Value, stages: set[str]) -> None:
    """Raise BundleError unless all that is read of profile.json is what it should be."""
    if 'machine' in root.mapping():
        root.get('machine').mapping()
    engines = root.get('engines') if 'engines' in root.mapping() else _Value({}, '')
    for times in map(engines.get, engines.mapping()):
        for name in _TIMES & times.mapping().keys():
            part = times.get(name)
            if not part.mapping().keys() <= stages:
                raise part.fail(f'ms of stages 0 to {len(stages) - 1}')
            for stage in part.mapping():
                part.get(stage).number(0)


def _files(value: _Value) -> dict[str, str]:
    files = {}
    for name in value.mapping():
        _file_name(name, value.where)
        digest = value.get(name).text()
        if len(digest) != 64 or set(digest) - set('0123456789abcdef'):
            raise value.get(name).fail('a SHA-256 in 64 lower-case hexadecimal digits')
        files[name] = digest
    return files


def _input(value: _Value) -> InputSpec:
    shape = value.get('shape').shape()
    color = value.get('color').text()
    if shape[0] != 3 or color != 'rgb':
        raise value.fail('an input of 3 channels with color "rgb"')
    return InputSpec(
        shape=shape,
        color=color,
        scale=value.get('scale').number(1e-12),
        mean=value.get('mean').triple(),
        std=value.get('std').triple(low=1e-12),
    )


def _stage(value: _Value, files: Mapping[str, str]) -> Stage:
    return Stage(
        name=value.get('name').text(),
        model=value.get('model').file(files),
        output_shape=value.get('output_shape').shape(),
        parameters=value.get('parameters').integer(0),
        stored_bytes=value.get('stored_bytes').integer(0),
        macs=value.get('macs').integer(0),
        account=_account(value),
    )


def _account(value: _Value) -> dict[str, float]:
    """The costs of one sample that the exporter worked out (networks/account.py)."""
    account = value.optional('account')
    if account is None:
        return {}
    return {name: account.get(name).number(0) for name in account.mapping()}


def _exit(
    value: _Value, files: Mapping[str, str], stages: int, tasks: Mapping[str, tuple[str, ...]]
) -> Exit:
    accuracy, ece, each = (value.optional(key) for key in ('accuracy', 'ece', 'tasks'))
    temperature = value.get('temperature')
    temperatures = [temperature] if '' in tasks else temperature.sequence(len(tasks))
    return Exit(
        stage=value.get('stage').integer(0, stages - 1),
        model=value.get('model').file(files),
        temperatures=tuple(item.number(1e-3, 1e3) for item in temperatures),
        parameters=value.get('parameters').integer(0),
        stored_bytes=value.get('stored_bytes').integer(0),
        macs=value.get('macs').integer(0),
        accuracy=None if accuracy is None else accuracy.number(0.0, 1.0),
        ece=None if ece is None else ece.number(0.0, 1.0),
        account=_account(value),
        tasks={} if each is None else {name: each.get(name).number(0.0, 1.0) for name in tasks},
    )


def _split(value: _Value, files: Mapping[str, str], stages: tuple[Stage, ...]) -> Split:
    if len(stages) < 2:
        raise value.fail('no split: a network of one stage cannot be cut')
    stage = value.get('stage').integer(0, len(stages) - 2)
    encoder, decoder = value.optional('encoder'), value.optional('decoder')
    if (encoder is None) != (decoder is None):
        raise value.fail('both an encoder and a decoder, or neither')
    shape = value.get('shape').shape()
    if encoder is None and shape != stages[stage].output_shape:
        raise value.get('shape').fail(f"the stage's output shape {stages[stage].output_shape}")
    codecs = value.get('codecs')
    if not codecs.mapping():
        raise codecs.fail('at least one codec')
    encoder_macs, decoder_macs = value.optional('encoder_macs'), value.optional('decoder_macs')
    return Split(
        stage=stage,
        shape=shape,
        encoder=None if encoder is None else encoder.file(files),
        decoder=None if decoder is None else decoder.file(files),
        codecs={name: _codec(codecs.get(name), shape[0]) for name in codecs.mapping()},
        encoder_macs=0 if encoder_macs is None else encoder_macs.integer(0),
        decoder_macs=0 if decoder_macs is None else decoder_macs.integer(0),
        account=_account(value),
    )


def _codec(value: _Value, channels: int) -> Mapping[str, Any]:
    """A codec's calibration, and what it was measured to cost; all of it may be missing."""
    record = value.mapping()
    for key in record.keys() & {'mean_bytes', 'max_bytes', 'disagreement', 'disagreement_bound'}:
        value.get(key).number(0.0)
    for key, least in (('low', -_MAX_FLOAT32), ('step', 1 / _MAX_FLOAT32)):
        for item in value.get(key).sequence(channels) if key in record else ():
            item.number(least, _MAX_FLOAT32)
    if 'dictionary' in record and not isinstance(record['dictionary'], str):
        raise value.get('dictionary').fail('base64 in a string')
    return record


def _defaults(value: _Value, splits: tuple[Split, ...]) -> Defaults:
    split = value.get('split')
    codec = value.get('codec')
    chosen = next((item for item in splits if item.stage == split.integer(0)), None)
    if chosen is None:
        raise split.fail(f'one of the splits {[item.stage for item in splits]}')
    if codec.text() not in chosen.codecs:
        raise codec.fail(f'one of the codecs of split {chosen.stage}: {sorted(chosen.codecs)}')
    return Defaults(chosen.stage, value.get('threshold').number(0.0, 1.0), codec.text())
