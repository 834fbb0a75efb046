"""All that is trained, rewound, checkpointed and saved, always whole."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.errors import TombolaError
from tombola.settings import PosteriorSettings, PruneSettings

from .binding import buffers_of
from .gaussian import POSTERIORS, Gaussian, Point, initial_log_std, initial_mean
from .layout import Layout


@dataclass(frozen=True)
class State:
    """Posterior (deterministic parameters are its part without std), buffers, and what the likelihood learns."""

    posterior: Gaussian | Point
    buffers: dict[str, Tensor]
    likelihood: dict[str, Tensor]
    """The likelihood's state_dict; empty before a training gave it one."""

    def masked(self, mask: Tensor) -> "State":
        """The same under `mask` (bool [P]): pruned weights are exactly 0 with std exactly 0."""
        return replace(self, posterior=self.posterior.masked(mask))

    def as_point(self) -> "State":
        """The same without std: where deterministic training starts from the same means."""
        return replace(self, posterior=Point(self.posterior.layout, self.posterior.mean, self.posterior.mask))

    def tensors(self) -> dict[str, Tensor]:
        """name -> tensor, to be saved; `State.of_tensors` is the inverse."""
        parts = {"posterior": self.posterior.tensors(), "buffer": self.buffers, "likelihood": self.likelihood}
        return {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "State":
        parts: dict[str, dict[str, Tensor]] = {"posterior": {}, "buffer": {}, "likelihood": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        kind = POSTERIORS["gaussian" if "log_std" in parts["posterior"] else "point"]
        return cls(kind(layout=layout, mask=mask, **parts["posterior"]), parts["buffer"], parts["likelihood"])

    def to(self, device: torch.device | str) -> "State":
        moved = {name: value.to(device) for name, value in self.tensors().items()}
        return State.of_tensors(self.posterior.layout, self.posterior.mask.to(device), moved)


def layout_of(module: nn.Module, posterior: PosteriorSettings, prune: PruneSettings) -> Layout:
    """The layout with the roles that the settings give."""
    return Layout.of(
        module,
        random=posterior.random,
        decayed=posterior.decayed,
        include=prune.include,
        exclude=prune.exclude,
        classifier=prune.classifier,
    )


def initial_state(module: nn.Module, layout: Layout, settings: PosteriorSettings, *words: streams.Word) -> State:
    """A dense Gaussian state of `module` as it now is; what is drawn comes from the streams (init, *words, ...)."""
    mean = initial_mean(layout, module, settings.mean, streams.generator("init", *words, "mean"))
    stream = streams.generator("init", *words, "std")
    log_std = initial_log_std(layout, mean, settings.std, settings.std_scale, settings.std_jitter, stream)
    dense = torch.ones(layout.numel, dtype=torch.bool, device=mean.device)
    prior_mean = mean.clone() if settings.prior_mean == "start" else None
    posterior = Gaussian(layout, mean, log_std.to(mean), dense, prior_mean)
    return State(posterior, buffers_of(module), {})


def interpolated(a: State, b: State, alpha: float) -> State:
    """(1 - alpha) a + alpha b: means, std (not its logarithm), buffers and what the likelihood learns; the ends themselves
    at 0 and 1.

    What either mask keeps is kept, so a weight that both prune stays exactly zero. Batch-norm statistics of an average are
    no average of statistics: have them `reestimated`. Raises TombolaError for two layouts, for a point and a Gaussian, and
    for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise TombolaError(f"alpha is {alpha}; it must be from 0 to 1")
    p, q = a.posterior, b.posterior
    if p.layout.segments != q.layout.segments:
        raise TombolaError("the two states have different parameters or roles: there is no line between them")
    if type(p) is not type(q):
        raise TombolaError("one state is a point and the other one is not: there is no line between them")
    if alpha in (0, 1):
        return b if alpha else a
    mask = p.mask | q.mask
    mean = torch.lerp(p.mean, q.mean, alpha)
    posterior: Gaussian | Point
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        posterior = replace(p, mean=mean, mask=mask, log_std=mean, prior_mean=None)
        std = torch.lerp(p.std, q.std, alpha).clamp(min=torch.finfo(mean.dtype).tiny)
        posterior = replace(posterior, log_std=torch.where(posterior.random_kept, std, 1.0).log())  # finite everywhere
    else:
        posterior = replace(p, mean=mean, mask=mask)
    return State(posterior, _between(a.buffers, b.buffers, alpha), _between(a.likelihood, b.likelihood, alpha))


def _between(a: dict[str, Tensor], b: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Numbers that count (batches seen) are those of `a`."""
    return {k: torch.lerp(v, b[k], alpha) if v.is_floating_point() and k in b else v for k, v in a.items()}
