"""Examples beyond the measured split, and the checks of the measures that look at them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from tombola.data import Dataset, Split
from tombola.errors import TombolaError
from tombola.settings import EvaluateSettings

OF_CLASSES = ("selective", "ood", "corrupted", "temperature", "adaptive")
CALIBRATED = ("conformal", "temperature")
"""Measures that are fitted on validation examples."""


@dataclass(frozen=True)
class Further:
    """Stored examples on the CPU; empty where no measure needs them."""

    calibration: Split | None
    """Validation examples."""
    outside: dict[str, Tensor]
    """Set's name in columns -> inputs [M, ...]."""
    corrupted: dict[int, tuple[Tensor, Tensor]]
    """Severity -> (corrupted inputs of the measured split, numbers of their kinds [N])."""


def further_of(data: Dataset, settings: EvaluateSettings) -> Further:
    """Return what the settings' measures look at: made once for each data set, since many evaluations read it.

    Outliers are at most as many as measured examples; corrupted images take five times the measured split's bytes.
    """
    inputs, _ = data.held_out(settings.split)
    kept: dict[Any, Any] = data.__dict__.setdefault("_further", {})

    def once(name: Any, make: Callable[[], Any]) -> Any:
        if (settings.split, name) not in kept:
            kept[settings.split, name] = make()
        return kept[settings.split, name]

    outside, corrupted = {}, {}
    if "ood" in settings.measures:
        from tombola.data.outside import digest, inputs_of, kind_of

        for name in outside_of(data, settings):
            outside[kind_of(name)] = once((name, digest(name)), partial(inputs_of, name, data, len(inputs)))
    if "corrupted" in settings.measures:
        from tombola.data.corruptions import SEVERITIES, each_corrupted_once

        for severity in SEVERITIES:
            corrupted[severity] = once(severity, partial(each_corrupted_once, inputs, severity))
    return Further(data.validation if set(CALIBRATED) & {*settings.measures} else None, outside, corrupted)


def outside_of(data: Dataset, settings: EvaluateSettings) -> list[str]:
    """Return the outliers that the settings name, or the data set's defaults."""
    from tombola.data.outside import defaults

    return defaults(data) if settings.outside is None else settings.outside


def file_digests(settings: EvaluateSettings) -> list[str]:
    """Return the hashes of the files among the outliers that the settings name."""
    if not settings.outside or "ood" not in settings.measures:
        return []
    from tombola.data.outside import digest

    return [found for name in settings.outside if (found := digest(name))]


def passes(settings: EvaluateSettings) -> int:
    """Return the forward passes over the measured split that the measures take, with others of about that size."""
    outside = 3 if settings.outside is None else len(settings.outside)
    return 5 * ("corrupted" in settings.measures) + outside * ("ood" in settings.measures)


def check_measures(settings: EvaluateSettings, data: Dataset, likelihood: str) -> None:
    """Raise TombolaError for measures that the data set cannot have."""
    classes = likelihood in ("categorical", "bernoulli")
    for name in settings.measures:
        if (name in OF_CLASSES and not classes) or (name == "intervals" and likelihood != "gaussian"):
            needs = "likelihood gaussian" if name == "intervals" else "classes"
            raise TombolaError(f"evaluate.measures has {name}, which needs {needs}; train.likelihood is {likelihood!r}")
        if name == "conformal" and likelihood == "poisson":
            raise TombolaError("evaluate.measures has conformal, which has no sets of counts; leave it out")
        if name in CALIBRATED and settings.split == "validation":
            raise TombolaError(f"evaluate.measures has {name}, fitted on validation examples; set evaluate.split to test")
        if name in CALIBRATED and not len(data.validation[0]):
            raise TombolaError(
                f"evaluate.measures has {name}, which is fitted on validation examples, but data {data.name!r} holds none "
                "out; set data.args.validation"
            )
    if "corrupted" in settings.measures:
        from tombola.data.pixels import check_images

        check_images(data.test[0][:1], "evaluate.measures corrupted")
    _check_outside(settings, data)


def _check_outside(settings: EvaluateSettings, data: Dataset) -> None:
    if "ood" not in settings.measures:
        if settings.outside is not None:
            raise TombolaError(f"evaluate.outside is {settings.outside}, but evaluate.measures lacks ood; add it")
        return
    from tombola.data.outside import check, kind_of

    found = outside_of(data, settings)
    if not found:
        raise TombolaError(
            f"evaluate.measures has ood, but nothing is outside of data {data.name!r}: it has no images; set "
            "data.args.leave_out to some classes"
        )
    if len({kind_of(name) for name in found}) < len(found):
        raise TombolaError(f"evaluate.outside is {found}; give each once, and one file at most")
    for name in found:
        check(name, data)
