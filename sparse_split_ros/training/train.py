# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""From a recipe's file and the data it names to a trained network."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sparse_split_ros.data.datasets import LabelledImages, join
from sparse_split_ros.data.drawn import load_drawn
from sparse_split_ros.evaluation.output import lock
from sparse_split_ros.training import hierarchical, joint, remote
from sparse_split_ros.training.program import ExportError, check_exportable
from sparse_split_ros.training.recipe import Recipe, TrainingError, build_network, load_split

DRAWN_SELECTION = 20
"""Drawn signs per class that help to choose the epoch and the temperatures."""
_log = logging.getLogger(__name__)


def train(
    config_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = 'auto',
    edge: str | None = None,
    cloud: str | None = None,
) -> Path | None:
    """Train the recipe at `config_path` into the directory `out`; the path of the best checkpoint.

    `data` is the data directory (SPARSE_SPLIT_DATA without it). A hierarchical recipe can be
    trained on two machines: one is the `cloud` on [HOST:]PORT and needs no data, the other the
    `edge` of the cloud at HOST:PORT, which keeps no checkpoint. Raises TrainingError, DatasetError.
    """
    recipe = Recipe.load(config_path)
    if (edge or cloud) and not recipe.hierarchical:
        raise TrainingError(
            f'{config_path}: two machines train a recipe that says hierarchical: true'
        )
    if _first():
        warn_of_export(recipe)
    # Edge and cloud write different files, and may have one directory that both machines see.
    with alone(out, edge=not cloud, cloud=not edge):
        check_blank(out, resume)
        if cloud:
            return remote.in_the_cloud(recipe, out, cloud, resume, device)
        training, selection = load_sets(recipe, out, data)
        if edge:
            remote.at_the_edge(recipe, training, selection, out, edge, resume, device)
            return None
        fit = hierarchical.fit if recipe.hierarchical else joint.fit
        return fit(recipe, training, selection, out, resume, device)


def warn_of_export(recipe: Recipe) -> None:
    """Say before the training what export would only say after it. Raises TrainingError."""
    try:
        # How many classes there are is no matter.
        check_exportable(build_network(recipe, 2))
    except ExportError as error:
        _log.warning(
            'network %r can be trained, but "sparse-split export" will refuse to make a '
            'bundle of it: %s',
            recipe.network,
            error,
        )


@contextmanager
def alone(out: str | os.PathLike[str], **sides: bool) -> Iterator[None]:
    """Keep other trainings of these `sides` out of `out` within the block. Raises TrainingError.

    The lock files stay, for two could lock one that is being removed; what counts is the lock,
    which ends with its process.
    """
    with ExitStack() as stack:
        # Processes that train together are one training.
        for side in (name for name, ours in sides.items() if ours and _first()):
            path = Path(out) / f'.{side}.lock'
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open('a'))
            if not lock(file.fileno(), path):
                raise TrainingError(
                    f'{out}: another training is at work there: wait for its end, or give another '
                    '--out'
                )
            # A worker, which outlives us by seconds where we are killed, would hold the lock too.
            os.register_at_fork(after_in_child=file.close)
        yield


def _first() -> bool:
    """Whether this is the process that writes, of those that `torchrun` started, or the only."""
    return os.environ.get('RANK', '0') == '0'


def check_blank(out: str | os.PathLike[str], resume: bool) -> None:
    """Raise TrainingError where a run would overwrite another."""
    held = [name for name in ('last', 'best', *hierarchical.EDGE_FILES)
            if (Path(out) / f'{name}.safetensors').exists()]  # fmt: skip
    if held and not resume:
        raise TrainingError(
            f'{out}: holds a run, which would be lost: go on with it by --resume, or give another '
            '--out'
        )


def load_sets(
    recipe: Recipe, out: str | os.PathLike[str], data: str | os.PathLike[str] | None
) -> tuple[LabelledImages, dict[str, LabelledImages]]:
    """What is learned from, and by name what the epoch is chosen on; drawn signs stay in `out`."""
    training = load_split(recipe, data, 'train')
    selection = {recipe.dataset: load_split(recipe, data, 'select')}
    if recipe.drawn:
        size, seed = training.images.shape[1], 2 * recipe.seed
        # Processes that train together would write one file.
        cache = Path(out) / 'drawn.npz' if _first() else None
        Path(out).mkdir(parents=True, exist_ok=True)
        training = join(training, load_drawn(recipe.drawn, size, seed, cache, training.tasks))
        count = DRAWN_SELECTION * len(training.classes)
        selection['drawn'] = load_drawn(count, size, seed + 1, tasks=training.tasks)
    return training, selection
