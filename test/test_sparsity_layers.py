# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
import copy
import itertools

import pytest

torch = pytest.importorskip('torch')
safetensors = pytest.importorskip('safetensors.torch')

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from sparse_split_ros.sparsity import layers  # noqa: E402
from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLinear, sparsify  # noqa: E402
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec, SparsityError  # noqa: E402

SPECS = [
    PatternSpec(Kind.RANDOM_REGULAR, 48, 32, 12, 1),
    PatternSpec(Kind.CLASH_FREE_1, 48, 32, 12, 1, parallelism=8, dither=True),
    PatternSpec(Kind.CLASH_FREE_2, 48, 32, 12, 1, parallelism=16),
    PatternSpec(Kind.CLASH_FREE_3, 48, 32, 12, 1, parallelism=4),
    PatternSpec(Kind.BLOCK_REGULAR, 48, 32, 24, 1, width=4),
    PatternSpec(Kind.BLOCK_REGULAR, 48, 48, 16, 1, width=8),
    PatternSpec(Kind.BLOCK_REGULAR, 64, 32, 32, 1, width=16),
    PatternSpec(Kind.N_OF_M, 48, 32, 24, 1, width=4),
]
TAPS = [
    PatternSpec(Kind.TAP_REGULAR, 48, 32, 24, 1, width=4, taps=9),
    PatternSpec(Kind.TAP_REGULAR, 20, 16, 3, 1, width=1, taps=9),
    PatternSpec(Kind.TAP_REGULAR, 48, 48, 16, 1, width=16, taps=9),
]
GEOMETRIES = [
    {'kernel_size': 3, 'padding': 1},
    {'kernel_size': 3, 'stride': 2, 'padding': 1},
    {'kernel_size': (1, 3), 'stride': (2, 1), 'padding': (0, 2), 'dilation': (1, 2)},
    {'kernel_size': 1},
]


@pytest.fixture(autouse=True)
def seeded():
    # The layers here are too small for threads to help.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[1 << 18, 150], ids=['whole', 'in pieces'])
def piece(request, monkeypatch):
    """Gathers for the whole batch at once, and for a sample or two at a time."""
    monkeypatch.setattr(layers, '_PIECE', request.param)


def named(spec):
    return f'{spec.kind.value} {spec.width}'


def agrees(layer, x, dense_call):
    """The layer's answer and all its gradients are those of the masked dense layer."""
    mask = torch.from_numpy(layer.pattern.mask())
    if layer.pattern.spec.taps > 1:
        mask = mask.view(*mask.shape[:2], *layer.weight.shape[2:])
    else:
        mask = mask.view(*mask.shape, *(1 for _ in layer.weight.shape[2:]))
    dense = layer.spread(layer.weight).detach()
    assert (dense == dense * mask).all()
    assert dense.count_nonzero() == layer.weight.numel()
    x, same = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = dense.clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    y, expected = layer(x), dense_call(same, weight * mask, bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, same.grad, rtol=1e-5, atol=1e-5)
    # Sums over the whole batch, so as far from zero as their number of terms.
    terms = gradient.numel() / gradient.shape[1]
    scale = 1e-5 * terms**0.5
    torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-5, atol=scale)
    # What is masked has no gradient.
    torch.testing.assert_close(layer.spread(layer.weight.grad), weight.grad, rtol=1e-5, atol=scale)


@pytest.mark.parametrize('spec', SPECS, ids=named)
def test_linear_equals_masked_dense_forward_and_backward(spec, piece):
    agrees(SparseLinear(spec.draw()), torch.randn(7, spec.inputs), F.linear)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=str)
@pytest.mark.parametrize('spec', SPECS, ids=named)
def test_convolution_equals_masked_dense_forward_and_backward(spec, geometry, piece):
    layer = SparseConv2d(spec.draw(), **geometry)

    def dense(x, weight, bias):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)

    agrees(layer, torch.randn(5, spec.inputs, 9, 7), dense)


@pytest.mark.parametrize('geometry', [*GEOMETRIES[:2], {'kernel_size': (1, 9)}], ids=str)
@pytest.mark.parametrize('spec', TAPS, ids=named)
def test_convolution_tap_by_tap_equals_masked_dense_forward_and_backward(spec, geometry):
    layer = SparseConv2d(spec.draw(), **geometry)

    def dense(x, weight, bias):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)

    agrees(layer, torch.randn(5, spec.inputs, 10, 10), dense)


