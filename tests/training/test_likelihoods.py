"""Bernoulli and Poisson likelihoods by name: values, gradients and records of whole studies."""

import pytest
import torch
from torch.distributions import Bernoulli, Poisson

from tombola.engine.local import dataset
from tombola.engine.records import collect
from tombola.errors import TombolaError
from tombola.posterior import likelihood
from tombola.settings import TrainSettings
from tombola.study.plan import plan_study
from tombola.study.spec import unfold
from tombola.training.scored import labels_of, probs_of

STREAM = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3)])
def test_the_mass_is_that_of_torchs_distributions(shape):
    output = torch.randn(shape, generator=STREAM, dtype=torch.float64)
    yes, counts = (output > 0.3).float(), torch.poisson(output.exp().float(), generator=STREAM)
    found = likelihood.Bernoulli()(output, (None, yes)), likelihood.Poisson()(output, (None, counts))
    expected = Bernoulli(logits=output).log_prob(yes.double()), Poisson(output.exp()).log_prob(counts.double())
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs.view(6, -1).sum(1))


@pytest.mark.parametrize("kind", [likelihood.Bernoulli, likelihood.Poisson])
def test_targets_that_do_not_fit_are_refused(kind):
    with pytest.raises(TombolaError, match="do not fit outputs"):
        kind()(torch.zeros(3, 2), (None, torch.zeros(3)))
    with pytest.raises(TombolaError, match=r"neither 0 nor 1|no count"):
        kind()(torch.zeros(2), (None, torch.tensor([0.0, 0.5])))
    with pytest.raises(TombolaError, match=r"neither 0 nor 1|no count"):
        kind()(torch.zeros(2), (None, torch.tensor([0.0, torch.nan])))


def test_a_yes_is_the_second_of_two_classes():
    logits, yes = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0], [0.0]])
    probs = probs_of(logits, TrainSettings(likelihood="bernoulli"))
    assert torch.allclose(probs[0, :, 1], torch.tensor([0.0, 2.0]).double().sigmoid())
    assert torch.allclose(probs.sum(-1), torch.ones(1, 2).double())
    assert labels_of(yes).tolist() == [1, 0]
    assert probs_of(logits, TrainSettings(likelihood="poisson")) is None


DATA = """
import torch
from tombola.data import split

def _x():
    return torch.randn(700, 3, generator=torch.Generator().manual_seed(1))

def yes():
    x = _x()
    return split("yes", x, (x[:, :1] + 0.1 * x[:, 1:2] > 0).float(), validation=100, test=300)

def counts():
    x = _x()
    rates = (0.5 + 0.8 * x[:, :1]).exp()
    return split("counts", x, torch.poisson(rates, generator=torch.Generator().manual_seed(2)), validation=100, test=300)
"""


def study(name, chosen, **evaluate):
    return {
        "name": name,
        "data": {"name": f"answers:{name}"},
        "model": {"name": "mlp", "args": {"hidden": [16]}},
        "train": {"epochs": 8, "batch_size": 32, "lr": 0.02, "heat": 0.01, "likelihood": chosen},
        "prune": {"levels": 1, "fraction": 0.5},
        "evaluate": {"samples": 3, **evaluate},
        "arms": ["ticket", "deterministic"],
    }


def test_yes_and_no_have_the_metrics_and_measures_of_two_classes(user_module, run_plan):
    user_module("answers", DATA)
    measures = ["selective", "conformal", "temperature", "adaptive"]
    plan = plan_study(unfold(study("yes", "bernoulli", measures=measures)), dataset)
    store, _, engine = run_plan(plan)
    records = collect(plan, store)
    assert engine.failures == {}
    assert (records["accuracy"] > 0.9).all()
    assert (records["classes"] == 2).all()
    assert records[["nll", "brier", "ece", "aurc_entropy", "temperature", "conformal_size"]].notna().all(axis=None)


def test_counts_have_nll_and_deviance(user_module, run_plan):
    user_module("answers", DATA)
    plan = plan_study(unfold(study("counts", "poisson") | {"views": ["connectivity"]}), dataset)
    store, _, engine = run_plan(plan)
    records = collect(plan, store)
    assert engine.failures == {}
    assert records["accuracy"].isna().all()
    assert records["deviance"].between(0.5, 1.7).all()  # about 1 where the rates are right
    assert records[["nll", "rmse"]].notna().all(axis=None)


def test_measures_of_classes_are_refused_for_counts(user_module):
    user_module("answers", DATA)
    for measure in ("selective", "conformal", "intervals"):
        with pytest.raises(TombolaError, match=f"evaluate.measures has {measure}"):
            plan_study(unfold(study("counts", "poisson", measures=[measure])), dataset)
    with pytest.raises(TombolaError, match="needs 'gaussian', 'bernoulli' or 'poisson'"):
        plan_study(unfold(study("counts", "categorical")), dataset)


def test_targets_that_a_likelihood_cannot_have_are_refused_before_anything_runs(user_module):
    user_module("answers", DATA)
    with pytest.raises(TombolaError, match=r"'bernoulli', but data 'counts' has the target [2-9]+; give 0 and 1"):
        plan_study(unfold(study("counts", "bernoulli")), dataset)
    raw = study("counts", "poisson") | {"data": {"name": "diabetes"}}
    with pytest.raises(TombolaError, match="give whole numbers of at least 0"):
        plan_study(unfold(raw), dataset)
