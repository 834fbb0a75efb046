"""Training several replicas of one network at once: as one module whose parameters are theirs, stacked.

A stack of R networks is an ordinary module: each of its parameters is the R networks' parameters [R, ...], and its forward
pass is theirs under `torch.func.vmap`. So layout, posterior, method, optimiser and training loop are those of any module:
what they do is elementwise in the parameters, and the replicas do not meet but in the kernels that run them.

Legend: R replicas, P parameters of one, B examples of a batch of one.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola import streams
from tombola.data.batches import Batches, Prepare
from tombola.errors import TombolaError
from tombola.inference import Learner, method_of
from tombola.inference.estimators.noise import NoisePool
from tombola.inference.survivors import Survivors
from tombola.inference.vi import in_one_sweep
from tombola.posterior.batch import Batch, inputs_of, targets_of
from tombola.posterior.binding import buffers_of, load_buffers
from tombola.posterior.layout import Layout
from tombola.posterior.state import State
from tombola.settings import TrainSettings

from .loop import Trained, likelihood_of, train, validate

_METHODS, _ESTIMATORS, _OBJECTIVES = ("vi", "ivon", "map"), ("weight_sample", "antithetic"), ("expected_log",)
_PREFIX = "replicas."


def train_together(
    module: nn.Module,
    states: Sequence[State],
    batches: Sequence[Batches],
    settings: TrainSettings,
    *,
    words: Sequence[tuple[streams.Word, ...]],
    start: int = 0,
    stop: int | None = None,
    validation: Batch | None = None,
    prepare: Prepare | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[Trained]:
    """What `train` gives for each of the states with its batches and words, within float tolerance, in one training.

    The seconds of each are its share. Memory is that of all together. There is no checkpoint. on_epoch: called with
    epoch, lr and the mean loss of all.
    Raises TombolaError for what cannot be trained so (see `obstacle`), and TrainingError if any of them diverges.
    """
    if reason := obstacle(module, states, settings):
        raise TombolaError(f"{reason}; train them one by one")
    device, copies = states[0].posterior.mean.device, len(states)
    stack = _Stack(module, copies).to(device)
    layout = states[0].posterior.layout
    likelihoods: list[_Each] = []
    histories: list[list[dict[str, float]]] = [[] for _ in states]
    learners: list[Learner] = []

    def method(module: nn.Module, state: State, likelihood: nn.Module, *rest: Any) -> Learner:
        learner = method_of(settings.method)(module, state, likelihood, *rest)
        if learner.learns != "point":
            by_survivors = in_one_sweep(learner, settings)  # what it is for the stack, it is for each of them alone
            learner.sample.noise = _StackedNoise(states, words, settings, by_survivors)  # type: ignore[attr-defined]
        assert isinstance(likelihood, _Each)
        likelihoods.append(likelihood)
        learners.append(learner)
        return learner

    def measure(row: dict[str, float]) -> None:
        (learner,), (each,) = learners, likelihoods
        losses = each.losses()
        present = split(learner.state(), layout, copies) if validation is not None else []
        for r, history in enumerate(histories):
            measured = {}
            if validation is not None:
                stack.show(present[r])
                measured = validate(stack.single[0], each.inner, validation, prepare, device)
            history.append(row | {"loss": losses[r]} | measured)
        if on_epoch:
            on_epoch(row | {"loss": sum(losses) / copies})

    trained = train(
        stack,
        stacked(states),
        _StackedBatches(batches),
        settings,
        words=("together", *words[0]),
        start=start,
        stop=stop,
        likelihood=_Each(likelihood_of(settings, states[0]), copies),
        method=method,
        on_step=on_step,
        on_epoch=measure,
    )
    ends = split(trained.state, layout, copies)
    return [Trained(state, history, trained.seconds / copies) for state, history in zip(ends, histories, strict=True)]


def obstacle(module: nn.Module, states: Sequence[State], settings: TrainSettings) -> str | None:
    """Why these cannot be trained together, in words; None if they can, as far as can be told before."""
    if reason := unfit_settings(settings):
        return reason
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in module.modules()):
        return f"{type(module).__name__} has dropout, whose random numbers would be others than one by one"
    if any(p.dtype != states[0].posterior.mean.dtype for p in module.parameters()):
        return f"{type(module).__name__} has parameters of several dtypes"
    if len({state.posterior.layout for state in states}) > 1:
        return "the networks have different layouts"
    if len({tuple(state.posterior.tensors()) for state in states}) > 1:
        return "the networks have posteriors of different kinds"
    return None


def unfit_settings(settings: TrainSettings) -> str | None:
    """Why nothing is trained together by these settings, in words; None where it may be."""
    for name, value, known in (
        ("method", settings.method, _METHODS),
        ("estimator", settings.estimator, _ESTIMATORS),
        ("objective", settings.objective, _OBJECTIVES),
    ):
        if value not in known:
            return f"networks are trained together by {name} {' or '.join(known)}, not {value}"
    if settings.clip_norm is not None:
        return "train.clip_norm is a norm of one network's gradient, not of several together"
    if settings.accumulate > 1:
        return "train.accumulate cuts a batch into parts, not several batches"
    if settings.cuda_graphs:
        return "train.cuda_graphs replays kernels alone, and so not the count of each network's loss"
    if settings.learn_noise:
        return "train.learn_noise learns one noise, not one for each network"
    return None


class _Stack(nn.Module):
    """R networks as one module, on inputs of all of them one after another: [R * B, ...] -> [R * B, ...]."""

    def __init__(self, module: nn.Module, copies: int):
        super().__init__()
        self.copies = copies
        self.replicas = copy.deepcopy(module)
        self.single = [copy.deepcopy(module)]
        """One of them, not registered: what is run under vmap, and what is validated."""
        done: dict[int, nn.Parameter] = {}  # tied parameters stay tied
        for owner in self.replicas.modules():
            for name, p in owner._parameters.items():
                if p is not None:
                    wide = done.setdefault(id(p), nn.Parameter(_repeated(p.detach(), copies), p.requires_grad))
                    owner._parameters[name] = wide
        load_buffers(self.replicas, {name: _repeated(b, copies) for name, b in buffers_of(self.replicas).items()})
        # every place of a tied parameter, but a module that is used twice once: torch's own `tie_weights` swaps its tensors
        # twice, and then does not put them back
        owners, persistent = list(module.named_modules()), buffers_of(module)
        self._parameters_at = [name for path, owner in owners for name in _names(path, owner._parameters)]
        self._buffers_at = [name for path, owner in owners for name in _names(path, owner._buffers) if name in persistent]

    def forward(self, inputs: Any) -> Any:
        module = self.single[0]

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs_B: Tensor) -> Any:
            return functional_call(module, (parameters, buffers), (inputs_B,), tie_weights=False)

        parameters: dict[str, Tensor] = {name: self.replicas.get_parameter(name) for name in self._parameters_at}
        buffers = {name: self.replicas.get_buffer(name) for name in self._buffers_at}
        # the CPU's fused attention has no rule for vmap, which would run it replica by replica
        plain = sdpa_kernel(SDPBackend.MATH) if inputs.device.type == "cpu" else nullcontext()
        with plain:
            output = vmap(one)(parameters, buffers, inputs.unflatten(0, (self.copies, -1)))
        return output.flatten(0, 1)

    def train(self, mode: bool = True) -> "_Stack":
        self.single[0].train(mode)
        return super().train(mode)

    def to(self, *args: Any, **kwargs: Any) -> "_Stack":
        self.single[0].to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def show(self, state: State) -> None:
        """`single` becomes the network of that state, at its mean."""
        views = state.posterior.layout.views(state.posterior.mean)
        with torch.no_grad():
            for name, p in self.single[0].named_parameters():
                p.copy_(views[name])
        load_buffers(self.single[0], state.buffers)


class _Each(nn.Module):
    """The log likelihood of all replicas' examples, [R * B], so that its mean is the sum of the replicas' means."""

    def __init__(self, inner: nn.Module, copies: int):
        super().__init__()
        self.inner, self.copies = inner, copies
        self._sum: Tensor | None = None
        self._count = 0

    def forward(self, output: Any, batch: Batch) -> Tensor:
        value = self.inner(output, batch)
        mean_R = value.detach().unflatten(0, (self.copies, -1)).mean(1)
        self._sum = mean_R if self._sum is None else self._sum + mean_R
        self._count += 1
        return value * self.copies

    def losses(self) -> list[float]:
        """Of each replica, nats per example, over the passes since the last call."""
        assert self._sum is not None
        found = (-self._sum / self._count).tolist()
        self._sum, self._count = None, 0
        return found


class _StackedBatches:
    """The replicas' batches, one after another."""

    def __init__(self, batches: Sequence[Batches]):
        sizes = sorted({(b.examples, b.steps) for b in batches})
        if len(sizes) > 1:
            raise TombolaError(f"networks trained together have as many examples and steps, these have {sizes}")
        self._batches = batches
        self.examples, self.steps = batches[0].examples, batches[0].steps

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for those in zip(*(batches.epoch(epoch, skip) for batches in self._batches), strict=True):
            inputs, targets = [inputs_of(batch) for batch in those], [targets_of(batch) for batch in those]
            if not all(isinstance(part, Tensor) for part in (*inputs, *targets)):
                raise TombolaError("the batches of networks trained together are pairs of tensors; train others one by one")
            if len({len(part) for part in inputs}) > 1:
                raise TombolaError(f"networks trained together have batches of one size, these: {[*map(len, inputs)]}")
            yield torch.cat(inputs), torch.cat(targets)