def test_taps_that_are_not_the_kernels_are_refused():
    pattern = TAPS[0].draw()
    with pytest.raises(SparsityError, match=r'9 taps for a kernel of \(5, 5\)'):
        SparseConv2d(pattern, 5)
    with pytest.raises(SparsityError, match='9 taps for a kernel of a linear layer'):
        SparseLinear(pattern)


@pytest.mark.parametrize('spec', [SPECS[0], SPECS[4], TAPS[0]], ids=named)
def test_weights_start_as_those_of_a_dense_layer_with_the_fan_in_that_is_left(spec):
    layer = SparseConv2d(spec.draw(), 3)
    # torch draws both from the uniform distribution up to the root of 1 / fan-in.
    bound = (9 * spec.fan_in) ** -0.5
    for values in (layer.weight, layer.bias):
        assert 0.8 * bound < values.abs().max() <= bound


@pytest.mark.parametrize('spec', [SPECS[4]], ids=named)
@pytest.mark.parametrize(
    ('make', 'pixels'), [(SparseLinear, ()), (lambda p: SparseConv2d(p, 1), (3, 3))]
)
def test_no_more_than_a_piece_of_the_batch_is_gathered_at_once(spec, make, pixels, monkeypatch):
    layer, seen = make(spec.draw()), []
    row = layer.edges.numel() * 9 ** (len(pixels) // 2)
    monkeypatch.setattr(layers, '_PIECE', 2 * row)
    gather = torch.Tensor.index_select
    monkeypatch.setattr(
        torch.Tensor, 'index_select', lambda x, *rest: (seen.append(len(x)), gather(x, *rest))[1]
    )
    layer(torch.randn(5, spec.inputs, *pixels)).sum().backward()
    assert seen[:3] == [2, 2, 1] and max(seen) == 2


@pytest.mark.parametrize(('width', 'where_one'), [(16, 16), (1, 4)])
def test_sparsify_tap_by_tap_is_block_regular_where_there_is_one_tap(width, where_one):
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 1), nn.Linear(64, 64)
    )
    specs = sparsify(network, 0.25, Kind.TAP_REGULAR, width=width, ends=False)
    assert {name: (spec.kind, spec.taps, spec.width) for name, spec in specs.items()} == {
        '1': (Kind.TAP_REGULAR, 9, width), '2': (Kind.BLOCK_REGULAR, 1, where_one)
    }  # fmt: skip
    assert network[1].weight.shape == (64, 16, 3, 3)


@pytest.mark.parametrize('spec', [SPECS[0], SPECS[4], TAPS[0]], ids=named)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
def test_convolution_under_autocast_is_as_close_to_float32_as_a_dense_one(spec, memory_format):
    layer = SparseConv2d(spec.draw(), 3, padding=1).to(memory_format=memory_format)
    x = torch.randn(4, spec.inputs, 8, 8).to(memory_format=memory_format).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = layer(x)
    assert (y - exact).abs().max() < 0.02 * exact.abs().max()
    gradients = torch.autograd.grad(exact.square().sum(), (x, layer.weight))
    coarse = torch.autograd.grad(y.float().square().sum(), (x, layer.weight))
    for one, other in zip(gradients, coarse):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.02 * one.norm()


@pytest.mark.parametrize('spec', [SPECS[0], SPECS[4]], ids=named)
def test_layers_take_no_rows_and_many_axes(spec):
    linear, conv = SparseLinear(spec.draw()), SparseConv2d(spec.draw(), 3)
    assert linear(torch.randn(2, 3, spec.inputs)).shape == (2, 3, spec.outputs)
    assert linear(torch.randn(spec.inputs)).shape == (spec.outputs,)
    assert linear(torch.randn(0, spec.inputs)).shape == (0, spec.outputs)
    assert conv(torch.randn(0, spec.inputs, 5, 5)).shape == (0, spec.outputs, 3, 3)


