# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""graph.json and weights.safetensors: a bundle's programs for engines that are not ONNX.

graph.json is {"format", "models": {name: model}}, a model named as its ONNX file without suffix:
{"input": [C, H, W], "output": [C, H, W] or [K], "input_range": r, "operations": [...]}. Operations
stand in an order in which they can be run. Each has "op", "inputs" (names; 'x' is the model's
input), "output" (the last one's is 'y'), "range" (largest magnitude of the output on calibration
images, for eight-bit arithmetic), and

* conv: "kernel", "stride", "padding", "dilation" ([vertical, horizontal]), "groups", "weight",
  "bias" or null, "blocks" or null, "width". Dense: weight (O, I / groups, kh, kw). With blocks:
  weight (O, fan-in, kh, kw) and blocks (O / 16, fan-in / width) int32; the fan-in channel j of
  output o is the input channel blocks[o // 16, j // width] * width + j % width. Where taps of the
  kernel have blocks of their own, blocks is (kh * kw, O / 16, fan-in / width), and the channel at
  tap (i, k) is that of blocks[i * kw + k].
* linear: "weight" (O, I), "bias" or null; with "blocks" and "width" as above, or with "columns"
  (O, fan-in) int32, the inputs that each output reads.
* add, mul: two inputs, or one and a number "value". concat: along channels.
* max_pool, avg_pool: "kernel", "stride", "padding", "ceil_mode", and "count_include_pad" for the
  average. global_avg_pool, flatten.
* relu, relu6, sigmoid, hard_swish, hard_sigmoid: clip("alpha" * x + "beta", 0, 1).
* pixel_shuffle: "factor" r, out[c, h * r + i, w * r + j] = in[c * r * r + i * r + j, h, w].

"weight", "bias", "blocks" and "columns" are names of tensors in weights.safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sparse_split_ros.runtime.bundle import GRAPH_FORMAT
from sparse_split_ros.sparsity.patterns import IN_BLOCKS
from sparse_split_ros.training.program import Operation, Program

GRAPH, WEIGHTS = 'graph.json', 'weights.safetensors'


def write_graph(directory: Path, programs: Mapping[str, Program]) -> None:
    """Write both files of `programs`, by name, to `directory`."""
    tensors: dict[str, Tensor] = {}
    models = {name: _model(name, program, tensors) for name, program in programs.items()}
    text = json.dumps({'format': GRAPH_FORMAT, 'models': models}, separators=(',', ':'))
    (directory / GRAPH).write_text(text + '\n', encoding='utf-8')
    # Not save_file, which makes a file only its owner can read.
    (directory / WEIGHTS).write_bytes(save(tensors))


def _model(name: str, program: Program, tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {
        'input': list(program.input_shape),
        'output': list(program.output_shape),
        'input_range': program.reach,
        'operations': [
            _operation(operation, f'{name}.{index}', tensors)
            for index, operation in enumerate(program.operations)
        ],
    }


def _operation(op: Operation, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The JSON of one operation, its tensors put among `tensors`."""
    record: dict[str, Any] = {
        'op': op.kind,
        'inputs': list(op.inputs),
        'output': op.output,
        'range': op.reach,
        **op.attributes,
    }
    if op.weight is None:
        return record

    def keep(part: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        # A copy, for a view would be refused or drag its whole storage into the file.
        tensors[f'{name}.{part}'] = tensor.detach().clone(memory_format=torch.contiguous_format)
        return f'{name}.{part}'

    weight, blocks, columns, width = op.weight, None, None, 1
    if op.layer is not None:
        pattern = op.layer.pattern
        if pattern.spec.kind in IN_BLOCKS:
            blocks, width = torch.from_numpy(pattern.sources.copy()), pattern.spec.width
        elif op.kind == 'linear':
            columns = torch.from_numpy(pattern.sources.copy())
        else:
            weight = op.layer.spread(weight)
    record |= {'weight': keep('weight', weight), 'bias': keep('bias', op.bias)}
    record |= {'blocks': keep('blocks', blocks), 'width': width}
    if columns is not None:
        record['columns'] = keep('columns', columns)
    return record
