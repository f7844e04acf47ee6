# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a safetensors file with JSON in its header, so that the two cannot part."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sparse_split_ros.networks.prune import masks_of
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.training.recipe import Recipe, TrainingError, build_network

CHECKPOINT_FORMAT = 'sparse_split_checkpoint/1'


def save_checkpoint(path: Path, meta: Mapping[str, Any], network: StagedNetwork) -> None:
    """Write the network's weights and what they are to PATH.safetensors. Raises TrainingError."""
    save(path, meta, dict(network.state_dict()))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[StagedNetwork, Recipe, dict[str, Any]]:
    """The network of a checkpoint in evaluation mode, its recipe, and its JSON part.

    `path` is the .safetensors file, or a training directory, whose best checkpoint it is. Raises
    TrainingError.
    """
    given = Path(path)
    stem = given / 'best' if given.is_dir() else Path(str(given).removesuffix('.safetensors'))
    meta, tensors = load(stem)
    if any(key.startswith('optimiser.') for key in tensors):
        raise TrainingError(
            f'{stem}.safetensors is what a run goes on from, not what it learned: give '
            'best.safetensors beside it, of two machines the one on the cloud'
        )
    recipe = Recipe.from_mapping(meta['recipe'])
    built = recipe
    if masks := masks_of(tensors):
        # The file of masks that the run began with may be gone, or elsewhere.
        built = replace(recipe, network_arguments={**recipe.network_arguments, 'masks': masks})
    network = build_network(built, len(meta['classes']))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 300, placeholder=' ...')
        raise TrainingError(
            f'{stem}.safetensors is not of network {recipe.network!r}: {reason}'
        ) from error
    return network.eval(), recipe, meta


def begun(directory: Path) -> bool:
    """Whether `directory` holds what a run goes on from; says so where it holds nothing yet.

    Raises TrainingError where what was learned would be lost, as the rest of the run is gone.
    """
    if (directory / 'last.safetensors').exists():
        return True
    if (directory / 'best.safetensors').exists():
        raise TrainingError(
            f'{directory}: holds best.safetensors, but no last.safetensors to go on from: put that '
            'back, or give another --out without --resume'
        )
    tqdm.write(f'{directory}: holds no whole epoch yet; the training begins')
    return False


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Raise TrainingError unless the JSON parts of two checkpoints are of one run.

    Older checkpoints lack what is newer than they are; how far they are is not looked at.
    """
    old, new = (
        {**meta, **Recipe.from_mapping(meta['recipe']).plain()}
        for meta in (before, json.loads(json.dumps(now)))
    )
    # However many processes prepare images, these are the same.
    told = new.keys() - {'recipe', 'epoch', 'steps', 'history', 'workers'}
    if changed := sorted(key for key in told if old.get(key, new[key]) != new[key]):
        raise TrainingError(
            f'{where}: the checkpoint is of another recipe or other data '
            f'({", ".join(changed)} changed); use a new directory'
        )


def save(path: Path, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and JSON to PATH.safetensors, or leave what is there.

    Raises TrainingError, on a full disk for example.
    """
    partial, file = (path.with_name(f'{path.name}.{end}') for end in ('partial', 'safetensors'))
    try:
        contiguous = {k: v.contiguous() for k, v in tensors.items()}
        # save_file makes a file only its owner can read; this one is as the umask has it.
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        save_file(
            contiguous,
            partial,
            metadata={'meta': json.dumps({'format': CHECKPOINT_FORMAT, **meta})},
        )
        partial.chmod(mode)
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        kept = '; the older one is kept' if file.exists() else ''
        raise TrainingError(f'{file}: cannot be written ({error}){kept}') from error


def load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of PATH.safetensors. Raises TrainingError."""
    file = path.with_name(f'{path.name}.safetensors')  # not with_suffix: best.v2 has a dot
    try:
        with safe_open(file, framework='pt') as checkpoint:
            meta = json.loads((checkpoint.metadata() or {}).get('meta', 'null'))
            tensors = {key: checkpoint.get_tensor(key) for key in checkpoint.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f'{file}: not a readable checkpoint: {error}') from error
    if not isinstance(meta, dict) or meta.get('format') != CHECKPOINT_FORMAT:
        raise TrainingError(f'{file}: not a checkpoint of format {CHECKPOINT_FORMAT!r}')
    return meta, tensors
