# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a module computes in evaluation mode, as a short list of operations with their weights.

The module is traced with torch.fx, and BatchNorm disappears into the layer before it. That covers
feed-forward image classifiers. The ONNX models and graph.json of a bundle are both written from
this list, so the two cannot differ in what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sparse_split_ros.networks.bottleneck import UnitClip
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLayer, SparseLinear

_WEIGHTED = (nn.Conv2d, nn.Linear, SparseConv2d, SparseLinear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class ExportError(Exception):
    """A network that cannot be written as a bundle, or a bundle that does not answer as it does."""


@dataclass(frozen=True)
class Operation:
    """One step: `kind` and `attributes` are those of graph.json (training/graph.py)."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    reach: float = 0.0
    """The largest magnitude of the output on the images that the module was traced with."""
    weight: Tensor | None = None
    """(outputs, fan-in, *kernel); of a sparse layer only the weights that exist."""
    bias: Tensor | None = None
    layer: SparseLayer | None = None
    """Where the pattern of a sparse layer is found; its own weights are those before folding."""


@dataclass(frozen=True)
class Program:
    """Operations from the input 'x' to the output 'y'; none where the module changes nothing."""

    operations: tuple[Operation, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    reach: float
    """The largest magnitude of the input."""
    answer: Tensor
    """What the module gave for the images that it was traced with, (N, *output_shape)."""


@torch.inference_mode()
def trace(module: nn.Module, x: Tensor, part: str = '') -> Program:
    """The program of `module`, with the ranges of all values observed on x (N, C, H, W) or (N, C).

    Raises ExportError for an operation that has no counterpart here, with the name of the `part`
    that the module is of a network.
    """
    module = nn.Sequential(module.eval())  # a single layer would be traced into
    try:
        graph = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ExportError(': '.join(filter(None, (part, f'cannot be traced: {error}')))) from error
    observer = _Observer(fx.GraphModule(module, graph))
    answer = observer.run(x)
    builder = _Builder(dict(module.named_modules()), observer)
    for node in graph.nodes:
        try:
            builder.visit(node)
        except ExportError as error:
            where = ', '.join(filter(None, (part, _layer(node))))
            raise ExportError(f'{where}: {error}' if where else str(error)) from error
    return Program(
        builder.finished(),
        tuple(x.shape[1:]),
        tuple(answer.shape[1:]),
        observer.reach[next(iter(graph.nodes))],  # x itself may have been worked on in place
        answer,
    )


def check_exportable(network: StagedNetwork) -> None:
    """Raise ExportError for the first part of a network that no bundle can be written of."""
    x = torch.zeros(1, *network.input_shape)
    for index, stage in enumerate(network.stages):
        x = trace(stage, x, f'stage {index}').answer
        if index in network.exit_stages:
            trace(network.exit_at(index), x, f'exit {index}')
        if index in network.split_stages:
            bottleneck = network.bottleneck_at(index)
            codes = trace(bottleneck.encoder, x, f'encoder {index}').answer
            trace(bottleneck.decoder, codes, f'decoder {index}')


def _layer(node: fx.Node) -> str:
    """The layer that a node is of, by its name within the module that is traced."""
    around: list[str] = list(node.meta.get('nn_module_stack', {}))
    inside = around[-1].partition('.')[2] if around else ''  # of the Sequential of `trace`
    return f'layer {inside}' if inside else ''


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = type(m) in _MODULES or _is_weighted(m)
        return known or super().is_leaf_module(m, module_qualified_name)


class _Observer(fx.Interpreter):
    """Runs the traced module and notes the shape and the largest magnitude of every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.reach: dict[fx.Node, float] = {}
        self._first: dict[fx.Node, fx.Node] = {}

    def first(self, node: fx.Node) -> fx.Node:
        """The node that made the tensor that `node` gives, in place or passed on."""
        return self._first.get(node, node)

    def run_node(self, n: fx.Node) -> Any:
        """Note the value at once: what follows may work in place."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
            self.reach[n] = float(value.abs().max())
            for source in n.all_input_nodes:
                if self.env[source] is value:
                    self._first[n] = self.first(source)
        return value


class _Builder:
    """Collects the operations of one traced module."""

    def __init__(self, modules: Mapping[str, nn.Module], observer: _Observer) -> None:
        self._modules, self._observer = modules, observer
        self._operations: list[Operation] = []
        self._names: dict[fx.Node, str] = {}
        self._last = 'x'

    def finished(self) -> tuple[Operation, ...]:
        """The operations; the one that the module returns is called 'y'."""
        names, needed, kept = {self._last: 'y'}, {self._last}, []
        for item in reversed(self._operations):
            if item.output in needed:
                needed.update(item.inputs)
                kept.append(item)
        return tuple(
            replace(
                item,
                inputs=tuple(names.get(name, name) for name in item.inputs),
                output=names.get(item.output, item.output),
            )
            for item in reversed(kept)
        )

    def add(self, node: fx.Node, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operation whose output has the range of `node`; the output's name."""
        output = f'v{len(self._operations)}'
        self._operations.append(
            Operation(kind, inputs, output, attributes, self._observer.reach[node])
        )
        return output

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's value, batch axis first."""
        return self._observer.shapes[node]

    def name(self, node: Any) -> str:
        """The name of a node's value."""
        if not isinstance(node, fx.Node) or self._observer.first(node) not in self._names:
            raise ExportError(f'cannot export the operand {node!r}: expected a computed tensor')
        return self._names[self._observer.first(node)]

    def visit(self, node: fx.Node) -> None:
        """Append what `node` does. What works in place is what all read after it."""
        first = self._observer.first(node)
        if node.op == 'placeholder':
            self._names[first] = 'x'
        elif node.op == 'output':
            self._last = self.name(node.args[0])
        elif node.op == 'call_module':
            self._names[first] = self._module(node, self._modules[str(node.target)])
        else:
            name = node.target if isinstance(node.target, str) else node.target.__name__
            writer = _FUNCTIONS.get(name)
            if writer is None:
                raise ExportError(f'cannot export {node.op} {name}: no counterpart here')
            self._names[first] = writer(self, node)

    def _module(self, node: fx.Node, module: nn.Module) -> str:
        source = node.all_input_nodes[0]
        if isinstance(module, _NORMS):
            if self._norm_after(source) is module:
                return self.name(source)  # folded when the layer before it was written
            raise ExportError('cannot export BatchNorm without a layer to fold into')
        if _is_weighted(module):
            return self._weighted(node, module, self.name(source))
        writer = _MODULES.get(type(module))
        if writer is None:
            raise ExportError(f'cannot export {type(module).__name__}: no counterpart here')
        return writer(self, node, module, self.name(source))

    def _weighted(self, node: fx.Node, module: nn.Module, x: str) -> str:
        assert isinstance(module, _WEIGHTED)
        weight, bias = module.weight, module.bias
        norm = self._norm_after(node)
        if norm is not None:
            if norm.running_mean is None or norm.running_var is None:
                raise ExportError('cannot export BatchNorm that keeps no running statistics')
            # Scales whole outputs, which stand in front in linear and in sparse weights too.
            weight, bias = fuse_conv_bn_weights(
                weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
        output = f'v{len(self._operations)}'
        observed = node if norm is None else next(iter(node.users))
        linear = isinstance(module, (nn.Linear, SparseLinear))
        self._operations.append(
            Operation(
                'linear' if linear else 'conv', (x,), output,
                {} if linear else _window(module),
                self._observer.reach[observed],
                weight.detach(), None if bias is None else bias.detach(),
                module if isinstance(module, SparseLayer) else None,
            )
        )  # fmt: skip
        return output

    def _norm_after(self, node: fx.Node) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
        """The BatchNorm that alone reads the convolution or linear layer `node`."""
        users = list(node.users)
        if node.op != 'call_module' or len(users) != 1 or users[0].op != 'call_module':
            return None
        if not _is_weighted(self._modules[str(node.target)]):
            return None
        norm = self._modules[str(users[0].target)]
        return norm if isinstance(norm, _NORMS) else None


def _is_weighted(module: nn.Module) -> bool:
    """Whether it computes what such a layer does: a subclass may have a forward of its own."""
    return any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in _WEIGHTED
    )


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


def _window(module: nn.Module) -> dict[str, Any]:
    """Kernel, stride, padding and what else a convolution or a pooling layer has."""
    if isinstance(module.padding, str):
        raise ExportError(f'cannot export padding {module.padding!r}: give it in pixels')
    if getattr(module, 'padding_mode', 'zeros') != 'zeros':
        raise ExportError(f'cannot export padding with {module.padding_mode!r}, only with zeros')
    stride = module.kernel_size if module.stride is None else module.stride
    window: dict[str, Any] = {
        'kernel': _pair(module.kernel_size),
        'stride': _pair(stride),
        'padding': _pair(module.padding),
    }
    if isinstance(module, nn.AvgPool2d):
        if module.divisor_override is not None:
            raise ExportError('cannot export an average pool with a divisor of its own')
        return window | {
            'count_include_pad': bool(module.count_include_pad),
        }
    if isinstance(module, nn.MaxPool2d):
        if _pair(module.dilation) != [1, 1]:
            raise ExportError(f'cannot export a max pool with dilation {module.dilation}')
        return window
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return window | {'dilation': _pair(module.dilation), 'groups': groups}


def _adaptive(b: _Builder, node: fx.Node, size: Any, x: str) -> str:
    """Adaptive average pooling, where the output divides the input."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    sides, wanted = list(b.shape(source)[2:]), _pair(size)
    wanted = [side if want is None else want for side, want in zip(sides, wanted, strict=True)]
    if wanted == sides:
        return x
    if wanted == [1, 1]:
        return b.add(node, 'global_avg_pool', x)
    if any(side % want for side, want in zip(sides, wanted, strict=True)):
        raise ExportError(f'cannot export adaptive pooling from {sides} to {wanted}: not a divisor')
    kernel = [side // want for side, want in zip(sides, wanted, strict=True)]
    return b.add(
        node, 'avg_pool', x, kernel=kernel, stride=kernel, padding=[0, 0],
        ceil_mode=False, count_include_pad=False,
    )  # fmt: skip


def _flatten(b: _Builder, node: fx.Node, first: int, last: int, x: str) -> str:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    rank = len(b.shape(source))
    if first != 1 or last % rank != rank - 1:
        raise ExportError(f'cannot export flattening of axes {first} to {last}, only of 1 to -1')
    return x if rank == 2 else b.add(node, 'flatten', x)


def _silu(b: _Builder, node: fx.Node, module: nn.Module, x: str) -> str:
    gate = b.add(node, 'sigmoid', x)
    return b.add(node, 'mul', x, gate)


def _pool(kind: str) -> Callable[..., str]:
    def write(b: _Builder, node: fx.Node, module: nn.Module, x: str) -> str:
        window, inside = _window(module), b.shape(node.all_input_nodes[0])[2:]
        parts = zip(inside, window['padding'], window['kernel'], window['stride'], strict=True)
        whole = [(side + 2 * pad - size) // step + 1 for side, pad, size, step in parts]
        # torch drops a last window that starts in the padding, and ONNX does not.
        return b.add(node, kind, x, **window, ceil_mode=list(b.shape(node)[2:]) != whole)

    return write


def _simple(kind: str, **attributes: Any) -> Callable[..., str]:
    """A module or function of one operand that becomes one operation."""

    def write(b: _Builder, node: fx.Node, module: nn.Module | None = None, x: str = '') -> str:
        return b.add(node, kind, x or b.name(node.args[0]), **attributes)

    return write


def _elementwise(kind: str) -> Callable[[_Builder, fx.Node], str]:
    """Two tensors, or a tensor and a number."""

    def write(b: _Builder, node: fx.Node) -> str:
        tensors = [b.name(item) for item in node.args if isinstance(item, fx.Node)]
        numbers = [float(item) for item in node.args if isinstance(item, (int, float))]
        if len(tensors) + len(numbers) != 2 or len(numbers) == 2 or node.kwargs:
            raise ExportError(f'cannot export {node.format_node()}: expected two operands')
        return b.add(node, kind, *tensors, **({'value': numbers[0]} if numbers else {}))

    return write


def _cat(b: _Builder, node: fx.Node) -> str:
    parts, axis = node.args[0], node.kwargs.get('dim', [*node.args, 0][1])
    if axis != 1 or not isinstance(parts, (list, tuple)):
        raise ExportError(f'cannot export torch.cat along axis {axis}, only along channels, 1')
    return b.add(node, 'concat', *(b.name(part) for part in parts))


def _mean(b: _Builder, node: fx.Node) -> str:
    axes = node.kwargs.get('dim', [*node.args, None][1])
    keep = node.kwargs.get('keepdim', [*node.args, None, False][2])
    if not isinstance(axes, (list, tuple)) or {int(str(a)) % 4 for a in axes} != {2, 3}:
        raise ExportError(f'cannot export a mean over axes {axes}, only over height and width')
    pooled = b.add(node, 'global_avg_pool', b.name(node.args[0]))
    return pooled if keep else b.add(node, 'flatten', pooled)


def _flatten_call(b: _Builder, node: fx.Node) -> str:
    first = node.kwargs.get('start_dim', [*node.args, 0][1])
    last = node.kwargs.get('end_dim', [*node.args[:3], -1, -1][2])
    return _flatten(b, node, int(str(first)), int(str(last)), b.name(node.args[0]))


def _adaptive_call(b: _Builder, node: fx.Node) -> str:
    size = node.kwargs.get('output_size', [*node.args, 1][1])
    return _adaptive(b, node, size, b.name(node.args[0]))


def _same(b: _Builder, node: fx.Node, module: nn.Module | None = None, x: str = '') -> str:
    return x or b.name(node.args[0])


def _dropout(b: _Builder, node: fx.Node) -> str:
    if node.kwargs.get('training', node.args[2] if len(node.args) > 2 else True):
        raise ExportError('cannot export dropout that is on: pass training=self.training')
    return b.name(node.args[0])


_MODULES: dict[type[nn.Module], Callable[..., str]] = {
    nn.AdaptiveAvgPool2d: lambda b, n, m, x: _adaptive(b, n, m.output_size, x),
    nn.AvgPool2d: _pool('avg_pool'),
    nn.Dropout: _same,
    nn.Flatten: lambda b, n, m, x: _flatten(b, n, m.start_dim, m.end_dim, x),
    nn.Hardsigmoid: _simple('hard_sigmoid', alpha=1 / 6, beta=0.5),
    nn.Hardswish: _simple('hard_swish'),
    nn.Identity: _same,
    nn.MaxPool2d: _pool('max_pool'),
    nn.PixelShuffle: lambda b, n, m, x: b.add(n, 'pixel_shuffle', x, factor=m.upscale_factor),
    nn.ReLU: _simple('relu'),
    nn.ReLU6: _simple('relu6'),
    nn.Sigmoid: _simple('sigmoid'),
    nn.SiLU: _silu,
    UnitClip: _simple('hard_sigmoid', alpha=0.25, beta=0.5),
}

# Functions and methods by their names: `x.relu()`, `torch.relu(x)` and `F.relu(x)` are one.
_FUNCTIONS: dict[str, Callable[[_Builder, fx.Node], str]] = {
    'adaptive_avg_pool2d': _adaptive_call,
    'add': _elementwise('add'),
    'cat': _cat,
    'dropout': _dropout,
    'flatten': _flatten_call,
    'hardswish': _simple('hard_swish'),
    'iadd': _elementwise('add'),
    'imul': _elementwise('mul'),
    'mean': _mean,
    'mul': _elementwise('mul'),
    'relu': _simple('relu'),
    'relu6': _simple('relu6'),
    'sigmoid': _simple('sigmoid'),
    'stochastic_depth': _same,
}
