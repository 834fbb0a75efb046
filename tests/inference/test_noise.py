"""The noise pool: windows that a resumed run sees again, normal and independent where it matters."""

import math

import pytest
import torch
from torch import Tensor

from tombola.inference.estimators.noise import NoisePool

MANY = 20 * 1024  # enough for twenty blocks; of few parameters all noise is new


def pool(size: int = MANY, refresh: float = 0.0625, *words: str | int) -> NoisePool:
    return NoisePool(size, ("noise", *words), refresh, like=torch.empty(0, dtype=torch.float64))


def window(noise: NoisePool, tick: int) -> Tensor:
    return noise.window(tick).clone()  # the pool's own memory is overwritten by the next call


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


refreshes = pytest.mark.parametrize("refresh", [1.0, 0.5, 0.3, 0.0625, 0.01])


@refreshes
@pytest.mark.parametrize("size", [1, 7, 3000, MANY])
def test_a_window_does_not_depend_on_the_ticks_asked_before(size: int, refresh: float):
    in_sequence, jumping = pool(size, refresh), pool(size, refresh)
    expected = [window(in_sequence, tick) for tick in range(40)]
    for tick in (25, 26, 3, 39, 0, 1, 1, 38):
        assert torch.equal(window(jumping, tick), expected[tick])
        assert torch.equal(window(pool(size, refresh), tick), expected[tick])  # as after a restart


@refreshes
def test_words_name_the_noise(refresh: float):
    assert torch.equal(window(pool(MANY, refresh, 1, "a"), 3), window(pool(MANY, refresh, 1, "a"), 3))
    assert not bool(torch.isin(window(pool(MANY, refresh, 1, "a"), 3), window(pool(MANY, refresh, 1, "b"), 3)).any())


@refreshes
def test_no_draw_occurs_twice_in_one_window(refresh: float):
    noise = pool(MANY, refresh)
    for tick in range(20):
        assert len(window(noise, tick).unique()) == MANY


@pytest.mark.parametrize(("size", "refresh"), [(5000, 1.0), (1000, 0.0625), (1, 0.0625)])
def test_refresh_1_and_few_parameters_draw_everything_anew(size: int, refresh: float):
    noise = pool(size, refresh)
    windows = torch.stack([window(noise, tick) for tick in range(20)])
    assert len(windows.unique()) == 20 * size


@pytest.mark.parametrize("refresh", [0.5, 0.25, 0.0625])
def test_each_tick_renews_the_fraction(refresh: float):
    noise = pool(MANY, refresh)
    before = window(noise, 0)
    for tick in range(1, 30):
        after = window(noise, tick)
        renewed = (~torch.isin(after, before)).double().mean().item()
        assert 0 < renewed <= 2 * refresh  # the new block, and what the spare one showed
        before = after
    assert not bool(torch.isin(window(noise, 100), window(noise, 130)).any())


@refreshes
def test_moments_are_those_of_a_standard_normal(refresh: float):
    noise, ticks = pool(MANY, refresh), 10
    for tick in range(ticks):
        z = window(noise, tick)
        assert abs(z.mean()) < 4 / math.sqrt(len(z))
        assert abs(z.var() - 1) < 4 * math.sqrt(2 / len(z))
        assert abs(z.pow(4).mean() - 3) < 4 * math.sqrt(96 / len(z))  # E z^8 - 9 = 105 - 9


@pytest.mark.parametrize("refresh", [1.0, 0.25, 0.0625])
def test_one_parameters_noise_over_time_is_standard_normal(refresh: float):
    noise, ticks = pool(MANY, refresh), 2000
    z = torch.stack([window(noise, tick)[::100] for tick in range(ticks)])  # [ticks, some parameters]
    # a parameter seldom meets a draw again (on the same offset): allow for half as many independent ticks
    assert z.mean(0).abs().max() < 4.5 * math.sqrt(2 / ticks)
    assert (z.var(0) - 1).abs().max() < 4.5 * math.sqrt(2 * 2 / ticks)


@refreshes
def test_successive_ticks_are_uncorrelated_at_each_place(refresh: float):
    noise = pool(MANY, refresh)
    windows = [window(noise, tick) for tick in range(20)]
    for lag in (1, 2, 17):
        for earlier, later in zip(windows, windows[lag:], strict=False):
            assert abs(correlation(earlier, later)) < 4.5 / math.sqrt(MANY)


@pytest.mark.parametrize("refresh", [1.0, 0.0625])
def test_a_posterior_without_random_parameters_has_an_empty_window(refresh: float):
    assert pool(0, refresh).window(3).shape == (0,)


def test_the_noise_has_the_dtype_of_the_weights():
    assert NoisePool(5, ("noise",), 1.0, like=torch.empty(0)).window(0).dtype == torch.float32
    assert pool(5).window(0).dtype == torch.float64
