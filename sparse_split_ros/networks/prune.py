# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning before training: which channels, or which single weights, a fresh network can do without.

Structured methods give channel counts and a smaller dense network; unstructured ones give masks and
a network as large as before. All but `snip` look at no data.

* `synflow` (Tanaka et al., arXiv 2006.05467): in rounds, the weights that carry the least of the
  flow from an image of ones to all exits go.
* `snip` (Lee et al., arXiv 1810.02340): the weights that change the loss of one batch the least go.
* `random-erk` (Evci et al., arXiv 1911.11134): at random, with Erdős–Rényi kernel densities.
* `reconvene` (after Eccles et al., arXiv 2404.16877): synflow shows which layers tolerate the loss
  of whole channels, those all of whose weights go; these channels are removed, and other layers
  stay whole.
* `precrop` (in the manner of PreCrop, arXiv 2207.14545): the densities of layers that keep most of
  the flow within the budget, a convex programme, made into channels.

Targets and counts are of the weights of stages and exits but for the exits' last linear layers,
which have the size of the classes; bottlenecks follow the channels. What those layers read keeps at
least as many features as there are classes.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparse_split_ros.networks.channels import Group, groups
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.sparsity.layers import SparseLayer
from sparse_split_ros.sparsity.patterns import erk, largest

STRUCTURED = ('reconvene', 'precrop')
UNSTRUCTURED = ('synflow', 'snip', 'random-erk')
METHODS = (*STRUCTURED, *UNSTRUCTURED)
_ROUNDS = 30
_STEP = 0.7
"""What a round of reconvene leaves of the weights."""
_SAMPLE = 1 << 20
_GATES = (nn.Sigmoid, nn.Hardsigmoid)
"""What ends a squeeze and excitation."""
_LARGEST = 30.0
"""The power of ten that the product of all layers' gains may reach."""

Tensors = dict[str, Tensor]
Batch = tuple[Tensor, Tensor, Sequence[int]]


class PruneError(ValueError):
    """A target, a method or masks that a network cannot have."""


@dataclass(frozen=True)
class Pruning:
    """What stays of a network: channels of groups, or weights of layers, by name."""

    method: str
    target: float
    kept: int
    """Weights of stages and exits that stay."""
    total: int
    seconds: float
    channels: dict[str, int] = field(default_factory=dict)
    """For `channels.shrink`, of structured methods."""
    masks: Tensors = field(default_factory=dict)
    """For `apply_masks`, bool in the shape of each weight, of unstructured methods."""


def prune(
    network: StagedNetwork,
    method: str,
    target: float,
    batch: Batch | None = None,
    seed: int = 0,
    multiple: int = 4,
) -> Pruning:
    """Plan what stays of a freshly drawn `network`, which is left as it is.

    `target` is the share of the weights that may stay, more than 0 and less than 1. `batch` are
    images (N, C, H, W), labels (N,) or (N, T), and the number of classes of each of T tasks, for
    `snip`; `seed` is for what `random-erk` and `snip` draw.
    Channels stay in multiples of `multiple`. Raises PruneError for what cannot be, with a target
    that can, and for a network that is masked or predefined sparse already.
    """
    start, given = time.perf_counter(), target
    if not 0 < target < 1:
        raise PruneError(f'target {target:g}: expected a share of the weights between 0 and 1')
    for name, layer in network.named_modules():
        if isinstance(layer, SparseLayer) or parametrize.is_parametrized(layer):
            raise PruneError(f'{name} is pruned already: start from the dense network')
    if not bool((_Flow(network).exits() > 0).all()):
        raise PruneError(
            'this network cannot be pruned: what reaches its exits of an image of ones is nothing, '
            'as behind a LayerNorm'
        )
    total = sum(weight.numel() for weight in _weights(network).values())
    if method in STRUCTURED:
        widths = _Widths(network, multiple)
        widths.check(target)
        plan = _reconvene if method == 'reconvene' else _precrop
        channels = plan(network, widths, target)
        kept = widths.weights(channels)
        seconds = time.perf_counter() - start
        return Pruning(method, target, kept, total, seconds, channels=channels)
    masks = _masks(network, method, target, batch, seed)
    while target < 1 and not _reaches(network, masks, target * total):
        target = min(1.0, 2 * target)
        masks = _masks(network, method, target, batch, seed)
    if target > given:
        raise PruneError(
            f'target {given:g} cannot be reached by {method}, which would leave an exit without a '
            'way from the image, or a layer without a weight; '
            + (f'{target:g} can' if target < 1 else 'choose another method')
        )
    kept = sum(int(mask.sum()) for mask in masks.values())
    return Pruning(method, target, kept, total, time.perf_counter() - start, masks=masks)


