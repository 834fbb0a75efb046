"""The training steps that are compared: a plain torch loop, ours, and the peers'."""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.nets import Net
from benchmarks.record import installed
from tombola.inference import METHODS
from tombola.posterior.batch import channels_last
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.training.optim import optimiser_of, set_lr

PLAIN, OURS = "plain", "tombola"
DETERMINISTIC = "deterministic"
FORMATS = ("contiguous", "channels_last")

_POOLED = TrainSettings(noise_refresh=0.0625)
SETTINGS = {
    "vi": _POOLED,
    "map": TrainSettings(method="map"),
    "vi, 10 samples": dataclasses.replace(_POOLED, samples=10),
    "vi, all noise new": TrainSettings(),
    "vi, 10 samples, all noise new": TrainSettings(samples=10),
    "local": dataclasses.replace(_POOLED, estimator="local"),
    "flipout": dataclasses.replace(_POOLED, estimator="flipout"),
    "antithetic, 2 samples": dataclasses.replace(_POOLED, estimator="antithetic", samples=2),
    "vi, 4 samples": dataclasses.replace(_POOLED, samples=4),
    "log_expected, 4 samples": dataclasses.replace(_POOLED, objective="log_expected", samples=4),
    "ivon": dataclasses.replace(_POOLED, method="ivon", ivon_lr=0.01),
}
"""Our configurations: but for those of all noise new, a sixteenth of the noise is renewed for a sample."""

Step = Callable[[], Tensor]
Batch = tuple[Tensor, Tensor]
Make = Callable[[nn.Module, Batch, str], Step]


@dataclass(frozen=True)
class Configuration:
    """A kind of training step: the library and the function that makes it."""

    library: str
    make: Make

    def step(self, net: Net, size: int | None, precision: str, layout: str, data: Batch | None = None) -> Step:
        """Return a step on `data`, by default `size` examples of the net's own. layout: of images, one of `FORMATS`."""
        inputs, targets = data or net.data(size)
        module = net.make().train()
        if layout == "channels_last":
            inputs = channels_last(inputs)
            if self.library == PLAIN:  # ours has views of one flat buffer, the peers' layers make their own weights
                module = module.to(memory_format=torch.channels_last)
        return self.make(module, (inputs, targets), precision)


def configurations(compiled: bool = False) -> dict[str, Configuration]:
    """Return configurations by label; of peers, the installed ones. The pace of a library's first chooses its layout."""
    kinds = {label: (settings, 1.0) for label, settings in SETTINGS.items()}
    kinds |= {f"{label}, 10% left": (SETTINGS[label], 0.1) for label in ("vi", "map")}
    found = {DETERMINISTIC: Configuration(PLAIN, _plain)}
    if compiled:
        found[f"{DETERMINISTIC}, compiled"] = Configuration(PLAIN, _plain_compiled)
        kinds |= {f"{label}, compiled": (dataclasses.replace(SETTINGS[label], compile=True), 1.0) for label in ("vi", "map")}
    found |= {label: Configuration(OURS, partial(_ours, *kind)) for label, kind in kinds.items()}
    packages = peers.STEPS.items()
    return found | {label: Configuration(package, make) for label, (package, make) in packages if installed(package)}


def formats(net: Net) -> tuple[str, ...]:
    """Return the memory layouts that differ for the net: both for convolutions."""
    return FORMATS if any(isinstance(m, nn.Conv2d) for m in net.make().modules()) else FORMATS[:1]


def _ours(settings: TrainSettings, density: float, module: nn.Module, batch: Batch, precision: str) -> Step:
    """Return a step of tombola's training loop, gradients and optimiser, under a random mask of that density."""
    settings = dataclasses.replace(settings, precision=precision)
    method, likelihood = METHODS[settings.method], Categorical()
    posterior = method.start(PosteriorSettings(std=peers.STD), settings, peers.EXAMPLES)
    state = initial_state(module, Layout.of(module), posterior, 0)
    if density < 1:
        kept = torch.rand(state.posterior.layout.numel, generator=torch.Generator().manual_seed(0)) < density
        state = state.masked(kept | ~state.posterior.layout.prunable)
    start = state.as_family(method.learns)
    learner = method(module, start, likelihood, settings, peers.EXAMPLES, ("benchmark",))
    optimiser, done = optimiser_of(learner, likelihood, settings), itertools.count()
    learner.binding.__enter__()  # stays bound, as during a training
    module.train()

    def step() -> Tensor:
        set_lr(optimiser, settings.lr)
        loss = learner.gradients(batch, next(done))
        optimiser.step()
        return loss

    return step


def _plain(module: nn.Module, batch: Batch, precision: str) -> Step:
    optimiser = torch.optim.Adam(module.parameters(), fused=True)
    return peers.autograd_step(optimiser, precision, lambda: module(batch[0]), lambda out: F.cross_entropy(out, batch[1]))


def _plain_compiled(module: nn.Module, batch: Batch, precision: str) -> Step:
    return _plain(torch.compile(module), batch, precision)
