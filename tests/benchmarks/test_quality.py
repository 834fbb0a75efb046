"""The equivalence test of benchmarks/quality.py, against one-sided t tests of scipy."""

import numpy as np
import pandas as pd
import pytest
from benchmarks.quality import compared, equivalence
from scipy import stats


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.001, -0.001, 0.0, 0.001, -0.001], "equivalent"),
        ([0.010, 0.011, 0.009, 0.010, 0.012], "different"),
        ([-0.010, -0.011, -0.009, -0.010, -0.012], "different"),
        ([0.004, 0.006, 0.005, 0.004, 0.006], "inconclusive"),
        ([0.0, 0.02, -0.02, 0.01, -0.01], "inconclusive"),
        ([0.0], "no verdict"),
        ([0.0, 0.001], "no verdict"),  # two seeds
    ],
)
def test_verdicts(differences, verdict):
    assert equivalence(differences, 0.005)["verdict"] == verdict


def test_equivalent_is_when_both_one_sided_t_tests_reject():
    rng, margin = np.random.default_rng(0), 0.005
    for _ in range(200):
        d = rng.normal(rng.uniform(-0.006, 0.006), 0.003, 6)
        above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
        below = stats.ttest_1samp(d, margin, alternative="less").pvalue
        assert (equivalence(d.tolist(), margin)["verdict"] == "equivalent") == (max(above, below) < 0.05)


def test_seeds_are_paired_by_number_and_not_by_order():
    rows = [(v, s, 0.5 + 0.1 * s + (v == 10) * 0.01) for v, seeds in ((1, (0, 1, 2)), (10, (2, 0, 1, 3))) for s in seeds]
    records = pd.DataFrame(
        [{"variant": f"train.samples={v}", "seed": s, "accuracy": a, "nll": -a, "density": 1.0} for v, s, a in rows]
    ).assign(model="net", curve="ticket", level=0)
    accuracy, nll = compared(records, "train.samples=1", "train.samples=10")
    assert accuracy["differences"] == pytest.approx([-0.01] * 3)
    assert (accuracy["seeds"], accuracy["n"], nll["mean"]) == ([0, 1, 2], 3, pytest.approx(0.01))
