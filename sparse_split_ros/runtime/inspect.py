# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The stage table of a bundle: what each part weighs, costs and achieves."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.table import Table

from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.profile import key

_COLUMNS = ('part', 'shape', 'parameters', 'bytes', 'MACs', 'of all', 'ms', 'payload', 'accuracy')


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


def stage_table(bundle: Bundle) -> Table:
    """One row per stage, exit and split; MACs of an exit or a split include the stages before it.

    ms is the median of each part alone on this machine, where `sparse-split profile` measured it.
    """
    times = bundle.profile().get('engines', {}).get(key('onnxruntime', 'cpu', 1), {})
    table = Table(title=f'{bundle.name}  ({bundle.path})', title_justify='left')
    for column in _COLUMNS:
        table.add_column(column, justify='left' if column in {'part', 'shape'} else 'right')
    whole = sum(stage.macs for stage in bundle.stages) + bundle.exits[-1].macs
    spent = 0
    for index, stage in enumerate(bundle.stages):
        spent += stage.macs
        table.add_row(
            f'[bold]stage {index}[/bold]',
            _sides(stage.output_shape),
            f'{stage.parameters:,}',
            f'{stage.stored_bytes:,}',
            f'{stage.macs:,}',
            '',
            _ms(times, 'stage_ms', index),
        )
        if exit_ := bundle.exit_at(index):
            table.add_row(
                '  exit',
                f'{len(bundle.classes)}',
                f'{exit_.parameters:,}',
                f'{exit_.stored_bytes:,}',
                f'{exit_.macs:,}',
                f'{(spent + exit_.macs) / whole:.1%}',
                _ms(times, 'exit_ms', index),
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
                    f'{split.encoder_macs:,}',
                    f'{(spent + split.encoder_macs) / whole:.1%}',
                    _ms(times, 'encoder_ms', index),
                    _payload(bundle, index),
                )
    return table


def _payload(bundle: Bundle, stage: int) -> str:
    codecs = bundle.split_at(stage).codecs
    name = bundle.defaults.codec if bundle.defaults.codec in codecs else min(codecs, default='')
    mean = codecs.get(name, {}).get('mean_bytes')
    return '' if mean is None else f'{mean:.0f} B {name}'


def _ms(times: dict[str, Any], part: str, index: int) -> str:
    value = times.get(part, {}).get(str(index))
    return '' if value is None else f'{value:.3f}'


def _sides(shape: tuple[int, ...]) -> str:
    return ' x '.join(str(side) for side in shape)
