"""Conversion of a module pruned by torch.nn.utils.prune."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tombola.errors import TombolaError


def from_torch_prune(module: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return (plain module, masks) of a `module` pruned by torch.nn.utils.prune, which is not changed.

    The plain module is a copy without `weight_orig`, `weight_mask` and hooks: its weights have their plain names, and are 0
    where pruned. masks: bool, by parameter name, as `Bayesian` and `find_tickets` take them. Raises TombolaError if nothing
    of `module` is pruned, or a tied parameter otherwise under one of its names than under another.
    """
    places = [(prefix, owner, name) for prefix, owner in module.named_modules() for name in _pruned(owner)]
    if not places:
        raise TombolaError(f"nothing of {type(module).__name__} is pruned by torch.nn.utils.prune; use the module as it is")
    _check_tied(module)
    # the last forward pass left weights with a graph, which cannot be copied
    last = {id(weight): weight.detach() for _, owner, name in places if (weight := getattr(owner, name)) is not None}
    plain, masks = copy.deepcopy(module, last), {}
    for prefix, owner, name in places:
        masks[f"{prefix}.{name}" if prefix else name] = getattr(owner, f"{name}_mask") != 0
        prune.remove(plain.get_submodule(prefix), name)
    return plain, masks


def _check_tied(module: nn.Module) -> None:
    uses: dict[int, list[tuple[str, Tensor | None]]] = {}
    for prefix, owner in module.named_modules():
        for name, p in owner.named_parameters(prefix, recurse=False):
            mask = owner._buffers.get(f"{name.rpartition('.')[2].removesuffix('_orig')}_mask")
            uses.setdefault(id(p), []).append((name, mask))
    for (first, mask), *others in uses.values():
        for name, other in others:
            alike = mask is other if mask is None or other is None else torch.equal(mask, other)
            if not alike:
                raise TombolaError(
                    f"{first.removesuffix('_orig')!r} and {name.removesuffix('_orig')!r} are one parameter, which "
                    "torch.nn.utils.prune has pruned differently in the two; prune both by one mask, or untie them"
                )


def _pruned(owner: nn.Module) -> list[str]:
    names = [name.removesuffix("_orig") for name in owner._parameters if name.endswith("_orig")]
    return [name for name in names if f"{name}_mask" in owner._buffers]
