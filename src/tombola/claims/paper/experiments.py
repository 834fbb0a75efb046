"""What claims say of a net, as contrasts with the regions in which they should lie; by the paper's experiments.

Each takes a net and returns the parts that a claim says all of; it raises `Missing` for what the records lack.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from ..contrasts import area, below, depth_correlation, every, left, level_near, log_ratio, minus, near
from ..curves import DETERMINISTIC, MU, SNR, SQUARE, TRANSPLANT, Curve, Grid, Missing, control, rewound
from ..nets import Net
from ..verdict import Part, above, between, matching, under

HIGH, LAST, MEDIUM, HALF = 0.012, 0.02, 0.1, 0.5
"""Densities: high sparsity; that below which levels are the last ones; medium sparsity; the first levels."""
SHUFFLES = ("shuffle_layerwise", "shuffle_even", "shuffle_global")


# 1: scores


def matches_dense(net: Net, density: float) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [matching(near(snr, snr.dense(), density=density), net.margin)]


def matches_deterministic_down_to(net: Net, density: float) -> list[Part]:
    *bayesian, deterministic = net.grids(SNR, MU, DETERMINISTIC)
    return [
        matching(contrast, net.margin)
        for grid in bayesian
        for contrast in every(grid, deterministic, start=0, stop=level_near(grid, deterministic, density))
    ]


def others_fall_below(net: Net) -> list[Part]:
    snr, mu, square, deterministic = net.grids(SNR, MU, SQUARE, DETERMINISTIC)
    return [above(below(high, low, density=LAST)) for high in (snr, mu) for low in (square, deterministic)]


def scores_match(net: Net) -> list[Part]:
    snr, mu, square = net.grids(SNR, MU, SQUARE)
    return [matching(contrast, net.margin) for a, b in ((snr, mu), (snr, square), (mu, square)) for contrast in every(a, b)]


def above_deterministic(net: Net) -> list[Part]:
    return [above(area(*net.grids(SNR, DETERMINISTIC)))]


def above_dense_at_half(net: Net) -> list[Part]:
    return [above(near(grid, grid.dense(), density=HALF)) for grid in net.grids(SNR, MU)]


def falls_below_snr_early(net: Net, score: Curve) -> list[Part]:
    snr, other = net.grids(SNR, score)
    return [above(contrast) for contrast in every(snr, other, start=level_near(snr, other, HALF))]


def mu_matches_snr(net: Net) -> list[Part]:
    return [matching(area(*net.grids(MU, SNR)), net.margin)]


def last_levels_below_dense(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [under(below(snr, snr.dense(), density=LAST))]


def last_levels_match_dense(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [matching(below(snr, snr.dense(), density=LAST), net.margin)]


# 2: layers


def density_falls_with_depth(net: Net) -> list[Part]:
    return [under(depth_correlation(*net.grids(SNR), density=HIGH))]


def density_falls_more_than_deterministic(net: Net) -> list[Part]:
    snr, deterministic = (depth_correlation(grid, density=HIGH) for grid in net.grids(SNR, DETERMINISTIC))
    return [under(minus(snr, deterministic))]


# 3: randomisation


def ticket_above_controls(net: Net, of: Curve) -> list[Part]:
    ticket, *controls = net.grids(of, control("reinit", of), *(control(arm, of) for arm in SHUFFLES))
    return [above(near(ticket, each, density=HIGH)) for each in controls]


def reinit_at_or_above_layerwise(net: Net, of: Curve) -> list[Part]:
    return [above(near(*net.grids(control("reinit", of), control("shuffle_layerwise", of)), density=HIGH), -net.margin)]


def layerwise_above_other_shuffles(net: Net, of: Curve) -> list[Part]:
    layerwise, *others = net.grids(*(control(arm, of) for arm in SHUFFLES))
    return [above(near(layerwise, each, density=HIGH)) for each in others]


def reinit_matches_shuffles_below_ticket(net: Net, of: Curve) -> list[Part]:
    ticket, reinit, *shuffles = net.grids(of, control("reinit", of), *(control(arm, of) for arm in SHUFFLES))
    alike = [matching(near(reinit, each, density=HIGH), net.margin) for each in shuffles]
    return [*alike, *(above(near(ticket, each, density=HIGH)) for each in (reinit, *shuffles))]


# 4: transplantation


def transplant_matches(net: Net, other: Curve) -> list[Part]:
    return [matching(area(*net.grids(TRANSPLANT, other), start=1), net.margin)]


def transplant_below_deterministic(net: Net) -> list[Part]:
    return [under(area(*net.grids(TRANSPLANT, DETERMINISTIC), start=1))]


def transplant_costs_under_half(net: Net, column: str) -> list[Part]:
    transplant, deterministic, snr = net.grids(TRANSPLANT, DETERMINISTIC, SNR, column=column)
    last = level_near(transplant, snr, HIGH)
    _check_levels(deterministic, range(last))  # the last one's weights are not needed for its mask
    _check_levels(snr, range(last + 1))
    where = left(transplant.density[last])
    words = f"cost of one transplanted ticket over that of the Bayesian one, both found from the start, at {where} left"
    ratio = log_ratio([(deterministic, range(last)), (transplant, [last])], [(snr, range(last + 1))], words)
    return [under(ratio, math.log(0.5))]


# 5: cost


def level_costs_3_to_7_times(net: Net, column: str) -> list[Part]:
    snr, deterministic = net.grids(SNR, DETERMINISTIC, column=column)
    levels = sorted(set(snr.levels) & set(deterministic.levels))
    ratio = log_ratio(
        [(snr, levels)], [(deterministic, levels)], f"cost of {len(levels)} levels, Bayesian over deterministic"
    )
    return [between(ratio, math.log(3), math.log(7))]


def _check_levels(grid: Grid, levels: Sequence[int]) -> None:
    if not set(levels) <= set(grid.levels):
        raise Missing(f"levels 0 to {levels[-1]} of {grid.words}")


# 6: size


def larger_above_smaller(net: Net) -> list[Part]:
    (large,), (small,) = net.grids(SNR), net.smaller().grids(SNR)
    shared = [level for level in large.levels if level in small.levels]
    if not shared or any(abs(large.density[level] / small.density[level] - 1) > 0.02 for level in shared):
        raise Missing("levels of equal density of both sizes")
    return [above(area(replace(large, words=net.model), replace(small, words=net.smaller().model)))]


# 7: learning rate


def highest_rate_best(net: Net) -> list[Part]:
    plain = replace(SNR, warmup=False)
    rates = net.rates(plain)
    if len(rates) < 2:
        raise Missing("snr tickets at two or more learning rates")
    *lower, highest = net.grids(*(replace(plain, lr=lr) for lr in rates))
    return [above(near(highest, grid, density=HIGH)) for grid in lower]


def warmup_matches_highest_rate(net: Net) -> list[Part]:
    plain, warm = replace(SNR, warmup=False), replace(SNR, warmup=True)
    if not net.rates(warm) or not net.rates(plain):
        raise Missing("snr tickets with and without warm-up")
    curves = (replace(each, lr=net.rates(each)[-1]) for each in (warm, plain))
    return [matching(near(*net.grids(*curves), density=MEDIUM), net.margin)]


# 8: rewinding


def learning_rate_rewinding_above(net: Net, *kinds: Curve) -> list[Part]:
    by_rate, by_weights = net.grids(*map(rewound, kinds)), net.grids(*kinds)
    return [above(contrast) for a, b in zip(by_rate, by_weights, strict=True) for contrast in every(a, b)]


def learning_rate_rewinding_above_only_at_high_sparsity(net: Net) -> list[Part]:
    by_rate, by_weights = net.grids(rewound(SNR), SNR)
    return [above(near(by_rate, by_weights, density=HIGH)), under(near(by_rate, by_weights, density=HALF), net.margin)]
