"""Taking over what torch.nn.utils.prune has pruned."""

import copy

from torch import Tensor, nn
from torch.nn.utils import prune

from ..errors import TombolaError


def from_torch_prune(module: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """(plain module, masks) of a `module` pruned by torch.nn.utils.prune, which is not changed.

    The plain module is a copy without `weight_orig`, `weight_mask` and hooks: its weights have their plain names, and are 0
    where pruned. masks: bool, by parameter name, as `Bayesian` and `find_tickets` take them. Raises TombolaError if nothing
    of `module` is pruned.
    """
    plain, masks = copy.deepcopy(module), {}
    for prefix, owner in plain.named_modules():
        pruned = [name.removesuffix("_orig") for name in owner._parameters if name.endswith("_orig")]
        for name in pruned:
            if f"{name}_mask" in owner._buffers:
                masks[f"{prefix}.{name}" if prefix else name] = getattr(owner, f"{name}_mask") != 0
                prune.remove(owner, name)
    if not masks:
        raise TombolaError(f"nothing of {type(module).__name__} is pruned by torch.nn.utils.prune; use the module as it is")
    return plain, masks
