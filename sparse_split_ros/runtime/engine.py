# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Engines run a bundle's stages, exits, encoders and decoders on numpy arrays.

Every stage and every exit is a model of its own, so an exit nobody asks for costs nothing and a
robot's head does not hold the tail's weights. `StagedEngine` is the part all engines share: the
order of things, the early stop and the checks. An engine only says how to load one model and run
it.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sparse_split_ros.policy.tasks import parts
from sparse_split_ros.runtime.bundle import Bundle

Array = NDArray[np.float32]
Model = Callable[[Array], Array]

ENGINES = ('auto', 'native', 'native-int8', 'onnxruntime', 'torch')
# What the native engine is asked for as, and what it then is.
_AS_NATIVE = {'auto': 'native', 'native': 'native', 'native-int8': 'native-int8'}
DEVICES = ('cpu', 'cuda', 'tensorrt')
# ONNX Runtime starts them for every model at once, and ends with the machine's memory.
MAX_THREADS = 256
MOST_LOST_IN_INT8 = 0.002
"""The share of answers that 8 bits may lose at any exit to run where nobody chose."""

_log = logging.getLogger(__name__)


class EngineError(Exception):
    """A model does not load, was given a wrong input, or gave values that are not finite."""


class EngineResult(NamedTuple):
    """What a run produced: N rows, K classes (of all tasks, side by side), times in ms."""

    features: Array | None
    """(N, C, H, W) after the last stage that ran; None when an exit ended the run."""
    exits: Mapping[int, Array]
    """Stage -> calibrated probabilities (N, K)."""
    logits: Mapping[int, Array]
    """Stage -> logits (N, K), not divided by the temperatures."""
    stage_ms: Mapping[int, float]
    stopped: int | None
    """The stage whose exit ended the run, or None."""
    exit_ms: Mapping[int, float]


class Engine(Protocol):
    """What the head, the tail and the offline evaluation need of an engine."""

    @property
    def bundle(self) -> Bundle:
        """The bundle whose models this engine runs."""

    @property
    def name(self) -> str:
        """What runs: a name of `ENGINES` other than auto."""

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        """Run stages `first` to `last`; see `StagedEngine.run`."""

    def encode(self, features: Array, split: int) -> Array:
        """Features after stage `split` to what travels."""

    def decode(self, coded: Array, split: int) -> Array:
        """What travelled back to features after stage `split`."""


def load_engine(
    bundle: Bundle,
    name: str = 'auto',
    device: str = 'cpu',
    threads: int = 1,
    stages: range | None = None,
) -> Engine:
    """Load the models of `stages` (all by default) into the engine called `name`.

    Encoders come with the stage before their split, decoders with the stage after it. 'auto' is
    'native' where that is built and the bundle has what it reads, on the CPU, else 'onnxruntime';
    it is 'native-int8' where, besides, the bundle's record says that this loses next to nothing.
    Raises EngineError for an unknown engine or device and for models that do not load, BundleError
    for damaged files.
    """
    if device not in DEVICES:
        raise EngineError(f'unknown device {device!r}; choose one of {", ".join(DEVICES)}')
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f'threads is {threads}; expected 0 (the engine decides) to {MAX_THREADS}')
    chosen = choose_engine(bundle, name, device)
    if name in _AS_NATIVE and chosen == 'onnxruntime':
        level = logging.INFO if name == 'auto' else logging.WARNING
        lack = _native_lacks(bundle, device)
        _log.log(level, 'no native engine: %s; running on ONNX Runtime', lack)
    if chosen in _AS_NATIVE:
        from sparse_split_ros.native.engine import NativeEngine

        precision = 'int8' if chosen == 'native-int8' else 'float32'
        return NativeEngine(bundle, threads, stages, precision)
    if chosen == 'onnxruntime':
        return OnnxEngine(bundle, device, threads, stages)
    from sparse_split_ros.networks.torch_engine import TorchEngine

    return TorchEngine(bundle, device, threads, stages)


def choose_engine(bundle: Bundle, name: str = 'auto', device: str = 'cpu') -> str:
    """The engine that `load_engine` loads for `name`, which is one of `ENGINES` but not 'auto'.

    Raises EngineError for an unknown name.
    """
    if name not in ENGINES:
        raise EngineError(f'unknown engine {name!r}; choose one of {", ".join(ENGINES)}')
    if name not in _AS_NATIVE:
        return name
    if _native_lacks(bundle, device):
        return 'onnxruntime'
    return 'native-int8' if name == 'auto' and _int8_will_do(bundle) else _AS_NATIVE[name]


