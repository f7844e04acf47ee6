# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pruning before training: targets are met, nothing is cut off, and the rest can be trained."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

torch = pytest.importorskip('torch')

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.commands import prune as command  # noqa: E402
from sparse_split_ros.data.datasets import DatasetError  # noqa: E402
from sparse_split_ros.networks import prune as prune_module  # noqa: E402
from sparse_split_ros.networks.prune import (  # noqa: E402
    METHODS,
    STRUCTURED,
    UNSTRUCTURED,
    PruneError,
    apply_masks,
    load_masks,
    prune,
    save_masks,
)
from sparse_split_ros.networks.staged import StagedNetwork  # noqa: E402
from sparse_split_ros.networks.zoo import build  # noqa: E402
from sparse_split_ros.training.recipe import Recipe, build_network, load_split  # noqa: E402

torch.set_num_threads(1)

NETWORKS = {
    'compact': {'widths': (16, 32, 48)},
    'resnet20': {'width': 8},
}
BATCH = (torch.randn(12, 3, 32, 32), torch.arange(12) % 5, (5,))


def make(name: str = 'compact') -> StagedNetwork:
    torch.manual_seed(0)
    return build(name, 5, **NETWORKS[name])


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('method', STRUCTURED)
@pytest.mark.parametrize('target', [0.5, 0.2])
def test_a_structured_target_is_met_by_a_smaller_network(
    name: str, method: str, target: float
) -> None:
    found = prune(make(name), method, target, multiple=1)
    assert 0.85 * target < found.kept / found.total <= target
    smaller = build(name, 5, channels=found.channels, **NETWORKS[name])
    weights = sum(
        m.weight.numel()
        for name, m in smaller.named_modules()
        if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and m.weight.requires_grad
        if not name.startswith('bottlenecks') and not isinstance(m, torch.nn.Linear)
    )
    assert weights == found.kept
    assert set(smaller(torch.randn(2, 3, 32, 32), 1).logits) == {0, 1, 2, 3}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('method', UNSTRUCTURED)
def test_an_unstructured_target_is_met_exactly(name: str, method: str) -> None:
    found = prune(make(name), method, 0.1, BATCH)
    assert found.kept == pytest.approx(0.1 * found.total, rel=0.002)
    assert all(bool(mask.any()) for mask in found.masks.values())


@pytest.mark.parametrize('method', METHODS)
def test_the_network_asked_about_stays_as_it_was(method: str) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prune(network, method, 0.3, BATCH)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert network.training


@pytest.mark.parametrize('method', METHODS)
def test_the_same_network_gives_the_same_plan(method: str) -> None:
    one, other = (prune(make(), method, 0.2, BATCH) for _ in range(2))
    assert one.channels == other.channels
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())


