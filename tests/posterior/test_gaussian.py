"""The mean-field Gaussian against torch.distributions, a peer library, and moments of its draws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from tombola import Layout, PosteriorSettings, TombolaError
from tombola.posterior.gaussian import Gaussian, initial_log_std, initial_mean, kl_gaussian
from tombola.posterior.point import Point
from tombola.posterior.state import initial_state
from tombola.streams import generator


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 2)).double()


def posterior(seed: int = 0, density: float = 0.6) -> Gaussian:
    layout, stream = Layout.of(net()), generator("test", seed)
    mean = torch.randn(layout.numel, generator=stream, dtype=torch.float64)
    log_std = torch.randn(layout.numel, generator=stream, dtype=torch.float64)
    mask = torch.rand(layout.numel, generator=stream) < density
    return Gaussian(layout, mean, log_std, torch.ones_like(mask)).masked(mask)


def kept(q: Gaussian) -> list[int]:
    """Indices of surviving random parameters, read segment by segment."""
    return [i for s in q.layout.segments if s.random for i in range(s.slice.start, s.slice.stop) if q.mask[i]]


reals = st.floats(-30, 30)


@given(st.lists(st.tuples(reals, st.floats(-12, 4), st.booleans()), min_size=1, max_size=20), st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_kl_is_that_of_torch_distributions_summed_over_what_is_kept(rows: list[tuple], prior_std: float):
    mean, log_std = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in (0, 1))
    keep = torch.tensor([row[2] for row in rows])
    prior = Normal(torch.zeros_like(mean), torch.full_like(mean, prior_std))
    terms = kl_divergence(Normal(mean, log_std.exp()), prior)[keep]
    # terms of either sign of the logarithm cancel, so the scale of the error is that of the logarithms
    scale = float(terms.sum()) + len(rows) * (12 + abs(math.log(prior_std)))
    assert (
        abs(kl_gaussian(mean, log_std, keep, prior_std) - terms.sum()).item() <= 1e-10 * terms.sum().item() + 1e-15 * scale
    )


@pytest.mark.parametrize("prior_std", [0.1, 1.0, 3.7])
def test_kl_ignores_masked_and_deterministic_parameters(prior_std: float):
    q = posterior()
    where = kept(q)
    assert 0 < len(where) < q.layout.random_numel
    prior = Normal(torch.tensor(0.0, dtype=torch.float64), prior_std)
    expected = kl_divergence(Normal(q.mean[where], q.std[where]), prior).sum()
    torch.testing.assert_close(q.kl(prior_std), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("prior_std", [0.3, 1.0, 2.5])
def test_kl_is_that_of_torch_blue(prior_std: float):
    vi = pytest.importorskip("torch_blue.vi", reason="torch_blue is a peer: pip install tombola[peers]")
    q = posterior(density=1.0)
    where = kept(q)
    prior_log_std = torch.tensor(prior_std, dtype=torch.float64).log()
    zero = torch.zeros((), dtype=torch.float64)
    peers = vi.analytical_kl_loss.NormalNormalDivergence()(
        (zero, prior_log_std), (q.mean[where], q.tensors()["log_std"][where])
    )
    torch.testing.assert_close(q.kl(prior_std), peers, rtol=1e-10, atol=0)


def test_kl_of_the_prior_itself_is_zero():
    z = torch.zeros(5, dtype=torch.float64)
    kl = kl_gaussian(z, torch.full_like(z, math.log(0.7)), torch.ones(5, dtype=torch.bool), 0.7)
    assert abs(kl.item()) < 1e-14


@pytest.mark.parametrize("prior_std", [0.0, -1.0])
def test_a_prior_without_width_is_refused(prior_std: float):
    with pytest.raises(TombolaError, match="prior_std"):
        posterior().kl(prior_std)


def test_masked_weights_have_effective_mean_and_std_exactly_0_and_a_finite_log_std():
    q = posterior()
    assert bool((q.mean[~q.mask] == 0).all())
    assert bool((q.std[~q.mask] == 0).all())
    assert bool((q.std[kept(q)] > 0).all())
    assert bool(q.tensors()["log_std"].isfinite().all())
    draw = q.sample(generator("draw"))
    assert bool((draw[~q.mask] == 0).all())


def test_deterministic_parameters_have_std_0_and_are_drawn_as_their_mean():
    q = posterior(density=1.0)
    fixed = ~q.layout.is_random
    assert int(fixed.sum()) == 10  # the norm layer's scale and shift
    assert bool((q.std[fixed] == 0).all())
    assert torch.equal(q.sample(generator("draw"))[fixed], q.mean[fixed])


def test_masking_leaves_the_original_alone():
    q = posterior(density=1.0)
    before = {name: value.clone() for name, value in q.tensors().items()}
    q.masked(torch.zeros_like(q.mask))
    assert all(torch.equal(q.tensors()[name], value) for name, value in before.items())


def test_draws_have_the_posteriors_moments():
    q, n, stream = posterior(density=1.0), 20_000, generator("moments")
    draws = torch.stack([q.sample(stream) for _ in range(n)])
    random = q.layout.is_random
    z = ((draws - q.mean) / q.std)[:, random]
    assert z.mean(0).abs().max() < 4.5 / math.sqrt(n)
    assert (z.var(0) - 1).abs().max() < 4.5 * math.sqrt(2 / n)
    correlations = torch.corrcoef(z.T) - torch.eye(z.shape[1])
    assert correlations.abs().max() < 5 / math.sqrt(n)  # mean-field: none (of 1,400 pairs the largest is near 3.4)


def test_a_draw_is_its_streams():
    q = posterior()
    assert torch.equal(q.sample(generator("a")), q.sample(generator("a")))
    assert not torch.equal(q.sample(generator("a")), q.sample(generator("b")))


def test_a_point_has_no_std_and_draws_its_mean():
    q = posterior()
    point = Point(q.layout, q.mean, q.mask).masked(q.mask)
    assert point.std is None
    assert torch.equal(point.sample(generator("a")), q.mean)


def test_initial_std_absolute():
    log_std = initial_log_std(Layout.of(net()), torch.ones(54), 0.02, "absolute", 0.0, generator("init"))
    torch.testing.assert_close(log_std.exp(), torch.full_like(log_std, 0.02))


def test_initial_std_in_units_of_the_kaiming_scale():
    layout = Layout.of(net())
    views = layout.views(initial_log_std(layout, torch.ones(layout.numel), 0.5, "kaiming", 0.0, generator("init")).exp())
    for name, fan_in in (("0.weight", 3), ("0.bias", 3), ("3.weight", 5), ("4.weight", 4)):
        torch.testing.assert_close(views[name], torch.full_like(views[name], 0.5 / math.sqrt(fan_in)))


def test_initial_jitter_is_normal_noise_on_log_std():
    layout = Layout.of(nn.Linear(300, 300))
    log_std = initial_log_std(layout, torch.ones(layout.numel), 0.02, "absolute", 0.1, generator("init"))
    z = (log_std - math.log(0.02)) / 0.1
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))


@pytest.mark.parametrize("std", [0.0, -0.1])
def test_an_initial_std_that_is_not_positive_is_refused(std: float):
    with pytest.raises(TombolaError, match="std"):
        initial_log_std(Layout.of(net()), torch.ones(54), std, "absolute", 0.0, generator("init"))


def test_initial_means_are_the_modules_own_values():
    module = net()
    layout = Layout.of(module)
    views = layout.views(initial_mean(layout, module, "module", generator("init")))
    assert all(torch.equal(views[name], p) for name, p in module.named_parameters())


def test_kaiming_uniform_means_fill_their_bounds_and_leave_deterministic_parameters():
    module = nn.Sequential(nn.Linear(100, 200), nn.LayerNorm(200), nn.Conv1d(200, 50, 3))
    nn.init.constant_(module[1].weight, 0.37)
    layout = Layout.of(module)
    views = layout.views(initial_mean(layout, module, "kaiming_uniform", generator("init")))
    for name, fan_in in (("0.weight", 100), ("0.bias", 100), ("2.weight", 600), ("2.bias", 600)):
        scaled = views[name].double() * math.sqrt(fan_in)
        assert scaled.abs().max() <= 1 + 1e-6
        assert abs(scaled.mean()) < 4 * math.sqrt(1 / 3 / scaled.numel())
        assert abs(scaled.var() - 1 / 3) < 4 * math.sqrt(4 / 45 / scaled.numel())  # E u^4 - (E u^2)^2 = 1/5 - 1/9
    assert bool((views["1.weight"] == 0.37).all())


def test_the_initial_state_is_named_by_its_words():
    module, rule = net(), PosteriorSettings(mean="kaiming_uniform", std_jitter=0.1)
    layout = Layout.of(module)

    def flat(*words: int) -> Tensor:
        q = initial_state(module, layout, rule, *words).posterior
        return torch.cat([q.mean, q.tensors()["log_std"]])

    assert torch.equal(flat(1), flat(1))
    random = torch.cat([layout.is_random, torch.ones_like(layout.is_random)])
    assert not bool((flat(1) == flat(2))[random].any())
