"""torch's fused optimisers, which make gradients, update and the next weight sample in one sweep over memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola.settings import TrainSettings

from .held import Block, HeldSample


class FusedUpdate(torch.optim.Optimizer):
    """Updates `held` block by block. Its numbers and its state (names, shapes, order) are torch's own over these groups.

    groups: flat tensors of `held`, and others with gradients of their own (what the likelihood learns). Where a group's
    last elements are cut otherwise than in one whole, torch's vectorised and scalar code may differ in their last bit.
    """

    def __init__(self, held: HeldSample, groups: list[dict], settings: TrainSettings):
        super().__init__(groups, {"lr": settings.lr})
        self._held, self._rule = held, RULES[settings.optimiser](settings)
        self._places: list[list[_Place]] | None = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in parameters:
            state = self.state[p]
            if not state:
                state.update(self.begin(p))
            if "step" in state:
                state["step"] += 1
        if self._places is None:
            self._places = [self._places_of(block) for block in self._held.blocks]
        for places, grads in zip(reversed(self._places), self._held.sweep(), strict=True):
            for place, grad in zip(places, grads, strict=True):
                self._rule.apply(place.values, grad, place.state, place.group)
        for group, p in parameters:
            if p.grad is not None and not self._held.owns(p):
                self._rule.apply(p, p.grad, self.state[p], group)

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._places = None

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        """What it keeps for a parameter, before its first step."""
        return self._rule.begin(p)

    def _places_of(self, block: Block) -> list["_Place"]:
        return [self._place(part) for part in ((block.mean, block.log_std) if block.random else (block.mean,))]

    def _place(self, values: Tensor) -> "_Place":
        for group in self.param_groups:
            for p in group["params"]:
                start = values.storage_offset() - p.storage_offset()
                same = p.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
                if same and 0 <= start < p.numel():
                    where = slice(start, start + len(values))
                    state = {name: t[where] if t.ndim else t for name, t in self.state[p].items()}
                    return _Place(values, state, group)
        raise AssertionError("a block of no group")


@dataclass(frozen=True, slots=True)
class _Place:
    """A stretch of one flat tensor, the same stretch of its optimiser state, and its group."""

    values: Tensor
    state: dict[str, Tensor]
    group: dict[str, Any]


class Adam:
    """With torch's default betas and eps. kernel: of coupled or of decoupled weight decay."""

    def __init__(self, kernel: Callable[..., None]):
        self._kernel = kernel

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros((), dtype=torch.float32, device=p.device)
        return {"step": zero, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def apply(self, p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        self._kernel(
            [p],
            [grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=group["lr"],
            beta1=0.9,
            beta2=0.999,
            weight_decay=group["weight_decay"],
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class SGD:
    """With the settings' momentum."""

    def __init__(self, settings: TrainSettings):
        self._momentum, self._nesterov = settings.momentum, settings.nesterov and settings.momentum > 0

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(p)} if self._momentum else {}

    def apply(self, p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        torch._fused_sgd_(
            [p],
            [grad],
            [state["momentum_buffer"]] if state else [],
            weight_decay=group["weight_decay"],
            momentum=self._momentum,
            lr=group["lr"],
            dampening=0.0,
            nesterov=self._nesterov,
            maximize=False,
            is_first_step=False,  # the buffer begins at 0, which gives the same
        )


RULES: dict[str, Callable[[TrainSettings], Adam | SGD]] = {
    "adam": lambda settings: Adam(torch._fused_adam_),
    "adamw": lambda settings: Adam(torch._fused_adamw_),
    "sgd": SGD,
}
