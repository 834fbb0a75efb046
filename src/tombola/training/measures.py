"""Measures beyond the metrics of every record: what a prediction's uncertainty is good for.

Each takes a `Measured` and returns columns; all look at the same weight samples.

Legend: S weight samples, B measured examples, M others, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tombola import metrics
from tombola.metrics.uncertainty_columns import CORRUPTIONS, COVERAGE
from tombola.settings import EvaluateSettings, TrainSettings

from .further import Further
from .scored import labels_of, probs_of


@dataclass(frozen=True)
class Measured:
    """Outputs on the measured split, and on any other stored inputs by the same weight samples."""

    out: Tensor
    """[S, B, ...] on the CPU."""
    targets: Tensor
    predict: Callable[[Tensor], Tensor]
    """Function from stored inputs to outputs."""
    further: Further
    settings: EvaluateSettings
    train: TrainSettings
    noise_std: float | None
    """Standard deviation of the noise; None unless the likelihood is Gaussian."""
    generator: torch.Generator

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """Return probabilities [S, B, C] and labels [B]."""
        return self.probs_of(self.out), labels_of(self.targets)

    @cached_property
    def calibration(self) -> tuple[Tensor, Tensor]:
        """Return outputs and targets of the validation examples."""
        assert self.further.calibration is not None
        inputs, targets = self.further.calibration
        return self.predict(inputs).cpu(), targets.cpu()

    def probs_of(self, out: Tensor) -> Tensor:
        """Return the class probabilities of outputs."""
        found = probs_of(out, self.train)
        assert found is not None  # checked with the plan
        return found


def selective(m: Measured) -> dict[str, float]:
    probs_SBC, labels_B = m.classes
    wrong_B, found = probs_SBC.mean(0).argmax(1) != labels_B, {}
    for score, uncertainty_B in metrics.uncertainties(probs_SBC).items():
        found[f"aurc_{score}"] = metrics.aurc(uncertainty_B, wrong_B)
        found[f"excess_aurc_{score}"] = metrics.excess_aurc(uncertainty_B, wrong_B)
        found[f"risk80_{score}"] = metrics.risk_at_coverage(uncertainty_B, wrong_B, 0.8)
    return found


def ood(m: Measured) -> dict[str, float]:
    inside, found = metrics.uncertainties(m.classes[0]), {}
    for name, inputs in m.further.outside.items():
        outside = metrics.uncertainties(m.probs_of(m.predict(inputs).cpu()))
        for score in inside:
            for measure in (metrics.auroc, metrics.aupr, metrics.fpr95):
                found[f"{measure.__name__}_{name}_{score}"] = measure(inside[score], outside[score])
    return found


def corrupted(m: Measured) -> dict[str, float]:
    probs, kinds, found, labels_B = [], [], {}, m.classes[1]
    for severity, (inputs, kinds_B) in m.further.corrupted.items():
        probs.append(m.probs_of(m.predict(inputs).cpu()).mean(0))
        kinds.append(kinds_B.repeat_interleave(len(labels_B) // len(kinds_B)))  # several Bernoulli targets an example
        found[f"accuracy_severity{severity}"] = metrics.accuracy(probs[-1], labels_B)
    all_probs, all_labels, all_kinds = torch.cat(probs), labels_B.repeat(len(probs)), torch.cat(kinds)
    right = all_probs.argmax(1) == all_labels
    for k, kind in enumerate(CORRUPTIONS):
        found[f"accuracy_{kind}"] = right[all_kinds == k].double().mean().item()  # NaN where fewer than 15 are measured
    return found | {
        "accuracy_corrupted": metrics.accuracy(all_probs, all_labels),
        "nll_corrupted": metrics.nll(all_probs, all_labels),
        "ece_corrupted": metrics.ece(all_probs, all_labels, m.settings.bins),
    }


def conformal(m: Measured) -> dict[str, float]:
    out, targets = m.calibration
    if m.noise_std is not None:
        own, rest = (o.mean(0).view(t.shape) for o, t in ((out, targets), (m.out, m.targets)))
        return metrics.conformal_interval(own, targets, rest, m.targets, COVERAGE)
    probs_SBC, labels_B = m.classes
    return metrics.conformal_classes(m.probs_of(out).mean(0), labels_of(targets), probs_SBC.mean(0), labels_B, COVERAGE)


def temperature(m: Measured) -> dict[str, float]:
    out, targets = m.calibration
    found = metrics.temperature(m.probs_of(out).mean(0), labels_of(targets))
    probs_BC = metrics.tempered(m.classes[0].mean(0), found)
    return {
        "temperature": found,
        "nll_tempered": metrics.nll(probs_BC, m.classes[1]),
        "ece_tempered": metrics.ece(probs_BC, m.classes[1], m.settings.bins),
    }


def adaptive(m: Measured) -> dict[str, float]:
    probs_SBC, labels_B = m.classes
    bins, redraws = m.settings.bins, m.settings.redraws
    found = metrics.against_null(metrics.adaptive_ece, probs_SBC.mean(0), labels_B, bins, redraws, m.generator)
    return found.row("ece_adaptive")


def intervals(m: Measured) -> dict[str, float]:
    assert m.noise_std is not None
    return metrics.intervals(m.out.view(len(m.out), *m.targets.shape), m.noise_std, m.targets, COVERAGE)


MEASURES: dict[str, Callable[[Measured], dict[str, float]]] = {
    measure.__name__: measure for measure in (selective, ood, corrupted, conformal, temperature, adaptive, intervals)
}
"""Name in `evaluate.measures` -> function."""


def measured(m: Measured) -> dict[str, float]:
    """Return the columns of all measures of the settings."""
    return {name: value for measure in m.settings.measures for name, value in MEASURES[measure](m).items()}