@pytest.mark.parametrize('spec', SPECS, ids=named)
def test_parameters_gradients_and_optimiser_hold_existing_weights_only(spec):
    layer = SparseConv2d(spec.draw(), 3, padding=1, bias=False)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(2, spec.inputs, 4, 4)).square().sum().backward()
    optimiser.step()
    nnz = spec.outputs * spec.fan_in * 9
    (state,) = optimiser.state.values()
    assert sum(p.numel() for p in layer.parameters()) == nnz
    assert layer.weight.grad.numel() == nnz
    assert [state[name].numel() for name in ('exp_avg', 'exp_avg_sq')] == [nnz, nnz]


@pytest.mark.parametrize('spec', SPECS, ids=named)
def test_backward_keeps_no_more_than_a_dense_layer_would(spec):
    def kept(layer):
        found = {}

        def pack(tensor):
            found[tensor.data_ptr()] = tensor.numel()
            return tensor

        x = torch.randn(8, spec.inputs, 16, 16, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(x)
        return sum(found.values())

    sparse = kept(SparseConv2d(spec.draw(), 3, padding=1, bias=False))
    assert sparse <= kept(nn.Conv2d(spec.inputs, spec.outputs, 3, padding=1, bias=False))


def step_bytes(network, batch):
    """Bytes held between training steps, and the most that a step allocates beyond those."""
    optimiser = torch.optim.Adam(network.parameters())
    x = torch.randn(batch, 3, 16, 16)

    def step():
        network(x).square().mean().backward()

    step()
    optimiser.step()
    held = [*network.parameters(), *network.buffers(), *(p.grad for p in network.parameters())]
    held += [value for entry in optimiser.state.values() for value in entry.values()]
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e for e in events if e.name() == '[memory]'), key=lambda e: e.start_ns())
    peak = max(itertools.accumulate(change.nbytes() for change in changes))
    return sum(tensor.nbytes for tensor in held), peak


def test_a_training_step_at_a_quarter_of_the_weights_takes_half_the_memory():
    def network():
        layers = [nn.Conv2d(3, 128, 3, 2, 1)]
        for _ in range(3):
            layers += [nn.Conv2d(128, 128, 3, 1, 1), nn.BatchNorm2d(128), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    dense, sparse = network(), network()
    sparsify(sparse, 0.25)
    dense_state, dense_peak = step_bytes(dense, 4)
    state, peak = step_bytes(sparse, 4)
    assert 3.5 * state <= dense_state
    assert peak <= dense_peak
    assert 2 * (state + peak) <= dense_state + dense_peak


def small(**options):
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Conv2d(32, 128, 3, padding=1, bias=False),
        nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(128, 128, 3, groups=128)),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.Linear(64, 10),
    )
    return network, sparsify(network, 0.25, **options)


