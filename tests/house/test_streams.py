"""Named streams: equal words give equal draws, and nothing else does."""

import math

import pytest
import torch
from torch import Tensor

from tombola.streams import digest, generator, global_stream, reseed_global


def draws(*words: str | int) -> Tensor:
    return torch.rand(1000, generator=generator(*words))


def test_the_same_words_give_the_same_draws():
    assert torch.equal(draws("order", 3, 1), draws("order", 3, 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("order", 3, 1), ("order", 3, 2)),
        (("order", 3, 1), ("order", 1, 3)),
        (("order", 3), ("augment", 3)),
        (("order", 1), ("order", "1")),
        (("a", "b"), ("ab",)),
        (("order", 1, 2), ("order", 12)),
        (("order", 1), ("order", -1)),
        # `manual_seed` of a CPU generator keeps 32 bits: there these would be the same stream
        (("order", 1), ("order", 1 + 2**32)),
        (("order", 1), ("order", 1 + 2**40)),
        (("order", 1), ("order", 1 + 2**63)),
    ],
)
def test_other_words_give_other_draws(one: tuple, other: tuple):
    a, b = draws(*one), draws(*other)
    assert digest(*one) != digest(*other)
    assert not bool((a == b).any())
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / math.sqrt(len(a))


def test_a_million_uniforms_have_the_moments_and_the_spread_of_uniforms():
    u = torch.rand(1_000_000, generator=generator("quality"), dtype=torch.float64)
    assert abs(u.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / len(u))
    assert abs(u.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / len(u))  # var (u - 1/2)^2 = 1/80 - 1/144
    lag = torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1]
    assert abs(lag) < 4 / math.sqrt(len(u))
    counts = torch.histc(u, 100, 0, 1)
    chi_squared = ((counts - 10_000).square() / 10_000).sum().item()
    assert abs(chi_squared - 99) < 4 * math.sqrt(2 * 99)


def test_first_draws_of_successive_seeds_look_independent():
    firsts = torch.cat([torch.rand(1, generator=generator("init", seed), dtype=torch.float64) for seed in range(2000)])
    assert abs(firsts.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / len(firsts))
    assert abs(torch.corrcoef(torch.stack([firsts[:-1], firsts[1:]]))[0, 1]) < 4 / math.sqrt(len(firsts))


def test_normals_of_a_stream_have_mean_0_and_variance_1():
    z = torch.randn(1_000_000, generator=generator("normal"), dtype=torch.float64)
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))


def test_the_global_stream_is_the_named_generator_and_is_undone():
    before = torch.get_rng_state()
    with global_stream("init", 7):
        assert torch.equal(torch.rand(5), torch.rand(5, generator=generator("init", 7)))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_stream_is_undone_after_an_exception():
    before = torch.get_rng_state()

    def fail() -> None:
        with global_stream("init", 7):
            torch.rand(5)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_reseeding_goes_back_to_the_beginning_whatever_was_drawn():
    with global_stream("a"):
        torch.randn(1)  # leaves a second normal cached in the generator
        reseed_global("dropout", 4)
        assert torch.equal(torch.randn(7), torch.randn(7, generator=generator("dropout", 4)))


def test_global_streams_nest():
    with global_stream("outer"):
        first = torch.rand(3)
        with global_stream("inner"):
            torch.rand(100)
        rest = torch.rand(3)
    stream = generator("outer")
    assert torch.equal(first, torch.rand(3, generator=stream))
    assert torch.equal(rest, torch.rand(3, generator=stream))
