# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The stage table of a bundle: what each part weighs, costs and achieves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sparse_split_ros.runtime.bundle import Bundle, Exit, Stage, bundle_path
from sparse_split_ros.runtime.engine import choose_engine
from sparse_split_ros.runtime.profile import key

_COLUMNS = (
    'part', 'shape', 'params', 'bytes', 'MACs', 'of all', 'ms', 'µJ', 'payload', 'accuracy',
)  # fmt: skip


def inspect(bundle_or_path: str | os.PathLike[str], console: Console | None = None) -> None:
    """Print the stage table of a bundle. Raises BundleError."""
    bundle = Bundle.load(bundle_path(bundle_or_path))
    console = console or Console()
    console.print(stage_table(bundle))
    defaults = bundle.defaults
    console.print(
        f'{len(bundle.classes)} classes, input {_sides(bundle.input.shape)}, '
        f'fingerprint {bundle.fingerprint.hex()}, default: split after stage {defaults.split}, '
        f'codec {defaults.codec}, threshold {defaults.threshold:g}'
    )
    parts: list[Stage | Exit] = [*bundle.stages, *bundle.exits]
    if all(part.account for part in parts):
        console.print(_account(bundle, [part.account for part in parts]))


def stage_table(bundle: Bundle) -> Table:
    """One row per stage, exit and split; MACs of an exit or a split include the stages before it.

    ms is the median of each part alone on this machine, where `sparse-split profile` measured it.
    The energy of each part alone is an estimate (networks/account.py).
    """
    times = bundle.profile().get('engines', {}).get(key(choose_engine(bundle), 'cpu', 1), {})
    table = Table(title=f'{bundle.name}  ({bundle.path})', title_justify='left', padding=(0, 0))
    for column in _COLUMNS:
        table.add_column(column, justify='left' if column in {'part', 'shape'} else 'right')
    whole = sum(stage.macs for stage in bundle.stages) + bundle.exits[-1].macs
    spent = 0
    for index, stage in enumerate(bundle.stages):
        spent += stage.macs
        table.add_row(
            f'[bold]stage {index}[/bold]',
            _sides(stage.output_shape),
            *_sizes(stage),
            '',
            _ms(times, 'stage_ms', index),
            _energy(stage.account),
        )
        if exit_ := bundle.exit_at(index):
            table.add_row(
                '  exit',
                f'{len(bundle.classes)}',
                *_sizes(exit_),
                f'{(spent + exit_.macs) / whole:.1%}',
                _ms(times, 'exit_ms', index),
                _energy(exit_.account),
                '',
                '' if exit_.accuracy is None else f'{exit_.accuracy:.2%}',
            )
        for split in bundle.splits:
            if split.stage == index:
                table.add_row(
                    '  split',
                    _sides(split.shape),
                    '',
                    '',
                    _short(split.encoder_macs),
                    f'{(spent + split.encoder_macs) / whole:.1%}',
                    _ms(times, 'encoder_ms', index),
                    _energy(split.account),
                    _payload(bundle, index),
                )
    return table


def _account(bundle: Bundle, parts: Sequence[Mapping[str, float]]) -> str:
    """Totals over the accounts of stages and exits: weights stored, memory, energy."""

    def total(name: str) -> float:
        return sum(part.get(name, 0.0) for part in parts)

    peak = max(part.get('peak_bytes', 0.0) for part in parts)
    text = (
        f'weights of stages and exits: {_short(total("weight_bytes"))}B, dense '
        f'{_short(total("dense_bytes"))}B, one by one (CSR or bit mask, the smaller) '
        f'{_short(total("unstructured_bytes"))}B\nvalues of one image: at most {_short(peak)}B; '
        f'energy of all of it, estimated: {total("energy_uj"):.0f} µJ'
    )
    memory, recipe = bundle.training.get('memory_bytes'), bundle.training.get('recipe')
    if isinstance(memory, int) and isinstance(recipe, dict):
        batch = recipe.get('batch_size')
        text += f'\ntraining takes {_short(memory)}B at batch {batch}, estimated'
    return text


def _sizes(part: Stage | Exit) -> tuple[str, str, str]:
    return _short(part.parameters), _short(part.stored_bytes), _short(part.macs)


def _short(value: float) -> str:
    """Three digits and a decimal prefix: 14144 is '14.1 k'."""
    prefix = ' '
    for larger in (' k', ' M', ' G'):
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f'{value:.3g}{prefix}'


def _energy(account: Mapping[str, float]) -> str:
    value = account.get('energy_uj')
    return '' if value is None else f'{value:.3g}'


def _payload(bundle: Bundle, stage: int) -> str:
    codecs = bundle.split_at(stage).codecs
    name = bundle.defaults.codec if bundle.defaults.codec in codecs else min(codecs, default='')
    mean = codecs.get(name, {}).get('mean_bytes')
    return '' if mean is None else f'{mean:.0f} {name}'


def _ms(times: dict[str, Any], part: str, index: int) -> str:
    value = times.get(part, {}).get(str(index))
    return '' if value is None else f'{value:.3g}'


def _sides(shape: tuple[int, ...]) -> str:
    return 'x'.join(str(side) for side in shape)
