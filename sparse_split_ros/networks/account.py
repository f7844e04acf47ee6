# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a module costs: parameters and multiply-accumulates for one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Parameters (BatchNorm folded), MACs per sample, output shape without the batch axis."""

    parameters: int
    macs: int
    output_shape: tuple[int, ...]


def account(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Count convolutions and linears by running `module` on zeros of `input_shape` (C, H, W)."""
    parameters = macs = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal parameters, macs
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        outputs = layer.weight.shape[0]
        positions = output[0].numel() // outputs
        parameters += layer.weight.numel() + outputs
        macs += layer.weight.numel() * positions

    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = module.training
    try:
        with torch.inference_mode():
            output = module.eval()(torch.zeros(1, *input_shape))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(parameters, macs, tuple(output.shape[1:]))
