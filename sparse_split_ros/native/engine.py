# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `native`: a bundle's models in our own kernels, a frame in one call without the GIL.

A model that needs something the kernels lack runs in ONNX Runtime, alone; the others stay here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np

from sparse_split_ros.native._native import NotFiniteError, PlanError, Session, fast_int8
from sparse_split_ros.native.plan import plan_bundle
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.engine import (
    Array,
    EngineError,
    EngineResult,
    Model,
    OnnxRuntime,
    StagedEngine,
)

_log = logging.getLogger(__name__)

# More do not help layers that take some ten microseconds.
_MOST_THREADS = 4


class NativeEngine(StagedEngine):
    """Runs a bundle that has a graph, on the CPU; several threads may call it at once.

    `precision` is 'float32', or 'int8' for convolutions on 8 bits by the ranges in the graph.
    """

    def __init__(
        self, bundle: Bundle, threads: int, stages: range | None, precision: str = 'float32'
    ) -> None:
        self.name = 'native' if precision == 'float32' else f'native-{precision}'
        self._precision = precision
        if precision == 'int8' and not fast_int8():
            _log.warning('int8 is slow here: this CPU has no instructions for its products')
        self._threads = threads or min(_MOST_THREADS, os.cpu_count() or 1)
        self._elsewhere: OnnxRuntime | None = None
        super().__init__(bundle, stages)

    def _prepare(self) -> None:
        try:
            self._plan()
        except PlanError as error:  # of the whole: too many threads, too much memory
            raise EngineError(f'bundle {self.bundle.name!r}: {error}') from error

    def _plan(self) -> None:
        bundle = self.bundle
        self.plan = plan_bundle(bundle, self.stages, self._precision)
        for model, lack in self.plan.lacking.items():
            _log.warning('%s runs in ONNX Runtime: %s', model, lack)
        planned = self.plan.models
        stages: list[tuple[int, int, list[tuple[int, float]]]] = []
        self._foreign = set()
        for index, spec in enumerate(bundle.stages):
            exit_ = bundle.exit_at(index)
            wanted = [spec.model] if exit_ is None else [spec.model, exit_.model]
            if not all(model in planned for model in wanted):
                self._foreign.add(index)
                stages.append((-1, -1, []))
            elif exit_ is None:
                stages.append((planned[spec.model], -1, []))
            else:
                tasks = list(zip(bundle.sizes, exit_.temperatures))
                stages.append((planned[spec.model], planned[exit_.model], tasks))
        self.session = Session(self.plan.program, stages, self._threads)

    def _load(self, name: str, data: bytes) -> Model:
        number = self.plan.models.get(name)
        if number is None:
            self._elsewhere = self._elsewhere or OnnxRuntime('cpu', self._threads)
            return self._elsewhere.load(name, data)
        vector = any(exit_.model == name for exit_ in self.bundle.exits)

        def run(x: Array) -> Array:
            return self.session.run_model(number, x, vector)

        return run

    def run(
        self,
        x: Array,
        first: int,
        last: int,
        thresholds: Sequence[float | None],
        *,
        stop: bool = True,
    ) -> EngineResult:
        """Run stages `first` to `last`, in one call where all are ours; see `StagedEngine.run`."""
        if self._foreign and not self._foreign.isdisjoint(range(first, last + 1)):
            return super().run(x, first, last, thresholds, stop=stop)
        try:
            return EngineResult._make(self.session.run(x, first, last, thresholds, stop))
        except NotFiniteError as error:
            raise EngineError(str(error)) from error
        except (PlanError, TypeError) as error:
            # The call takes what it can use as it is, and knows no words for what it cannot.
            self._check_range(first, last, thresholds)
            self._check_shape(x, self.bundle.input_shape(first), f'stage {first}')
            if not x.flags.c_contiguous:
                return self.run(np.ascontiguousarray(x), first, last, thresholds, stop=stop)
            if isinstance(error, PlanError):
                raise EngineError(str(error)) from error
            raise
