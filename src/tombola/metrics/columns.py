"""The one table of the columns of records and analyses: the files, docs/records.md and the report are made from it.

To add a column, compute its value and add its row here: docs/add-a-column.md.
"""

from typing import Any

from .column import Column, Kind, with_null
from .uncertainty_columns import MEASURED

_TERA = "10\u00b9\u00b2"


def _text(name: str, sentence: str) -> Column:
    return Column(name, "label", "text", sentence)


def _number(name: str, kind: Kind, sentence: str) -> Column:
    return Column(name, kind, "number", sentence)


def _percent(name: str, kind: Kind, sentence: str, **how: Any) -> Column:
    """Return a column of fractions that are shown in percent."""
    return Column(name, kind, "fraction", sentence, scale=100, suffix="%", gap_unit="percentage points", **how)


def _nats(name: str, kind: Kind, sentence: str, **how: Any) -> Column:
    return Column(name, kind, "nats", sentence, gap_unit="nats", **how)


def _seconds(name: str, sentence: str, **how: Any) -> Column:
    return Column(name, "timing", "seconds", sentence, decimals=1, suffix=" s", gap_unit="s", **how)


def _flops(name: str, sentence: str, **how: Any) -> Column:
    return Column(name, "cost", "operations", sentence, scale=1e-12, gap_unit=f"{_TERA} operations", **how)


