"""Roles of parameters (random, a weight of a linear map, or neither) by the module that owns them."""

import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from tombola.errors import TombolaError

Predicate = Callable[[str, nn.Module, nn.Parameter], bool]
"""Function (parameter name, the module that owns it, the parameter) -> whether it is random."""

_LINEAR = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
_BATCH_NORM: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_NORM: tuple[type[nn.Module], ...] = (*_BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def owned(module: nn.Module) -> list[tuple[str, nn.Module, nn.Parameter]]:
    def walk() -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
        seen: set[int] = set()  # tied parameters once, under their first name
        for prefix, owner in module.named_modules():
            for name, p in owner.named_parameters(prefix, recurse=False):
                if id(p) not in seen:
                    seen.add(id(p))
                    yield name, owner, p

    return list(walk())


def check_real(name: str, owner: nn.Module, p: nn.Parameter) -> None:
    kind = type(owner).__name__
    if isinstance(p, nn.parameter.UninitializedParameter):
        raise TombolaError(f"parameter {name!r} of {kind} has no shape yet; run the module once on a batch before")
    if not p.dtype.is_floating_point:
        raise TombolaError(
            f"parameter {name!r} of {kind} has dtype {p.dtype}; a posterior is over floating-point parameters"
        )
    if name.endswith("_orig") and f"{name.rpartition('.')[2].removesuffix('_orig')}_mask" in owner._buffers:
        raise TombolaError(
            f"parameter {name!r} is pruned by torch.nn.utils.prune; take the plain module and its mask by "
            "tombola.from_torch_prune(module)"
        )


def is_linear(owner: nn.Module) -> bool:
    return isinstance(owner, _LINEAR) or type(owner).__name__ == "Conv1D"  # the linear layer of Hugging Face's GPT-2


def is_weight(name: str, owner: nn.Module, p: nn.Parameter) -> bool:
    # nn.MultiheadAttention's bias_k and bias_v have three dimensions
    return is_linear(owner) and p.ndim >= 2 and "bias" not in name.split(".")[-1]


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def randomness(
    name: str, owner: nn.Module, p: nn.Parameter, random: Sequence[str] | Predicate | None, kind: str
) -> tuple[bool, str]:
    layer = type(owner).__name__
    if not p.requires_grad:
        return False, "frozen (requires_grad is False)"
    if random is None:
        if isinstance(owner, _NORM):
            return False, f"{layer}: norm layers stay deterministic"
        if kind == "other":
            return False, f"a bare parameter of {layer}: deterministic unless a pattern chooses it"
        return True, layer
    chosen = random(name, owner, p) if callable(random) else matches(name, random)
    return chosen, f"{layer}, {'chosen' if chosen else 'not chosen'} by the caller"


def fan_in_of(name: str, owner: nn.Module, p: nn.Parameter) -> int:
    weight = p
    if p.ndim < 2:  # a bias has its weight's fan-in
        siblings = [q for q in owner.parameters(recurse=False) if q.ndim >= 2]
        if not siblings:
            return max(1, p.numel())
        weight = siblings[0]
    if type(owner).__name__ == "Conv1D":  # stored input first
        return weight.shape[0]
    return max(1, math.prod(weight.shape[1:]))
