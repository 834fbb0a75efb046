"""The line between two states, and batch-norm statistics measured anew."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import streams
from tombola.errors import TombolaError
from tombola.posterior.batch_norm import has_running_statistics, reestimated
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.layout import Layout
from tombola.posterior.state import State, interpolated


def module():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2), nn.BatchNorm1d(2))


LAYOUT = Layout.of(module())
P = LAYOUT.numel


def random_state(seed, kept=None):
    stream = torch.Generator().manual_seed(seed)
    mask = torch.ones(P, dtype=torch.bool) if kept is None else kept | ~LAYOUT.prunable
    mean, log_std = torch.randn(P, generator=stream), torch.randn(P, generator=stream) - 2
    buffers = {"1.running_mean": torch.randn(4, generator=stream), "1.num_batches_tracked": torch.tensor(seed)}
    posterior = Gaussian(LAYOUT, mean, log_std, torch.ones_like(mask)).masked(mask)
    return State(posterior, buffers, {"log_noise": torch.randn(1, generator=stream)})


states = st.builds(
    lambda seed, kept: random_state(seed, torch.tensor(kept)),
    st.integers(0, 1000),
    st.lists(st.booleans(), min_size=P, max_size=P),
)


@given(states, states)
def test_the_ends_are_the_states_bit_for_bit(a, b):
    for alpha, end in ((0.0, a), (1.0, b)):
        found = interpolated(a, b, alpha).tensors()
        assert found.keys() == end.tensors().keys()
        assert all(torch.equal(found[name], value) for name, value in end.tensors().items())
        assert torch.equal(interpolated(a, b, alpha).posterior.mask, end.posterior.mask)


@given(states, states, st.sampled_from([0.125, 0.5, 0.9]))
def test_mean_and_std_are_on_the_line_and_what_both_prune_is_zero(a, b, alpha):
    q, p, r = interpolated(a, b, alpha).posterior, a.posterior, b.posterior
    torch.testing.assert_close(q.mean, (1 - alpha) * p.mean + alpha * r.mean)
    torch.testing.assert_close(q.std, (1 - alpha) * p.std + alpha * r.std)
    assert bool(q.log_std.isfinite().all())
    gone = ~p.mask & ~r.mask
    assert torch.equal(q.mask, ~gone)
    sample = q.sample(torch.Generator().manual_seed(0))
    assert not q.mean[gone].any()
    assert not q.std[gone].any()
    assert not sample[gone].any()


def test_a_vanishing_std_stays_tiny():
    """exp(-200) is 0 in float32: its logarithm must not become that of 1."""
    a, b = (random_state(seed) for seed in (0, 1))
    a, b = (replace(s, posterior=replace(s.posterior, log_std=torch.full((P,), -200.0))) for s in (a, b))
    assert float(interpolated(a, b, 0.5).posterior.std.max()) < 1e-30


def test_what_has_no_line_is_refused():
    a = random_state(0)
    other = Layout.of(nn.Linear(2, 2))
    zeros, ones = torch.zeros(other.numel), torch.ones(other.numel, dtype=torch.bool)
    with pytest.raises(TombolaError, match="different parameters"):
        interpolated(a, State(Gaussian(other, zeros, zeros, ones), {}, {}), 0.5)
    with pytest.raises(TombolaError, match="a point"):
        interpolated(a, a.as_family("point"), 0.5)
    with pytest.raises(TombolaError, match=r"alpha is 1\.5"):
        interpolated(a, a, 1.5)


def batches(count=3):
    stream = torch.Generator().manual_seed(5)
    return [(torch.randn(8, 3, generator=stream), torch.zeros(8, dtype=torch.long)) for _ in range(count)]


def direct(net, thetas):
    """By hand: of both layers the mean over batches of mean and unbiased variance, no dropout, each batch its weights."""
    first, second = [], []
    for (x, _), theta in zip(batches(), thetas, strict=True):
        w = LAYOUT.views(theta)
        hidden = x @ w["0.weight"].T + w["0.bias"]
        first.append((hidden.mean(0), hidden.var(0)))
        normed = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + net[1].eps).sqrt()
        out = (normed * w["1.weight"] + w["1.bias"]).relu() @ w["4.weight"].T + w["4.bias"]
        second.append((out.mean(0), out.var(0)))
    return [[torch.stack(parts).mean(0) for parts in zip(*layer, strict=True)] for layer in (first, second)]


@pytest.mark.parametrize("point", [True, False])
def test_statistics_are_the_averages_over_batches(point):
    net, state = module(), replace(random_state(3), buffers={})
    q = state.posterior
    drawn = [q.sample(streams.generator("batch_norm", "w", i)) for i in range(3)]
    state = state.as_family("point") if point else state
    found = reestimated(net, state, batches(), ("w",)).buffers
    for index, (mean, variance) in zip((1, 5), direct(net, [q.mean] * 3 if point else drawn), strict=True):
        torch.testing.assert_close(found[f"{index}.running_mean"], mean)
        torch.testing.assert_close(found[f"{index}.running_var"], variance)


def test_the_module_is_as_it_was():
    net = module().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reestimated(net, replace(random_state(3), buffers={}), batches(), ("w",))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net[1].momentum == 0.1
    assert net.training
    with pytest.raises(ValueError, match="broken"):
        reestimated(net, replace(random_state(3), buffers={}), _broken(), ("w",))
    assert net[1].momentum == 0.1


def _broken():
    yield batches()[0]
    raise ValueError("broken")


def test_without_batch_norm_the_state_comes_back():
    plain, state = nn.Linear(3, 2), random_state(0)
    assert not has_running_statistics(plain)
    assert not has_running_statistics(nn.BatchNorm1d(3, track_running_stats=False))
    assert has_running_statistics(module())
    assert reestimated(plain, state, [], ("w",)) is state
