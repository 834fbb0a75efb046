"""Compiled tickets: equal to the masked dense network, whatever the model, the kernels, the batch and the threads."""

import re

import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from support.bare import run_without
from tombola.models import build

pytest.importorskip("numba")
from tombola.deploy.kernels import OPERATIONS
from tombola.deploy.predictor import Predictor
from tombola.deploy.program import Table
from tombola.deploy.tune import Choice, layers

# of tickets that were never trained: both sides read the running statistics that they were given
pytestmark = pytest.mark.filterwarnings("ignore:the ticket has no batch-norm statistics")

MODELS = {
    "mlp": ((1, 8, 8), {}),
    "lenet": ((1, 28, 28), {}),
    "conv": ((3, 17, 13), {"batch_norm": True}),
    "vgg11": ((3, 16, 16), {"width": 4}),
    "resnet": ((3, 9, 9), {"depth": 8, "width": 4}),
    "vit": ((3, 8, 8), {"dim": 32, "heads": 2, "depth": 1}),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))


def net(name):
    shape, args = MODELS[name]
    return build(name, args, shape, 10, ("deploy", name)), shape


def masked(ticket, module, x):
    """The logits of the masked dense network, by torch."""
    with torch.no_grad():
        return torch.func.functional_call(module.eval(), ticket.state_dict(module), (x,))


