"""Roles of parameters (random, a weight of a linear map, or neither) by the module that owns them."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from itertools import product

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tombola.errors import TombolaError

Predicate = Callable[[str, nn.Module, nn.Parameter], bool]
"""Function (parameter name, the module that owns it, the parameter) -> whether it is random."""

BARE = "bare parameter"
"""Name in `Segment.why` of a parameter whose use no layer tells: recurrent weights, class tokens, originals."""

_LINEAR = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
_BATCH_NORM: tuple[type[nn.Module], ...] = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_NORM: tuple[type[nn.Module], ...] = (*_BATCH_NORM, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def owned(module: nn.Module) -> list[tuple[str, nn.Module, nn.Parameter]]:
    """Return (name, owner, parameter) of all parameters, tied ones once, under their first name.

    Raises TombolaError for a module without any, and for one that cannot have a posterior.
    """
    found: dict[int, tuple[str, nn.Module, nn.Parameter]] = {}
    for prefix, owner in module.named_modules():
        for name, p in owner.named_parameters(prefix, recurse=False):
            found.setdefault(id(p), (name, owner, p))
    if not found:
        raise TombolaError(f"{type(module).__name__} has no parameters: nothing to make Bayesian")
    for one in found.values():
        check_real(*one)
    return list(found.values())


def later_names(module: nn.Module) -> dict[str, str]:
    """Return later name -> first name of the parameters that have several."""
    first = {id(p): name for name, p in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {name: first[id(p)] for name, p in every if name != first[id(p)]}


def check_real(name: str, owner: nn.Module, p: nn.Parameter) -> None:
    kind = type(owner).__name__
    if isinstance(p, nn.parameter.UninitializedParameter):
        raise TombolaError(f"parameter {name!r} of {kind} has no shape yet; run the module once on a batch before")
    if not p.dtype.is_floating_point:
        raise TombolaError(
            f"parameter {name!r} of {kind} has dtype {p.dtype}; a posterior is over floating-point parameters"
        )
    if p.dtype.itemsize == 1:
        raise TombolaError(
            f"parameter {name!r} of {kind} has dtype {p.dtype}, which cannot be trained; convert it to bfloat16"
        )
    check_dense(f"parameter {name!r} of {kind}", p)
    if p.is_inference():
        raise TombolaError(f"parameter {name!r} of {kind} was made in inference mode; make the module outside of it")
    if is_expanded(p):
        raise TombolaError(f"parameter {name!r} of {kind} is expanded: its elements share memory; make it contiguous")
    if name.endswith("_orig") and f"{name.rpartition('.')[2].removesuffix('_orig')}_mask" in owner._buffers:
        raise TombolaError(
            f"parameter {name!r} is pruned by torch.nn.utils.prune; take the plain module and its mask by "
            "tombola.from_torch_prune(module)"
        )


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor has values in memory, one beside the other."""
    try:
        check_dense("it", tensor)
    except TombolaError:
        return False
    return True


def check_dense(what: str, tensor: Tensor) -> None:
    """Raise TombolaError for a tensor without values, or one that is not dense."""
    if is_traceable_wrapper_subclass(tensor):
        raise TombolaError(f"{what} is a {type(tensor).__name__} of other tensors; give a module of plain ones")
    if tensor.is_meta:
        raise TombolaError(f"{what} is on the meta device and has no values; load them before")
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else "quantised" if tensor.is_quantized else "sparse"
        raise TombolaError(f"{what} is {kind}, but a state consists of dense tensors; convert it, as by `to_dense()`")


def check_buffers(module: nn.Module) -> None:
    """Raise TombolaError for a buffer that a state cannot keep, or that could not be saved after the training."""
    for prefix, owner in module.named_modules():
        for leaf, buffer in owner._buffers.items():
            if buffer is not None:
                what = f"buffer {f'{prefix}.{leaf}' if prefix else leaf!r} of {type(owner).__name__}"
                check_dense(what, buffer)
                if buffer.dtype == torch.complex128 and leaf not in owner._non_persistent_buffers_set:
                    raise TombolaError(f"{what} has dtype {buffer.dtype}, which cannot be saved; convert it to complex64")


