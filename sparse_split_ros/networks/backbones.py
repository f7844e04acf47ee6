# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Any convolutional classifier of torchvision, by name, in stages.

A classifier is traced no deeper than its blocks. What remains is a chain, which is cut between
blocks; the blocks themselves are torchvision's own, so its pretrained weights fit.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparse_split_ros.networks.arguments import check_counts
from sparse_split_ros.networks.cut import cut, measure
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.vision import torchvision

_CUTS = {'mobilenet_v2': (3, 6, 9, 12, 15, 18)}
"""I-SplitEE's (Bajpai et al., arXiv 2401.10541): after every third of the 19 feature blocks."""
_ARGUMENTS = {
    name: {'aux_logits': False, 'init_weights': False} for name in ('googlenet', 'inception_v3')
}
_JOINING = (
    nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.MaxPool2d,
    nn.AvgPool2d, nn.Dropout,
)  # fmt: skip
"""Layers that belong to the block before them, so that no cut and no exit comes between."""


def names() -> list[str]:
    """The classifiers that torchvision knows. Raises VisionError without it."""
    models = torchvision().models
    return list(models.list_models(module=models))


def backbone(
    name: str,
    classes: int,
    size: int = 224,
    weights: str | None = None,
    pretrained: bool = True,
    unstrided: int = 0,
    cuts: Sequence[int] | None = None,
    code_channels: int = 8,
    bits: int = 4,
) -> StagedNetwork:
    """The classifier that torchvision calls `name`, for images of size x size pixels.

    `weights` are a name that torchvision knows, such as IMAGENET1K_V2, or a file of them
    (.safetensors, .pth), and are loaded if `pretrained`; a last layer for other classes stays as
    drawn. For small images, the first `unstrided` blocks that shrink the features no longer do.
    Where the features do not have the side that the classifier was made for (VGG and AlexNet), it
    is replaced by a global average and one linear layer, as is usual for small images. `cuts`,
    `code_channels` and `bits` as in `cut`.

    Raises ValueError for a network that is no chain of convolutional blocks and for weights that
    do not fit, VisionError without torchvision.
    """
    check_counts(size=size)
    check_counts(0, unstrided=unstrided)
    model = torchvision().models.get_model(
        name, weights=None, num_classes=classes, **_ARGUMENTS.get(name, {})
    )
    if weights is not None and pretrained:
        load(model, read(name, weights), f'weights {weights!r}')
    modules = chain(model, name)
    at = max((i for i, m in enumerate(modules) if isinstance(m, nn.AdaptiveAvgPool2d)), default=0)
    if not at:
        raise ValueError(f'{name} has no pooling between features and classifier to cut before')
    blocks = grouped(modules[:at])
    for block in [block for block in blocks if _strides(block)][:unstrided]:
        _unstride(block)
    input_shape = (3, size, size)
    features = measure(blocks, input_shape)[-1].shape
    classifier = _classifier(modules[at:], features, classes)
    chosen = _CUTS.get(name) if cuts is None else cuts
    return cut(blocks, classifier, classes, input_shape, chosen, code_channels, bits)


