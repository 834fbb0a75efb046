"""ONNX and torch.export of the mean, of weight samples, and of moments: against the ticket's own predictions."""

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

from tombola import Ticket, TombolaError
from tombola.deploy import compile_moments
from tombola.export import onnx, program
from tombola.models import build
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.state import State
from tombola.pruning.ensemble import ensemble_of, members_of

onnxruntime = pytest.importorskip("onnxruntime")

NETS = {
    "mlp": ({"hidden": [12, 9]}, (1, 8, 8)),
    "lenet": ({}, (1, 8, 8)),
    "resnet": ({"depth": 8, "width": 4}, (3, 8, 8)),
    "vgg": ({"depth": 11, "width": 2}, (3, 32, 32)),
    "vit": ({"dim": 16, "heads": 2, "depth": 1}, (3, 8, 8)),
    "fast": ({"width": 4}, (3, 32, 32)),
}


def made(name, density=0.3):
    args, shape = NETS[name]
    module = build(name, args, shape, 10, ("export", name))
    inputs = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ticket = random_ticket(module, density, std=0.05)
    return module, ticket.with_statistics(module, inputs, samples=3), inputs


def run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return [torch.from_numpy(v) for v in session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))]


def close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max().clamp_min(1)) <= tolerance


def the_mean(name, ticket, inputs):
    with torch.no_grad():
        return ticket.write_mean(build(name, *NETS[name], 10, ("other",))).eval()(inputs)


@pytest.mark.slow  # five seconds each: the exporter makes its table of operations every time
@pytest.mark.parametrize("name", NETS)
def test_the_mean_of_every_shipped_net_in_onnx_runtime(name, tmp_path):
    module, ticket, inputs = made(name)
    onnx(ticket, module, inputs, tmp_path / "mean.onnx")
    close(run(tmp_path / "mean.onnx", inputs)[0], the_mean(name, ticket, inputs))


@pytest.mark.parametrize(
    "name", ["lenet", *(pytest.param(name, marks=pytest.mark.slow) for name in NETS if name != "lenet")]
)
def test_samples_of_every_shipped_net_in_onnx_runtime(name, tmp_path):
    module, ticket, inputs = made(name)
    onnx(ticket, module, inputs[:2], tmp_path / "samples.onnx", kind="samples", samples=2)
    prediction = ticket.predict(module, inputs, samples=2)
    for rows in (slice(7), slice(1), slice(3, 6)):  # batches of any size
        probs, epistemic = run(tmp_path / "samples.onnx", inputs[rows])
        close(probs.double(), prediction.probs[rows])
        close(epistemic.double(), prediction.mutual_information[rows])
    assert [path.name for path in tmp_path.iterdir()] == ["samples.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet", "vgg", "fast"])
def test_moments_are_those_of_deploy(name, tmp_path):
    pytest.importorskip("numba")
    module, ticket, inputs = made(name)
    onnx(ticket, module, inputs, tmp_path / "moments.onnx", kind="moments")
    for found, expected in zip(
        run(tmp_path / "moments.onnx", inputs[:5]),
        compile_moments(ticket, module, inputs, kernels="dense")(inputs[:5]),
        strict=True,
    ):
        close(found, expected)


PROGRAMS = [("mlp", "mean"), ("mlp", "samples"), ("resnet", "moments")]
SIBLINGS = [("mlp", "moments"), ("resnet", "mean"), ("resnet", "samples")]


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("name", "kind"), [*PROGRAMS, *(pytest.param(*both, marks=pytest.mark.slow) for both in SIBLINGS)])
def test_a_program_is_saved_and_loaded(name, kind, tmp_path):
    module, ticket, inputs = made(name)
    program(ticket, module, inputs, tmp_path / "net.pt2", kind=kind, samples=2)
    found = torch.export.load(tmp_path / "net.pt2").module()(inputs[:4])
    if kind == "mean":
        close(found, the_mean(name, ticket, inputs[:4]))
    elif kind == "samples":
        prediction = ticket.predict(module, inputs[:4], samples=2)
        close(found[0].double(), prediction.probs)
        close(found[1].double(), prediction.mutual_information)
    else:  # deploy's own are compared with in ONNX Runtime
        assert [tuple(value.shape) for value in found] == [(4, 10), (4, 10)]
        assert (found[1] > 0).all()


def three_points():
    """A small net, and a ticket of an ensemble of three."""
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return module, ensemble_of([random_ticket(module, 0.8, seed=seed) for seed in range(3)])