class _StackedNoise:
    """What each replica has as noise when it is trained alone, in the order of the stacked layout."""

    def __init__(
        self,
        states: Sequence[State],
        words: Sequence[tuple[streams.Word, ...]],
        settings: TrainSettings,
        by_survivors: bool,
    ):
        self._layout = states[0].posterior.layout
        self._pools: list[tuple[NoisePool, Tensor | None]] = []
        for state, own in zip(states, words, strict=True):
            like, named = state.posterior.mean, ("noise", *own)
            few = Survivors.of(self._layout, state.posterior.mask) if by_survivors else None
            if few:
                self._pools.append((few.noise(named, settings.noise_refresh, like), few.index[: few.random_numel]))
            else:
                self._pools.append((NoisePool(self._layout.random_numel, named, settings.noise_refresh, like), None))

    def window(self, tick: int) -> Tensor:
        return _interleaved(self._layout, torch.stack([self._of(*pool, tick) for pool in self._pools]))

    def _of(self, pool: NoisePool, index: Tensor | None, tick: int) -> Tensor:
        drawn = pool.window(tick)
        return drawn if index is None else drawn.new_zeros(self._layout.random_numel).index_copy_(0, index, drawn)


def stacked(states: Sequence[State]) -> State:
    """States of equal layout as one of the layout whose tensors are theirs, stacked."""
    layout, copies = states[0].posterior.layout, len(states)
    segments = [replace(s, name=_PREFIX + s.name, shape=(copies, *s.shape), start=copies * s.start) for s in layout.segments]
    named = [state.posterior.tensors() for state in states]
    tensors = {name: _interleaved(layout, torch.stack([one[name] for one in named])) for name in named[0]}
    mask = _interleaved(layout, torch.stack([state.posterior.mask for state in states]))
    buffers = {_PREFIX + name: torch.stack([state.buffers[name] for state in states]) for name in states[0].buffers}
    kind = type(states[0].posterior)
    return State(kind.of_tensors(Layout(tuple(segments)), mask, tensors), buffers, {})


