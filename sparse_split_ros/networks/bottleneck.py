# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The learned bottleneck of a split: few channels of few levels travel, the tail restores the rest.

The quantiser is in the loop during training. Its rounding has no gradient, so the backward pass
takes it for the identity (straight-through estimator, Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparse_split_ros.networks.arguments import check_counts


class Bottleneck(nn.Module):
    """Encoder on the head's side, decoder on the tail's.

    Features (N, channels, S, S) become codes (N, code_channels, S / stride, S / stride) in [0, 1],
    which training rounds to 2^bits levels, as a codec of so many bits does, and come back as
    features of the first shape. They come back as features after a ReLU are, 0 or more, unless the
    true ones are `signed`.
    """

    def __init__(
        self,
        channels: int,
        code_channels: int,
        hidden: int,
        stride: int = 1,
        bits: int = 4,
        signed: bool = False,
    ) -> None:
        super().__init__()
        check_counts(code_channels=code_channels, stride=stride, bits=bits)
        if bits > 8:
            raise ValueError(f'bits is {bits}, expected 1 to 8')
        self.code_channels, self.stride, self.bits = code_channels, stride, bits
        # Wide enough to read every pixel.
        kernel = max(3, stride + 2 * (stride > 2))
        self.encoder: nn.Module = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel, stride, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, code_channels, 1, bias=False),
            nn.BatchNorm2d(code_channels),
            UnitClip(),
        )
        wide = channels * stride * stride
        self.decoder: nn.Module = nn.Sequential(
            nn.Conv2d(code_channels, wide, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Identity() if signed else nn.ReLU(inplace=True),
            nn.PixelShuffle(stride) if stride > 1 else nn.Identity(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features as the tail sees them after coding; same shape."""
        return self.decoder(quantise(self.encoder(features), self.bits))  # type: ignore[no-any-return]


class Levels(Bottleneck):
    """A cut where the features are codes in [0, 1] already: they travel at 2^bits levels."""

    def __init__(self, bits: int) -> None:
        nn.Module.__init__(self)
        self.bits = bits
        self.encoder = nn.Identity()
        self.decoder = nn.Identity()


class UnitClip(nn.Module):
    """clip(x / 4 + 1/2, 0, 1): normalised activations fill the quantiser's range at two sigma."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return torch.clamp(x * 0.25 + 0.5, 0.0, 1.0)


def quantise(x: Tensor, bits: int) -> Tensor:
    """Values in [0, 1] on the nearest of 2^bits levels, with the gradient of the identity."""
    levels = (1 << bits) - 1
    return x + (torch.round(x * levels) / levels - x).detach()