_RECORDS = [
    _text("study", "name of the study"),
    _text("stage", "kind of the stage that measured the row: always `evaluate`"),
    _text("key", "key of that stage"),
    _text("ticket", "key of the training stage whose ticket was measured: its folder in the store"),
    _text("arm", "the arm, as in the study file"),
    _text("curve", "the arm's name in figures and tables, with its score and what else sets it apart"),
    _text("variant", "the values that fanned out, as `train.lr=0.001`; empty where nothing but what has its own column did"),
    _text(
        "model",
        "name of the model; of a [recipe](recipes.md#sizes) the net, with the size where it is a small relative, "
        "as `resnet20/cpu`",
    ),
    _text("data", "what [the data is called](data.md#what-tables-call-it), as `digits` or `cifar10-jpeg75`"),
    _text("method", "how the ticket was trained: `vi`, `map` or the import path of your own"),
    _text("score", "the score of the chain that found the mask"),
    _text("sigma", "the std that this score saw: `trained`, `start` or `shuffled`"),
    _text("rewind", "where its survivors restarted"),
    _number("seed", "label", "the seed"),
    _number("level", "label", "how often the chain was pruned; 0 is dense"),
    Column("density", "size", "fraction", "surviving share of the prunable parameters"),
    _percent(
        "density_all",
        "size",
        "surviving share of all parameters",
        label="share of all parameters left",
        axis="all parameters left (%)",
        decimals=2,
    ),
    _percent(
        "accuracy",
        "metric",
        "share of examples whose most probable class is the label",
        label="accuracy",
        axis="test accuracy (%)",
        decimals=1,
        higher_is_better=True,
    ),
    _percent(
        "best_accuracy",
        "metric",
        "largest accuracy over the epochs of this training, on the test split, of the posterior's mean weights in"
        " one pass: [optimistic](concepts.md#metrics-and-their-nulls), not the result",
        label="best epoch's accuracy (optimistic)",
        axis="best epoch's test accuracy (%)",
        decimals=1,
        higher_is_better=True,
    ),
    _nats(
        "nll",
        "metric",
        "mean of -log p(label); for a regression, of -log of the density of the mixture over the samples",
        label="NLL",
        axis="test NLL (nats)",
        suffix=" nats",
    ),
    Column(
        "brier",
        "metric",
        "0 to 2",
        "mean over examples of the squared distance of the probabilities from the label's one-hot vector",
        label="Brier score",
    ),
    *with_null("ece", "top label: mean over bins, weighted by their examples, of abs(accuracy - confidence)", label="ECE"),
    *with_null(
        "mace",
        "top label: unweighted mean over bins of abs(mean of (correct - confidence)), as printed in the paper",
        label="top-label MACE",
    ),
    *with_null(
        "mace_coded",
        "every class: unweighted mean over bins of abs(mean of correct - bin centre), as in the paper's code, "
        "which is NaN where a bin is empty",
        optional=True,
        label="MACE as coded",
        axis="MACE of every class (fraction)",
    ),
    _number("samples", "setting", "weight samples of the prediction; 1 for a deterministic network"),
    _seconds(
        "train_seconds",
        "time of this level's training alone, with the test pass after each epoch, interruptions left out",
        label="training time",
        axis="training time (s)",
    ),
    _flops(
        "train_flops",
        "of this level's training alone, counted by torch: products of matrices, convolutions and attention, "
        "forward and backward, of all samples; masked weights count like others, test passes do not",
        label="operations of the training",
        axis=f"operations of the training ({_TERA})",
    ),
    _flops(
        "train_flops_sparse",
        "the same if products by pruned weights took none, in every step by the mask of that step; a change of the mask by "
        "gradient adds a gradient of all weights",
        optional=True,
        label="operations of the training by surviving weights",
        axis=f"operations of the training by surviving weights ({_TERA})",
    ),
    _seconds(
        "total_seconds",
        "time of this training and of all trainings that it depends on, whichever study ran them: the levels "
        "before, or the deterministic chain of a transplant; empty where one of them is no longer in the store",
        label="training time with all it depends on",
        axis="training time with all levels before (s)",
    ),
    _flops(
        "total_flops",
        "operations of the same trainings as `total_seconds`",
        label="operations with all it depends on",
        axis=f"operations with all levels before ({_TERA})",
    ),
    Column("device", "environment", "text", "`cpu`, or the GPU's name, of the training"),
    Column("torch", "environment", "text", "version of torch, of the training"),
    _number("threads", "environment", "threads of torch, of the training"),
    _number("repeats", "setting", "independent predictions whose metrics were averaged"),
    _number("examples", "setting", "test examples"),
    _number("classes", "setting", "number of classes: chance has an accuracy of 1 over it; empty for a regression"),
    Column("layer_density", "size", "JSON text", "surviving share of each prunable tensor, by name"),
    _percent(
        "accuracy_sd",
        "metric",
        "standard deviation of accuracy over the repeats; empty for one repeat",
        label="deviation of accuracy over repeats",
        axis="deviation of accuracy over repeats (%)",
        decimals=2,
    ),
    Column(
        "rmse",
        "metric",
        "target units",
        "root mean squared error of the samples' mean; regression and counts only",
        label="RMSE",
        axis="test RMSE (target units)",
        gap_unit="target units",
    ),
    Column(
        "deviance",
        "metric",
        "number",
        "mean Poisson deviance 2 (y log(y / rate) - y + rate) of the samples' mean rate; counts only",
        optional=True,
        label="deviance",
    ),
    _nats(
        "predictive_entropy",
        "metric",
        "mean entropy of the averaged prediction: total uncertainty",
        label="predictive entropy",
    ),
    _nats(
        "mutual_information",
        "metric",
        "mean of that entropy minus the samples' mean entropy: what the weight samples disagree about; 0 for a "
        "deterministic network",
        label="mutual information",
    ),
    _nats(
        "drift_mean",
        "drift",
        "mean change of log std: 0.69 is a doubling",
        label="mean drift of log sigma",
        axis="mean change of log sigma (nats)",
    ),
    _nats(
        "drift_spread",
        "drift",
        "standard deviation of that change",
        label="spread of that drift",
        axis="spread of the change (nats)",
    ),
    Column(
        "drift_rank",
        "drift",
        "-1 to 1",
        "Spearman correlation of initial and final log std; empty if the initial ones are all equal (`std_jitter: 0`)",
        label="rank correlation of sigma",
        axis="rank correlation of sigma",
    ),
    _number("parameters", "size", "all parameters of the network"),
    _percent(
        "flops_left",
        "size",
        "share of the dense network's multiply-adds for one example that is left: products by pruned weights fall "
        "away; those without weights (attention) and by weights that are never pruned stay",
        label="operations left",
        axis="operations left (%)",
        decimals=2,
    ),
    _text("chain", "whose pruning found the masks: `bayesian` or `deterministic` networks (the latter also of transplants)"),
    _number("lr", "setting", "learning rate of this training"),
    _number("warmup_epochs", "setting", "epochs of warm-up of this training"),
    Column(
        "settings",
        "setting",
        "JSON text",
        "the study's settings that differ from their [defaults in keys](concepts.md#keys-stages-and-the-same-bits), by"
        " path, with the data's fingerprint; without what has a column. Rows with equal texts are of one experiment,"
        " whatever study they are in",
    ),
    *MEASURED,
    Column("changes", "setting", "JSON text", "what the arm does otherwise than its study, by path; mostly `{}`"),
]
_ANALYSES = [
    _text("study", "name of the study"),
    _text("view", "`overlap`, `ranks`, `connectivity`, `early_bird`, or the name that an analysis of your own gives"),
    _text("between", "what is compared: `seeds`, `curves`; `scores`; `noise`, `levels`, `rewinds`; `epochs`"),
    _text("key", "key of the stage that found it"),
    _text("model", "name of the model, as in the records"),
    _text("data", "name of the data, as in the records"),
    _text("variant", "the values that fanned out, as in the records"),
    _text("curve_a", "curve of the first ticket"),
    _text("curve_b", "curve of the second ticket"),
    _number("seed_a", "label", "seed of the first ticket"),
    _number("seed_b", "label", "seed of the second ticket"),
    _number("level_a", "label", "level of the first ticket"),
    _number("level_b", "label", "level of the second ticket"),
    _text(
        "score_a",
        "the first of the scores that are compared (`ranks`), or the one by which the mask is taken (`early_bird`)",
    ),
    _text("score_b", "the second of the scores that are compared (`ranks`)"),
    Column(
        "density",
        "size",
        "fraction",
        "surviving share of the prunable weights: the mean of both (`overlap`), of a (`connectivity`), of the "
        "mask (`early_bird`)",
    ),
    _number("x", "setting", "place: alpha from a to b (`connectivity`), epochs done (`early_bird`)"),
    _text(
        "quantity",
        "`jaccard`; `spearman`, `spearman_by_layer`; `error_mean`, `nll_mean` of the mean weights, "
        "`error_samples`, `nll_samples` of weight samples (a regression: `rmse_mean`, ...), each along `x`, and "
        "their `barrier_...`; `jaccard_final`, `distance_final`, `distance_previous`",
    ),
    Column(
        "value",
        "metric",
        "by `quantity`",
        "the number: a fraction for Jaccard indices, errors and distances, nats for `nll`",
    ),
    Column("chance", "null", "fraction", "of a Jaccard index: the one of two random masks of the same layer densities"),
]

RECORDS: dict[str, Column] = {column.name: column for column in _RECORDS}
"""The columns of records.parquet by name; a table has the columns that are not optional in this order."""
ANALYSES: dict[str, Column] = {column.name: column for column in _ANALYSES}
"""The columns of views.parquet, in its order."""


def names(*kinds: Kind) -> list[str]:
    """Return the names of the records' columns of these kinds."""
    return [column.name for column in RECORDS.values() if column.kind in kinds]