def _int8_will_do(bundle: Bundle) -> bool:
    """Whether 8 bits are fast here, and were measured to lose next to nothing at every exit.

    The record is what `training/measure.py` writes, {set: {exit: {engine: accuracy}}}; a bundle
    without one is not run in 8 bits unasked.
    """
    from sparse_split_ros.native._native import fast_int8

    try:
        sets = list(bundle.training['int8'].values())
        lost = [
            float(record[str(exit_.stage)]['native'])
            - float(record[str(exit_.stage)]['native-int8'])
            for record in sets
            for exit_ in bundle.exits
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(lost) and max(lost) <= MOST_LOST_IN_INT8 and fast_int8()


def _native_lacks(bundle: Bundle, device: str) -> str | None:
    """What the native engine lacks for this bundle on this machine; None when it can run."""
    if device != 'cpu':
        return f'it runs on the CPU, and the device is {device}'
    if bundle.graph is None:
        return f'bundle {bundle.name!r} has no graph; export it again'
    try:
        import sparse_split_ros.native.engine  # noqa: F401
    except ImportError as error:
        return f'its module cannot be loaded, install this package where there is g++ ({error})'
    return None


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    """Row-wise softmax of logits (N, K) / temperature, float32."""
    z = logits / np.float32(temperature)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def probabilities(logits: Array, temperatures: Sequence[float], sizes: Sequence[int]) -> Array:
    """Row-wise softmax of each task's part of logits (N, sum of sizes), at its temperature."""
    tasks = zip(parts(logits, sizes), temperatures)
    return np.concatenate([softmax(part, temperature) for part, temperature in tasks], axis=1)


class StagedEngine(ABC):
    """The order of stages and exits, the early stop and the checks, for any way to run a model."""

    name: str

    def __init__(self, bundle: Bundle, stages: range | None) -> None:
        wanted = range(len(bundle.stages)) if stages is None else stages
        if not wanted or wanted.step != 1 or wanted.start < 0 or wanted.stop > len(bundle.stages):
            raise EngineError(
                f'stages {wanted}: bundle {bundle.name!r} has stages 0 to {bundle.final}'
            )
        self.bundle = bundle
        self.stages = wanted
        self._models: dict[str, Model] = {}
        self._prepare()
        names = [bundle.stages[stage].model for stage in wanted]
        names += [exit_.model for exit_ in bundle.exits if exit_.stage in wanted]
        for split in bundle.splits:
            if split.encoder and split.decoder:
                names += [split.encoder] * (split.stage in wanted)
                names += [split.decoder] * (split.stage + 1 in wanted)
        for model in names:
            self._models[model] = self._load(model, bundle.read(model))

    def _prepare(self) -> None:
        """Called once, before the models are loaded. Raises EngineError."""
        return None

    @abstractmethod
    def _load(self, name: str, data: bytes) -> Model:
        """A callable for the ONNX model `data`. Raises EngineError."""

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        """Run stages `first` to `last`, both included, on x (N, C, H, W) float32.

        `x` is the network's input for stage 0, else the features of the stage before `first`.
        `thresholds` has one entry per stage of the network: None leaves that exit out altogether; a
        number evaluates it, and with `stop`, when every row's confidence reaches the number, the
        run ends there. Raises EngineError.
        """
        self._check_range(first, last, thresholds)
        self._check(x, self.bundle.input_shape(first), f'stage {first}')
        exits: dict[int, Array] = {}
        logits: dict[int, Array] = {}
        stage_ms: dict[int, float] = {}
        exit_ms: dict[int, float] = {}
        stopped = None
        features = x
        for stage in range(first, last + 1):
            spec = self.bundle.stages[stage]
            features, stage_ms[stage] = self._timed(
                spec.model, features, spec.output_shape, f'stage {stage}'
            )
            threshold = thresholds[stage]
            exit_ = self.bundle.exit_at(stage)
            if threshold is None or exit_ is None:
                continue
            logits[stage], exit_ms[stage] = self._timed(
                exit_.model, features, (len(self.bundle.classes),), f'exit {stage}'
            )
            exits[stage] = probabilities(logits[stage], exit_.temperatures, self.bundle.sizes)
            if stop and float(self.bundle.judge(exits[stage])[1].min()) >= threshold:
                stopped = stage
                break
        kept = None if stopped is not None else features
        return EngineResult(kept, exits, logits, stage_ms, stopped, exit_ms)

    def encode(self, features: Array, split: int) -> Array:
        """Features after stage `split` to what travels (N, C, H, W). Raises EngineError."""
        spec = self.bundle.split_at(split)
        self._check(features, self.bundle.stages[split].output_shape, f'encoder {split}')
        if spec.encoder is None:
            return features
        return self._timed(spec.encoder, features, spec.shape, f'encoder {split}')[0]

    def decode(self, coded: Array, split: int) -> Array:
        """What travelled back to features after stage `split`. Raises EngineError."""
        spec = self.bundle.split_at(split)
        self._check(coded, spec.shape, f'decoder {split}')
        if spec.decoder is None:
            return coded
        shape = self.bundle.stages[split].output_shape
        return self._timed(spec.decoder, coded, shape, f'decoder {split}')[0]

    def _timed(
        self, model: str, x: Array, shape: tuple[int, ...], what: str
    ) -> tuple[Array, float]:
        if model not in self._models:
            raise EngineError(f'{what} is not loaded: this engine holds stages {list(self.stages)}')
        start = time.perf_counter()
        try:
            y = self._models[model](x)
        except EngineError:
            raise
        except Exception as error:  # engines raise types of their own, some private
            raise EngineError(f'{what} ({model}) failed: {error}') from error
        ms = 1e3 * (time.perf_counter() - start)
        if y.shape != (len(x), *shape):
            raise EngineError(
                f'{what} ({model}) gave shape {y.shape}, the manifest says {(len(x), *shape)}'
            )
        if not np.isfinite(y).all():
            raise EngineError(f'{what} ({model}) gave a value that is not finite')
        return y, ms

    def _check(self, x: Array, shape: tuple[int, ...], what: str) -> None:
        self._check_shape(x, shape, what)
        if not np.isfinite(x).all():
            raise EngineError(f'{what}: the input holds a value that is not finite')

    def _check_shape(self, x: Array, shape: tuple[int, ...], what: str) -> None:
        if x.ndim != 4 or x.shape[0] < 1 or x.shape[1:] != shape or x.dtype != np.float32:
            wanted = ', '.join(str(side) for side in shape)
            raise EngineError(
                f'{what}: expected an input (N, {wanted}) float32, found {x.shape} {x.dtype}'
            )

    def _check_range(self, first: int, last: int, thresholds: Sequence[float | None]) -> None:
        if not (first <= last and first in self.stages and last in self.stages):
            raise EngineError(
                f'cannot run stages {first} to {last}: this engine holds stages {list(self.stages)}'
            )
        if len(thresholds) != len(self.bundle.stages):
            raise EngineError(
                f'{len(thresholds)} thresholds given for {len(self.bundle.stages)} stages'
            )
        for stage, threshold in enumerate(thresholds):
            try:
                if threshold is not None:
                    math.isnan(threshold)
            except (TypeError, OverflowError) as error:
                raise EngineError(
                    f'stage {stage}: the threshold {threshold!r:.60}: {error}'
                ) from error


class OnnxRuntime:
    """ONNX Runtime with its settings, on CPU, CUDA or TensorRT: makes callables of ONNX models."""

    def __init__(self, device: str, threads: int) -> None:
        import onnxruntime

        self._ort = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Spinning threads take the cores that the camera driver and the middleware need.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        self._options = options
        self._providers = self._choose_providers(device)
        self._warned = False

    def _choose_providers(self, device: str) -> list[str]:
        wanted = {
            'cpu': [],
            'cuda': ['CUDAExecutionProvider'],
            'tensorrt': ['TensorrtExecutionProvider', 'CUDAExecutionProvider'],
        }[device]
        available = self._ort.get_available_providers()
        missing = [provider for provider in wanted if provider not in available]
        if missing:
            _log.warning(
                'device %r asked for, but this onnxruntime has no %s (it has %s): running without',
                device,
                ', '.join(missing),
                ', '.join(available),
            )
        return [p for p in wanted if p in available] + ['CPUExecutionProvider']

    def load(self, name: str, data: bytes) -> Model:
        """A callable for the ONNX model `data`. Raises EngineError."""
        try:
            session = self._ort.InferenceSession(data, self._options, providers=self._providers)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise EngineError(f'{name}: onnxruntime cannot load it: {error}') from error
        # A provider that is listed may still fail to start (no driver, wrong cuDNN); onnxruntime
        # then goes on without it and only prints to stderr.
        lost = [p for p in self._providers if p not in session.get_providers()]
        if lost and not self._warned:
            self._warned = True
            _log.warning('%s did not start: running on %s', lost[0], session.get_providers()[0])
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if [i.name for i in inputs] != ['x'] or [o.name for o in outputs] != ['y']:
            raise EngineError(f"{name}: expected one input 'x' and one output 'y'")

        def run(x: Array) -> Array:
            return session.run(['y'], {'x': x})[0]  # type: ignore[no-any-return]

        return run


class OnnxEngine(StagedEngine):
    """ONNX Runtime: one session per model."""

    name = 'onnxruntime'

    def __init__(self, bundle: Bundle, device: str, threads: int, stages: range | None) -> None:
        self._runtime = OnnxRuntime(device, threads)
        super().__init__(bundle, stages)

    def _load(self, name: str, data: bytes) -> Model:
        return self._runtime.load(name, data)
