# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ResNet for 32 x 32 images (He et al., arXiv 1512.03385, section 4.2), in stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_split_ros.networks.arguments import check_counts
from sparse_split_ros.networks.cut import cut
from sparse_split_ros.networks.staged import StagedNetwork


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), f = two 3 x 3 convolutions, the first with the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else spread(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def spread(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """The shortcut without parameters where the shape changes (option A): every stride-th pixel.

    Channels that have no counterpart are zero. It is written as a convolution with fixed weights,
    one input to each group, since that is what every engine runs; its zero channels lie between
    the others instead of behind them, which changes nothing but their numbers.
    """
    shortcut = nn.Conv2d(inputs, outputs, 1, stride, groups=inputs, bias=False)
    with torch.no_grad():
        shortcut.weight.zero_()
        shortcut.weight[:: outputs // inputs] = 1
    return shortcut.requires_grad_(False)


def resnet20(
    classes: int,
    size: int = 32,
    width: int = 16,
    cuts: Sequence[int] | None = (3, 5, 7),
    code_channels: int = 8,
    bits: int = 4,
) -> StagedNetwork:
    """Twenty weighted layers: a convolution, three groups of three blocks, a linear layer.

    The groups have `width`, 2 `width` and 4 `width` channels at the full, half and quarter side.
    `cuts` count the first convolution as a block.
    """
    check_counts(size=size, width=width)
    blocks: list[nn.Module] = [
        nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
    ]
    inputs = width
    for group in range(3):
        outputs = width << group
        for index in range(3):
            blocks.append(Block(inputs, outputs, 2 if group and not index else 1))
            inputs = outputs
    for module in (m for block in blocks for m in block.modules()):
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    return cut(blocks, classifier, classes, (3, size, size), cuts, code_channels, bits)
