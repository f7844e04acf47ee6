# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

torch = pytest.importorskip('torch')
onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

from torch import nn  # noqa: E402
from torch.nn.utils.fusion import fuse_conv_bn_weights  # noqa: E402

from sparse_split_ros.sparsity.layers import SparseConv2d, SparseLinear  # noqa: E402
from sparse_split_ros.sparsity.onnx import write_conv, write_linear  # noqa: E402
from sparse_split_ros.sparsity.patterns import Kind, PatternSpec  # noqa: E402

SPECS = [
    PatternSpec(Kind.RANDOM_REGULAR, 64, 48, 4, 1),
    PatternSpec(Kind.CLASH_FREE_1, 64, 48, 16, 1, parallelism=8),
    PatternSpec(Kind.BLOCK_REGULAR, 64, 64, 16, 1, width=4),
    PatternSpec(Kind.BLOCK_REGULAR, 64, 64, 16, 1, width=16),
    PatternSpec(Kind.N_OF_M, 64, 48, 32, 1, width=4),
]


TAPS = [
    PatternSpec(Kind.TAP_REGULAR, 64, 64, 16, 1, width=4, taps=9),
    PatternSpec(Kind.TAP_REGULAR, 24, 32, 5, 1, width=1, taps=9),
    PatternSpec(Kind.TAP_REGULAR, 64, 32, 32, 1, width=16, taps=9),
]


class Graph:
    """The least that collects nodes and constants."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, kind, inputs, **attributes):
        output = f'v{len(self.nodes)}'
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, value):
        return self._constant(value.detach().numpy())

    def integers(self, value):
        return self._constant(value.astype(np.int64))

    def _constant(self, array):
        self.constants.append(onnx.numpy_helper.from_array(array, f'w{len(self.constants)}'))
        return self.constants[-1].name

    def run(self, y, x):
        """The model, and its answer to x."""
        ends = [
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ['N', *shape])]
            for name, shape in (('x', x.shape[1:]), (y, [None] * (x.ndim - 1)))
        ]
        graph = onnx.helper.make_graph(self.nodes, 'sparse', *ends, self.constants)
        opset = [onnx.helper.make_opsetid('', 17)]
        model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        data = model.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
        return data, session.run(None, {'x': x.numpy()})[0]


def named(spec):
    return f'{spec.kind.value} {spec.width}'


@pytest.mark.parametrize('rows', [1, 5])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('spec', SPECS, ids=named)
def test_a_linear_layer_answers_in_onnxruntime_as_in_torch(spec, bias, rows):
    layer, x, graph = SparseLinear(spec.draw(), bias), torch.randn(rows, spec.inputs), Graph()
    _, y = graph.run(write_linear(graph, layer, 'x', layer.weight, layer.bias), x)
    np.testing.assert_allclose(y, layer(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('spec', [*SPECS, *TAPS], ids=named)
def test_a_convolution_with_batch_norm_answers_in_onnxruntime_as_in_torch(spec):
    layer = SparseConv2d(spec.draw(), 3, (2, 1), (1, 2), (1, 2), bias=False)
    norm = nn.BatchNorm2d(spec.outputs).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    weight, bias = fuse_conv_bn_weights(
        layer.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    x, graph = torch.randn(3, spec.inputs, 9, 8), Graph()
    data, y = graph.run(write_conv(graph, layer, 'x', weight, bias), x)
    np.testing.assert_allclose(y, norm(layer(x)).detach().numpy(), rtol=1e-5, atol=1e-5)
    # Existing weights, an index per kernel (of taps, per column of a block) at most, and a
    # kilobyte of graph.
    spec = layer.pattern.spec
    indices = layer.pattern.edges // (spec.rows if spec.taps > 1 else 1)
    assert len(data) < 4 * layer.weight.numel() + 8 * indices + 1024


def test_block_regular_layers_are_a_gather_and_a_grouped_convolution():
    linear, conv = Graph(), Graph()
    pattern = SPECS[2].draw()
    layer = SparseConv2d(pattern, 3)
    flat = SparseLinear(pattern)
    write_linear(linear, flat, 'x', flat.weight, flat.bias)
    write_conv(conv, layer, 'x', layer.weight, layer.bias)
    assert [node.op_type for node in linear.nodes] == ['Gather', 'Unsqueeze', 'Conv', 'Flatten']
    assert [node.op_type for node in conv.nodes] == ['Gather', 'Conv']
