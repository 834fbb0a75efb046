"""Every score against its formula in plain Python."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from tombola.errors import TombolaError
from tombola.pruning.scores import SCORES, WITHOUT_STD, evaluate

means = st.floats(-10, 10, allow_subnormal=False)
stds = st.floats(1e-6, 10)
weights = st.lists(st.tuples(means, stds), min_size=1, max_size=20)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def score(name, mean, std, seed=0):
    mean, std = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64)
    return evaluate(name, SCORES[name], mean, std, stream(seed))


def folded_moments(m, s):
    """Mean and variance of abs(w), w ~ N(m, s^2), with 60 digits."""
    with mpmath.workdps(60):
        m, s = mpmath.mpf(m), mpmath.mpf(s)
        first = s * mpmath.sqrt(2 / mpmath.pi) * mpmath.exp(-(m**2) / (2 * s**2)) + m * mpmath.erf(m / (s * mpmath.sqrt(2)))
        return first, m**2 + s**2 - first**2


def folded_snr(m, s):
    first, variance = folded_moments(m, s)
    return float(first / mpmath.sqrt(variance))


FORMULAS = {
    "mu": lambda m, s: abs(m),
    "magnitude": lambda m, s: abs(m),
    "snr": lambda m, s: abs(m) / s,
    "square": lambda m, s: math.sqrt(m * m + s * s),
    "std_large": lambda m, s: s,
    "std_small": lambda m, s: -s,
    "folded_mean": lambda m, s: float(folded_moments(m, s)[0]),
    "folded_snr": folded_snr,
    "snr_coded": lambda m, s: abs(m) / (s * s + 1e-6),
    "square_coded": lambda m, s: m * m + math.log(s) ** 2,
    "bmr": lambda m, s: m * m / (2 * s * s) + math.log(s),
}


def test_every_score_but_random_has_a_formula_here():
    assert FORMULAS.keys() | {"random"} == SCORES.keys()


@pytest.mark.parametrize("name", FORMULAS)
@given(weights=weights)
def test_score_is_its_formula(name, weights):
    expected = [FORMULAS[name](m, s) for m, s in weights]
    torch.testing.assert_close(
        score(name, *zip(*weights, strict=True)), torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-300
    )


@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (1.0, 1.0), (-2.0, 0.5), (0.3, 2.0)])
def test_folded_moments_are_those_of_the_folded_normal(m, s):
    density = stats.norm(m, s).pdf
    first = integrate.quad(lambda w: abs(w) * density(w), m - 12 * s, m + 12 * s, points=[0])[0]
    folded = stats.foldnorm(abs(m) / s, scale=s)
    assert score("folded_mean", [m], [s]).item() == pytest.approx(first, rel=1e-8)
    assert score("folded_mean", [m], [s]).item() == pytest.approx(folded.mean(), rel=1e-12)
    assert score("folded_snr", [m], [s]).item() == pytest.approx(folded.mean() / folded.std(), rel=1e-8)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", SCORES)
@given(weights=weights, seed=st.integers(0, 2**31))
def test_every_score_is_one_finite_number_a_weight_and_a_function_of_its_arguments(name, weights, seed):
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in zip(*weights, strict=True))
    before = mean.clone(), std.clone()
    values = evaluate(name, SCORES[name], mean, std, stream(seed))
    assert values.shape == mean.shape
    assert values.dtype == torch.float64
    assert values.isfinite().all()
    torch.manual_seed(seed + 1)  # the global stream is not read
    assert torch.equal(values, evaluate(name, SCORES[name], mean, std, stream(seed)))
    assert torch.equal(mean, before[0])
    assert torch.equal(std, before[1])


def test_random_reads_its_generator_alone():
    mean, std = [1.0] * 100, [0.1] * 100
    assert torch.equal(score("random", mean, std, seed=3), torch.rand(100, generator=stream(3), dtype=torch.float64))
    assert not torch.equal(score("random", mean, std, seed=3), score("random", mean, std, seed=4))


@pytest.mark.parametrize("name", ["snr", "folded_snr"])
def test_zero_over_zero_goes_first_and_certain_weights_last(name):
    values = score(name, [0.0, 1e-3, 5.0, 2.0], [0.0, 1.0, 1.0, 0.0])
    assert values.argsort().tolist() == [0, 1, 2, 3]
    assert values[0] == -math.inf
    assert values[3] == math.inf


@pytest.mark.parametrize("name", sorted(WITHOUT_STD))
def test_scores_without_std_are_finite_on_a_point(name):
    assert score(name, [0.0, -1.0, 2.0], [0.0] * 3).isfinite().all()


def test_scores_disagree_where_they_should():
    mean, std = [1.0, 2.0], [0.1, 1.0]  # the first is surer, the second larger
    assert score("snr", mean, std).tolist() == [10.0, 2.0]
    assert score("mu", mean, std).tolist() == [1.0, 2.0]
    # the code's square ranks by log std: the tiny std wins although both moments are smaller
    assert score("square_coded", [0.0, 1.0], [1e-3, 1.0]).argmax() == 0
    assert score("square", [0.0, 1.0], [1e-3, 1.0]).argmax() == 1


def test_a_nan_score_is_an_error_that_names_it():
    with pytest.raises(TombolaError, match=r"'mine' is nan for 1 of 2 weights"):
        evaluate("mine", lambda m, s, g: torch.tensor([1.0, math.nan]), torch.ones(2), torch.ones(2), stream())


def test_a_score_of_another_shape_is_an_error_that_names_it():
    with pytest.raises(TombolaError, match=r"'mine' returned shape \(\) for \(2,\) weights"):
        evaluate("mine", lambda m, s, g: m.sum(), torch.ones(2), torch.ones(2), stream())


def test_bmr_is_the_change_of_the_evidence_by_a_prior_that_fixes_a_weight():
    """log of the integral of q p' / p, p' a prior of width 1e-4, by quadrature; the prior p has std 1."""
    for m, s in ((0.3, 0.4), (0.0, 0.2), (-1.0, 0.9)):
        ratio = lambda w, m=m, s=s: stats.norm.pdf(w, m, s) * stats.norm.pdf(w, 0, 1e-4) / stats.norm.pdf(w)  # noqa: E731
        change = math.log(integrate.quad(ratio, -1e-3, 1e-3, points=[0])[0])
        assert float(score("bmr", [m], [s])[0]) == pytest.approx(-change, abs=1e-4)
    assert score("bmr", [0.0, 2.0, -1.0], [0.0, 0.0, 1.0]).tolist() == [-math.inf, math.inf, 0.5]
