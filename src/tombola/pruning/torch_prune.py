"""Conversion of a module pruned by torch.nn.utils.prune."""

import copy

from torch import Tensor, nn
from torch.nn.utils import prune

from tombola.errors import TombolaError


def from_torch_prune(module: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return (plain module, masks) of a `module` pruned by torch.nn.utils.prune, which is not changed.

    The plain module is a copy without `weight_orig`, `weight_mask` and hooks: its weights have their plain names, and are 0
    where pruned. masks: bool, by parameter name, as `Bayesian` and `find_tickets` take them. Raises TombolaError if nothing
    of `module` is pruned.
    """
    places = [(prefix, owner, name) for prefix, owner in module.named_modules() for name in _pruned(owner)]
    if not places:
        raise TombolaError(f"nothing of {type(module).__name__} is pruned by torch.nn.utils.prune; use the module as it is")
    # the last forward pass left weights with a graph, which cannot be copied
    last = {id(weight): weight.detach() for _, owner, name in places if (weight := getattr(owner, name)) is not None}
    plain, masks = copy.deepcopy(module, last), {}
    for prefix, owner, name in places:
        masks[f"{prefix}.{name}" if prefix else name] = getattr(owner, f"{name}_mask") != 0
        prune.remove(plain.get_submodule(prefix), name)
    return plain, masks


def _pruned(owner: nn.Module) -> list[str]:
    names = [name.removesuffix("_orig") for name in owner._parameters if name.endswith("_orig")]
    return [name for name in names if f"{name}_mask" in owner._buffers]