def split(state: State, layout: Layout, copies: int) -> list[State]:
    """The inverse of `stacked`; what the likelihood has is each one's."""

    def rows(flat: Tensor) -> Tensor:
        return torch.cat([flat[copies * s.start :][: copies * s.numel].view(copies, -1) for s in layout.segments], 1)

    tensors = {name: rows(value) for name, value in state.posterior.tensors().items()}
    mask, kind = rows(state.posterior.mask), type(state.posterior)
    likelihood = {name.removeprefix("inner."): value for name, value in state.likelihood.items()}
    return [
        State(
            kind.of_tensors(layout, mask[r].clone(), {name: value[r].clone() for name, value in tensors.items()}),
            {name.removeprefix(_PREFIX): value[r].clone() for name, value in state.buffers.items()},
            {name: value.clone() for name, value in likelihood.items()},
        )
        for r in range(copies)
    ]


def _interleaved(layout: Layout, rows: Tensor) -> Tensor:
    """[R, P], or its random part [R, n], in the order of the stacked layout: flat, segment by segment."""
    return torch.cat([rows[:, s.slice].reshape(-1) for s in layout.segments if s.start < rows.shape[1]])


def _names(path: str, tensors: Mapping[str, Tensor | None]) -> list[str]:
    return [f"{path}.{leaf}" if path else leaf for leaf, value in tensors.items() if value is not None]


def _repeated(value: Tensor, copies: int) -> Tensor:
    return value.unsqueeze(0).repeat(copies, *([1] * value.ndim))
