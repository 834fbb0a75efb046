"""Settings of posteriors, training, pruning, models, data and evaluation: frozen, a sentence a field, without torch.

`fields` has the marks of fields; `keys` their defaults in stage keys.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from tombola.errors import TombolaError

from .fields import BAYESIAN, COLUMN, COSTLESS, UNLABELLED, Checked, setting
from .prune import PruneSettings as PruneSettings
from .sparse import SparseSettings as SparseSettings
from .sparse import check_changing

Measure = Literal["selective", "ood", "corrupted", "conformal", "temperature", "adaptive", "intervals"]


@dataclass(frozen=True, kw_only=True)
class PosteriorSettings(Checked):
    """Start of the posterior, and choice of the random parameters."""

    mean: Literal["module", "kaiming_uniform"] = setting(
        "module", "Where the means start: the module's own initialisation, or U(-b, b) with b = 1/sqrt(fan_in)."
    )
    std: float = setting(0.02, "Standard deviation at the start, absolute or relative to `std_scale`.", BAYESIAN, above=0)
    std_scale: Literal["absolute", "kaiming", "weight"] = setting(
        "absolute",
        "What `std` is relative to: nothing, the Kaiming scale 1/sqrt(fan_in) of each layer, or each weight's own size "
        "abs(mean), but at least a tenth of the Kaiming scale.",
        BAYESIAN,
    )
    std_jitter: float = setting(
        0.0,
        "Standard deviation of Gaussian noise on the initial log_std; the drift of its ranks is then defined.",
        BAYESIAN,
        least=0,
    )
    prior_mean: Literal["zero", "start"] = setting(
        "zero", "Mean of the prior: zero, or where the means start (for a pre-trained network), at every level.", BAYESIAN
    )
    members: int = setting(
        1,
        "Networks that start apart: the first by `mean`, the others from U(-b, b). Method ensemble sets it to `train.keep`.",
        BAYESIAN,
        least=1,
    )
    random: list[str] | None = setting(
        None,
        "Name patterns of the random parameters; by default weights and biases of linear, conv, attention, embedding, "
        "without biases that a batch norm right after their layer takes out.",
    )
    decayed: list[str] | None = setting(
        None, "Name patterns of the parameters that weight decay acts on; by default tensors of two or more dimensions."
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Checked):
    """One training, Bayesian or deterministic."""

    method: str = setting(
        "vi",
        "How the posterior is learned: vi (variational inference by gradients), ivon (by natural gradients), sgld, sghmc, "
        "swag, laplace, laplace_full, mc_dropout, ensemble, vi_low_rank, vi_laplace, vi_mixture, vi_layers, "
        "variational_dropout, sghmc_mixture (docs/methods.md), map (deterministic) or package.module:Class.",
        UNLABELLED,
        COLUMN,
    )
    epochs: int = setting(30, "Passes over the training data.", COSTLESS, least=1)
    batch_size: int = setting(128, "Examples a step.", least=1)
    optimiser: Literal["adam", "adamw", "sgd"] = setting("adam", "Adam, AdamW (decoupled decay) or SGD with momentum.")
    lr: float = setting(1e-3, "Learning rate of means and deterministic parameters.", COSTLESS, above=0)
    log_std_lr_factor: float = setting(5.0, "The learning rate of log_std is `lr` times this.", BAYESIAN, COSTLESS, least=0)
    ivon_lr: float = setting(
        1.0,
        "Learning rate of method ivon, for random means, with the course of `lr`; what has no distribution is left to "
        "`optimiser` and `lr`.",
        BAYESIAN,
        COSTLESS,
        above=0,
    )
    hess_init: float = setting(
        0.3,
        "Where the Hessian of method ivon starts: it gives every std, and `ivon_lr` is in units of its inverse.",
        BAYESIAN,
        COSTLESS,
        above=0,
    )
    beta1: float = setting(0.9, "Decay of the mean gradient that method ivon keeps.", BAYESIAN, COSTLESS, least=0, below=1)
    beta2: float = setting(
        0.999,
        "Decay of the Hessian that method ivon keeps; near 1 the stds stay where they started.",
        BAYESIAN,
        COSTLESS,
        least=0,
        below=1,
    )
    momentum: float = setting(0.9, "Momentum of SGD, and of method sghmc.", least=0, below=1)
    nesterov: bool = setting(True, "Whether SGD's momentum is Nesterov's.")
    weight_decay: float = setting(0.0, "Weight decay of decayed means (never of log_std).", COSTLESS, least=0)
    schedule: str = setting(
        "constant",
        "Course of the learning rate: constant, step, cosine, one_cycle, cyclical or package.module:function.",
        COSTLESS,
    )
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up from 0, before the schedule.", COSTLESS, least=0)
    milestones: list[float] = setting(
        [0.5, 0.75],
        "Where the `step` schedule multiplies by `gamma`, as fractions of the training.",
        COSTLESS,
        above=0,
        below=1,
    )
    gamma: float = setting(0.1, "Factor of the `step` schedule.", COSTLESS, above=0, most=1)
    heat: float = setting(
        0.1, "Weight T of the KL term; 1 is the Bayesian posterior, below 1 a cold one.", BAYESIAN, COSTLESS, least=0
    )
    kl_warmup_epochs: float = setting(
        0.0, "Epochs over which the KL term's weight rises linearly from 0.", BAYESIAN, COSTLESS, least=0
    )
    prior_std: float = setting(
        1.0, "Standard deviation of the prior N(prior_mean, prior_std^2).", BAYESIAN, COSTLESS, above=0
    )
    spike_std: float = setting(
        0.01,
        "Standard deviation of the spike of methods vi_mixture and sghmc_mixture; `prior_std` is the slab's.",
        BAYESIAN,
        COSTLESS,
        above=0,
    )
    slab: float = setting(0.5, "Weight of the slab, as `spike_std`.", BAYESIAN, COSTLESS, above=0, below=1)
    keep: int = setting(
        10, "Weight samples that methods sgld, sghmc and swag keep; networks of method ensemble.", BAYESIAN, least=1
    )
    cycles: int = setting(1, "Cycles of the schedule `cyclical`, in each of which samples are kept.", COSTLESS, least=1)
    burn_in: float = setting(
        0.5,
        "First part of each cycle, from which sgld, sghmc and swag keep no sample; in it sgld and sghmc add no noise.",
        BAYESIAN,
        COSTLESS,
        least=0,
        below=1,
    )
    rank: int = setting(4, "Rank of the factor in the covariance that method vi_low_rank learns.", BAYESIAN, least=1)
    dropout: float = setting(0.1, "Share of inputs that mc_dropout drops past the first layer.", BAYESIAN, above=0, below=1)
    estimator: str = setting(
        "weight_sample",
        "What a training pass sees of random weights: one draw (weight_sample), draws in pairs of opposite sign "
        "(antithetic), noise in each output (local), a draw with random signs (flipout), their mean (mean); or "
        "package.module:Class.",
        BAYESIAN,
    )
    objective: str = setting(
        "expected_log",
        "E_q[log p], as in the ELBO (expected_log), or log E_q[p] of the samples, as in the paper's code (log_expected); or "
        "package.module:function.",
        BAYESIAN,
    )
    samples: int = setting(
        1, "Weight samples a step; the gradient is their average, the memory one sample's.", BAYESIAN, least=1, most=10_000
    )
    noise_refresh: float = setting(
        1.0, "Fraction of the weight noise drawn anew for each sample; 1 is everything.", BAYESIAN, above=0, most=1
    )
    loss_scale: Literal["mean", "sum"] = setting(
        "mean",
        "Loss per example, or times the number of examples N (weakens coupled decay N-fold, as the paper's code).",
        COSTLESS,
    )
    likelihood: Literal["categorical", "bernoulli", "gaussian", "poisson"] = setting(
        "categorical",
        "Of the targets: classes; yes or no (0 and 1, from the logit of 1); reals with Gaussian noise; counts (from the log "
        "of the rate).",
    )
    noise_std: float = setting(1.0, "Noise of the Gaussian likelihood, known or where learning starts.", COSTLESS, above=0)
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
        most=10_000,
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
        "Whether steps are captured whole as a CUDA graph and replayed, several trainings side by side: for networks whose "
        "steps are shorter than the launching of their kernels. Needs a CUDA device.",
    )
    sparse: dict[str, Any] = setting(
        {},
        "A mask that changes within the training, as {way: rigl, density: 0.1}: fields below; with vi or map.",
    )
    divergence: float = setting(1e6, "A training loss (nats per example) above this stops the stage.", COSTLESS, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_samples(self.estimator, self.samples)
        if self.sparse:
            # whole, so that it has one key however it was spelt
            object.__setattr__(self, "sparse", asdict(SparseSettings(**self.sparse)))
            check_changing(self.method, self.estimator, self.cuda_graphs)

    @property
    def mask(self) -> SparseSettings | None:
        """Return the settings of a mask that changes; None of one that does not."""
        return SparseSettings(**self.sparse) if self.sparse else None


def check_samples(estimator: str, samples: int) -> None:
    """Raise TombolaError for a number of weight samples that the estimator cannot have."""
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    if estimator == "antithetic" and samples % 2:
        raise TombolaError(f"samples is {samples}; estimator antithetic draws pairs, so it must be even")


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Checked):
    """Network: its name, its arguments and its start."""

    name: str = setting(
        "mlp",
        "A model's name (mlp, resnet20, vgg11, vit_tiny; all are in docs/models.md) or package.module:factory.",
        UNLABELLED,
        COLUMN,
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the factory; input_shape and outputs are given to it.")
    weights: str = setting("", "A safetensors file with a state_dict to start from; by default the model's initialisation.")


@dataclass(frozen=True, kw_only=True)
class DataSettings(Checked):
    """Data: their name, arguments, augmentation and placement."""

    name: str = setting(
        "digits",
        "A data set's name (digits, huggingface, folder) or package.module:factory that returns a Dataset.",
        UNLABELLED,
        COLUMN,
    )
    args: dict[str, Any] = setting({}, "Keyword arguments of the factory, as the sizes of the held-out splits.", UNLABELLED)
    flip: bool = setting(
        False, "Augmentation: half of the training images, drawn anew each epoch, are mirrored left to right."
    )
    alternate_flip: bool = setting(
        False,
        "With `flip`: the mirrored half is drawn once, and each epoch mirrors the half that the one before did not.",
    )
    crop: int = setting(
        0, "Augmentation: training images are padded with this many zeros on each side and cut back at random.", least=0
    )
    resident: bool | None = setting(
        None,
        "Whether training data lies on the device, or is sent there batch by batch: the same bits. By default what fits.",
        UNLABELLED,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alternate_flip and not self.flip:
            raise TombolaError("alternate_flip is True, but flip is False: nothing is mirrored; set both or neither")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(Checked):
    """Evaluation of a trained ticket."""

    split: Literal["test", "validation"] = setting(
        "test",
        "What is measured, at an epoch's end too: the test split, or training examples held out by data.args (for choosing "
        "settings, so that nothing is chosen by test data).",
        COSTLESS,
    )
    samples: int = setting(16, "Weight samples S averaged into one predictive distribution.", least=1, most=100_000)
    estimator: Literal["weight_sample", "moments"] = setting(
        "weight_sample",
        "Weight samples, or `moments`: `samples` normal outputs (64 or more) drawn from the mean and variance that one "
        "pass on the CPU carries through the network; `precision` and `channels_last` are not used then.",
    )
    repeats: int = setting(1, "Independent predictives R whose metrics are averaged.", least=1, most=10_000)
    batch_norm: Literal["samples", "running", "batch"] = setting(
        "samples",
        "Statistics of batch-norm layers: of each weight sample, measured on 256 training examples; the running ones of "
        "training (as deterministic tickets have in any case); or those of each test batch (results then depend on "
        "`batch_size` and on the order of the examples).",
    )
    batch_size: int = setting(1024, "Examples a forward pass; changes results only with batch_norm `batch`.", least=1)
    precision: Literal["fp32", "bf16"] = setting("fp32", "Arithmetic of the forward passes: full, or bf16 autocast.")
    channels_last: bool = setting(False, "Whether image batches are laid out channels-last in memory.")
    bins: int = setting(15, "Bins of the calibration metrics.", COSTLESS, least=1, most=1_000_000)
    redraws: int = setting(100, "Redraws of the labels for the perfect-calibration null.", least=100, most=1_000_000)
    measures: list[Measure] = setting(
        [],
        "What else: selective, ood, corrupted, conformal, temperature, adaptive; of a regression intervals, conformal.",
    )
    outside: list[str] | None = setting(
        None,
        "Outliers: near (classes of data.args.leave_out), noise, textures, digits (all by default), or an idx file.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "measures", sorted(set(self.measures)))  # in one order they have one key
        if self.estimator == "moments" and self.samples < 64:
            raise TombolaError(f"evaluate.samples is {self.samples}, too few draws from moments: give 64 or more (256)")
        if self.estimator == "moments" and self.batch_norm == "batch":
            raise TombolaError("evaluate.batch_norm is batch, which moments cannot have: give samples or running")