def test_of_an_ensemble_each_member_is_exported_once():
    module, ticket = three_points()
    x = torch.randn(6, 4)
    probs, epistemic = program(ticket, module, x, kind="samples").module()(x)
    members = torch.stack([member.write_mean(module)(x).softmax(-1) for member in members_of(ticket)]).detach()
    close(probs, members.mean(0))
    expected = ticket.predict(module, x)
    assert len(expected.probs_SBC) == 3
    close(epistemic, expected.mutual_information.float())
    for sample in (-1, 3):
        with pytest.raises(TombolaError, match=f"sample is {sample}; it must be at least 0 and below 3"):
            ticket.state_dict(module, seed=0, sample=sample)


@pytest.mark.slow
def test_an_onnx_file_says_how_many_samples_it_has(tmp_path):
    module, ticket = three_points()
    onnx(ticket, module, torch.randn(6, 4), tmp_path / "x.onnx", kind="samples")
    about = onnxruntime.InferenceSession(tmp_path / "x.onnx").get_modelmeta().custom_metadata_map["tombola"]
    assert json.loads(about)["samples"] == 3


@pytest.mark.slow
def test_inputs_by_keyword_and_a_regression(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 1), nn.Linear(2, 1)

        def forward(self, a, b):
            return self.left(a).tanh() + self.right(b)

    module = Two()
    inputs = {"b": torch.randn(4, 2), "a": torch.randn(4, 3)}
    ticket = random_ticket(module, 1.0, std=0.2)
    noise = {name: value.detach() for name, value in GaussianNoise(learn_noise=True).state_dict().items()}
    ticket = replace(ticket, trained=State(ticket.trained.posterior, {}, noise))
    onnx(ticket, module, inputs, tmp_path / "two.onnx", kind="samples", samples=5, seed=3)
    session = onnxruntime.InferenceSession(str(tmp_path / "two.onnx"))
    assert [one.name for one in session.get_outputs()] == ["mean", "epistemic"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["tombola"])["seed"] == 3
    mean, variance = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    outputs = ticket.outputs(module, inputs, samples=5, seed=3).numpy()
    np.testing.assert_allclose(mean, outputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(variance, outputs.var(0), atol=1e-5)


class _Sorted(nn.Linear):
    def forward(self, x):
        return torch.linalg.svdvals(super().forward(x).view(-1, 2, 2))


class _Mixed(nn.Linear):
    def forward(self, x):
        found = super().forward(x)
        return found - found.mean(0)


class _Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def _other(ticket, **changes):
    return replace(ticket, trained=replace(ticket.trained, posterior=replace(ticket.posterior, **changes)))


BAD = {
    "another kind": (nn.Linear, {"kind": "median"}, "kind is 'median'; it must be mean, samples or moments"),
    "no samples": (nn.Linear, {"kind": "samples", "samples": 0}, "samples is 0; it must be at least 1"),
    "an operation that ONNX lacks": (_Sorted, {}, "_Sorted cannot be written as ONNX: .*svd"),
    "a network that mixes examples": (_Mixed, {}, "_Mixed differs from itself .* depend on the other examples"),
    "a network that branches": (_Branching, {}, "torch.export cannot follow _Branching"),
    "no rule": (_Sorted, {"kind": "moments"}, "moments have no rule for the operation"),
}


@pytest.mark.parametrize("what", [pytest.param(w, marks=[pytest.mark.slow] * ("ONNX" in w)) for w in BAD])
def test_what_cannot_be_exported_is_said_in_one_sentence(what, tmp_path):
    kind, settings, said = BAD[what]
    module = kind(4, 4)
    with pytest.raises(TombolaError, match=said) as error:
        onnx(random_ticket(module, 1.0, std=0.1), module, torch.randn(3, 4), tmp_path / "x.onnx", **settings)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_tickets_and_examples_that_do_not_fit_are_refused(tmp_path):
    module, x, path = nn.Linear(4, 4), torch.randn(3, 4), tmp_path / "x.onnx"
    ticket = random_ticket(module, 1.0, std=0.1)
    nan = _other(ticket, mean=torch.full_like(ticket.posterior.mean, math.nan))
    for wrong, net, example, file, said in (
        (Ticket(ticket.mask, ticket.rewind), module, x, path, "the ticket has no trained state"),
        (nan, module, x, path, "the mean of 'weight' is not finite"),
        (ticket, nn.Linear(5, 4), x, path, "parameter 'weight' of Linear has shape"),
        (ticket, module, x, tmp_path / "x.txt", "must end in .onnx"),
        (ticket, module, x, tmp_path / "no" / "x.onnx", "there is no folder"),
        (ticket, module, [x, 3], path, "input_1 of the example is int"),
        (ticket, module, (x, x[:2]), path, "have .2, 3. examples"),
    ):
        with pytest.raises(TombolaError, match=said):
            onnx(wrong, net, example, file)