@pytest.mark.parametrize('target', [0.1, 0.01])
def test_every_exit_can_still_be_reached_after_synflow(target: float) -> None:
    network = make()
    apply_masks(network, prune(network, 'synflow', target).masks)
    x = torch.randn(4, 3, 32, 32, requires_grad=True)
    for logits in network(x).logits.values():
        (gradient,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize('name', NETWORKS)
def test_the_flow_is_kept_from_layer_to_layer(name: str) -> None:
    scores = prune_module._Flow(make(name)).scores()
    assert all(float(values.min()) >= 0 for values in scores.values())
    # The flows to all four exits pass the first layer, and one of them an exit's.
    first = next(iter(scores))
    assert float(scores[first].sum()) == pytest.approx(4, rel=1e-3)
    assert float(scores['exits.1.conv'].sum()) == pytest.approx(1, rel=1e-3)


def test_snip_looks_at_the_size_of_a_change_and_draws_its_dropout_by_the_seed() -> None:
    one, other = (prune_module._sensitivity(make(), *BATCH, seed) for seed in (1, 2))
    assert all(float(values.min()) >= 0 for values in one.values())
    assert not all(torch.equal(values, other[name]) for name, values in one.items())


def test_snip_looks_at_every_task() -> None:
    images, labels, _ = BATCH
    columns = torch.stack([labels % 2, labels % 3], 1)
    of_both = prune_module._sensitivity(make(), images, columns, (2, 3), 1)
    kinds = (slice(0, 2), 2), (slice(2, 5), 3)
    flows = []
    for places, size in kinds:
        network = make()
        for last in network.last_linears().values():
            last.weight = torch.nn.Parameter(last.weight[places].clone())
            last.bias = torch.nn.Parameter(last.bias[places].clone())
        flows.append(prune_module._sensitivity(network, images, labels % size, (size,), 1))
    for name, values in of_both.items():
        one, other = (flow[name] for flow in flows)
        assert bool((values <= one + other + 1e-6).all()), 'gradients add up, with their signs'
        assert bool((values >= (one - other).abs() - 1e-6).all())
        assert not torch.allclose(values, one)


def test_what_carries_nothing_goes_even_where_it_might_stay() -> None:
    scores = {'a': torch.tensor([0.0, 1.0]), 'b': torch.tensor([[2.0, 0.0, 0.0]])}
    masks = prune_module._best(scores, 0.8)
    assert masks['a'].tolist() == [False, True] and masks['b'].tolist() == [[True, False, False]]


def test_weights_that_are_all_alike_cannot_be_told_apart() -> None:
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    # Whole layers stay or go, so that more stay than may.
    with pytest.raises(PruneError, match=r'target 0\.1 cannot be reached by synflow'):
        prune(network, 'synflow', 0.1)


def test_large_weights_do_not_overflow_the_flow() -> None:
    network = make()
    small = prune_module._Flow(network).scores()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1e6)
    for name, scores in prune_module._Flow(network).scores().items():
        torch.testing.assert_close(scores, small[name])


def test_reconvene_spares_layers_whose_channels_live() -> None:
    found = prune(make(), 'reconvene', 0.6, multiple=1)
    # The first convolution has few weights, each of which carries much.
    assert 'stages.0.0.0' not in found.channels
    assert found.channels


@pytest.mark.parametrize('method', STRUCTURED)
def test_every_exit_keeps_as_many_features_as_there_are_classes(method: str) -> None:
    torch.manual_seed(0)
    network = build('resnet20', 13, width=16)
    found = prune(network, method, 1 / 16.21)
    shrunk = build('resnet20', 13, width=16, channels=found.channels)
    for exit_ in shrunk.exits.values():
        last = [layer for layer in exit_.modules() if isinstance(layer, torch.nn.Linear)][-1]
        assert last.in_features >= 13


@pytest.mark.parametrize('name', NETWORKS)
def test_reconvene_leaves_no_room_for_another_channel(name: str) -> None:
    network = make(name)
    found = prune(network, 'reconvene', 0.3, multiple=2)
    widths = prune_module._Widths(network, 2)
    assert widths.weights(found.channels) == found.kept
    for layer, count in found.channels.items():
        assert widths.weights({**found.channels, layer: count + 2}) > 0.3 * found.total


@pytest.mark.parametrize('method', STRUCTURED)
def test_channels_come_in_the_multiples_asked_for(method: str) -> None:
    found = prune(make(), method, 0.4, multiple=8)
    assert all(count % 8 == 0 for count in found.channels.values())


def test_random_densities_are_those_of_erk() -> None:
    masks = prune(make(), 'random-erk', 0.05).masks
    density = {name: float(mask.float().mean()) for name, mask in masks.items()}
    raw = {name: sum(mask.shape) / mask.numel() for name, mask in masks.items()}
    ratios = [density[name] / raw[name] for name in density if density[name] < 0.999]
    assert max(ratios) == pytest.approx(min(ratios), rel=0.1)
    assert len(ratios) > 5


def test_masked_weights_stay_zero_while_training() -> None:
    network = make()
    masks = prune(network, 'synflow', 0.2).masks
    apply_masks(network, masks)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        sum(v.square().mean() for v in network(BATCH[0]).logits.values()).backward()
        optimiser.step()
    for name, mask in masks.items():
        weight = network.get_submodule(name).weight
        assert not weight[~mask].any()
        assert weight[mask].all()


