"""The one table of the columns of records and views: the files, docs/records.md and the report are made from it.

To add a column, compute its value and add its row here: docs/add-a-column.md.
"""

from typing import Any

from .column import Column, Kind, with_null

_PERCENT: dict[str, Any] = {"scale": 100, "suffix": "%", "gap_unit": "percentage points"}
_SECONDS: dict[str, Any] = {"decimals": 1, "suffix": " s", "gap_unit": "s"}
_TERA = "10\u00b9\u00b2"
_FLOPS: dict[str, Any] = {"scale": 1e-12, "gap_unit": f"{_TERA} operations"}

_RECORDS = [
    Column("study", "label", "text", "name of the study"),
    Column("stage", "label", "text", "kind of the stage that measured the row: always `evaluate`"),
    Column("key", "label", "text", "key of that stage"),
    Column("ticket", "label", "text", "key of the training stage whose ticket was measured: its folder in the store"),
    Column("arm", "label", "text", "the arm, as in the study file"),
    Column("curve", "label", "text", "the arm's name in figures and tables, with its score and what else sets it apart"),
    Column(
        "variant",
        "label",
        "text",
        "the values that fanned out, as `train.lr=0.001`; empty where nothing but what has its own column did",
    ),
    Column(
        "model",
        "label",
        "text",
        "name of the model; of a [recipe](recipes.md#sizes) the net, with the size where it is a small relative, "
        "as `resnet20/cpu`",
    ),
    Column(
        "data", "label", "text", "what [the data is called](data.md#what-tables-call-it), as `digits` or `cifar10-jpeg75`"
    ),
    Column("method", "label", "text", "how the ticket was trained: `vi`, `map` or the import path of your own"),
    Column("score", "label", "text", "the score of the chain that found the mask"),
    Column("sigma", "label", "text", "the std that this score saw: `trained`, `start` or `shuffled`"),
    Column("rewind", "label", "text", "where its survivors restarted"),
    Column("seed", "label", "number", "the seed"),
    Column("level", "label", "number", "how often the chain was pruned; 0 is dense"),
    Column("density", "size", "fraction", "surviving share of the prunable parameters"),
    Column(
        "density_all",
        "size",
        "fraction",
        "surviving share of all parameters",
        label="share of all parameters left",
        axis="all parameters left (%)",
        decimals=2,
        **_PERCENT,
    ),
    Column(
        "accuracy",
        "metric",
        "fraction",
        "share of examples whose most probable class is the label",
        label="accuracy",
        axis="test accuracy (%)",
        decimals=1,
        higher_is_better=True,
        **_PERCENT,
    ),
    Column(
        "best_accuracy",
        "metric",
        "fraction",
        "largest accuracy over the epochs of this training, on the test split, of the posterior's mean weights in"
        " one pass: [optimistic](concepts.md#metrics-and-their-nulls), not the result",
        label="best epoch's accuracy (optimistic)",
        axis="best epoch's test accuracy (%)",
        decimals=1,
        higher_is_better=True,
        **_PERCENT,
    ),
    Column(
        "nll",
        "metric",
        "nats",
        "mean of -log p(label); for a regression, of -log of the density of the mixture over the samples",
        label="NLL",
        axis="test NLL (nats)",
        suffix=" nats",
        gap_unit="nats",
    ),
    Column(
        "brier",
        "metric",
        "0 to 2",
        "mean over examples of the squared distance of the probabilities from the label's one-hot vector",
        label="Brier score",
    ),
    *with_null(
        Column(
            "ece",
            "calibration",
            "fraction",
            "top label: mean over bins, weighted by their examples, of abs(accuracy - confidence)",
            label="ECE",
        )
    ),
    *with_null(
        Column(
            "mace",
            "calibration",
            "fraction",
            "top label: unweighted mean over bins of abs(mean of (correct - confidence)), as printed in the paper",
            label="top-label MACE",
        )
    ),
    *with_null(
        Column(
            "mace_coded",
            "calibration",
            "fraction",
            "every class: unweighted mean over bins of abs(mean of correct - bin centre), as in the paper's code, "
            "which is NaN where a bin is empty",
            optional=True,
            label="MACE as coded",
            axis="MACE of every class (fraction)",
        )
    ),
    Column("samples", "setting", "number", "weight samples of the prediction; 1 for a deterministic network"),
    Column(
        "train_seconds",
        "timing",
        "seconds",
        "time of this level's training alone, with the test pass after each epoch, interruptions left out",
        label="training time",
        axis="training time (s)",
        **_SECONDS,
    ),
    Column(
        "train_flops",
        "cost",
        "operations",
        "of this level's training alone, counted by torch: products of matrices, convolutions and attention, "
        "forward and backward, of all samples; masked weights count like others, test passes do not",
        label="operations of the training",
        axis=f"operations of the training ({_TERA})",
        **_FLOPS,
    ),
    Column(
        "total_seconds",
        "timing",
        "seconds",
        "time of this training and of all trainings that it depends on, whichever study ran them: the levels "
        "before, or the deterministic chain of a transplant; empty where one of them is no longer in the store",
        label="training time with all it depends on",
        axis="training time with all levels before (s)",
        **_SECONDS,
    ),
    Column(
        "total_flops",
        "cost",
        "operations",
        "operations of the same trainings as `total_seconds`",
        label="operations with all it depends on",
        axis=f"operations with all levels before ({_TERA})",
        **_FLOPS,
    ),
    Column("device", "environment", "text", "`cpu`, or the GPU's name, of the training"),
    Column("torch", "environment", "text", "version of torch, of the training"),
    Column("threads", "environment", "number", "threads of torch, of the training"),
    Column("repeats", "setting", "number", "independent predictions whose metrics were averaged"),
    Column("examples", "setting", "number", "test examples"),
    Column("layer_density", "size", "JSON text", "surviving share of each prunable tensor, by name"),
    Column(
        "accuracy_sd",
        "metric",
        "fraction",
        "standard deviation of accuracy over the repeats; empty for one repeat",
        label="deviation of accuracy over repeats",
        axis="deviation of accuracy over repeats (%)",
        decimals=2,
        **_PERCENT,
    ),
    Column(
        "rmse",
        "metric",
        "target units",
        "root mean squared error of the samples' mean; regression only",
        label="RMSE",
        axis="test RMSE (target units)",
        gap_unit="target units",
    ),
    Column(
        "predictive_entropy",
        "metric",
        "nats",
        "mean entropy of the averaged prediction: total uncertainty",
        label="predictive entropy",
        gap_unit="nats",
    ),
    Column(
        "mutual_information",
        "metric",
        "nats",
        "mean of that entropy minus the samples' mean entropy: what the weight samples disagree about; 0 for a "
        "deterministic network",
        label="mutual information",
        gap_unit="nats",
    ),
    Column(
        "drift_mean",
        "drift",
        "nats",
        "mean change of log std: 0.69 is a doubling",
        label="mean drift of log sigma",
        axis="mean change of log sigma (nats)",
        gap_unit="nats",
    ),
    Column(
        "drift_spread",
        "drift",
        "nats",
        "standard deviation of that change",
        label="spread of that drift",
        axis="spread of the change (nats)",
        gap_unit="nats",
    ),
    Column(
        "drift_rank",
        "drift",
        "-1 to 1",
        "Spearman correlation of initial and final log std; empty if the initial ones are all equal (`std_jitter: 0`)",
        label="rank correlation of sigma",
        axis="rank correlation of sigma",
    ),
    Column("parameters", "size", "number", "all parameters of the network"),
    Column(
        "chain",
        "label",
        "text",
        "whose pruning found the masks: `bayesian` or `deterministic` networks (the latter also of transplants)",
    ),
    Column("lr", "setting", "number", "learning rate of this training"),
    Column("warmup_epochs", "setting", "number", "epochs of warm-up of this training"),
    Column(
        "settings",
        "setting",
        "JSON text",
        "the study's settings that differ from their [defaults in keys](concepts.md#keys-stages-and-the-same-bits), by"
        " path, with the data's fingerprint; without what has a column. Rows with equal texts are of one experiment,"
        " whatever study they are in",
    ),
    Column("changes", "setting", "JSON text", "what the arm does otherwise than its study, by path; mostly `{}`"),
]
_VIEWS = [
    Column("study", "label", "text", "name of the study"),
    Column(
        "view",
        "label",
        "text",
        "`overlap`, `ranks`, `connectivity`, `early_bird`, or the name that a view of your own gives",
    ),
    Column(
        "between", "label", "text", "what is compared: `seeds`, `curves`; `scores`; `noise`, `levels`, `rewinds`; `epochs`"
    ),
    Column("key", "label", "text", "key of the stage that found it"),
    Column("model", "label", "text", "name of the model, as in the records"),
    Column("data", "label", "text", "name of the data, as in the records"),
    Column("variant", "label", "text", "the values that fanned out, as in the records"),
    Column("curve_a", "label", "text", "curve of the first ticket"),
    Column("curve_b", "label", "text", "curve of the second ticket"),
    Column("seed_a", "label", "number", "seed of the first ticket"),
    Column("seed_b", "label", "number", "seed of the second ticket"),
    Column("level_a", "label", "number", "level of the first ticket"),
    Column("level_b", "label", "number", "level of the second ticket"),
    Column(
        "score_a",
        "label",
        "text",
        "the first of the scores that are compared (`ranks`), or the one by which the mask is taken (`early_bird`)",
    ),
    Column("score_b", "label", "text", "the second of the scores that are compared (`ranks`)"),
    Column(
        "density",
        "size",
        "fraction",
        "surviving share of the prunable weights: the mean of both (`overlap`), of a (`connectivity`), of the "
        "mask (`early_bird`)",
    ),
    Column("x", "setting", "number", "place: alpha from a to b (`connectivity`), epochs done (`early_bird`)"),
    Column(
        "quantity",
        "label",
        "text",
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
VIEWS: dict[str, Column] = {column.name: column for column in _VIEWS}
"""The columns of views.parquet, in its order."""


def names(*kinds: Kind) -> list[str]:
    """Return the names of the records' columns of these kinds."""
    return [column.name for column in RECORDS.values() if column.kind in kinds]