def check_apart(module: nn.Module, owners: Sequence[tuple[str, nn.Module, nn.Parameter]]) -> None:
    """Raise TombolaError for a parameter that shares memory with another one, a buffer or an attribute.

    Trained in other memory, they would not stay equal.
    """
    groups: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, _, p in owners:
        if p.numel():
            groups.setdefault(p.untyped_storage().data_ptr(), []).append((name, p))
    others = {at: list[tuple[str, Tensor]]() for at in groups}
    for what, tensor in _beside_parameters(module):
        others.get(tensor.untyped_storage().data_ptr(), []).append((what, tensor))
    for at, group in groups.items():
        if len(group) == 1 and not others[at]:
            continue
        # exactly, element by element: parts of one buffer (as of cuDNN's recurrent layers) are no tie
        size = max(p.untyped_storage().nbytes() // p.itemsize for _, p in group)
        taken = torch.zeros(size, dtype=torch.bool)
        for name, p in group:
            here = taken.as_strided(p.shape, p.stride(), p.storage_offset())
            if here.any():
                raise TombolaError(
                    f"parameter {name!r} shares memory with another one ({', '.join(n for n, _ in group if n != name)}); "
                    "tie them by giving both modules the same nn.Parameter, or clone it"
                )
            here.fill_(True)
        for (what, tensor), (name, p) in product(others[at], group):
            if _overlap(p, tensor):
                raise TombolaError(
                    f"{what} shares memory with parameter {name!r}, and would not follow it in training; make it in "
                    "forward, or clone it"
                )


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Return whether tensors of one storage have elements in common; those of two dtypes are taken to."""
    if a.dtype != b.dtype:
        return True
    taken = torch.zeros(a.untyped_storage().nbytes() // a.itemsize, dtype=torch.bool)
    taken.as_strided(a.shape, a.stride(), a.storage_offset()).fill_(True)
    return bool(taken.as_strided(b.shape, b.stride(), b.storage_offset()).any())


def _beside_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return an iterator over names and tensors of buffers and plain attributes that no hook makes from an original."""
    for prefix, owner in module.named_modules():
        if isinstance(owner, torch.jit.ScriptModule):
            continue
        made = {name.rpartition("_")[0] for name in owner._parameters}
        for kind, found in (("buffer", owner._buffers), ("attribute", vars(owner))):
            for name, value in found.items():
                if (
                    isinstance(value, Tensor)
                    and not isinstance(value, nn.Parameter)
                    and name not in made
                    and is_dense(value)
                ):
                    yield f"{kind} {f'{prefix}.{name}' if prefix else name!r} of {type(owner).__name__}", value


def is_expanded(tensor: Tensor) -> bool:
    """Return whether elements share memory, as after `expand`: such a tensor cannot be written to in place."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def is_linear(owner: nn.Module) -> bool:
    return isinstance(owner, _LINEAR) or type(owner).__name__ == "Conv1D"  # the linear layer of Hugging Face's GPT-2


def is_weight(name: str, owner: nn.Module, p: nn.Parameter) -> bool:
    # nn.MultiheadAttention's bias_k and bias_v have three dimensions
    return is_linear(owner) and p.ndim >= 2 and "bias" not in name.split(".")[-1] and not is_original(name, owner)


def is_original(name: str, owner: nn.Module) -> bool:
    """Return whether a hook makes a layer's tensor from the parameter, as `weight_norm` makes weight of weight_v."""
    made = name.rpartition(".")[2].rpartition("_")[0]
    return isinstance(vars(owner).get(made), Tensor)


def kind_of(name: str, owner: nn.Module) -> str:
    """Return linear, embedding, or other: of another module, or the original of a reparametrised tensor."""
    if is_original(name, owner):
        return "other"
    return "linear" if is_linear(owner) else "embedding" if isinstance(owner, nn.Embedding) else "other"


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def with_first(patterns: Sequence[str], later: Mapping[str, str]) -> list[str]:
    """Return the patterns, and the first names of tied parameters of which they match a later one."""
    return [*patterns, *(escape(first) for name, first in later.items() if matches(name, patterns))]


def randomness(
    name: str,
    owner: nn.Module,
    p: nn.Parameter,
    random: Sequence[str] | Predicate | None,
    kind: str,
    cancelled: Collection[str] = (),
) -> tuple[bool, str]:
    """Return whether a parameter is random, and why. cancelled: names of biases that a batch norm takes out."""
    layer = type(owner).__name__
    if not p.requires_grad:
        return False, "frozen (requires_grad is False)"
    if random is None:
        if isinstance(owner, _NORM):
            return False, f"{layer}: norm layers stay deterministic"
        if name in cancelled:
            return False, f"{layer}: the batch norm after it takes it out, so it stays deterministic"
        if kind == "other":
            return False, f"a {BARE} of {layer}: random where posterior.random, prunable where prune.include names it"
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
