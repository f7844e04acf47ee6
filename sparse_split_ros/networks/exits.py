# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Exits: small classifiers on the features between two stages."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def conv_exit(
    channels: int, side: int, hidden: int, classes: int, grid: int = 4, dropout: float = 0.1
) -> nn.Sequential:
    """An early exit on features (N, channels, side, side): strided convolution, pool, linear.

    Early features are local, so the exit first looks at neighbourhoods, then keeps a `grid` x
    `grid` map: where in a centred crop a stroke lies is most of what tells one sign from another.
    """
    rest, odd = divmod((side + 1) // 2, grid)
    if odd or rest < 1:
        raise ValueError(f'an exit on {side}x{side} features cannot pool to {grid}x{grid}')
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, hidden, 3, 2, 1, bias=False),
            norm=nn.BatchNorm2d(hidden),
            act=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(rest) if rest > 1 else nn.Identity(),
            flat=nn.Flatten(),
            drop=nn.Dropout(dropout),
            linear=nn.Linear(hidden * grid * grid, classes),
        )
    )


def light_exit(
    shape: tuple[int, int, int], classes: int, grid: int = 2, dropout: float = 0.1
) -> nn.Sequential:
    """An early exit on features (N, *shape), any shape (C, H, W): convolution, pool, linear.

    The convolution halves the sides where they are 4 or more. The map is then averaged to at most
    `grid` x `grid`: as few numbers as the classes of whole pictures need, as they lie anywhere.
    """
    channels, height, width = shape
    stride = 2 if min(height, width) >= 4 else 1
    hidden = min(64, max(32, channels))
    sides = [-(-side // stride) for side in (height, width)]
    cells = [max(n for n in range(1, grid + 1) if side % n == 0) for side in sides]
    window = (sides[0] // cells[0], sides[1] // cells[1])
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, hidden, 3, stride, 1, bias=False),
            norm=nn.BatchNorm2d(hidden),
            act=nn.ReLU(inplace=True),
            pool=nn.AvgPool2d(window) if max(window) > 1 else nn.Identity(),
            flat=nn.Flatten(),
            drop=nn.Dropout(dropout),
            linear=nn.Linear(hidden * cells[0] * cells[1], classes),
        )
    )


def final_exit(channels: int, side: int, classes: int, dropout: float = 0.2) -> nn.Sequential:
    """The network's own classifier on features (N, channels, side, side): 2 x 2 pool, linear.

    Raises ValueError for an odd side.
    """
    if side < 2 or side % 2:
        raise ValueError(f'the final exit on {side}x{side} features cannot pool to 2x2')
    return nn.Sequential(
        OrderedDict(
            pool=nn.AvgPool2d(side // 2),
            flat=nn.Flatten(),
            drop=nn.Dropout(dropout),
            linear=nn.Linear(4 * channels, classes),
        )
    )
