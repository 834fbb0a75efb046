"""benchmarks/budget.py: what is needed at the knee, on curves whose answer is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from benchmarks.gpu import two_four

from benchmarks import budget, budget_figure


def curves(moves):
    """Accuracy .8 down to a knee, then 10 points a halving of the operations; `moves`: halvings that an exponent wins."""
    rows = []
    for exponent, seed, level in itertools.product(budget.EXPONENTS, range(3), range(8)):
        beyond = max(0.0, level - 3.0 - moves[exponent])
        accuracy = 0.8 - 0.1 * beyond + 0.001 * seed
        share = {"flops_left": 0.5**level, "milliseconds": 4 * 0.5**level, "density": 0.5**level}
        rows.append({"exponent": exponent, "seed": seed, "level": level, **share, "validation": accuracy, "test": accuracy})
    return pd.DataFrame(rows)


def test_the_ratio_at_the_knee_is_the_one_that_was_put_in():
    found = budget.compared(curves({0.0: 0, 0.125: 0.5, 0.25: 1, 0.5: -1}))
    assert found["chosen"] == 0.25
    for what in budget.COSTS:
        assert found["ratio"][what] == pytest.approx(2, rel=0.02)
        assert found["interval"][what] == pytest.approx([found["ratio"][what]] * 2)  # all seeds agree
    assert found["needs"]["operations"][0] == pytest.approx(0.5**3.1)


def test_what_no_level_reaches_needs_the_dense_network_and_what_all_reach_the_last_level():
    costs, accuracies = np.array([1.0, 0.5, 0.25]), np.array([0.7, 0.8, 0.6])
    assert budget.needed(costs, accuracies, 0.9) == 1.0
    assert budget.needed(costs, accuracies, 0.5) == 0.25
    assert budget.needed(costs, accuracies, 0.7) == pytest.approx(math.sqrt(0.5 * 0.25))


def test_the_figure_has_a_curve_for_each_exponent(tmp_path):
    rows = [{"net": "vgg11", "curves": curves(dict.fromkeys(budget.EXPONENTS, 0)).to_dict("list")}]
    budget_figure.draw(rows, tmp_path / "budget.png")
    assert (tmp_path / "budget.png").stat().st_size > 1000
    numbers = pd.read_csv(tmp_path / "budget.csv")
    assert set(numbers["curve"]) == {"snr", "snr / cost^0.125", "snr / cost^0.25", "snr / cost^0.5"}


def test_the_weights_that_are_timed_on_a_gpu_have_two_of_each_four(capsys):
    assert ((two_four.two_four(6, 16) != 0).view(6, 4, 4).sum(2) == 2).all()
    assert two_four.main([]) == 2
    assert "on a CPU there is nothing to gain" in capsys.readouterr().err
