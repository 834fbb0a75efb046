"""The cross entropies of other priors: derivatives against numerical integrals, and trainings of a known optimum."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, TrainSettings
from tombola.data.batches import LoaderBatches
from tombola.inference.priors import folded_slopes, mixture_slope
from tombola.inference.variational_dropout import K1, K2, K3, log_uniform_slopes
from tombola.posterior.state import initial_state
from tombola.training.loop import train


def integral(f: Callable[[Tensor], Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """E f(w), w ~ N(mean, std^2), by the trapezoid rule in float64."""
    z = torch.linspace(-10, 10, 40_001, dtype=torch.float64)
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return torch.trapezoid(f(mean[:, None] + std[:, None] * z) * density, z)


MEANS = torch.tensor([0.0, 0.02, -0.3, 1.5, -4.0], dtype=torch.float64)
STDS = torch.tensor([0.5, 0.01, 0.2, 2.0, 0.1], dtype=torch.float64)


def test_the_laplace_priors_slopes_are_those_of_the_expected_size():
    mean, std = MEANS.clone().requires_grad_(), STDS.clone().requires_grad_()
    ratio = mean / std
    folded = std * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio.square()) + mean * torch.erf(ratio / math.sqrt(2))
    torch.testing.assert_close(folded, integral(torch.abs, MEANS, STDS), atol=1e-6, rtol=1e-6)
    expected = torch.autograd.grad(folded.sum(), (mean, std))
    torch.testing.assert_close(folded_slopes(MEANS, STDS), expected)
    sharp = folded_slopes(MEANS, torch.zeros_like(STDS))
    assert torch.equal(sharp[0], MEANS.sign())
    assert not sharp[1].any()


def test_the_mixtures_slope_is_that_of_its_log_density():
    w = torch.cat([MEANS, torch.tensor([0.01, -0.005], dtype=torch.float64)]).requires_grad_()
    slab, spike = (torch.distributions.Normal(0.0, s) for s in (0.8, 0.02))
    density = 0.3 * slab.log_prob(w).exp() + 0.7 * spike.log_prob(w).exp()
    (expected,) = torch.autograd.grad(-density.log().sum(), w)
    torch.testing.assert_close(mixture_slope(w.detach(), 0.3, 0.8, 0.02), expected)


class Nothing(nn.Module):
    """A likelihood that knows nothing: the posterior is the prior."""

    def forward(self, output: Tensor, batch: tuple) -> Tensor:
        return 0.0 * output.sum(1)


def of_no_data(method: str, steps: int = 600, **changes: object) -> Tensor:
    """Return the std of q after training without data."""
    module = nn.Linear(20, 10).double()
    settings = TrainSettings(**({"method": method, "epochs": steps // 25, "lr": 0.02, "heat": 1.0, "samples": 2} | changes))
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.3), 0)
    batch = torch.zeros(4, 20).double(), torch.zeros(4).double()
    batches = LoaderBatches([batch] * 25, examples=1)
    q = train(module, state, batches, settings, stream=("t",), likelihood=Nothing()).state.posterior
    assert float(q.mean.square().mean().sqrt()) < 0.05
    return q.std


def test_without_data_q_is_the_gaussian_nearest_to_a_laplace_prior():
    """KL(N(0, std^2) || Laplace(b)) has its minimum at std = b sqrt(pi / 2)."""
    found = float(of_no_data("vi_laplace", prior_std=0.8).mean())
    assert abs(found / (0.8 / math.sqrt(2) * math.sqrt(math.pi / 2)) - 1) < 0.02


def test_a_mixture_of_two_equal_gaussians_is_the_gaussian():
    std = of_no_data("vi_mixture", prior_std=0.5, spike_std=0.5, schedule="cosine")
    assert abs(float(std.mean()) - 0.5) < 0.02


def test_without_data_a_learned_prior_std_leaves_all_stds_of_a_tensor_equal():
    """At the best s the KL term is the sum of log(s / std), which is least where all stds are equal."""
    std = of_no_data("vi_layers", steps=300)
    assert float(std.std() / std.mean()) < 0.02


@pytest.mark.parametrize("method", ["vi_laplace", "vi_mixture", "vi_layers"])
def test_other_priors_shrink_what_the_data_do_not_need(method: str):
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    targets = (inputs[:, :1] * 2).contiguous()
    module = nn.Linear(6, 1)
    settings = TrainSettings(
        method=method, epochs=40, batch_size=16, lr=0.03, heat=1.0, likelihood="gaussian", noise_std=0.5, spike_std=0.05
    )
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.1), 0)
    batches = LoaderBatches(list(zip(inputs.split(16), targets.split(16), strict=True)), examples=64)
    q = train(module, state, batches, settings, stream=("t",)).state.posterior
    weight = q.layout.views(q.mean)["weight"][0]
    assert abs(float(weight[0]) - 2) < 0.2
    assert float(weight[1:].abs().max()) < 0.15


def test_the_log_uniform_slopes_are_those_of_the_papers_fit():
    """Equation 14 of Molchanov et al. 2017, differentiated by autograd, beside the entropy."""
    mean, std = MEANS.clone().requires_grad_(), STDS.clone().requires_grad_()
    away = mean.abs() + 1e-30
    log_alpha = 2 * (std.log() - away.log())
    kl = -(K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * torch.log1p((-log_alpha).exp()) - K1)
    expected = torch.autograd.grad((kl + std.log()).sum(), (mean, std))
    torch.testing.assert_close(log_uniform_slopes(MEANS, STDS), expected)
    nothing = log_uniform_slopes(torch.zeros(2), torch.zeros(2))
    assert not any(bool(slope.any()) for slope in nothing)


def test_the_papers_fit_is_near_the_kl_term_of_the_log_uniform_prior():
    """KL = E log abs(w) - log std + a constant, with E log abs(w) by quadrature; in the paper's figure 1 the two are one."""
    mean, std = torch.tensor([0.05, 0.3, 1.0, 3.0]).double(), torch.ones(4).double()
    log_alpha = -2 * mean.log()
    fit = -(K1 * torch.sigmoid(K2 + K3 * log_alpha) - 0.5 * torch.log1p((-log_alpha).exp()) - K1)
    exact = integral(lambda w: w.abs().clamp(min=1e-12).log(), mean, std)
    torch.testing.assert_close(fit - fit[0], exact - exact[0], atol=0.05, rtol=0)


@pytest.mark.slow
def test_without_data_the_samples_under_spike_and_slab_are_the_priors():
    """200 weights of 400 kept samples: variance and the share of small ones of half N(0, 1) and half N(0, 0.3^2)."""
    module = nn.Linear(20, 10, bias=False).double()
    settings = TrainSettings(
        method="sghmc_mixture", epochs=160, lr=0.02, heat=1.0, spike_std=0.3, keep=400, burn_in=0.1, momentum=0.8
    )
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.3), 0).as_family("samples")
    batch = torch.zeros(4, 20).double(), torch.zeros(4).double()
    batches = LoaderBatches([batch] * 25, examples=1)
    kept = train(module, state, batches, settings, stream=("t",), likelihood=Nothing()).state.posterior.points
    assert kept.shape == (400, 200)
    small = 0.5 * math.erf(0.5 / math.sqrt(2)) + 0.5 * math.erf(0.5 / 0.3 / math.sqrt(2))
    assert abs(float(kept.square().mean()) / (0.5 + 0.5 * 0.09) - 1) < 0.06
    assert abs(float((kept.abs() < 0.5).double().mean()) - small) < 0.02
