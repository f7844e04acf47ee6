# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A network that is trained already, from whose answers a smaller one learns."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sparse_split_ros.training.checkpoint import load_checkpoint
from sparse_split_ros.training.predict import normalise
from sparse_split_ros.training.recipe import Recipe, TrainingError, input_spec


class Teacher:
    """The best checkpoint of the run `recipe.teacher` (Hinton et al., arXiv 1503.02531).

    Raises TrainingError unless it tells the same classes apart in images of the same shape.
    """

    def __init__(
        self,
        recipe: Recipe,
        tasks: Mapping[str, Sequence[str]],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        assert recipe.teacher is not None
        network, own, meta = load_checkpoint(recipe.teacher)
        spec = input_spec(own, network)
        theirs = meta.get('tasks', {'': meta['classes']})
        for what, has, asked in (
            # In their order, in which logits of several tasks stand.
            ('classes', *([(k, (*v,)) for k, v in each.items()] for each in (theirs, tasks))),
            ('image shape', spec.shape, shape),
        ):
            if has != asked:
                found, expected = (textwrap.shorten(str(it), 100) for it in (has, asked))
                raise TrainingError(
                    f'recipe: teacher {recipe.teacher}: {what} {found}, this training has '
                    f'{expected}: give one that was trained on the same classes and size'
                )
        digest = hashlib.sha256()
        for tensor in network.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        self.digest = digest.hexdigest()
        self._spec = spec
        self._network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Logits (N, K) of its final exit for images (N, H, W, 3) uint8 on its device."""
        x = normalise(images, self._spec)
        for stage in self._network.stages:
            x = stage(x)
        logits: Tensor = self._network.exit_at(self._network.exit_stages[-1])(x)
        return logits
