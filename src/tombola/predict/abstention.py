"""Abstention: a threshold on the confidence, chosen on held-out examples for a coverage or for a risk.

Legend: n held-out examples.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.errors import TombolaError

ASSURANCE = 0.9
"""Probability, over the draw of the held-out examples, with which a promised risk holds."""


@dataclass(frozen=True)
class Abstention:
    """Rule that accepts an example whose confidence reaches a threshold, with what it did on the held-out examples."""

    threshold: float
    coverage: float
    """Share of the held-out examples that it accepts."""
    risk: float
    """Share of errors among them: the estimate of the risk on new examples."""
    bound: float
    """Upper bound on the risk on new examples: of one threshold alone if chosen by coverage, of all tried if by risk."""
    examples: int
    """Number n of held-out examples."""

    def accepts(self, confidence: Tensor) -> Tensor:
        """Return whether each confidence [B] reaches the threshold, bool [B]."""
        return confidence >= self.threshold

    def sentence(self) -> str:
        """Return the rule and what is known of it, in one line."""
        return (
            f"abstains below a probability of {self.threshold:.4g}: {self.coverage:.1%} of {self.examples} held-out "
            f"examples are accepted, of which {self.risk:.2%} are wrong; of new ones at most {self.bound:.2%}, with "
            f"{ASSURANCE:.0%} assurance"
        )


def abstain_at(confidence: Tensor, right: Tensor, *, coverage: float | None = None, risk: float | None = None) -> Abstention:
    """Return the rule for a coverage or for a risk, from n held-out examples like the ones to come.

    confidence: [n]. right: bool [n], whether the most probable class is the true one.
    coverage: the largest threshold that accepts at least this share of them; the risk is then estimated, not bounded.
    risk: the lowest threshold found by which the share of errors among accepted new examples is at most this, with
        probability 0.9 over the draw of the n (selection with guaranteed risk, Geifman & El-Yaniv 2017: bisection over the
        sorted confidences with a binomial bound at each step).

    Raises TombolaError for values out of (0, 1], for both or neither of them, and for a risk that n examples cannot promise.
    """
    check_target(coverage, risk)
    if len(confidence) != len(right) or not len(right):
        raise TombolaError(f"there are {len(confidence)} confidences for {len(right)} targets; give as many, at least one")
    ordered, order = confidence.double().sort(descending=True)
    errors = (~right[order]).long().cumsum(0)
    if coverage is not None:
        place = min(len(ordered), max(1, math.ceil(coverage * len(ordered) - 1e-9)))
        return _rule(ordered, errors, float(ordered[place - 1]), 1 - ASSURANCE)
    assert risk is not None
    return _by_risk(ordered, errors, risk)


def check_target(coverage: float | None, risk: float | None) -> None:
    """Raise TombolaError unless exactly one of both is given, within its bounds."""
    if (coverage is None) == (risk is None):
        raise TombolaError(f"coverage is {coverage}, risk {risk}; give one of them")
    if coverage is not None and not 0 < coverage <= 1:
        raise TombolaError(f"coverage is {coverage}; it must be above 0 and at most 1")
    if risk is not None and not 0 < risk < 1:
        raise TombolaError(f"risk is {risk}; it must be above 0 and below 1")


def binomial_bound(errors: int, count: int, delta: float) -> float:
    """Return the risk at which as few errors of `count` have probability delta (Clopper & Pearson 1934, one-sided)."""
    from scipy.stats import beta

    return 1.0 if errors >= count else float(beta.ppf(1 - delta, errors + 1, count - errors))


def _rule(ordered: Tensor, errors: Tensor, threshold: float, delta: float) -> Abstention:
    """Return the rule of a threshold. ordered, errors: confidences from the highest on, and errors up to each."""
    count = int((ordered >= threshold).sum())  # equal confidences are accepted together
    wrong = int(errors[count - 1])
    return Abstention(threshold, count / len(ordered), wrong / count, binomial_bound(wrong, count, delta), len(ordered))


def _by_risk(ordered: Tensor, errors: Tensor, risk: float) -> Abstention:
    steps = max(1, math.ceil(math.log2(len(ordered))))
    delta = (1 - ASSURANCE) / steps  # a bound for each of the thresholds that are tried
    low, high, found = 1, len(ordered), None
    smallest = 1.0
    for _ in range(steps):
        middle = -(-(low + high) // 2)
        rule = _rule(ordered, errors, float(ordered[middle - 1]), delta)
        smallest = min(smallest, rule.bound)
        if rule.bound <= risk:
            found, low = rule if found is None or rule.coverage >= found.coverage else found, middle
        else:
            high = middle
    if found is None:
        raise TombolaError(
            f"risk={risk} cannot be promised by {len(ordered)} held-out examples: the lowest bound of thresholds tried is "
            f"{smallest:.3g}; give a larger risk, more held-out examples, or a coverage"
        )
    return found


def parse_target(text: str) -> dict[str, float]:
    """Return {"risk": R} or {"coverage": C} of a text such as `risk=0.05`. Raises TombolaError for any other."""
    name, _, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if name not in ("risk", "coverage") or math.isnan(value):
        raise TombolaError(f"--abstain-at is {text!r}; give risk=R or coverage=C, such as coverage=0.9")
    check_target(**{"coverage": None, "risk": None, name: value})
    return {name: value}


def right_of(labels: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return whether each label is the target, bool [n].

    Raises TombolaError for targets that are no numbers of `classes` classes, from 0 on.
    """
    try:
        targets = torch.as_tensor(targets).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TombolaError(f"targets are no class numbers ({error}); give one each") from None
    if targets.is_floating_point() or targets.shape != labels.shape:
        raise TombolaError(
            f"targets are {targets.dtype} of shape {list(targets.shape)} for {len(labels)} inputs; give a class number each"
        )
    if len(strange := targets[(targets < 0) | (targets >= classes)]):
        raise TombolaError(f"there is no class {int(strange[0])} among the targets' {classes}, which are numbered from 0")
    return labels == targets