def test_a_masked_network_is_exported_with_its_zeros() -> None:
    pytest.importorskip('onnx')
    from sparse_split_ros.training.program import trace

    network = make()
    masks = prune(network, 'synflow', 0.2).masks
    apply_masks(network, masks)
    first = trace(network.stages[0], torch.randn(1, 3, 32, 32)).operations[0]
    assert first.weight is not None
    assert int((first.weight != 0).sum()) == int(masks['stages.0.0.0'].sum())


def test_plans_fit_a_network_for_other_classes(tmp_path: Path) -> None:
    save_masks(tmp_path / 'masks.safetensors', prune(make(), 'synflow', 0.5).masks)
    file = str(tmp_path / 'masks.safetensors')
    channels = prune(make(), 'reconvene', 0.5).channels
    for arguments in ({'masks': file}, {'channels': channels}):
        network = build('compact', 31, **NETWORKS['compact'], **arguments)
        assert network(BATCH[0]).logits[3].shape == (12, 31)


def test_masks_survive_a_file_and_are_refused_elsewhere(tmp_path: Path) -> None:
    masks = prune(make(), 'random-erk', 0.5).masks
    save_masks(tmp_path / 'masks.safetensors', masks)
    loaded = load_masks(tmp_path / 'masks.safetensors')
    assert all(torch.equal(loaded[name], mask) for name, mask in masks.items())
    file = str(tmp_path / 'masks.safetensors')
    with pytest.raises(PruneError, match=r'another network: .* is .*, its mask'):
        build('compact', 5, widths=(8, 8, 8), masks=file)
    with pytest.raises(PruneError, match='another network: only this one has stages'):
        build('compact', 5, **NETWORKS['compact'], blocks=3, masks=file)
    with pytest.raises(PruneError, match='another network: only the masks have stages'):
        build('compact', 5, **NETWORKS['compact'], blocks=1, masks=file)
    with pytest.raises(ValueError, match='exclude one another'):
        build('compact', 5, masks=file, density=0.5)
    with pytest.raises(PruneError, match='not a readable file of masks'):
        load_masks(tmp_path / 'nothing.safetensors')


@pytest.mark.parametrize(
    ('method', 'target', 'message'),
    [
        (
            'reconvene',
            1e-4,
            r'target 0\.0001 cannot be reached: 4 channels in every layer, .* leave 0\.',
        ),
        ('precrop', 1e-4, 'cannot be reached'),
        ('synflow', 1.5, 'expected a share of the weights between 0 and 1'),
        ('magic', 0.5, "unknown method 'magic'; choose one of reconvene"),
    ],
)
def test_what_cannot_be_is_refused(method: str, target: float, message: str) -> None:
    with pytest.raises(PruneError, match=message):
        prune(make(), method, target)


@pytest.mark.parametrize('method', UNSTRUCTURED)
def test_a_target_that_cuts_an_exit_off_is_refused_with_one_that_does_not(method: str) -> None:
    torch.manual_seed(1)
    images, labels, _ = BATCH
    batch = (images, labels, (10,))
    assert prune(build('resnet20', 10), method, 1 / 16.21, batch).masks
    with pytest.raises(PruneError, match=f'target 0.0001 cannot be reached by {method}') as found:
        prune(make(), method, 1e-4, BATCH)
    nearest = float(str(found.value).rsplit('; ')[-1].split()[0])
    assert 1e-4 < nearest < 0.1
    assert prune(make(), method, nearest, BATCH).kept > 0


@pytest.mark.parametrize('method', METHODS)
def test_a_network_without_flow_is_refused(method: str) -> None:
    network = make()
    body = network.stages[0]
    assert isinstance(body, torch.nn.Sequential)
    body.append(torch.nn.Softshrink(1e9))
    with pytest.raises(PruneError, match='this network cannot be pruned'):
        prune(network, method, 0.5, BATCH)