def chain(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that `model` runs one after the other, functions among them as modules.

    Raises ValueError when they are no chain or not on (N, C, H, W).
    """
    refusal = f'{name} is no chain of convolutional blocks: choose a convolutional classifier'
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, AssertionError) as error:
        raise ValueError(refusal) from error
    modules: list[nn.Module] = []
    before: fx.Node | None = None
    for node in graph.nodes:
        if node.op not in ('placeholder', 'output'):
            if node.all_input_nodes != [before]:
                raise ValueError(refusal)
            modules += _as_modules(node, model, refusal)
        before = node
    return [_plain(module) for module in modules]


def grouped(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Blocks: a convolution with what belongs to it, or a block of the network's own."""
    groups: list[list[nn.Module]] = []
    for module in modules:
        if groups and isinstance(module, _JOINING):
            groups[-1].append(module)
        else:
            groups.append([module])
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


def read(name: str, weights: str) -> dict[str, Tensor]:
    """Weights by torchvision's name for them, or from a file. Raises ValueError."""
    path = Path(weights)
    if path.suffix in ('.safetensors', '.pth', '.pt'):
        try:
            if path.suffix == '.safetensors':
                from safetensors.torch import load_file

                return dict(load_file(path))
            loaded = torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # both libraries raise types of their own
            raise ValueError(f'weights {weights!r} cannot be read: {error}') from error
        if not isinstance(loaded, dict):
            raise ValueError(f'weights {weights!r}: expected tensors by name')
        return loaded
    known = torchvision().models.get_model_weights(name)
    if weights not in known.__members__:
        raise ValueError(
            f'weights {weights!r}: for {name} choose one of {", ".join(known.__members__)}, or a '
            '.safetensors or .pth file'
        )
    try:
        return dict(known[weights].get_state_dict(progress=True, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f'weights {weights!r} cannot be downloaded ({error}): give a file of them'
        ) from error


def load(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load `tensors` into a classifier, but for a last layer of another number of classes.

    Raises ValueError, naming `what`, when they are of another network.
    """
    last = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    own = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    for key in own.keys() - fitting.keys():
        # Files from before torch counted batches lack the counts.
        if key.endswith('num_batches_tracked') or (key in tensors and key.startswith(f'{last}.')):
            continue
        found = tuple(tensors[key].shape) if key in tensors else 'nothing'
        raise ValueError(
            f'{what} are of another network: {key} is {found}, expected {tuple(own[key].shape)}'
        )
    model.load_state_dict(fitting, strict=False)


class StochasticDepth(nn.Module):
    """Drop a residual branch per row while training (Huang et al., arXiv 1603.09382).

    torchvision's own is a function that tracers cannot look into, so that it would stay in the
    exported graph, where it does nothing.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, C, H, W), some rows zero and the others scaled up."""
        if not self.training or self.p == 0:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.p
        return x * kept / (1 - self.p)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) is not nn.Sequential


def _as_modules(node: fx.Node, model: nn.Module, refusal: str) -> list[nn.Module]:
    """One step of the chain as modules, which can be moved to another network."""
    if node.op == 'call_module':
        module = model.get_submodule(str(node.target))
        if type(module).__name__ == 'Permute':  # features are (H, W, C) before it or behind it
            raise ValueError(refusal)
        return [module]
    if node.target in (torch.flatten, 'flatten'):
        return [nn.Flatten()]
    if node.target is F.adaptive_avg_pool2d:
        return [nn.AdaptiveAvgPool2d(node.args[1])]  # type: ignore[arg-type]
    if node.target == 'mean' and node.args[1:] == ([2, 3],):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if node.target is F.relu:
        return [nn.ReLU()]
    if node.target is operator.getitem:
        raise ValueError(refusal)
    raise ValueError(f'{refusal}; it runs {node.target} between them')


def _plain(module: nn.Module) -> nn.Module:
    """Replace the stochastic depth inside a block."""
    for name, child in module.named_children():
        if type(child).__name__ == 'StochasticDepth':
            setattr(module, name, StochasticDepth(float(child.p)))  # type: ignore[arg-type]
        else:
            _plain(child)
    return module


def _classifier(
    modules: Sequence[nn.Module], features: tuple[int, int, int], classes: int
) -> nn.Sequential:
    pool, rest = modules[0], modules[1:]
    assert isinstance(pool, nn.AdaptiveAvgPool2d)
    if pool.output_size in (1, (1, 1)):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), *rest)
    if pool.output_size == features[1:]:
        return nn.Sequential(*rest)
    linear = nn.Linear(features[0], classes)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def _strides(block: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """The layers of a block that shrink its features, with their parents and names."""
    return [
        (parent, name, child)
        for parent in block.modules()
        for name, child in parent.named_children()
        if isinstance(child, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d))
        and child.stride not in (1, (1, 1))
    ]


def _unstride(block: nn.Module) -> None:
    for parent, name, layer in _strides(block):
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
        else:
            setattr(parent, name, nn.Identity())
