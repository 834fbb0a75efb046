"""Optimisers and learning-rate schedules of the training loop."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tombola import plugins
from tombola.errors import TombolaError
from tombola.inference import Learner
from tombola.inference.ivon import IvonUpdate
from tombola.settings import TrainSettings


def optimiser_of(learner: Learner, likelihood: nn.Module, settings: TrainSettings) -> "torch.optim.Optimizer | Joined":
    """Return a fused torch optimiser over the learner's flat groups and the likelihood's parameters.

    A learner may bring an optimiser of its own. Then the two are joined, and torch's has the parameters that are left.
    """
    own = learner.optimiser(settings)
    held = {p.data_ptr() for group in own.param_groups for p in group["params"]} if own else set()
    groups = _with_decay(learner.groups(), likelihood, settings)
    for group in groups:
        group["params"] = [p for p in group["params"] if p.data_ptr() not in held]
    groups = [group for group in groups if group["params"]]
    if own is None:
        return OPTIMISERS[settings.optimiser](groups, settings)
    return Joined(own, OPTIMISERS[settings.optimiser](groups, settings)) if groups else own


def _with_decay(groups: Iterable[dict], likelihood: nn.Module, settings: TrainSettings) -> list[dict]:
    """Return torch's optimiser groups: a learner's flat `groups` that are not empty, and the likelihood's parameters."""
    found = [
        {
            "params": group["params"],
            "factor": group["factor"],
            "weight_decay": settings.weight_decay if group["decayed"] else 0.0,
        }
        for group in groups
        if group["params"][0].numel()
    ]
    learned = [p for p in likelihood.parameters() if p.requires_grad]
    if learned:
        found.append({"params": learned, "factor": 1.0, "weight_decay": 0.0})
    return found


class Joined:
    """Several optimisers of different parameters, as one; its state_dict numbers their parameters consecutively."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        state = {first + i: own for part, first in self._numbered() for i, own in part.state_dict()["state"].items()}
        return {"state": state}

    def load_state_dict(self, whole: dict[str, Any]) -> None:
        for part, first in self._numbered():
            places = range(first, first + _params(part))
            own = {i - first: entries for i, entries in whole["state"].items() if i in places}
            part.load_state_dict({**part.state_dict(), "state": own})

    def _numbered(self) -> Iterator[tuple[torch.optim.Optimizer, int]]:
        first = 0
        for part in self.parts:
            yield part, first
            first += _params(part)


def _params(optimiser: torch.optim.Optimizer) -> int:
    return sum(len(group["params"]) for group in optimiser.param_groups)


def _sgd(groups: list[dict], s: TrainSettings) -> torch.optim.Optimizer:
    nesterov = s.nesterov and s.momentum > 0
    return torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum, nesterov=nesterov, fused=True)


OPTIMISERS: dict[str, Callable[[list[dict], TrainSettings], torch.optim.Optimizer]] = {
    "adam": lambda groups, s: torch.optim.Adam(groups, lr=s.lr, fused=True),
    "adamw": lambda groups, s: torch.optim.AdamW(groups, lr=s.lr, fused=True),
    "sgd": _sgd,
}


def set_lr(optimiser: "torch.optim.Optimizer | Joined", lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]


def optimiser_tensors(optimiser: "torch.optim.Optimizer | Joined") -> dict[str, Tensor]:
    """Return its state as named tensors: "0.exp_avg" and the like."""
    state = optimiser.state_dict()["state"]
    return {f"{i}.{name}": value for i, entries in state.items() for name, value in entries.items() if value is not None}


def load_optimiser_tensors(optimiser: "torch.optim.Optimizer | Joined", tensors: dict[str, Tensor]) -> None:
    """Load what `optimiser_tensors` returned. Raises TombolaError for the state of another optimiser or mask."""
    given: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        given.setdefault(int(index), {})[entry] = value
    _check(optimiser, given)
    whole = optimiser.state_dict()
    for i, entries in given.items():
        whole["state"].setdefault(i, {}).update(entries)
    optimiser.load_state_dict(whole)


def _check(optimiser: "torch.optim.Optimizer | Joined", given: dict[int, dict[str, Tensor]]) -> None:
    parts = optimiser.parts if isinstance(optimiser, Joined) else [optimiser]
    expected = [_kept(part, p) for part in parts for group in part.param_groups for p in group["params"]]
    for i, entries in given.items():
        kept = expected[i] if i < len(expected) else {}
        found = {name: value.shape for name, value in entries.items()}
        if kept is not None and found != kept:
            raise TombolaError(
                f"the saved optimiser state of parameter {i} is {_in_words(found)}, but {_in_words(kept)} is expected: it "
                "is of another optimiser or mask; delete the checkpoint, or go on with the same optimiser and mask"
            )


def _kept(optimiser: torch.optim.Optimizer, p: Tensor) -> dict[str, torch.Size] | None:
    """Return names and shapes of the tensors that an optimiser keeps for a parameter; None if they are not known."""
    if isinstance(optimiser, IvonUpdate):
        return {name: value.shape for name, value in optimiser.begin(p).items()}
    if isinstance(optimiser, torch.optim.Adam | torch.optim.AdamW):
        return {"step": torch.Size(), "exp_avg": p.shape, "exp_avg_sq": p.shape}
    if isinstance(optimiser, torch.optim.SGD):
        return {"momentum_buffer": p.shape} if optimiser.defaults["momentum"] else {}
    return None


def _in_words(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"


def lr_factor(settings: TrainSettings, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of `step` (from 0) of `steps`, over the setting `lr`.

    A function of the step alone: resuming needs no scheduler state. Warm-up is linear; the schedule begins after it.
    """
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    schedule = plugins.resolve(settings.schedule, SCHEDULES, "schedule")
    return schedule(settings, step - warmup, max(1, steps - warmup))


def _one_cycle(settings: TrainSettings, step: int, steps: int) -> float:
    """One cycle (Smith & Topin 2018): from 1/25 to 1 over the first 30%, then down to 1/250,000, both by cosines."""
    peak, last = 0.3 * steps - 1, steps - 1
    if step <= peak:
        return _between(1 / 25, 1.0, step / peak)
    return _between(1.0, 1 / 25e4, (step - peak) / (last - peak)) if last > peak else 1.0


def _cyclical(settings: TrainSettings, step: int, steps: int) -> float:
    """Return half a cosine from 1 to 0 in each of `train.cycles` (Zhang et al. 2020, cyclical SG-MCMC, equation 1)."""
    length = -(-steps // settings.cycles)
    return 0.5 * (1 + math.cos(math.pi * (step % length) / length))


def _between(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * part))


SCHEDULES: dict[str, Callable[[TrainSettings, int, int], float]] = {
    "constant": lambda s, step, steps: 1.0,
    "step": lambda s, step, steps: s.gamma ** sum(step >= milestone * steps for milestone in s.milestones),
    "cosine": lambda s, step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "one_cycle": _one_cycle,
    "cyclical": _cyclical,
}