def test_a_target_that_no_larger_one_mends_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_module, '_reaches', lambda *_: False)
    with pytest.raises(PruneError, match=r'cannot be reached by snip.*; choose another method'):
        prune(make(), 'snip', 0.3, BATCH)


@pytest.mark.parametrize('method', ['precrop', 'random-erk'])
def test_what_is_pruned_already_is_not_pruned_again(method: str) -> None:
    masked = make()
    apply_masks(masked, prune(make(), 'random-erk', 0.5).masks)
    sparse = build('compact', 5, widths=(16, 32, 48), density=0.5)
    for network in (masked, sparse):
        with pytest.raises(PruneError, match='is pruned already: start from the dense network'):
            prune(network, method, 0.5)


def test_snip_asks_for_its_batch() -> None:
    with pytest.raises(PruneError, match='snip needs a batch'):
        prune(make(), 'snip', 0.5)


@pytest.mark.parametrize('method', ['reconvene', 'synflow'])
def test_the_command_writes_a_recipe_that_trains_the_rest(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        'name': 'small', 'dataset': 'folder',
        'network_arguments': {'widths': [16, 32, 48], 'density': 0.5},
    }  # fmt: skip
    if method == 'synflow':
        del values['network_arguments']['density']  # type: ignore[attr-defined]
    (tmp_path / 'small.yaml').write_text(yaml.safe_dump(values))
    out = tmp_path / 'pruned.yaml'
    arguments = ['--method', method, '--target', '0.5', '--out', str(out), '--classes', '10']
    assert main(['prune', str(tmp_path / 'small.yaml'), *arguments]) == 0
    assert f'{method} took' in capsys.readouterr().out
    recipe = Recipe.load(out)
    assert recipe.name == f'small_{method}'
    network = build_network(recipe, 10)
    assert set(network(torch.randn(2, 3, 32, 32), 1).logits) == {0, 1, 2, 3}
    assert recipe.network_arguments.get('density') == (0.5 if method == 'reconvene' else None)
    assert main(['prune', str(out), *arguments[:-2], '--classes', '10']) == (
        0 if method == 'reconvene' else 2
    )


def test_the_command_replaces_a_recipe_that_was_edited_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('mine.yaml').write_text('{name: mine, dataset: folder}')
    arguments = ['prune', 'mine.yaml', '--method', 'precrop', '--target', '0.5', '--classes', '5']
    out = Path('mine_precrop.yaml')
    for _ in range(2):
        assert main(arguments) == 0
    written = out.read_text()
    out.write_text(f'{written}flip: true\n')
    assert main(arguments) == 2
    assert f'{out} exists and says something else' in capsys.readouterr().err
    assert out.read_text() != written
    assert main([*arguments, '--out', str(out)]) == 0
    assert out.read_text() == written


def test_the_command_names_a_target_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'small.yaml'
    path.write_text('{name: small, dataset: folder}')
    assert main(['prune', str(path), '--target', '0.00001', '--classes', '5']) == 2
    assert capsys.readouterr().err.startswith('error: target 1e-05 cannot be reached')


def test_the_command_knows_all_methods() -> None:
    assert set(command._METHODS) == set(METHODS)


