"""The predictive of each method on a net of 57 weights, against Hamiltonian Monte Carlo: its total variation is bounded."""

import pytest
import torch
from torch import Tensor, nn

from support.hmc import hmc
from tombola import PosteriorSettings, PruneSettings, TrainSettings, find_tickets, streams

HIDDEN, CLASSES, CHAINS = 9, 3, 50
LIMITS = {
    "sgld": (0.04, {"epochs": 8000, "lr": 0.2, "keep": 300, "burn_in": 0.1}),
    "sghmc": (0.05, {"epochs": 8000, "lr": 0.02, "keep": 300, "burn_in": 0.1}),
    "sghmc in cycles": (0.045, {"epochs": 8000, "lr": 0.05, "keep": 300, "burn_in": 0.25, "cycles": 8}),
    "mc_dropout": (0.09, {"epochs": 3000, "lr": 0.01}),  # one shape of distribution, with the rate that it is given
    "ensemble": (0.14, {"epochs": 600, "lr": 0.03, "keep": 20}),  # modes without their width
    "swag": (0.15, {"epochs": 3000, "lr": 0.2, "optimiser": "sgd", "keep": 40}),  # one mode, width of the optimiser's noise
    "vi": (0.18, {"epochs": 3000, "lr": 0.005, "samples": 2, "schedule": "cosine"}),  # mean field, one mode
    "vi_low_rank": (0.2, {"epochs": 3000, "lr": 0.005, "samples": 2, "schedule": "cosine", "rank": 8}),  # one curved mode
    "ivon": (0.2, {"epochs": 3000, "ivon_lr": 0.1}),  # the same
    "laplace": (0.18, {"epochs": 1500, "lr": 0.01}),  # one mode, no correlations
    "laplace_full": (0.3, {"epochs": 1500, "lr": 0.01}),  # weights of a curved mode, drawn along straight directions
}
"""Largest mean total variation over a grid of inputs, and settings; measured values are about 0.7 of it."""


def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long() + (inputs[:, 0] > 0.8).long()


def grid() -> Tensor:
    line = torch.linspace(-3, 3, 13)
    return torch.cartesian_prod(line, line)


def outputs(w: Tensor, inputs: Tensor) -> Tensor:
    """Logits [K, B, C] of nets with parameters w [K, 57]."""
    sizes = [2 * HIDDEN, HIDDEN, CLASSES * HIDDEN, CLASSES]
    first, bias, last, end = w.split(sizes, 1)
    hidden = torch.tanh(inputs @ first.view(-1, HIDDEN, 2).mT + bias[:, None])
    return hidden @ last.view(-1, CLASSES, HIDDEN).mT + end[:, None]


def total_variation(p: Tensor, q: Tensor) -> float:
    return float(0.5 * (p - q).abs().sum(-1).mean())


@pytest.fixture(scope="module")
def oracle() -> Tensor:
    """Class probabilities on the grid, at heat 1 and prior_std 1."""
    inputs, labels = data()
    inputs = inputs.double()

    def log_density(w: Tensor) -> Tensor:
        fits = outputs(w, inputs).log_softmax(-1)[:, torch.arange(60), labels].sum(1)
        return fits - 0.5 * w.square().sum(1)

    start = torch.randn(CHAINS, 57, generator=torch.Generator().manual_seed(1))
    samples, accepted = hmc(log_density, start, step=0.15, leapfrogs=20, samples=120, burn_in=60)
    assert 0.6 < accepted < 0.95
    probs = outputs(samples, grid().double()).softmax(-1).unflatten(0, (120, CHAINS))
    halves = probs[:, : CHAINS // 2].mean((0, 1)), probs[:, CHAINS // 2 :].mean((0, 1))
    assert total_variation(*halves) < 0.01  # of chains from different starts: what the oracle itself is uncertain by
    return probs.mean((0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_the_predictive_is_that_near_to_the_posteriors(name: str, oracle: Tensor):
    limit, changes = LIMITS[name]
    cyclical = {"schedule": "cyclical"} if "cycles" in changes else {}
    settings = TrainSettings(**({"method": name.split()[0], "heat": 1.0, "batch_size": 60} | changes | cyclical))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
    dense, start = PruneSettings(levels=0, score="mu"), PosteriorSettings(std=0.1)
    (ticket,) = find_tickets(net, data(), train=settings, prune=dense, posterior=start, progress=False)
    assert total_variation(ticket.predict(net, grid(), samples=1000).probs, oracle) < limit


@pytest.mark.slow
def test_the_oracle_agrees_with_pyros_hmc(oracle: Tensor):
    """Eight chains of pyro's, together: within twice what the halves of ours may differ by."""
    mcmc = pytest.importorskip("pyro.infer.mcmc")
    inputs, labels = data()
    inputs = inputs.double()

    def energy(found: dict[str, Tensor]) -> Tensor:
        w = found["w"]
        fits = outputs(w, inputs).log_softmax(-1)[:, torch.arange(60), labels].sum()
        return 0.5 * w.square().sum() - fits

    start = torch.randn(8, 57, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with streams.global_stream("pyro"):
        kernel = mcmc.HMC(potential_fn=energy, step_size=0.1, num_steps=20, target_accept_prob=0.8)
        run = mcmc.MCMC(kernel, num_samples=500, warmup_steps=150, initial_params={"w": start}, disable_progbar=True)
        run.run()
    samples = run.get_samples()["w"].flatten(0, 1)
    assert total_variation(outputs(samples, grid().double()).softmax(-1).mean(0), oracle) < 0.02
