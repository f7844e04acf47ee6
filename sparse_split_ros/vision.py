# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The one door to torchvision, which only its networks and its downloads need."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType


class VisionError(ValueError):
    """torchvision is needed and is not installed, or does not start."""


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, beside any torch. Raises VisionError.

    The wheel on PyPI is built for CUDA. A torch without CUDA cannot load its compiled operators,
    and then the import ends where torchvision describes two of them, `nms` and `qnms`, to torch.
    Declared beforehand they can be described; they cannot be run, and no classifier runs them.
    """
    try:
        return importlib.import_module('torchvision')
    except ModuleNotFoundError as error:
        raise VisionError(
            f'torchvision is needed for this and cannot be imported ({error}): '
            "pip install '.[vision]' in the source tree of sparse_split_ros"
        ) from error
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise VisionError(f'torchvision does not start: {error}') from error
    for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module('torchvision')


@functools.cache
def _declare_operators() -> object:
    """Declare the two operators; the declaration lasts as long as the object returned."""
    from torch.library import Library

    library = Library('torchvision', 'FRAGMENT')  # type: ignore[no-untyped-call]
    for name in ('nms', 'qnms'):
        schema = f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
