"""The settings of posteriors, training and pruning: frozen, each field with a sentence. They need torch-free Python only.

A field's default enters no stage key, so adding a field keeps finished stages valid; changing a default does not (then the
stage's version must rise).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args, get_origin

from tombola.errors import TombolaError


def setting(
    default: Any,
    help: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A field with its sentence and the bounds of its value (`above` and `below` are exclusive)."""
    meta = {"help": help, "above": above, "least": least, "below": below, "most": most}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


class Checked:
    """Checks bounds and choices when made. Types are checked where YAML is read (strictly, and unknown keys are errors).

    A whole number in the place of a real one becomes real: 1 and 1.0 are one setting, so they have one key.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid"}

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _as_real(getattr(self, f.name), f.type)
            object.__setattr__(self, f.name, value)
            if get_origin(f.type) is Literal and value not in get_args(f.type):
                raise TombolaError(f"{f.name} is {value!r}; it must be one of {', '.join(get_args(f.type))}")
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int | float) and not isinstance(item, bool):
                    _check_bounds(f.name, item, f.metadata)


def _as_real(value: Any, kind: Any) -> Any:
    if kind == list[float]:
        return [_as_real(item, float) for item in value]
    return float(value) if kind is float and type(value) is int else value


def _check_bounds(name: str, value: float, bounds: Any) -> None:
    if value != value:
        raise TombolaError(f"{name} is nan")
    for bound, holds, words in (
        (bounds.get("above"), lambda b: value > b, "above"),
        (bounds.get("least"), lambda b: value >= b, "at least"),
        (bounds.get("below"), lambda b: value < b, "below"),
        (bounds.get("most"), lambda b: value <= b, "at most"),
    ):
        if bound is not None and not holds(bound):
            raise TombolaError(f"{name} is {value}; it must be {words} {bound}")


@dataclass(frozen=True, kw_only=True)
class PosteriorSettings(Checked):
    """How the posterior starts, and which parameters are random."""

    mean: Literal["module", "kaiming_uniform"] = setting(
        "module", "Where the means start: the module's own initialisation, or U(-b, b) with b = 1/sqrt(fan_in)."
    )
    std: float = setting(0.02, "Standard deviation at the start, absolute or relative to `std_scale`.", above=0)
    std_scale: Literal["absolute", "kaiming", "weight"] = setting(
        "absolute",
        "What `std` is relative to: nothing, the Kaiming scale 1/sqrt(fan_in) of each layer, or each weight's own size "
        "abs(mean), but at least a tenth of the Kaiming scale.",
    )
    std_jitter: float = setting(
        0.0,
        "Standard deviation of Gaussian noise on the initial log_std; the drift of its ranks is then defined.",
        least=0,
    )
    prior_mean: Literal["zero", "start"] = setting(
        "zero", "Mean of the prior: zero, or where the means start (for a pre-trained network), at every level."
    )
    random: list[str] | None = setting(
        None,
        "Name patterns of the random parameters; by default weights and biases of linear, conv, attention, embedding.",
    )
    decayed: list[str] | None = setting(
        None, "Name patterns of the parameters that weight decay acts on; by default tensors of two or more dimensions."
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked):
    """One training, Bayesian or deterministic."""

    method: str = setting(
        "vi",
        "How the posterior is learned: vi (variational inference by gradients), ivon (by natural gradients), map "
        "(deterministic) or package.module:Class.",
    )
    epochs: int = setting(30, "Passes over the training data.", least=1)
    batch_size: int = setting(128, "Examples a step.", least=1)
    optimiser: Literal["adam", "adamw", "sgd"] = setting("adam", "Adam, AdamW (decoupled decay) or SGD with momentum.")
    lr: float = setting(1e-3, "Learning rate of means and deterministic parameters.", above=0)
    log_std_lr_factor: float = setting(5.0, "The learning rate of log_std is `lr` times this.", least=0)
    ivon_lr: float = setting(
        1.0,
        "Learning rate of method ivon, for random means, with the course of `lr`; what has no distribution is left to "
        "`optimiser` and `lr`.",
        above=0,
    )
    hess_init: float = setting(
        0.3,
        "Where the Hessian of method ivon starts: it gives every std, and `ivon_lr` is in units of its inverse.",
        above=0,
    )
    beta1: float = setting(0.9, "Decay of the mean gradient that method ivon keeps.", least=0, below=1)
    beta2: float = setting(
        0.999, "Decay of the Hessian that method ivon keeps; near 1 the stds stay where they started.", least=0, below=1
    )
    momentum: float = setting(0.9, "Momentum of SGD.", least=0, below=1)
    nesterov: bool = setting(True, "Whether SGD's momentum is Nesterov's.")
    weight_decay: float = setting(0.0, "Weight decay of decayed means (never of log_std).", least=0)
    schedule: str = setting(
        "constant",
        "Course of the learning rate: constant, step, cosine, one_cycle or package.module:function.",
    )
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up from 0, before the schedule.", least=0)
    milestones: list[float] = setting(
        [0.5, 0.75], "Where the `step` schedule multiplies by `gamma`, as fractions of the training.", above=0, below=1
    )
    gamma: float = setting(0.1, "Factor of the `step` schedule.", above=0, most=1)
    heat: float = setting(0.1, "Weight T of the KL term; 1 is the Bayesian posterior, below 1 a cold one.", least=0)
    kl_warmup_epochs: float = setting(0.0, "Epochs over which the KL term's weight rises linearly from 0.", least=0)
    prior_std: float = setting(1.0, "Standard deviation of the prior N(prior_mean, prior_std^2).", above=0)
    estimator: str = setting(
        "weight_sample",
        "What a training pass sees of random weights: one draw (weight_sample), draws in pairs of opposite sign "
        "(antithetic), noise in each output (local), a draw with random signs (flipout), their mean (mean); or "
        "package.module:Class.",
    )
    objective: str = setting(
        "expected_log",
        "E_q[log p], as in the ELBO (expected_log), or log E_q[p] of the samples, as in the paper's code (log_expected); or "
        "package.module:function.",
    )
    samples: int = setting(1, "Weight samples a step; the gradient is their average, the memory one sample's.", least=1)
    noise_refresh: float = setting(
        0.0625, "Fraction of the weight noise drawn anew for each sample; 1 is everything.", above=0, most=1
    )
    loss_scale: Literal["mean", "sum"] = setting(
        "mean",
        "Loss per example, or times the number of examples N (weakens coupled decay N-fold, as the paper's code).",
    )
    likelihood: Literal["categorical", "gaussian"] = setting("categorical", "Of the targets: classes, or reals with noise.")
    noise_std: float = setting(1.0, "Noise of the Gaussian likelihood, known or where learning starts.", above=0)
    learn_noise: bool = setting(False, "Whether the noise of the Gaussian likelihood is learned.")
    label_smoothing: float = setting(
        0.0, "Label smoothing of the categorical likelihood, in training only.", least=0, below=1
    )
    clip_norm: float | None = setting(None, "Largest norm of the whole gradient (means and log_std together).", above=0)
    accumulate: int = setting(
        1,
        "Parts that each batch is split into, whose gradients are added up: the memory of one part, the same weight sample "
        "and mathematics, but batch norm's statistics are each part's.",
        least=1,
    )
    precision: Literal["fp32", "bf16"] = setting("fp32", "Arithmetic of the forward pass: full, or bf16 autocast.")
    channels_last: bool = setting(False, "Whether image batches are laid out channels-last in memory.")
    compile: bool = setting(
        False,
        "Whether torch.compile makes the network's forward and backward pass: needs a C++ compiler, takes a minute or more "
        "at the first training of a process, and the last bits differ.",
    )
    cuda_graphs: bool = setting(
        False,
        "Whether forward and backward pass are captured once as a CUDA graph and replayed: for networks whose steps are "
        "shorter than the launching of their kernels. Needs a CUDA device.",
    )
    divergence: float = setting(1e6, "A training loss (nats per example) above this stops the stage.", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_samples(self.estimator, self.samples)


def check_samples(estimator: str, samples: int) -> None:
    """Raises TombolaError for a number of weight samples that the estimator cannot have."""
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    if estimator == "antithetic" and samples % 2:
        raise TombolaError(f"samples is {samples}; estimator antithetic draws pairs, so it must be even")


VARIATIONAL = {
    PosteriorSettings: ("std", "std_scale", "std_jitter", "prior_mean"),
    TrainSettings: (
        *("heat", "kl_warmup_epochs", "prior_std", "estimator", "objective", "samples", "noise_refresh"),
        *("log_std_lr_factor", "ivon_lr", "hess_init", "beta1", "beta2"),
    ),
}
"""The fields that deterministic training does not read."""


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Checked):
    """One chain of iterative pruning."""

    score: str = setting("snr", "What ranks weights, higher survives: a name (see docs) or package.module:function.")
    sigma: Literal["trained", "start", "shuffled"] = setting(
        "trained",
        "The std that the score sees: the trained one; as it was at the start of that training; or the trained one shuffled "
        "within each layer. The last two are controls of whether what was learned of sigma counts.",
    )
    fraction: float = setting(0.2, "Fraction of the remaining prunable weights pruned at each level.", above=0, below=1)
    levels: int = setting(20, "How often is pruned; level 0 is the dense network.", least=0)
    scope: Literal["global", "layerwise"] = setting("global", "Whether weights compete across layers or within each.")
    rewind: str = setting(
        "init", "Where survivors restart: init, epoch:K, step:K, or learning_rate (values kept, schedule restarted)."
    )
    classifier: bool = setting(False, "Whether the final classifier's weights are pruned too.")
    include: list[str] = setting([], "Name patterns of parameters pruned beside the weights of linear and conv layers.")
    exclude: list[str] = setting([], "Name patterns of parameters that are never pruned.")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Checked):
    """The network."""

    name: str = setting(
        "mlp", "A model's name (mlp, resnet20, vgg11, vit_tiny; all are in docs/models.md) or package.module:factory."
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the factory; input_shape and outputs are given to it.")
    weights: str = setting("", "A safetensors file with a state_dict to start from; by default the model's initialisation.")


@dataclass(frozen=True, kw_only=True)
class DataSettings(Checked):
    """The data."""

    name: str = setting(
        "digits", "A data set's name (digits, huggingface, folder) or package.module:factory that returns a Dataset."
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the factory, as the sizes of the held-out splits.")
    flip: bool = setting(
        False, "Augmentation: half of the training images, drawn anew each epoch, are mirrored left to right."
    )
    crop: int = setting(
        0, "Augmentation: training images are padded with this many zeros on each side and cut back at random.", least=0
    )
    resident: bool | None = setting(
        None,
        "Whether training data lies on the device, or is sent there batch by batch: the same bits. By default what fits.",
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Checked):
    """How a trained ticket is measured."""

    split: Literal["test", "validation"] = setting(
        "test",
        "What is measured, at an epoch's end too: the test split, or training examples held out by data.args (for choosing "
        "settings, so that nothing is chosen by test data).",
    )
    samples: int = setting(16, "Weight samples S averaged into one predictive distribution.", least=1)
    repeats: int = setting(1, "Independent predictives R whose metrics are averaged.", least=1)
    batch_norm: Literal["running", "batch"] = setting(
        "running",
        "Statistics of batch-norm layers: the running ones of training, or those of each test batch (results then depend on "
        "`batch_size` and on the order of the examples).",
    )
    batch_size: int = setting(1024, "Examples a forward pass; changes results only with batch_norm `batch`.", least=1)
    precision: Literal["fp32", "bf16"] = setting("fp32", "Arithmetic of the forward passes: full, or bf16 autocast.")
    channels_last: bool = setting(False, "Whether image batches are laid out channels-last in memory.")
    bins: int = setting(15, "Bins of the calibration metrics.", least=1)
    redraws: int = setting(100, "Redraws of the labels for the perfect-calibration null.", least=100)


def deterministic_part(settings: Any) -> Any:
    """The same with the fields of `VARIATIONAL` at their defaults: what a deterministic stage depends on."""
    defaults = type(settings)()
    return dataclasses.replace(settings, **{name: getattr(defaults, name) for name in VARIATIONAL[type(settings)]})


def canonical(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults: what enters a stage's key."""
    defaults = type(settings)()
    fields = (f.name for f in dataclasses.fields(settings))
    return {name: value for name in fields if (value := getattr(settings, name)) != getattr(defaults, name)}
