"""Claims about the study `field`, beyond the paper's: named before it was run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .contrasts import at_level, level_near, near
from .curves import DETERMINISTIC, SNR, TRANSPLANT, Curve, Missing, control
from .nets import Net
from .paper import CLAIMS as PAPERS
from .verdict import Claim, Part, above, not_worse, under

if TYPE_CHECKING:
    import pandas as pd

STUDY = "field"
LAST, MEDIUM = 0.02, 0.1
"""Densities at which the study's arms are compared."""
SSVI = Curve(arm="in_training", score="folded_snr", way="ssvi", longer=True)
RANDOM = control("transplant_shuffle", TRANSPLANT)
GRAPHS = ("train.cuda_graphs", "train.compile")
"""Settings that change no result, and that not every method can have."""
SAMPLERS = ("sgld", "sghmc")
EQUAL = 0.05
"""Two trainings cost as much where their FLOPs differ by no more than this share."""


def rejects_better(net: Net, density: float) -> list[Part]:
    _check_method(net, "vi")
    return [under(near(*net.grids(SNR, DETERMINISTIC), density=density))]


def information_ranks_errors(net: Net, other: str) -> list[Part]:
    """Compare its AURC with the error rate, which is the AURC of a random order, or with that of another score."""
    _check_method(net, "vi")
    (information,) = net.grids(SNR)
    (beside,) = net.grids(SNR, column=other)
    if other == "accuracy":
        errors = {at: 1 - value for at, value in beside.values.items()}
        beside = replace(beside, values=errors, words="their error rate", column="error")
    else:
        beside = replace(beside, words="by confidence")
    return [under(near(replace(information, words="AURC of snr tickets by information"), beside, density=LAST))]


def random_as_good(net: Net) -> list[Part]:
    _check_method(net, *SAMPLERS)
    return [not_worse(near(*net.grids(RANDOM, TRANSPLANT), density=LAST), net.margin)]


def above_reinit(net: Net, of: Curve) -> list[Part]:
    _check_method(net, "vi")
    return [above(near(*net.grids(of, control("reinit", of)), density=LAST))]


def ssvi_above_pruning(net: Net) -> list[Part]:
    ssvi, snr = net.grids(SSVI, SNR)
    level = level_near(ssvi, snr, LAST)
    one, other = net.grids(SSVI, SNR, column="total_flops")
    for at, flops in one.values.items():
        if at in other.values and abs(flops / other.values[at] - 1) > EQUAL:
            raise Missing(f"equal FLOPs: {ssvi.words} took {flops:.2g}, {snr.words} {other.values[at]:.2g}")
    return [above(at_level(ssvi, snr, level))]


def _check_method(net: Net, *methods: str) -> None:
    if net.settings["method"] not in methods:
        raise Missing(f"tickets by {' or '.join(methods)}")


CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "f1",
            "a Bayesian ticket rejects its errors better than a deterministic one of equal density (AURC by confidence)",
            rejects_better,
            study=STUDY,
            metric="aurc_confidence",
            cases={"10%": (MEDIUM,), "2%": (LAST,)},
        ),
        Claim(
            "f2",
            "mutual information ranks the errors of a Bayesian ticket at 2% left better than this (AURC)",
            information_ranks_errors,
            study=STUDY,
            metric="aurc_information",
            reads=("aurc_confidence",),
            cases={"a random order": ("accuracy",), "confidence": ("aurc_confidence",)},
        ),
        Claim(
            "f3",
            "under SG-MCMC a random mask of equal layer densities is as good as the pruned one at 2% left",
            random_as_good,
            study=STUDY,
            varied=("train.lr", *GRAPHS),
        ),
        Claim(
            "f4",
            "the ticket is above re-initialisation by the same distribution at 2% left",
            above_reinit,
            study=STUDY,
            cases={"Bayesian": (SNR,), "deterministic": (DETERMINISTIC,)},
        ),
        Claim(
            "f5",
            "SSVI is above iterative pruning at 2% left and equal FLOPs of training",
            ssvi_above_pruning,
            study=STUDY,
            reads=("total_flops",),
            varied=("train.sparse", "train.epochs", *GRAPHS),
        ),
    )
}
"""The claims by id."""


def claims_of(records: pd.DataFrame) -> dict[str, Claim]:
    """Return the claims to judge records by: these where all are of the study, otherwise the paper's."""
    own = len(records) > 0 and records["study"].str.startswith(STUDY).all()
    return CLAIMS if own else PAPERS