@pytest.mark.parametrize('kind', ['block-regular', 'random-regular'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_a_file_holds_little_more_than_the_existing_weights(kind, dtype):
    network = small(kind=kind)[0].to(dtype)
    weights = sum(p.numel() for p in network.parameters())
    stored = len(safetensors.save(network.state_dict()))
    assert stored <= 1.1 * weights * dtype.itemsize + 4096


def test_a_file_loads_into_the_same_patterns():
    network, again = small(seed=3)[0], small(seed=3)[0]
    again.load_state_dict(safetensors.load(safetensors.save(network.state_dict())))
    x = torch.randn(2, 128, 8, 8)
    torch.testing.assert_close(network[2](x), again[2](x), rtol=0, atol=0)


def test_weights_of_another_pattern_are_refused_and_both_named():
    network, other = small(seed=3)[0], small(seed=4)[0]
    before = other[1].weight.clone()
    with pytest.raises(RuntimeError, match=r'1: the file has the weights of pattern .*"seed":'):
        other.load_state_dict(network.state_dict())
    assert torch.equal(other[1].weight, before)


def test_a_file_of_the_dense_network_is_refused():
    dense = nn.Sequential(nn.Linear(48, 32))
    network = nn.Sequential(SparseLinear(SPECS[0].draw()))
    with pytest.raises(RuntimeError, match=r'0\.pattern'):
        network.load_state_dict(dense.state_dict())


def test_sparsify_keeps_the_ends_and_grouped_convolutions_dense():
    network, specs = small()
    assert list(specs) == ['1', '2.0', '4']
    assert isinstance(network[1], SparseConv2d)
    assert isinstance(network[4], SparseLinear)
    assert type(network[0]) is type(network[2][1]) is nn.Conv2d
    assert network[1].bias is None
    assert all(spec.density == 0.25 for spec in specs.values())
    assert network(torch.randn(2, 3, 3, 3)).shape == (2, 10)


def test_erk_divides_one_density_so_that_large_layers_are_the_sparsest():
    def network():
        widths = (3, 16, 16, 32, 64, 64)
        return nn.Sequential(*(nn.Conv2d(a, b, 3) for a, b in itertools.pairwise(widths)))

    for density, kind, width in ((0.1, 'tap-regular', 1), (0.2, 'random-regular', None)):
        sparse = network()
        specs = sparsify(sparse, density, kind, width=width, allocation='erk')
        weights = sum(layer.weight.numel() for layer in sparse[1:])
        whole = sum(layer.weight.numel() for layer in network()[1:])
        assert 0.8 * density * whole < weights <= density * whole
        densities = [spec.density for spec in specs.values()]
        assert densities == sorted(densities, reverse=True) and densities[-1] < densities[0]
        steep = sparsify(network(), density, kind, width=width, allocation='erk', power=2)
        first, *_, last = (spec.density for spec in steep.values())
        # What small layers get is taken from the large ones.
        assert first > densities[0] and last < densities[-1]
    with pytest.raises(
        SparsityError, match=r'density 0\.001 in all: the least that can be is 0\.0'
    ):
        sparsify(network(), 0.001, 'random-regular', nearest=True, allocation='erk')
    with pytest.raises(SparsityError, match="allocation 'magic', expected 'uniform' or 'erk'"):
        sparsify(network(), 0.5, 'random-regular', allocation='magic')


def test_sparsify_leaves_a_network_in_the_mode_it_is_in():
    for training in (True, False):
        network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
        sparsify(network.train(training), 0.25)
        assert [layer.training for layer in network] == [training] * 3


def test_sparsify_keeps_what_it_is_told_to():
    assert list(small(keep=['2.*'])[1]) == ['1', '4']


def test_sparsify_draws_each_layer_its_own_pattern_from_one_seed():
    first, again, other = small(seed=1)[1], small(seed=1)[1], small(seed=2)[1]
    assert first == again
    assert all(first[name] != other[name] for name in first)
    assert first['1'].seed != first['2.0'].seed


def test_sparsify_names_the_layer_it_cannot_and_changes_nothing():
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 112, 3))
    before = copy.deepcopy(network)
    with pytest.raises(SparsityError, match=r'^2: density 0\.25 .* keep this layer dense'):
        sparsify(network, 0.25)
    assert str(network) == str(before)


def test_sparsify_takes_the_nearest_density_and_leaves_the_infeasible_dense():
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 112, 3), nn.Conv2d(112, 112, 3)
    )
    specs = sparsify(network, 0.2, nearest=True)
    assert {name: round(spec.density, 3) for name, spec in specs.items()} == {'1': 0.25, '3': 0.143}


def test_sparsify_refuses_a_target_that_no_layer_can_reach():
    network = nn.Sequential(nn.Linear(3, 30), nn.Linear(30, 7), nn.Linear(7, 5))
    with pytest.raises(SparsityError, match=r'layers 0, 1, 2 .* 1: .* nearest .* 28 or 32 and 16'):
        sparsify(network, 0.5, nearest=True)
    with pytest.raises(SparsityError, match=r'layers 0, 1, 2 .* dense at the nearest density'):
        sparsify(network, 0.5, 'random-regular', nearest=True)


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(SparsityError, match="'blocks'; choose one of random-regular, clash"):
        small(kind='blocks')


def test_a_sparse_network_learns_and_copies():
    network = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    network.append(nn.Linear(64, 4))
    sparsify(network, 0.25)
    x, labels = torch.randn(64, 48), torch.arange(64) % 4
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        loss = F.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert (network(x).argmax(1) == labels).float().mean() > 0.95
    twin = copy.deepcopy(network)
    torch.testing.assert_close(twin(x), network(x), rtol=0, atol=0)
