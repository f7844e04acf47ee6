# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the parser, where it prints, and what a wrong command line raises."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console


class UsageError(ValueError):
    """The command line asks for something that cannot be done."""


class Parser(argparse.ArgumentParser):
    """argparse, with its errors in our form."""

    def __init__(self, **given: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **given)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave with status 2."""
        self.exit(2, f'error: {message}; see {self.prog} --help\n')


Commands: TypeAlias = 'argparse._SubParsersAction[Parser]'


def given(parser: argparse.ArgumentParser, options: argparse.Namespace) -> set[str]:
    """The options that are not as they would be by themselves."""
    return {name for name, value in vars(options).items() if value != parser.get_default(name)}


def refuse(options: Collection[str], why: str) -> None:
    """Raise UsageError for options that would be of no effect."""
    for name in sorted(options):
        raise UsageError(f'--{name.replace("_", "-")} {why}')


def refuse_for(
    options: Collection[str], chosen: Sequence[str], policies: Mapping[str, Sequence[str]]
) -> None:
    """Refuse options, by name, of which none of the chosen policies takes any notice."""
    for name, taking in policies.items():
        if name in options and not set(taking).intersection(chosen):
            refuse([name], f'is for --policy {", ".join(taking)}, not {", ".join(chosen)}')


@contextmanager
def writing(out: Path | None, kept: str = '') -> Iterator[None]:
    """Say which disk is full, and, if ``out`` has ``kept``, how to go on after Ctrl-C."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(out)
        raise
    except KeyboardInterrupt:
        if out is not None and kept and (out / kept).exists():
            print('interrupted; the same command with --resume goes on', file=sys.stderr)
        raise


def console(*, stderr: bool = False) -> Console:
    """Standard output, or that of errors, with colours where it has them."""
    from rich.console import Console

    found = Console(stderr=stderr)
    # A narrower table would lose its figures; lines that are too long are at least all there.
    found.width = max(found.width, 80)
    return found