def apply_masks(network: StagedNetwork, masks: Mapping[str, Tensor]) -> None:
    """Hold the weights that go at zero, in training too.

    Raises PruneError for masks of other layers than this network's; it is then as it was.
    """
    weights = _weights(network)
    for name in sorted(masks.keys() ^ weights.keys()):
        where = 'the masks have' if name in masks else 'this one has'
        raise PruneError(f'the masks are of another network: only {where} {name}')
    for name, mask in masks.items():
        if weights[name].shape != mask.shape or mask.dtype is not torch.bool:
            raise PruneError(
                f'the masks are of another network: {name} is {list(weights[name].shape)}, its '
                f'mask {list(mask.shape)} of {mask.dtype}'
            )
    for name, mask in masks.items():
        parametrize.register_parametrization(network.get_submodule(name), 'weight', _Mask(mask))


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, Tensor]) -> None:
    """Write masks to a .safetensors file. Raises PruneError."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        # Not by save_file, whose files only their owner can read.
        Path(path).write_bytes(save({name: mask.contiguous() for name, mask in masks.items()}))
    except (OSError, SafetensorError) as error:
        raise PruneError(f'{path}: the masks cannot be written: {error}') from error


def load_masks(path: str | os.PathLike[str]) -> Tensors:
    """Read the masks of `save_masks`. Raises PruneError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise PruneError(f'{path}: not a readable file of masks: {error}') from error


def masks_of(state: Mapping[str, Tensor]) -> Tensors:
    """The masks in the state of a network that had them, by layer."""
    end = '.parametrizations.weight.0.mask'
    return {key.removesuffix(end): mask for key, mask in state.items() if key.endswith(end)}


