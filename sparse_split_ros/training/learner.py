# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What learns: a module with its optimiser, the rate due now, and the average of its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sparse_split_ros.training.recipe import Recipe, TrainingError

M = TypeVar('M', bound=nn.Module)


class Learner(Generic[M]):
    """AdamW on `module` along the recipe's warm-up and cosine; `average` is what is kept of it."""

    def __init__(self, module: M, recipe: Recipe) -> None:
        self.module, self._recipe = module, recipe
        self.average: M = copy.deepcopy(module).eval().requires_grad_(False)
        decayed = [p for p in module.parameters() if p.ndim > 1]
        free = [p for p in module.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{'params': decayed}]
        groups.append({'params': free, 'weight_decay': 0.0})
        self._optimiser = torch.optim.AdamW(
            groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.steps = 0
        self.rate = 0.0

    def step(self, loss: Tensor, total: int) -> None:
        """One step of `total`, and of the average."""
        recipe = self._recipe
        progress = self.steps / total
        if progress < recipe.warmup:
            self.rate = recipe.learning_rate * (progress / recipe.warmup + 0.01)
        else:
            phase = (progress - recipe.warmup) / (1 - recipe.warmup)
            self.rate = recipe.learning_rate * (
                0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * phase))
            )
        for group in self._optimiser.param_groups:
            group['lr'] = self.rate
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
        self._optimiser.step()
        self.steps += 1
        # A young average forgets its random start.
        decay = min(recipe.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for mean, now in zip(
                self.average.state_dict().values(), self.module.state_dict().values(), strict=True
            ):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)

    def tensors(self) -> dict[str, Tensor]:
        """All it takes to go on, but for `steps`."""
        tensors = {f'network.{k}': v for k, v in self.module.state_dict().items()}
        tensors |= {f'average.{k}': v for k, v in self.average.state_dict().items()}
        for index, entry in self._optimiser.state_dict()['state'].items():
            tensors |= {f'optimiser.{index}.{k}': v for k, v in entry.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from what `tensors` gave after so many steps."""
        self.module.load_state_dict(under(tensors, 'network.'))
        self.average.load_state_dict(under(tensors, 'average.'))
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in under(tensors, 'optimiser.').items():
            index, name = key.split('.', 1)
            entries.setdefault(int(index), {})[name] = value
        groups = self._optimiser.state_dict()['param_groups']
        self._optimiser.load_state_dict({'state': entries, 'param_groups': groups})
        self.steps = steps


def finite(value: float, epoch: int, recipe: Recipe, loss: str = 'the loss') -> float:
    """The value of a loss. Raises TrainingError where it is no number."""
    if not math.isfinite(value):
        raise TrainingError(
            f'{loss} became {value} in epoch {epoch}; the last whole epoch is kept. Lower '
            f'learning_rate ({recipe.learning_rate:g}) or use precision: float32'
        )
    return value


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
