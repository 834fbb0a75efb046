"""The state: all that is trained, rewound, checkpointed and saved, always whole."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.errors import TombolaError
from tombola.settings import PosteriorSettings, PruneSettings

from .binding import buffers_of
from .families import Posterior, family_of
from .gaussian import Gaussian, initial_log_std, initial_mean
from .layout import Layout
from .samples import Samples


@dataclass(frozen=True)
class State:
    """Posterior (deterministic parameters are its part without std), buffers, and what the likelihood learns."""

    posterior: Posterior
    buffers: dict[str, Tensor]
    likelihood: dict[str, Tensor]
    """State_dict of the likelihood; empty before the first training."""

    def masked(self, mask: Tensor) -> "State":
        """Return a copy under `mask` (bool [P]): pruned weights are exactly 0 with std exactly 0."""
        return replace(self, posterior=self.posterior.masked(mask))

    def as_family(self, name: str) -> "State":
        """Return a copy with a posterior of that family: the start of a method that learns it.

        Raises TombolaError where the posterior lacks something that the family needs, as a point lacks a std.
        """
        return replace(self, posterior=family_of(name).of(self.posterior))

    def tensors(self) -> dict[str, Tensor]:
        """Return name -> tensor, to be saved, the posterior's with its family's name; `State.of_tensors` is the inverse."""
        q = self.posterior
        parts = {f"posterior.{q.family}": q.tensors(), "buffer": self.buffers, "likelihood": self.likelihood}
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "State":
        """Return the state of `layout` and `mask`. Raises TombolaError for tensors of no registered family or of several."""
        parts: dict[str, dict[str, Tensor]] = {"posterior": {}, "buffer": {}, "likelihood": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        name, own = _family_in(parts["posterior"])
        return cls(family_of(name).of_tensors(layout, mask, own), parts["buffer"], parts["likelihood"])

    def to(self, device: torch.device | str) -> "State":
        moved = {name: value.to(device) for name, value in self.tensors().items()}
        return State.of_tensors(self.posterior.layout, self.posterior.mask.to(device), moved)


def _family_in(tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the family that the names of a posterior's tensors begin with, and the tensors by the family's own names."""
    if not any("." in name for name in tensors):  # of a file of format 1, which names no family
        return ("gaussian" if "log_std" in tensors else "point"), tensors
    families = sorted({name.partition(".")[0] for name in tensors})
    if len(families) > 1:
        raise TombolaError(f"a posterior is of one family, but its tensors name {', '.join(families)}; train it anew")
    return families[0], {name.partition(".")[2]: value for name, value in tensors.items()}


def layout_of(
    module: nn.Module, posterior: PosteriorSettings, prune: PruneSettings, cancelled: Collection[str] = ()
) -> Layout:
    """Return the layout with the roles that the settings give. cancelled: as of `Layout.of`."""
    return Layout.of(
        module,
        random=posterior.random,
        decayed=posterior.decayed,
        include=prune.include,
        exclude=prune.exclude,
        classifier=prune.classifier,
        cancelled=cancelled,
    )


def initial_state(module: nn.Module, layout: Layout, settings: PosteriorSettings, *stream: streams.Word) -> State:
    """Return a dense Gaussian state of `module` as it now is; draws come from the streams (init, *stream, ...).

    With several `settings.members`, a state of the family `samples`: the module's means and others drawn Kaiming-uniform.
    """
    mean = initial_mean(layout, module, settings.mean, streams.generator("init", *stream, "mean"))
    generator = streams.generator("init", *stream, "std")
    log_std = initial_log_std(layout, mean, settings.std, settings.std_scale, settings.std_jitter, generator)
    dense = torch.ones(layout.numel, dtype=torch.bool, device=mean.device)
    if settings.members > 1:
        drawn = [
            initial_mean(layout, module, "kaiming_uniform", streams.generator("init", *stream, "member", i))
            for i in range(1, settings.members)
        ]
        return State(Samples(layout, dense, mean, torch.stack([mean, *drawn])), buffers_of(module), {})
    prior_mean = mean.clone() if settings.prior_mean == "start" else None
    posterior = Gaussian(layout, mean, log_std.to(mean), dense, prior_mean)
    return State(posterior, buffers_of(module), {})


def interpolated(a: State, b: State, alpha: float) -> State:
    """Return (1 - alpha) a + alpha b of means, std (not its logarithm), buffers and the likelihood's tensors.

    At 0 and 1 the ends themselves. A weight is kept where either mask keeps it, so one that both prune stays exactly zero.
    The batch-norm statistics of averaged weights are no average of statistics: have them measured (`sample_statistics`).
    Raises TombolaError for two layouts, for two families, and for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise TombolaError(f"alpha is {alpha}; it must be from 0 to 1")
    p, q = a.posterior, b.posterior
    if p.layout.segments != q.layout.segments:
        raise TombolaError("the two states have different parameters or roles: there is no line between them")
    if p.family != q.family:
        raise TombolaError(f"one state is a {p.family} and the other a {q.family}: there is no line between them")
    if alpha in (0, 1):
        return b if alpha else a
    return State(p.between(q, alpha), _between(a.buffers, b.buffers, alpha), _between(a.likelihood, b.likelihood, alpha))


def _between(a: dict[str, Tensor], b: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Interpolate by name; integer tensors (batches seen) are those of `a`."""
    return {k: torch.lerp(v, b[k], alpha) if v.is_floating_point() and k in b else v for k, v in a.items()}
