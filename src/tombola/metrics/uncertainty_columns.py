"""Columns of `evaluate.measures`; all are optional, since a table has those of the measures that were asked for."""

from typing import Any

from .column import Column, with_null

COVERAGE = 0.9
"""Chance with which sets and intervals should contain the truth."""
SCORES = ("confidence", "entropy", "information")
"""Scores of an example's uncertainty, as they end the names of columns."""
OUTSIDE = ("near", "noise", "textures", "digits", "file")
"""Sets of outliers, as in the names of columns."""
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


def _measure(name: str, unit: str, sentence: str, **how: Any) -> Column:
    return Column(name, "uncertainty", unit, sentence, optional=True, **how)


def _percent(name: str, sentence: str, **how: Any) -> Column:
    shown: dict[str, Any] = {"scale": 100, "decimals": 1, "suffix": "%", "gap_unit": "percentage points"}
    return _measure(name, "fraction", sentence, **(shown | how))


def _selective(score: str) -> list[Column]:
    by = f"by {score}"
    return [
        _measure(
            f"aurc_{score}",
            "fraction",
            "area under the risk-coverage curve: mean error rate of the k surest examples, over all k",
            label=f"AURC {by}",
            axis=f"AURC {by}",
            decimals=4,
        ),
        _measure(
            f"excess_aurc_{score}",
            "fraction",
            "the same less that of the best order, in which all errors come last",
            label=f"excess AURC {by}",
            axis=f"excess AURC {by}",
            decimals=4,
        ),
        _percent(
            f"risk80_{score}",
            "error rate of the surest 80% of examples",
            label=f"risk at 80% coverage {by}",
            axis=f"error of the surest 80% {by} (%)",
        ),
    ]


def _outliers(name: str, score: str) -> list[Column]:
    of = f"of {name} by {score}"
    return [
        _measure(
            f"auroc_{name}_{score}",
            "fraction",
            "chance that an outlier is less sure than a test example, ties half",
            label=f"AUROC {of}",
            axis=f"AUROC {of}",
            higher_is_better=True,
        ),
        _measure(
            f"aupr_{name}_{score}",
            "fraction",
            "average precision with which outliers are told from test examples; guessing gives their share",
        ),
        _percent(
            f"fpr95_{name}_{score}",
            "share of outliers that pass where 95% of test examples do",
            label=f"FPR95 {of}",
            axis=f"FPR95 {of} (%)",
        ),
    ]


def _corrupted() -> list[Column]:
    severities = [
        _percent(
            f"accuracy_severity{severity}",
            "accuracy on test images that are each corrupted once, with the severity in the name",
            label=f"accuracy at severity {severity}",
            axis=f"accuracy at severity {severity} (%)",
            higher_is_better=True,
        )
        for severity in (1, 2, 3, 4, 5)
    ]
    kinds = [
        _percent(
            f"accuracy_{kind}",
            "accuracy on the test images with this corruption, over all severities; an image has it at one of them",
            label=f"accuracy under {kind.replace('_', ' ')}",
            axis=f"accuracy under {kind.replace('_', ' ')} (%)",
            higher_is_better=True,
        )
        for kind in CORRUPTIONS
    ]
    every = "over fifteen corruptions at five severities: each test image counts once a severity"
    return [
        _percent(
            "accuracy_corrupted",
            f"accuracy {every}",
            label="accuracy on corrupted images",
            axis="accuracy on corrupted images (%)",
            higher_is_better=True,
        ),
        _measure(
            "nll_corrupted",
            "nats",
            f"NLL {every}",
            label="NLL on corrupted images",
            suffix=" nats",
            gap_unit="nats",
        ),
        _measure("ece_corrupted", "fraction", f"ECE {every}", label="ECE on corrupted images"),
        *severities,
        *kinds,
    ]


MEASURED = [
    *(column for score in SCORES for column in _selective(score)),
    *(column for name in OUTSIDE for score in SCORES for column in _outliers(name, score)),
    *_corrupted(),
    _percent(
        "conformal_coverage",
        f"share of test examples whose conformal set or interval, made for {COVERAGE:.0%}, has the truth",
        label="conformal coverage",
        axis="conformal coverage (%)",
    ),
    _measure("conformal_size", "classes", "mean size of these sets", label="size of conformal sets", decimals=2),
    _measure(
        "conformal_width",
        "target units",
        "width of these intervals, the same for all examples; regression only",
        label="width of conformal intervals",
        gap_unit="target units",
    ),
    _measure(
        "temperature",
        "number",
        "temperature fitted on validation examples: above 1 the prediction was too sure",
        label="temperature",
        axis="temperature",
        decimals=2,
    ),
    _measure("nll_tempered", "nats", "NLL at that temperature", label="NLL after scaling", suffix=" nats", gap_unit="nats"),
    _measure("ece_tempered", "fraction", "ECE at that temperature", label="ECE after scaling"),
    *with_null(
        "ece_adaptive",
        "top label: as `ece`, with bins of equally many examples",
        optional=True,
        label="adaptive ECE",
    ),
    _measure(
        "crps",
        "target units",
        "continuous ranked probability score of the mixture over the samples; regression only",
        label="CRPS",
        gap_unit="target units",
    ),
    _percent(
        "interval_coverage",
        f"share of targets in the prediction's central {COVERAGE:.0%} interval; regression only",
        label="coverage of intervals",
        axis="coverage of 90% intervals (%)",
    ),
    _measure(
        "interval_width",
        "target units",
        "mean width of these intervals; regression only",
        label="width of intervals",
        gap_unit="target units",
    ),
]
"""In the order of docs/records.md."""
