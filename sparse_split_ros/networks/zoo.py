# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Networks by name. A recipe names one and gives its arguments; a checkpoint remembers both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sparse_split_ros.networks.bottleneck import Bottleneck
from sparse_split_ros.networks.exits import conv_exit, final_exit
from sparse_split_ros.networks.staged import StagedNetwork


class Residual(nn.Module):
    """relu(x + f(x)), f = two 3 x 3 convolutions (He et al., arXiv 1512.03385); shape kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        # Starting as the identity lets a deep stack train at a high rate from the first step.
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W), shape kept."""
        return F.relu(x + self.norm(self.second(self.first(x))))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; the side is divided by `stride`."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def compact(
    classes: int,
    size: int = 32,
    widths: tuple[int, int, int] = (32, 64, 104),
    blocks: int = 2,
    code_channels: tuple[int, int, int] = (4, 11, 11),
    bits: int = 4,
) -> StagedNetwork:
    """Our own family for square inputs of 32, 64 or 96 pixels: four stages, three cuts.

    Most of the work lies behind the second cut, so that a robot does a quarter of it: the stem
    halves the side at once, `blocks` residual blocks follow after the cut at a quarter of the side.
    """
    if size % 32:
        raise ValueError(f'size {size}: expected a multiple of 32')
    a, b, c = widths
    stages = [
        nn.Sequential(conv(3, a, 5, 2), conv(a, a)),
        conv(a, b, 3, 2),
        nn.Sequential(*(Residual(b) for _ in range(blocks))),
        nn.Sequential(conv(b, c, 3, 2), Residual(c)),
    ]
    exits = {
        0: conv_exit(a, size // 2, a, classes),
        1: conv_exit(b, size // 4, 40, classes),
        2: conv_exit(b, size // 4, 32, classes),
        3: final_exit(c, size // 8, classes),
    }
    bottlenecks = {
        0: Bottleneck(a, code_channels[0], 32, 2, bits),
        1: Bottleneck(b, code_channels[1], 48, 2, bits),
        2: Bottleneck(b, code_channels[2], 32, 2, bits),
    }
    return StagedNetwork(stages, exits, bottlenecks, (3, size, size))


NETWORKS: dict[str, Callable[..., StagedNetwork]] = {'compact': compact}


def build(name: str, classes: int, **arguments: Any) -> StagedNetwork:
    """The network called `name` for `classes` classes. Raises ValueError for an unknown name."""
    if name not in NETWORKS:
        raise ValueError(f'unknown network {name!r}; choose one of {", ".join(NETWORKS)}')
    return NETWORKS[name](classes=classes, **arguments)
