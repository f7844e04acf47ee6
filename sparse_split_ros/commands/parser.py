# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the commands share: the parser, where it prints, and what a wrong command line raises."""

from __future__ import annotations

import argparse
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


def console() -> Console:
    """Standard output, with colours where it has them."""
    from rich.console import Console

    return Console()
