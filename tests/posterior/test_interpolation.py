"""The line between two states."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola.errors import TombolaError
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