class _Mask(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer('mask', mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _weights(network: StagedNetwork) -> Tensors:
    """Weights of the convolutions and linear layers that are pruned, by the layer's name.

    Left out is the last linear layer of each exit, whose size is that of the classes.
    """
    kinds = (nn.Conv2d, nn.Linear)
    last = network.last_linears()
    return {
        name: layer.weight
        for name, layer in network.named_modules()
        if isinstance(layer, kinds)
        and layer.weight.requires_grad
        and name.startswith(('stages.', 'exits.'))
        and name not in last
    }


def _neutral(network: StagedNetwork) -> StagedNetwork:
    """A copy whose BatchNorms scale by 1: one that starts at 0 would hide what is behind it."""
    copied = copy.deepcopy(network)
    for layer in copied.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.reset_parameters()
    return copied


class _Gate(nn.Module):
    """An open gate, whose weights share the flow of the channels that it lets through.

    A sigmoid would be saturated and hide them. The value is 1 whatever opens it, or a product of
    gates would leave float32, and the derivative that of a logarithm.
    """

    def forward(self, opening: Tensor) -> Tensor:
        log = opening.clamp(min=torch.finfo(opening.dtype).tiny).log()
        return 1 + log - log.detach()


class _Flow:
    """SynFlow's linear network: magnitudes only, no biases, norms and activations the identity."""

    def __init__(self, network: StagedNetwork) -> None:
        self._network = _neutral(network).eval()
        for layer in list(self._network.modules()):
            children = dict(layer.named_children())
            gated = any(isinstance(child, _GATES) for child in children.values())
            for name, child in children.items():
                # All values are positive, which ReLU leaves alone; these would bend or cut them.
                if isinstance(child, (nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish)):
                    setattr(layer, name, nn.Identity())
                elif isinstance(child, _GATES):
                    setattr(layer, name, _Gate())
                elif gated and isinstance(child, nn.AdaptiveAvgPool2d):
                    # What a gate looks at has its flow already: by the way that is gated.
                    child.register_forward_pre_hook(lambda _, images: images[0].detach())
        self.weights = _weights(self._network)
        with torch.no_grad():
            for name, parameter in self._network.named_parameters():
                if name.endswith('bias'):
                    parameter.zero_()
                parameter.abs_()
            logs = [math.log10(float(w.sum()) / len(w)) for w in self.weights.values()]
            # One factor for all layers, with which the deepest product stays within float32.
            for weight in self.weights.values():
                weight.mul_(10 ** min(0.0, (_LARGEST - sum(logs)) / len(logs)))

    def keep(self, masks: Mapping[str, Tensor]) -> None:
        """Leave only these weights, of those that are left."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(masks[name])

    def exits(self) -> Tensor:
        """The whole flow to each exit."""
        logits = self._network(torch.ones(1, *self._network.input_shape)).logits
        return torch.stack([values.sum() for values in logits.values()])

    def scores(self) -> Tensors:
        """The flow through each weight, by layer, as a share of each exit's whole flow."""
        # The gradient of a logarithm is by shares, without which early exits, to which short ways
        # lead, would leave the final one next to nothing.
        flow = self.exits().log().sum()
        gradients = torch.autograd.grad(flow, list(self.weights.values()))
        return {
            name: (weight.detach() * gradient)
            for (name, weight), gradient in zip(self.weights.items(), gradients)
        }


def _masks(
    network: StagedNetwork,
    method: str,
    target: float,
    batch: Batch | None,
    seed: int,
) -> Tensors:
    if method == 'random-erk':
        return _random(_weights(network), target, seed)
    if method == 'snip':
        if batch is None:
            raise PruneError('snip needs a batch of labelled images')
        return _best(_sensitivity(network, *batch, seed), target)
    if method != 'synflow':
        raise PruneError(f'unknown method {method!r}; choose one of {", ".join(METHODS)}')
    flow = _Flow(network)
    for index in range(1, _ROUNDS):
        flow.keep(_best(flow.scores(), target ** (index / _ROUNDS), _SAMPLE))
    return _best(flow.scores(), target)


def _reaches(network: StagedNetwork, masks: Tensors, budget: float) -> bool:
    """Whether the masks leave every exit a way from the image, and no more than the budget."""
    flow = _Flow(network)
    flow.keep(masks)
    with torch.inference_mode():
        whole = bool((flow.exits() > 0).all())
    # Layer by layer, numbers of weights are rounded.
    return whole and sum(int(mask.sum()) for mask in masks.values()) <= 1.01 * budget + 1


def _best(scores: Tensors, share: float, sample: int | None = None) -> Tensors:
    """Masks that leave `share` of all weights, those of the highest scores."""
    least = _least(scores, share, sample)
    return {name: values >= least for name, values in scores.items()}


def _least(scores: Tensors, share: float, sample: int | None = None) -> float:
    """The score of the last weight that stays, always above 0: what carries nothing goes.

    With `sample`, it is estimated from about so many of the scores.
    """
    total = sum(values.numel() for values in scores.values())
    step = 1 if sample is None else max(1, total // sample)
    every = torch.cat([values.flatten()[::step] for values in scores.values()])
    count = max(1, round(share * len(every)))
    least = float(every.kthvalue(len(every) - count + 1).values)
    if least > 0:
        return least
    some = every[every > 0]
    if not len(some):
        raise PruneError('no weight is left that anything flows through: prune less')
    return float(some.min())


def _sensitivity(
    network: StagedNetwork, images: Tensor, labels: Tensor, sizes: Sequence[int], seed: int
) -> Tensors:
    """|weight x gradient| of the summed cross-entropy of all exits and tasks on one batch."""
    copied = _neutral(network).train()
    weights = _weights(copied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the exits' dropout
        logits = copied(images).logits
    columns = labels.view(len(labels), -1).unbind(1)
    losses = [
        F.cross_entropy(part, column)
        for values in logits.values()
        for part, column in zip(values.split([*sizes], 1), columns)
    ]
    loss = torch.stack(losses).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {
        name: (weight.detach() * gradient).abs()
        for (name, weight), gradient in zip(weights.items(), gradients)
    }


def _random(weights: Mapping[str, Tensor], target: float, seed: int) -> Tensors:
    """Random masks at Erdős–Rényi kernel densities."""
    generator = torch.Generator().manual_seed(seed)
    raw = {name: erk(weight.shape) for name, weight in weights.items()}
    budget = target * sum(weight.numel() for weight in weights.values())
    scale = largest(
        lambda s: sum(min(1.0, s * raw[k]) * w.numel() for k, w in weights.items()), budget
    )
    masks = {}
    for name, weight in weights.items():
        count = max(1, round(min(1.0, scale * raw[name]) * weight.numel()))
        order = torch.randperm(weight.numel(), generator=generator)
        masks[name] = (order < count).view_as(weight)
    return masks


class _Widths:
    """How many weights a network has for given channel counts."""

    def __init__(self, network: StagedNetwork, multiple: int) -> None:
        self.multiple = multiple
        self.shapes = {name: tuple(w.shape) for name, w in _weights(network).items()}
        # What is only in a bottleneck is not judged.
        self.groups = [group for group in groups(network) if self.scored(group.writers)]
        last = network.last_linears()
        # Logits are linear in what an exit's last layer reads: fewer numbers than classes tie some
        # classes to others, which SynFlow's flow does not see.
        self._least = {
            group.name: max(
                [1, *(math.ceil(last[k].out_features / group.readers[k]) for k in last
                      if k in group.readers)]
            )
            for group in self.groups
        }  # fmt: skip

    def scored(self, layers: Mapping[str, int]) -> dict[str, int]:
        """Those of the layers that are in stages and exits."""
        return {name: repeat for name, repeat in layers.items() if name in self.shapes}

    def rounded(self, group: Group, count: float) -> int:
        """A number of channels as it is allowed: multiples, and enough to tell classes apart."""
        steps = math.ceil(max(self._least[group.name], count) / self.multiple)
        return min(group.size, steps * self.multiple)

    def weights(self, channels: Mapping[str, int]) -> int:
        """Weights of stages and exits with these channels."""
        sides = {name: list(shape) for name, shape in self.shapes.items()}
        for group in self.groups:
            count = channels.get(group.name, group.size)
            for axis, layers in enumerate((group.writers, group.readers)):
                for name, repeat in self.scored(layers).items():
                    sides[name][axis] = count * repeat
            for name, repeat in self.scored(group.followers).items():
                sides[name][0] = count * repeat
        return sum(math.prod(shape) for shape in sides.values())

    def check(self, target: float) -> None:
        """Raise PruneError for a target below what the smallest network has."""
        whole = self.weights({})
        least = self.weights({group.name: self.rounded(group, 1) for group in self.groups}) / whole
        if target < least:
            raise PruneError(
                f'target {target:g} cannot be reached: {self.multiple} channels in every layer, '
                'and as many features as classes before logits, leave '
                f'{math.ceil(1e4 * least) / 1e4:g} of the weights'
            )

    def vitality(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By group, the score (size,) below which a channel's last weight on a side goes."""
        found = {}
        for group in self.groups:
            sides = []
            for axis, layers in enumerate((group.writers, group.readers)):
                if not self.scored(layers):
                    continue
                best = torch.zeros(group.size)
                for name, repeat in self.scored(layers).items():
                    rows = scores[name].transpose(0, axis).flatten(1).amax(1)
                    best = torch.maximum(best, rows.view(group.size, repeat).amax(1))
                sides.append(best)
            found[group.name] = torch.stack(sides).amin(0)
        return found

    def alive(self, vitality: Mapping[str, Tensor], least: float) -> dict[str, int]:
        """Channel counts of the groups that lose channels when scores below `least` go."""
        counts = {
            group.name: self.rounded(group, int((vitality[group.name] >= least).sum()))
            for group in self.groups
        }
        return {g.name: counts[g.name] for g in self.groups if counts[g.name] < g.size}

    def filled(
        self, channels: Mapping[str, int], vitality: Mapping[str, Tensor], budget: float
    ) -> dict[str, int]:
        """As many more channels of these groups as the budget allows, the most vital first."""
        counts = dict(channels)
        ranked = {name: vitality[name].sort(descending=True).values.tolist() for name in counts}
        growing = set(counts)
        while growing:
            name = max(sorted(growing), key=lambda name: ranked[name][counts[name]])
            wider = counts | {name: min(len(ranked[name]), counts[name] + self.multiple)}
            fits = self.weights(wider) <= budget
            if fits:
                counts = wider
            if not fits or counts[name] == len(ranked[name]):
                growing.remove(name)
        return {name: count for name, count in counts.items() if count < len(ranked[name])}


def _reconvene(network: StagedNetwork, widths: _Widths, target: float) -> dict[str, int]:
    """Prune single weights in rounds until the channels that are left have few enough."""
    flow, budget = _Flow(network), target * widths.weights({})
    scores, share = flow.scores(), _STEP
    while True:
        vitality, least = widths.vitality(scores), _least(scores, share, _SAMPLE)
        if widths.weights(widths.alive(vitality, least)) <= budget:
            break
        flow.keep({name: values >= least for name, values in scores.items()})
        scores = flow.scores()
        share *= _STEP
    # The last round went too far or just far enough: the mildest that is enough is looked for.
    candidates = sorted(set(torch.cat(list(vitality.values())).tolist()))
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        size = widths.weights(widths.alive(vitality, candidates[middle]))
        low, high = (low, middle) if size <= budget else (middle + 1, high)
    return widths.filled(widths.alive(vitality, candidates[low]), vitality, budget)


def _precrop(network: StagedNetwork, widths: _Widths, target: float) -> dict[str, int]:
    """Maximise sum of (S / R) log d over layers, S a layer's flow, R all, within the budget.

    That is the logarithm of the flow to first order; its optimum is a density d = min(1, scale *
    S / n) for a layer of n weights. A layer of density d keeps the root of it on either side.
    """
    flow = {name: float(values.sum()) for name, values in _Flow(network).scores().items()}
    sizes = {name: math.prod(shape) for name, shape in widths.shapes.items()}

    def channels(scale: float) -> dict[str, int]:
        counts = {}
        for group in widths.groups:
            own = widths.scored(group.writers | group.readers)
            kept = sum(min(sizes[name], scale * flow[name]) for name in own)
            share = math.sqrt(kept / sum(sizes[name] for name in own))
            counts[group.name] = widths.rounded(group, math.floor(share * group.size))
        return {g.name: counts[g.name] for g in widths.groups if counts[g.name] < g.size}

    budget = target * widths.weights({})
    return channels(largest(lambda scale: widths.weights(channels(scale)), budget))
