# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The stage table of a bundle: what each part weighs, costs and achieves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sparse_split_ros.runtime.bundle import Bundle, Exit, Stage, bundle_path
from sparse_split_ros.runtime.engine import choose_engine
from sparse_split_ros.runtime.profile import key

_COLUMNS = ('part', 'shape', 'params', 'bytes', 'MACs', 'of all', 'ms', 'payload', 'accuracy')
_ACCOUNT = {
    'macs': 'MACs', 'dense_macs': 'if dense', 'weight_bytes': 'weights', 'dense_bytes': 'if dense',
    'unstructured_bytes': 'one by one', 'peak_bytes': 'values', 'training_bytes': 'training',
    'energy_uj': 'µJ',
}  # fmt: skip


def inspect(
    bundle_or_path: str | os.PathLike[str],
    console: Console | None = None,
    times: Mapping[str, Any] | None = None,
) -> None:
    """Print the stage table of a bundle, with `times` as `profile` returns them, if just measured.

    Raises BundleError.
    """
    bundle = Bundle.load(bundle_path(bundle_or_path))
    console = console or Console()
    console.print(stage_table(bundle, times))
    defaults = bundle.defaults
    classes = ', '.join(
        f'{len(names)} classes{f" of {name}" if name else ""}'
        for name, names in bundle.tasks.items()
    )
    console.print(
        f'{classes}, input {_sides(bundle.input.shape)}, '
        f'fingerprint {bundle.fingerprint.hex()}, default: split after stage {defaults.split}, '
        f'codec {defaults.codec}, threshold {defaults.threshold:g}'
    )
    parts: list[Stage | Exit] = [*bundle.stages, *bundle.exits]
    if all(part.account for part in parts):
        console.print(account_table(bundle))


def stage_table(bundle: Bundle, times: Mapping[str, Any] | None = None) -> Table:
    """One row per stage, exit and split; `of all` includes the stages before it.

    Of several tasks, accuracy is the share of images that all are right of, and each has its own.
    bytes are of the ONNX file. ms is the median of each part alone: of `times`, or on this machine,
    one thread and the engine of auto, where `sparse-split profile` measured it.
    """
    if times is None:
        times = bundle.profile().get('engines', {}).get(key(choose_engine(bundle), 'cpu', 1), {})
    several = list(bundle.tasks) if len(bundle.tasks) > 1 else []
    table = _table(f'{bundle.name}  ({bundle.path})', (*_COLUMNS, *several))
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
        )
        if exit_ := bundle.exit_at(index):
            table.add_row(
                '  exit',
                '+'.join(map(str, bundle.sizes)),
                *_sizes(exit_),
                f'{(spent + exit_.macs) / whole:.1%}',
                _ms(times, 'exit_ms', index),
                '',
                '' if exit_.accuracy is None else f'{exit_.accuracy:.2%}',
                *(f'{exit_.tasks[name]:.2%}' for name in several if name in exit_.tasks),
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
                    _payload(bundle, index),
                )
    return table


def account_table(bundle: Bundle) -> Table:
    """What one image takes in stages and exits, by part and in all (networks/account.py).

    MACs, and bytes of float32 weights, with those of dense layers of the same shapes, and of as
    many weights stored one by one, in the smaller of CSR and a bit mask. values are the most bytes
    that are alive at one time, training what a step at the recipe's batch size is estimated to
    take in float32, µJ an estimate of the energy. What an older bundle does not say is left out.
    """
    rows: dict[str, Stage | Exit] = {f'stage {k}': part for k, part in enumerate(bundle.stages)}
    rows |= {f'exit {part.stage}': part for part in bundle.exits}
    found = {name: {'macs': part.macs, **part.account} for name, part in rows.items()}
    keys = [key for key in _ACCOUNT if all(key in account for account in found.values())]
    table = _table('for one image', ('part', *(_ACCOUNT[key] for key in keys)))
    for name, account in found.items():
        table.add_row(name, *(_short(account[key]) for key in keys))
    table.add_section()
    columns = [[account[key] for account in found.values()] for key in keys]
    whole = (max(c) if key == 'peak_bytes' else sum(c) for key, c in zip(keys, columns))
    table.add_row('all', *map(_short, whole))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify='left', padding=(0, 0))
    for column in columns:
        table.add_column(column, justify='left' if column in {'part', 'shape'} else 'right')
    return table


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


def _payload(bundle: Bundle, stage: int) -> str:
    codecs = bundle.split_at(stage).codecs
    name = bundle.defaults.codec if bundle.defaults.codec in codecs else min(codecs, default='')
    mean = codecs.get(name, {}).get('mean_bytes')
    return '' if mean is None else f'{mean:.0f} {name}'


def _ms(times: Mapping[str, Any], part: str, index: int) -> str:
    value = times.get(part, {}).get(str(index))
    return '' if value is None else f'{value:.3g}'


def _sides(shape: tuple[int, ...]) -> str:
    return 'x'.join(str(side) for side in shape)
