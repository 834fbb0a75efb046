"""Moments as an estimator of a ticket's predictions and of its records."""

import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from tombola import TombolaError, TrainSettings
from tombola.deploy import compile_moments
from tombola.models import build
from tombola.settings import EvaluateSettings
from tombola.training.evaluate import evaluate_ticket

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def made():
    module = build("lenet", {}, SHAPE, 10, ("estimate",))
    inputs = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))
    return module, random_ticket(module, 0.3, std=0.2), inputs


def test_predictions_are_those_of_compiled_moments_for_batches_of_any_size(made):
    module, ticket, inputs = made
    found = ticket.predict(module, inputs, estimator="moments", seed=3)
    again = ticket.predict(module, inputs, estimator="moments", seed=3, batch=7)
    expected = compile_moments(ticket, module, inputs, kernels="dense").predict(inputs, seed=3)
    assert found.probs_SBC.shape == (512, 40, 10)
    for probs in (found.probs, again.probs):
        torch.testing.assert_close(probs, expected, atol=1e-5, rtol=1e-4)
    sampled = ticket.predict(module, inputs, samples=200)
    assert (found.probs - sampled.probs).abs().sum(1).mean() / 2 < 0.03
    assert torch.corrcoef(torch.stack([found.mutual_information, sampled.mutual_information]))[0, 1] > 0.8


def test_records_by_moments_are_near_those_of_many_weight_samples(made):
    module, ticket, inputs = made
    targets = ticket.predict(module, inputs, samples=4, seed=9).probs.argmax(1)
    rows = {
        name: evaluate_ticket(
            module,
            ticket,
            (inputs, targets),
            inputs,
            EvaluateSettings(samples=256, estimator=name),
            TrainSettings(),
            ("here",),
            torch.device("cpu"),
            prepare=torch.Tensor.float,
        )
        for name in ("weight_sample", "moments")
    }
    assert rows["moments"].keys() == rows["weight_sample"].keys()
    assert rows["moments"]["samples"] == 256
    assert rows["moments"]["nll"] == pytest.approx(rows["weight_sample"]["nll"], rel=0.05)
    assert rows["moments"]["nll"] != rows["weight_sample"]["nll"]


def test_a_regression_has_outputs_too():
    module, x = nn.Linear(6, 2), torch.randn(30, 6)
    ticket = random_ticket(module, 1.0, std=0.5)
    found = ticket.outputs(module, x, estimator="moments", samples=4000)
    mean, variance = compile_moments(ticket, module, x, kernels="dense")(x)
    assert (found.mean(0) - mean).abs().max() < 0.1 * variance.max().sqrt()
    assert (found.var(0) / variance).mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"estimator": "median"}, "estimator is 'median'; it must be weight_sample or moments"),
        ({"batch_norm": "batch"}, "estimator 'moments' has neither batch_norm 'batch' nor select; leave them out"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"inputs": {"x": torch.zeros(1)}}, "moments take one tensor of inputs, not a dict; use weight samples"),
        ({"inputs": torch.zeros(1, *SHAPE).double()}, r"inputs are torch\.float64 on cpu; it must be a batch"),
    ],
)
def test_what_moments_cannot_do_is_said(made, settings, said):
    module, ticket, inputs = made
    arguments = {"inputs": inputs, "estimator": "moments"} | settings
    with pytest.raises(TombolaError, match=said):
        ticket.predict(module, **arguments)


def test_settings_that_moments_cannot_have_are_refused():
    with pytest.raises(TombolaError, match=r"evaluate\.samples is 16, too few draws from moments: give 64 or more"):
        EvaluateSettings(estimator="moments")
    with pytest.raises(TombolaError, match=r"evaluate\.batch_norm is batch, which moments cannot have"):
        EvaluateSettings(estimator="moments", samples=64, batch_norm="batch")


def test_a_point_is_refused(made):
    module, ticket, inputs = made
    point = tombola.Ticket(ticket.mask, ticket.rewind, ticket.end.as_family("point"))
    with pytest.raises(TombolaError, match="the ticket's posterior is a point, which has no variances; take its mean"):
        point.predict(module, inputs, estimator="moments")
