"""The claims of arXiv 2602.18825, "Bayesian Lottery Ticket Hypothesis": functions of a net under the sentences they check.

A function returns all parts that its claim consists of: contrasts, with the regions in which they should lie. It raises
`Missing` for what the records lack.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tombola.metrics.column import left
from tombola.settings import EvaluateSettings

from ..contrasts import area, below, depth_correlation, every, first_level, level_near, log_ratio, minus, near
from ..curves import DETERMINISTIC, MU, SNR, SQUARE, SQUARE_CODED, TRANSPLANT, Curve, Grid, Missing, control, rewound
from ..nets import Net
from ..verdict import COST, Claim, Part, above, between, matching, not_worse, under

HIGH, LAST, MEDIUM, HALF = 0.012, 0.02, 0.1, 0.5
"""Densities: high sparsity; the bound below which levels are the last ones; medium sparsity; the first levels."""
SHUFFLES = ("shuffle_layerwise", "shuffle_even", "shuffle_global")
RESNET, VGG, VIT = ("resnet",), ("vgg",), ("vit",)
KINDS = {"Bayesian": (SNR,), "deterministic": (DETERMINISTIC,)}
COSTS = {"seconds": ("train_seconds",), "FLOPs": ("train_flops",)}
RATES = ("train.lr", "train.warmup_epochs")
MEASURED = tuple(f"evaluate.{f.name}" for f in dataclasses.fields(EvaluateSettings))
"""Settings that change neither masks nor costs: tickets that are measured in two ways count once."""

_STUDIES = ("scores", "layers", "randomise", "transplant", "scores", "size", "rate", "rewind")
"""The study with the data of each of the paper's experiments, 1 to 8: the number with which a claim's id begins."""

_Function = TypeVar("_Function", bound=Callable[..., list[Part]])
_found: list[Claim] = []


def _claim(
    id_: str, sentence: str, *args: Any, cases: Mapping[str, tuple[Any, ...]] | None = None, **how: Any
) -> Callable[[_Function], _Function]:
    """Register the decorated function as a claim, with the arguments after the net, or with several cases of them."""

    def register(function: _Function) -> _Function:
        study = f"paper/{_STUDIES[int(id_[0]) - 1]}"
        _found.append(Claim(id_, sentence, function, study=study, cases=cases or {"": args}, **how))
        return function

    return register


@_claim("1a", "Bayesian tickets (snr) are not worse than their dense network at every level down to 10% left")
def not_worse_than_dense(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    stop = level_near(snr, snr.dense(), MEDIUM)
    return [not_worse(contrast, net.margin) for contrast in every(snr, snr.dense(), stop=stop)]


@_claim("6b", "VGG19 is not worse than its dense network at 1.2% left", nets=("vgg19",))
def not_worse_than_dense_at_last(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [not_worse(near(snr, snr.dense(), density=HIGH), net.margin)]


@_claim("1b", "the snr and mu curves match the deterministic one at every level from 100% to 10% left", MEDIUM, nets=RESNET)
def matches_deterministic_down_to(net: Net, density: float) -> list[Part]:
    *bayesian, deterministic = net.grids(SNR, MU, DETERMINISTIC)
    return [
        matching(contrast, net.margin)
        for grid in bayesian
        for contrast in every(grid, deterministic, start=0, stop=level_near(grid, deterministic, density))
    ]


@_claim("1c", "below 2% left, square and the deterministic baseline fall below snr and mu", nets=RESNET)
def others_fall_below(net: Net) -> list[Part]:
    snr, mu, square, deterministic = net.grids(SNR, MU, SQUARE, DETERMINISTIC)
    return [above(below(high, low, density=LAST)) for high in (snr, mu) for low in (square, deterministic)]


@_claim("1d", "snr, mu and square match one another at every level", nets=VGG)
def scores_match(net: Net) -> list[Part]:
    snr, mu, square = net.grids(SNR, MU, SQUARE)
    return [matching(contrast, net.margin) for a, b in ((snr, mu), (snr, square), (mu, square)) for contrast in every(a, b)]


@_claim("1e", "Bayesian tickets are above deterministic ones (area under the curve)", nets=VIT)
def above_deterministic(net: Net) -> list[Part]:
    return [above(area(*net.grids(SNR, DETERMINISTIC)))]


@_claim("1f", "snr and mu tickets at 50% left are above dense", nets=VIT)
def above_dense_at_half(net: Net) -> list[Part]:
    return [above(near(grid, grid.dense(), density=HALF)) for grid in net.grids(SNR, MU)]


@_claim(
    "1g",
    "square falls below snr at every level from 50% left on",
    nets=VIT,
    cases={"square": (SQUARE,), "square as coded": (SQUARE_CODED,)},
)
def falls_below_snr_early(net: Net, score: Curve) -> list[Part]:
    snr, other = net.grids(SNR, score)
    return [above(contrast) for contrast in every(snr, other, start=first_level(snr, other, HALF))]


@_claim("1h", "mu alone matches snr (area under the curve)")
def mu_matches_snr(net: Net) -> list[Part]:
    return [matching(area(*net.grids(MU, SNR)), net.margin)]


@_claim("1i", "MACE of the last levels (below 2% left) is below dense MACE", nets=RESNET + VIT, metric="mace")
def last_levels_below_dense(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [under(below(snr, snr.dense(), density=LAST))]


@_claim("1j", "MACE of the last levels (below 2% left) matches dense MACE", nets=VGG, metric="mace")
def last_levels_match_dense(net: Net) -> list[Part]:
    (snr,) = net.grids(SNR)
    return [matching(below(snr, snr.dense(), density=LAST), net.margin)]


@_claim(
    "2a",
    "density falls with depth in Bayesian tickets (rank correlation, 1.2% left)",
    metric="layer_density",
    varied=MEASURED,
)
def density_falls_with_depth(net: Net) -> list[Part]:
    return [under(depth_correlation(*net.grids(SNR), density=HIGH))]


@_claim(
    "2b",
    "density falls with depth more strongly in Bayesian tickets than in deterministic ones",
    metric="layer_density",
    varied=MEASURED,
)
def density_falls_more_than_deterministic(net: Net) -> list[Part]:
    snr, deterministic = (depth_correlation(grid, density=HIGH) for grid in net.grids(SNR, DETERMINISTIC))
    return [under(minus(snr, deterministic))]


@_claim("3a", "the ticket is above re-init and every shuffle at 1.2% left", cases=KINDS)
def ticket_above_controls(net: Net, of: Curve) -> list[Part]:
    ticket, *controls = net.grids(of, control("reinit", of), *(control(arm, of) for arm in SHUFFLES))
    return [above(near(ticket, each, density=HIGH)) for each in controls]


@_claim(
    "3b",
    "re-init is at or above the layer-wise shuffle at 1.2% left (not below it by the margin)",
    nets=RESNET + VGG,
    cases=KINDS,
)
def reinit_at_or_above_layerwise(net: Net, of: Curve) -> list[Part]:
    return [above(near(*net.grids(control("reinit", of), control("shuffle_layerwise", of)), density=HIGH), -net.margin)]


@_claim("3c", "the layer-wise shuffle is above the even and the global one at 1.2% left", nets=RESNET + VGG, cases=KINDS)
def layerwise_above_other_shuffles(net: Net, of: Curve) -> list[Part]:
    layerwise, *others = net.grids(*(control(arm, of) for arm in SHUFFLES))
    return [above(near(layerwise, each, density=HIGH)) for each in others]


@_claim("3d", "re-init matches the shuffles, all below the ticket, at 1.2% left", nets=VIT, cases=KINDS)
def reinit_matches_shuffles_below_ticket(net: Net, of: Curve) -> list[Part]:
    ticket, reinit, *shuffles = net.grids(of, control("reinit", of), *(control(arm, of) for arm in SHUFFLES))
    alike = [matching(near(reinit, each, density=HIGH), net.margin) for each in shuffles]
    return [*alike, *(above(near(ticket, each, density=HIGH)) for each in (reinit, *shuffles))]


@_claim("4a", "transplants match Bayesian tickets (area under the curve)", SNR, nets=RESNET + VGG)
@_claim("4b", "transplants match deterministic tickets (area under the curve)", DETERMINISTIC, nets=RESNET + VGG)
@_claim("4d", "MACE of transplants matches that of Bayesian tickets (area under the curve)", SNR, metric="mace")
def transplant_matches(net: Net, other: Curve) -> list[Part]:
    return [matching(area(*net.grids(TRANSPLANT, other), start=1), net.margin)]


@_claim("4c", "transplants are below deterministic tickets (area under the curve)", nets=VIT)
def transplant_below_deterministic(net: Net) -> list[Part]:
    return [under(area(*net.grids(TRANSPLANT, DETERMINISTIC), start=1))]


@_claim("4e", "one ticket at 1.2% left costs less than half by transplantation", metric=COST, cases=COSTS, varied=MEASURED)
def transplant_costs_under_half(net: Net, column: str) -> list[Part]:
    transplant, deterministic, snr = net.grids(TRANSPLANT, DETERMINISTIC, SNR, column=column)
    last = level_near(transplant, snr, HIGH)
    _check_levels(deterministic, range(last))  # the last one's weights are not needed for its mask
    _check_levels(snr, range(last + 1))
    where = left(transplant.density[last])
    words = f"cost of one transplanted ticket over that of the Bayesian one, both found from the start, at {where} left"
    ratio = log_ratio(
        [(deterministic, range(last)), (transplant, [last])], [(snr, range(last + 1))], words, counted=_counted(column)
    )
    return [under(ratio, math.log(0.5))]


@_claim("5a", "a Bayesian level costs 3 to 7 times a deterministic one", metric=COST, cases=COSTS, varied=MEASURED)
def level_costs_3_to_7_times(net: Net, column: str) -> list[Part]:
    snr, deterministic = net.grids(SNR, DETERMINISTIC, column=column)
    levels = sorted(set(snr.levels) & set(deterministic.levels))
    words = f"cost of {len(levels)} levels, Bayesian over deterministic"
    ratio = log_ratio([(snr, levels)], [(deterministic, levels)], words, counted=_counted(column))
    return [between(ratio, math.log(3), math.log(7))]


def _counted(column: str) -> bool:
    return column.endswith("flops")


def _check_levels(grid: Grid, levels: Sequence[int]) -> None:
    if not set(levels) <= set(grid.levels):
        raise Missing(f"levels 0 to {levels[-1]} of {grid.words}")


@_claim("6a", "the larger net of two is more accurate at equal density (area under the curve)")
def larger_above_smaller(net: Net) -> list[Part]:
    (large,), (small,) = net.grids(SNR), net.smaller().grids(SNR)
    shared = [level for level in large.levels if level in small.levels]
    if not shared or any(abs(large.density[level] / small.density[level] - 1) > 0.02 for level in shared):
        raise Missing("levels of equal density of both sizes")
    return [above(area(replace(large, words=net.model), replace(small, words=net.smaller().model)))]


@_claim("7a", "the highest learning rate is best at 1.2% left", varied=RATES)
def highest_rate_best(net: Net) -> list[Part]:
    plain = replace(SNR, warmup=False)
    rates = net.rates(plain)
    if len(rates) < 2:
        raise Missing("snr tickets at two or more learning rates")
    *lower, highest = net.grids(*(replace(plain, lr=lr) for lr in rates))
    return [above(near(highest, grid, density=HIGH)) for grid in lower]


@_claim("7b", "warm-up matches the highest learning rate at 10% left", varied=RATES)
def warmup_matches_highest_rate(net: Net) -> list[Part]:
    plain, warm = replace(SNR, warmup=False), replace(SNR, warmup=True)
    if not net.rates(warm) or not net.rates(plain):
        raise Missing("snr tickets with and without warm-up")
    curves = (replace(each, lr=net.rates(each)[-1]) for each in (warm, plain))
    return [matching(near(*net.grids(*curves), density=MEDIUM), net.margin)]


@_claim(
    "8a",
    "learning-rate rewinding is above weight rewinding at every level, Bayesian and deterministic",
    SNR,
    DETERMINISTIC,
    nets=RESNET,
)
@_claim(
    "8b",
    "learning-rate rewinding is above weight rewinding at every level, deterministic",
    DETERMINISTIC,
    nets=VGG + VIT,
)
def learning_rate_rewinding_above(net: Net, *kinds: Curve) -> list[Part]:
    by_rate, by_weights = net.grids(*map(rewound, kinds)), net.grids(*kinds)
    return [above(contrast) for a, b in zip(by_rate, by_weights, strict=True) for contrast in every(a, b)]


@_claim("8c", "learning-rate rewinding is above weight rewinding at 1.2% left and not at 50%, Bayesian", nets=VGG + VIT)
def learning_rate_rewinding_above_only_at_high_sparsity(net: Net) -> list[Part]:
    by_rate, by_weights = net.grids(rewound(SNR), SNR)
    return [above(near(by_rate, by_weights, density=HIGH)), under(near(by_rate, by_weights, density=HALF), net.margin)]


CLAIMS: dict[str, Claim] = {claim.id: claim for claim in sorted(_found, key=lambda claim: claim.id)}
"""The claims by id: the number of the paper's experiment and a letter."""
