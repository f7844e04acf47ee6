# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Layers that hold only the weights a pattern has: parameters, gradients, optimiser state, files.

Their answers are those of a dense layer whose other weights are zero. How they are computed
depends on how the pattern is laid out:

* in blocks (block-regular): the inputs of each block of outputs are gathered and one grouped
  convolution, or one batched matrix product, does the rest. Arithmetic falls with density. The
  gathered copy lives for a small piece of the batch only, and is gathered again for the backward
  pass rather than kept.
* edge by edge (all others): the dense weight is put together for the time of one call. A list of
  single weights (CSR) overtakes dense kernels on a CPU only below a density of about 1/8, and then
  in the forward pass, so these patterns save storage and memory, not time; but what is tap-regular
  saves time in the native engine.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sparse_split_ros.sparsity.patterns import (
    Kind,
    Pattern,
    PatternSpec,
    SparsityError,
    erk,
    largest,
)

_PIECE = 1 << 18
"""Gathered values per piece of the batch: at 1 MB of float32 they stay in the L2 cache."""


class SparseLayer(nn.Module):
    """What linear and convolution share: the pattern, its weights, and how they are stored."""

    edges: Tensor
    readers: Tensor

    def __init__(self, pattern: Pattern, kernel: tuple[int, ...], bias: bool) -> None:
        super().__init__()
        spec = pattern.spec
        if spec.taps > 1 and spec.taps != math.prod(kernel):
            raise SparsityError(
                f'a pattern of {spec.taps} taps for a kernel of {kernel or "a linear layer"}'
            )
        self.pattern = pattern
        self.weight = nn.Parameter(torch.empty(spec.outputs, spec.fan_in, *kernel))
        """(outputs, fan-in, *kernel); input j of output i is `pattern.columns[i // rows, j]`.

        Tap-regular: at tap t it is `pattern.columns[t, i // rows, j]`.
        """
        self.bias = nn.Parameter(torch.empty(spec.outputs)) if bias else None
        columns = torch.from_numpy(pattern.columns)
        if not self._gathers:
            outputs = torch.arange(spec.outputs)[:, None] * spec.inputs
            columns = columns.repeat_interleave(spec.rows, -2) + outputs
        if spec.taps > 1:
            columns = columns.movedim(0, -1) * spec.taps + torch.arange(spec.taps)
        # Inputs to gather, or places in the flattened dense weight: of kernels, or of single taps.
        edges = columns.reshape(-1)
        self.register_buffer('edges', edges, persistent=False)
        if self._gathers:
            # Every input is read equally often: where in the gathered copy, reader by reader.
            readers = edges.argsort(stable=True).view(spec.inputs, -1).t().reshape(-1)
            self.register_buffer('readers', readers, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights as torch does for a dense layer, for the fan-in that is left."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = self.weight[0].numel() ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def _gathers(self) -> bool:
        """Whether inputs are gathered, and not weights put together."""
        return self.pattern.spec.kind is Kind.BLOCK_REGULAR

    @property
    def _routes(self) -> tuple[Tensor, ...]:
        return (self.edges, self.readers) if self._gathers else (self.edges,)

    def spread(self, weight: Tensor) -> Tensor:
        """`weight` (outputs, fan-in, *kernel) as a dense one, (outputs, inputs, *kernel)."""
        places = self._places()
        parts, empty = _parts(weight, places, self.pattern.spec.inputs)
        dense = empty.index_put((places,), parts)
        return dense.view(len(weight), self.pattern.spec.inputs, *weight.shape[2:])

    def _places(self) -> Tensor:
        """(nnz edges,) where each edge lies in the flattened (outputs * inputs) dense weight.

        Tap-regular: where each tap lies in the flattened (outputs * inputs * taps) one.
        """
        spec = self.pattern.spec
        if not self._gathers:
            return self.edges
        groups = self.edges.view(-1, 1, spec.fan_in).expand(-1, spec.rows, -1)
        outputs = torch.arange(spec.outputs, device=self.edges.device)
        return (groups.reshape(spec.outputs, -1) + outputs[:, None] * spec.inputs).reshape(-1)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # The pattern travels as what it was drawn from: a tensor, for every format has tensors.
        text = f'{self.pattern.digest}{self.pattern.spec.to_json()}'
        destination[f'{prefix}pattern'] = torch.frombuffer(
            bytearray(text, 'ascii'), dtype=torch.uint8
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored = state_dict.get(f'{prefix}pattern')
        if stored is None:
            missing_keys.append(f'{prefix}pattern')
        else:
            text = bytes(stored.cpu().tolist()).decode('ascii', 'replace')
            if text[:16] != self.pattern.digest:
                error_msgs.append(
                    f'{prefix[:-1]}: the file has the weights of pattern {text[16:]}, this layer '
                    f'has {self.pattern.spec.to_json()}; build the network as the file says'
                )
                return  # Weights on other connections would load without complaint.
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if f'{prefix}pattern' in unexpected_keys:
            unexpected_keys.remove(f'{prefix}pattern')

    def extra_repr(self) -> str:
        """The layer in one line."""
        spec = self.pattern.spec
        return (
            f'{spec.inputs}, {spec.outputs}, {spec.kind.value}, density={spec.density:.4g}, '
            f'width={spec.width}, seed={spec.seed}, bias={self.bias is not None}'
        )


class SparseLinear(SparseLayer):
    """A linear layer with the connections of `pattern`."""

    def __init__(self, pattern: Pattern, bias: bool = True) -> None:
        super().__init__(pattern, (), bias)
        self.in_features, self.out_features = pattern.spec.inputs, pattern.spec.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Answer for x (..., inputs) with (..., outputs)."""
        spec = self.pattern.spec
        product = _GatheredLinear if self._gathers else _ScatteredLinear
        rows = x.reshape(-1, spec.inputs)
        y: Tensor = product.apply(rows, self.weight, *self._routes)  # type: ignore[no-untyped-call]
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        return y.view(*x.shape[:-1], spec.outputs)


class SparseConv2d(SparseLayer):
    """A convolution with the kernels of `pattern`, sized as `torch.nn.Conv2d`; pads with zeros."""

    def __init__(
        self,
        pattern: Pattern,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(pattern, _pair(kernel_size), bias)
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.in_channels, self.out_channels = pattern.spec.inputs, pattern.spec.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Answer for x (N, inputs, H, W) with (N, outputs, H', W')."""
        geometry = (self.stride, self.padding, self.dilation)
        product = _GatheredConv if self._gathers else _ScatteredConv
        y: Tensor = product.apply(x, self.weight, geometry, *self._routes)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """The layer in one line."""
        return (
            f'{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}'
        )


def sparsify(
    module: nn.Module,
    density: float,
    kind: Kind | str = Kind.BLOCK_REGULAR,
    seed: int = 0,
    *,
    width: int | None = None,
    keep: Collection[str] = (),
    ends: bool = False,
    nearest: bool = False,
    allocation: str = 'uniform',
    power: float = 1.0,
) -> dict[str, PatternSpec]:
    """Replace the linear layers and convolutions of `module` by sparse ones, in place.

    Each gets a pattern, seeded by `seed` and by its own name, and new weights. `density` is that of
    each layer; with `allocation` 'erk' it is that of all together at most, and the densities are in
    proportion to `patterns.erk` of that `power`, of those whose shape allows any, each the
    `nearest` that can be. Dense stay: the first convolution (first linear layer, where there is
    none) and the last linear layer in order of registration, unless `ends`; layers whose name
    matches an item of `keep` ('exits.*'); grouped convolutions. A layer whose shape forbids the
    density takes the `nearest` one, and stays dense where that is 1. What has one tap gets a
    block-regular pattern where tap-regular ones are asked for. Returns the patterns by layer name.

    Raises SparsityError, naming the layer, for an infeasible density without `nearest`, for an item
    of `keep` that no layer matches, and where nothing would become sparse; `module` is then as it
    was.
    """
    kind = Kind(kind)
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)
    }
    convolutions = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    linears = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    dense = set() if ends else {*(convolutions or linears)[:1], *linears[-1:]}
    known = ', '.join(layers) or '(there are none)'
    for item in keep:
        if not any(fnmatch.fnmatchcase(name, item) for name in layers):
            raise SparsityError(f'to keep dense: {item!r} matches none of the layers {known}')
    sparse = {
        name: layer
        for name, layer in layers.items()
        if name not in dense and not any(fnmatch.fnmatchcase(name, item) for item in keep)
    }

    def spec(name: str, density: float) -> PatternSpec:
        outputs, inputs, *window = sparse[name].weight.shape
        own = int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'little')
        taps = math.prod(window) if kind is Kind.TAP_REGULAR else 1
        own_kind, own_width = kind, width
        if kind is Kind.TAP_REGULAR and taps == 1:
            own_kind, own_width = Kind.BLOCK_REGULAR, None if width is None else max(4, width)
        return PatternSpec.of_density(
            own_kind, inputs, outputs, density, own, own_width, nearest, taps
        )

    if allocation == 'erk':
        nearest = True
        densities = _divided(sparse, density, spec, power)
    elif allocation == 'uniform':
        densities = dict.fromkeys(sparse, density)
    else:
        raise SparsityError(f"allocation {allocation!r}, expected 'uniform' or 'erk'")
    replacements: dict[str, SparseLayer] = {}
    refused: list[str] = []
    for name, layer in sparse.items():
        try:
            found = spec(name, densities[name])
            if found.density < 1:
                replacements[name] = _replacement(layer, found.draw())
        except SparsityError as error:
            if not nearest:
                raise SparsityError(f'{name}: {error}; or keep this layer dense') from error
            refused.append(f'{name}: {error}')
    if not replacements:
        reason = refused[0] if refused else 'all are kept dense, or dense at the nearest density'
        raise SparsityError(f'none of the layers {known} becomes sparse; {reason}')
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        first = next((k for k in replacements if layers[k] is layer), None)
        if first is None:
            continue  # else in each place where it is used
        replacement = replacements[first]
        parent, _, child = name.rpartition('.')
        setattr(module.get_submodule(parent), child, replacement)
    return {name: layer.pattern.spec for name, layer in replacements.items()}