def test_channels_stay_in_blocks_where_a_density_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / 'small.yaml', tmp_path / 'pruned.yaml'
    path.write_text(
        '{name: small, dataset: folder, network_arguments: {widths: [32, 64, 128], density: 0.25}}'
    )
    arguments = ['--method', 'precrop', '--target', '0.4', '--classes', '5', '--out', str(out)]
    assert main(['prune', str(path), *arguments]) == 0
    channels = Recipe.load(out).network_arguments['channels']
    assert channels and all(count % 16 == 0 for count in channels.values())
    # The last row counts what is stored of the network that the new recipe builds.
    network = build_network(Recipe.load(out), 5)
    weights = sum(
        p.numel()
        for name, p in network.named_parameters()
        if p.ndim > 1 and not name.startswith('bottlenecks')
    )
    assert f'{weights:,}' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'text', 'message'),
    [
        (['--method', 'synflow', '--classes', '5'], 'density: 0.5', 'has a density, and synflow'),
        (['--classes', '0'], '', '--classes 0 is less than 1'),
        (['--multiple', '0'], '', '--multiple 0 is less than 1'),
        (['--classes', '5'], 'channels: {exits.0.conv: -1}', 'exits.0.conv: -1 channels'),
        (['--classes', '5'], 'density: 8', 'density is 8, expected a share'),
        (['--classes', '5'], 'keep_dense: stages.0.*', r"expected a list: ['stages.0.*']"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(
    tmp_path: Path,
    arguments: list[str],
    text: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / 'small.yaml'
    path.write_text(
        f'name: small\ndataset: folder\nnetwork_arguments: {{widths: [16, 32, 48], {text}}}'
    )
    assert main(['prune', str(path), '--target', '0.5', *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_number_of_classes_is_that_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('box', 'cup'):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for index in range(3):
            file = str(tmp_path / 'photos' / name / f'{index}.png')
            cv2.imwrite(file, np.full((8, 8, 3), 40 * index, np.uint8))
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump({'name': 'mine', 'dataset': 'folder'}))
    arguments = ['--method', 'snip', '--target', '0.5', '--data', str(tmp_path / 'photos')]
    assert main(['prune', str(path), *arguments, '--classes', '9']) == 2
    assert '--classes 9: the data holds 2; leave it out' in capsys.readouterr().err


def test_snip_prunes_for_several_tasks(tmp_path: Path) -> None:
    lines = ['file,object,state']
    for index in range(24):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.full((8, 8, 3), 10 * index, np.uint8))
        lines.append(
            f'{index}.png,{"cup" if index % 2 else "box"},{"full" if index % 3 else "empty"}'
        )
    (tmp_path / 'labels.csv').write_text('\n'.join(lines))
    path, out = tmp_path / 'mine.yaml', tmp_path / 'out.yaml'
    path.write_text(yaml.safe_dump({'name': 'mine', 'dataset': 'folder'}))
    arguments = ['--method', 'snip', '--target', '0.5', '--data', str(tmp_path)]
    assert main(['prune', str(path), *arguments, '--out', str(out)]) == 0
    masks = load_masks(out.with_name('out.yaml.masks.safetensors'))
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == pytest.approx(sum(mask.numel() for mask in masks.values()) / 2, rel=0.01)


def test_masks_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / 'mine.yaml', str(tmp_path / 'nowhere' / 'out.yaml')
    path.write_text(yaml.safe_dump({'name': 'mine', 'dataset': 'folder'}))
    arguments = ['--method', 'random-erk', '--target', '0.5', '--classes', '3', '--out', out]
    assert main(['prune', str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert 'the masks cannot be written' in error
    assert error.count('\n') == 1


def test_a_checkpoint_of_a_masked_network_needs_no_file_of_masks(tmp_path: Path) -> None:
    from sparse_split_ros.training.checkpoint import load_checkpoint, save_checkpoint

    masks = prune(make(), 'random-erk', 0.2).masks
    file = tmp_path / 'masks.safetensors'
    save_masks(file, masks)
    arguments = {**NETWORKS['compact'], 'masks': str(file)}
    recipe = Recipe('masked', 'folder', network_arguments=arguments)
    network = build_network(recipe, 5)
    meta = {'recipe': recipe.plain(), 'classes': list('abcde')}
    save_checkpoint(tmp_path / 'best', meta, network)
    file.unlink()
    loaded, recipe, _ = load_checkpoint(tmp_path)
    with pytest.raises(DatasetError, match='no such data directory'):
        load_split(recipe, tmp_path / 'photos', 'train')
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x).logits[3], network.eval()(x).logits[3])
    assert not loaded.get_submodule('stages.3.0.0').weight[~masks['stages.3.0.0']].any()