def assert_equal(found, expected):
    """Within 1e-4 of the largest logit, the issue's tolerance; the last bits are all that differ."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def inputs(batch, shape, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_the_masked_networks(name):
    """Sparse throughout, in torch throughout, and every other layer in torch; batches that fill chunks and that do not."""
    module, shape = net(name)
    ticket, example = random_ticket(module, 0.05), inputs(16, shape)
    predictor = tombola.compile(ticket, module, example, kernels="sparse")
    names = list(layers(predictor._graph))
    found = [predictor]
    for choice in (Choice(0, tuple(names)), Choice(8, tuple(names[::2])), Choice(8, tuple(names[1::2]))):
        found.append(Predictor(predictor._graph, choice, example))
    for size in (1, 2, 11, 16, 21):
        x = inputs(size, shape, seed=size)
        expected = masked(ticket, module, x)
        for each in found:
            assert_equal(each(x), expected)


def test_the_fastest_kernels_are_measured_once_and_kept(tmp_path):
    module, shape = net("mlp")
    ticket, x = random_ticket(module, 0.05), inputs(4, shape)
    predictor = tombola.compile(ticket, module, x)
    assert_equal(predictor(x), masked(ticket, module, x))
    (kept,) = (tmp_path / "deploy").glob("*.json")
    kept.write_text('{"chunk": 8, "dense": ["linear"]}')
    again = tombola.compile(ticket, module, x)
    assert again.choice.dense == ("linear",)
    kept.write_text("{")  # half written: measured anew
    assert_equal(tombola.compile(ticket, module, x)(x), masked(ticket, module, x))


def test_the_summary_names_layers_kernels_and_what_torch_computes():
    module, shape = net("vit")
    ticket = random_ticket(module, 0.05)
    text = tombola.compile(ticket, module, inputs(8, shape), kernels="sparse").summary()
    assert re.search(r"^blocks\.0\.mlp\.up +128x32 +[45]\.\d\d% +sparse +\d+\.\d{3}$", text, re.M), text
    assert "scaled_dot_product_attention" in text.splitlines()[-1]


def test_several_threads_give_the_same_bits():
    module, shape = net("conv")
    ticket, x = random_ticket(module, 0.05), inputs(40, shape)
    one = tombola.compile(ticket, module, x[:8], kernels="sparse")
    try:
        torch.set_num_threads(2)
        two = tombola.compile(ticket, module, x[:8], kernels="sparse")
        assert torch.equal(two(x), one(x))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("padding", [0, 1])
def test_dead_channels_are_removed_exactly(padding):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=padding), nn.ReLU())
    module.append(nn.Conv2d(5, 4, 1)).append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(4, 10))
    with torch.no_grad():
        module[0].weight[:2] = 0  # constants: one positive, one that ReLU makes zero
        module[0].bias[:2] = torch.tensor([0.7, -0.7])
        module[2].weight[:, 3] = 0  # read by nothing
        module[2].weight[4] = 0
    ticket, x = random_ticket(module, 1.0), inputs(8, (3, 9, 9))
    predictor = tombola.compile(ticket, module, x, kernels="sparse")
    assert_equal(predictor(x), masked(ticket, module, x))
    densities = {row.name: row.density for row in predictor.layers()}
    assert densities["0"] == pytest.approx(3 / 6)
    assert densities["2"] == pytest.approx(4 / 5 * (3 if padding == 0 else 4) / 6)
    assert densities["4"] == pytest.approx(4 / 5)


CONVOLUTIONS = [(3, 1, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (5, 3, 2, 2), (2, 2, 0, 1), (1, 1, 3, 1)]
"""Kernel, stride, padding, dilation."""


@pytest.mark.parametrize(("groups", "geometry"), list(zip((1, 2, 6, 2, 1, 1), CONVOLUTIONS, strict=True)))
def test_any_convolution(groups, geometry):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 12, *geometry, groups)
    module = nn.Sequential(nn.BatchNorm2d(6), conv, nn.MaxPool2d(3, 2, 1), nn.Conv2d(12, 4, 3, padding=2), nn.AvgPool2d(2))
    ticket, x = random_ticket(module, 0.4), inputs(9, (6, 19, 14))  # nine: a chunk and one alone
    assert_equal(tombola.compile(ticket, module, x[:8], kernels="sparse")(x), masked(ticket, module, x))


def test_rows_are_computed_in_groups_where_all_do_not_fit_into_the_cache():
    module, x = nn.Conv2d(64, 3, 3, padding=1), inputs(16, (64, 13, 24))
    ticket = random_ticket(module, 0.1)
    predictor = tombola.compile(ticket, module, x, kernels="sparse")
    (table,) = (step for step in predictor._program(16).steps if isinstance(step, Table))
    assert 0 < table.rows[0, 1 + OPERATIONS["conv"].split().index("group")] < 13
    assert_equal(predictor(x), masked(ticket, module, x))


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.float64), "example is torch.float64 on cpu; it must be a batch"),
        ([1.0], "example is list; it must be a batch"),
    ],
)
def test_a_wrong_example_is_refused(example, sentence):
    module, _ = net("mlp")
    with pytest.raises(tombola.TombolaError, match=re.escape(sentence)):
        tombola.compile(random_ticket(module, 0.05), module, example)


def test_wrong_inputs_and_modules_are_refused():
    module, shape = net("mlp")
    ticket = random_ticket(module, 0.05)
    predictor = tombola.compile(ticket, module, inputs(1, shape), kernels="sparse")
    with pytest.raises(tombola.TombolaError, match=re.escape("the network takes [B, 1, 8, 8], B from 1")):
        predictor(torch.zeros(2, 8, 8))
    with pytest.raises(tombola.TombolaError, match=r"inputs are torch\.float64 on cpu"):
        predictor(torch.zeros(2, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(tombola.TombolaError, match="inputs have values that are not finite"):
        predictor(torch.full((2, 1, 8, 8), torch.nan))
    with pytest.raises(tombola.TombolaError, match="kernels is 'fast'; it must be measured, sparse or dense"):
        tombola.compile(ticket, module, inputs(1, shape), kernels="fast")

    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    class Mixing(nn.Sequential):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    mixing = Mixing(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(tombola.TombolaError, match="depend on the other examples of a batch, cannot be compiled"):
        tombola.compile(random_ticket(mixing, 0.05), mixing, inputs(9, shape), kernels="sparse")

    other = Branching(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(tombola.TombolaError, match=r"torch\.export cannot follow Branching"):
        tombola.compile(random_ticket(other, 0.05), other, inputs(1, shape))


def test_without_numba_one_sentence_says_what_to_install():
    code = """
import torch, tombola
from tombola.errors import TombolaError
from tombola.deploy import compile
try:
    compile(None, None, None)
except TombolaError as error:
    assert "pip install 'tombola[deploy]'" in str(error)
else:
    raise AssertionError
"""
    run_without(("numba", "llvmlite"), code)