def _divided(
    layers: Mapping[str, nn.Module],
    density: float,
    spec: Callable[[str, float], PatternSpec],
    power: float,
) -> dict[str, float]:
    """The densities in proportion to `erk` that leave `density` of all that can be sparse."""
    weights = {name: cast(Tensor, layer.weight) for name, layer in layers.items()}
    raw = {name: erk(weight.shape, power) for name, weight in weights.items()}

    def divided(scale: float) -> dict[str, float]:
        return {name: min(1.0, scale * value) for name, value in raw.items()}

    def share(scale: float) -> float:
        kept = whole = 0.0
        for name, wanted in divided(scale).items():
            with suppress(SparsityError):  # what stays dense is not counted
                kept += spec(name, wanted).density * weights[name].numel()
                whole += weights[name].numel()
        return kept / max(1.0, whole)

    if (least := share(1e-9)) > density:
        raise SparsityError(f'density {density:.4g} in all: the least that can be is {least:.4g}')
    return divided(largest(share, density))


def _replacement(layer: nn.Linear | nn.Conv2d, pattern: Pattern) -> SparseLayer:
    bias = layer.bias is not None
    sparse: SparseLayer
    if isinstance(layer, nn.Linear):
        sparse = SparseLinear(pattern, bias)
    elif layer.padding_mode != 'zeros' or isinstance(layer.padding, str):
        raise SparsityError(
            f'padding {layer.padding!r} with {layer.padding_mode}: expected numbers, with zeros'
        )
    else:
        kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
        padding, dilation = _pair(layer.padding), _pair(layer.dilation)
        sparse = SparseConv2d(pattern, kernel, stride, padding, dilation, bias)
    return sparse.to(layer.weight.device, layer.weight.dtype).train(layer.training)


_Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Stride, padding, dilation."""


class _GatheredConv(torch.autograd.Function):
    """Convolution of block-regular weights (outputs, fan-in, kH, kW): gather, grouped conv.

    Keeps the input for the backward pass, as a dense convolution does, and not its gathered copy.
    Under autocast the products take the dtype of the output's gradient; sums stay in the weight's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        geometry: _Geometry,
        channels: Tensor,
        readers: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, channels, readers)
        ctx.geometry = geometry
        groups = len(channels) // weight.shape[1]
        parts = [
            F.conv2d(part.index_select(1, channels), weight, None, *geometry, groups)
            for part in torch.split(x, _piece(x, channels))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, channels, readers = ctx.saved_tensors
        geometry, piece = ctx.geometry, _piece(x, channels)
        groups = len(channels) // weight.shape[1]
        kernel = weight.to(gradient.dtype)
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start, g in zip(range(0, max(1, len(x)), piece), torch.split(gradient, piece)):
            part = x[start : start + piece]
            # One after the other, for the gathered copy and its gradient are the most of the peak.
            if to_weight is not None:
                gathered = part.to(g.dtype).index_select(1, channels)
                to_weight += _conv_by_weight(g, gathered, kernel, geometry, groups)
                del gathered
            if to_x is not None:
                shape = (len(part), len(channels), *part.shape[2:])
                by_input = _conv_by_input(g, shape, kernel, geometry, groups)
                to_x[start : start + piece] = _sum_readers(by_input, readers, x.shape[1])
                del by_input
        return to_x, to_weight, None, None, None


class _ScatteredConv(torch.autograd.Function):
    """Convolution of single kernels or taps (outputs, fan-in, kH, kW), dense while it lasts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: _Geometry, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, places)
        ctx.geometry = geometry
        return F.conv2d(x, _scatter(weight, places, x.shape[1]), None, *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, places = ctx.saved_tensors
        dense = _scatter(weight.to(gradient.dtype), places, x.shape[1])
        to_x = to_weight = None
        if ctx.needs_input_grad[1]:
            full = _conv_by_weight(gradient, x.to(gradient.dtype), dense, ctx.geometry)
            kept = full.reshape(-1, weight.numel() // len(places))[places]
            to_weight = kept.view_as(weight).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            to_x = _conv_by_input(gradient, x.shape, dense, ctx.geometry).to(x.dtype)
        return to_x, to_weight, None, None


class _GatheredLinear(torch.autograd.Function):
    """Product of x (N, inputs) with block-regular weights (outputs, fan-in): gather, batched."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, columns: Tensor, readers: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, columns, readers)
        blocks = _blocks(weight, columns)
        parts = [
            torch.bmm(_gather(part, columns, len(blocks)), blocks.transpose(1, 2))
            for part in torch.split(x, _piece(x, columns))
        ]
        return torch.cat([part.transpose(0, 1).flatten(1) for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, columns, readers = ctx.saved_tensors
        piece = _piece(x, columns)
        blocks = _blocks(weight.to(gradient.dtype), columns)
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_blocks = torch.zeros_like(_blocks(weight, columns))
        for start, part in zip(range(0, max(1, len(x)), piece), torch.split(gradient, piece)):
            g = part.reshape(len(part), *blocks.shape[:2]).transpose(0, 1)
            if to_x is not None:
                by_input = torch.bmm(g, blocks).transpose(0, 1).flatten(1)
                to_x[start : start + piece] = _sum_readers(by_input, readers, x.shape[1])
            gathered = _gather(x[start : start + piece], columns, len(blocks)).to(g.dtype)
            to_blocks += torch.bmm(g.transpose(1, 2), gathered)
        return to_x, to_blocks.view_as(weight), None, None


class _ScatteredLinear(torch.autograd.Function):
    """Product of x (N, inputs) with single weights (outputs, fan-in), dense while it lasts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, places)
        return F.linear(x, _scatter(weight, places, x.shape[1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, places = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            dense = _scatter(weight.to(gradient.dtype), places, x.shape[1])
            to_x = (gradient @ dense).to(x.dtype)
        if ctx.needs_input_grad[1]:
            full = gradient.t() @ x.to(gradient.dtype)
            to_weight = full.view(-1)[places].view_as(weight).to(weight.dtype)
        return to_x, to_weight, None


def _conv_by_weight(
    gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, groups: int = 1
) -> Tensor:
    """The gradient of a convolution of x by its weight, of which only the shape counts."""
    stride, padding, dilation = geometry
    by_weight: Tensor
    _, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, (0, 0), groups,
        (False, True, False),
    )  # fmt: skip
    return by_weight


def _conv_by_input(
    gradient: Tensor,
    shape: Sequence[int],
    weight: Tensor,
    geometry: _Geometry,
    groups: int = 1,
) -> Tensor:
    """The gradient of a convolution by its input, of which only the `shape` counts."""
    stride, padding, dilation = geometry
    # With an input that is not in memory it is the weight that says how to lay the gradient out.
    if gradient.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous(memory_format=torch.channels_last)
    by_input: Tensor
    by_input, _, _ = torch.ops.aten.convolution_backward(
        gradient, gradient.new_empty(1).expand(shape), weight, None, stride, padding, dilation,
        False, (0, 0), groups, (True, False, False),
    )  # fmt: skip
    return by_input


def _scatter(weight: Tensor, places: Tensor, inputs: int) -> Tensor:
    """(outputs, inputs, *kernel): weights (outputs, fan-in, *kernel) at their places."""
    parts, dense = _parts(weight, places, inputs)
    return dense.index_copy_(0, places, parts).view(len(weight), inputs, *weight.shape[2:])


def _parts(weight: Tensor, places: Tensor, inputs: int) -> tuple[Tensor, Tensor]:
    """(places, k): what of `weight` lies at each place, kernels or taps; and zeros to put it in."""
    parts = weight.reshape(len(places), -1)
    whole = len(weight) * inputs * math.prod(weight.shape[2:])
    return parts, weight.new_zeros(whole // parts.shape[1], parts.shape[1])


def _blocks(weight: Tensor, columns: Tensor) -> Tensor:
    """(groups, rows, fan-in): weights (outputs, fan-in) by the groups that share columns."""
    return weight.view(len(columns) // weight.shape[1], -1, weight.shape[1])


def _gather(x: Tensor, columns: Tensor, groups: int) -> Tensor:
    """(groups, N, fan-in): the columns of x (N, inputs) that each group reads."""
    return x.index_select(1, columns).view(len(x), groups, len(columns) // groups).transpose(0, 1)


def _sum_readers(gradient: Tensor, readers: Tensor, inputs: int) -> Tensor:
    """(N, inputs, ...): the gradient of a gathered copy, summed over the readers of each input.

    A gather and a sum, several times faster than adding to scattered places.
    """
    by_reader = gradient.index_select(1, readers)
    return functools.reduce(torch.add, torch.split(by_reader, inputs, 1))


def _piece(x: Tensor, columns: Tensor) -> int:
    """How many rows of the batch x (N, inputs, ...) are gathered at once."""
    values = _PIECE << 8 if x.is_cuda else _PIECE
    return max(1, values // max(1, len(columns) * math.prod(x.shape[2:])))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
