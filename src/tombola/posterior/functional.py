"""A forward pass of a module on tensors in place of its own."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def holding(module: nn.Module, tensors: Mapping[str, Tensor]) -> Callable[..., Any]:
    """Return a function that calls the module with `tensors` in place of its parameters and buffers, which stay as they are.

    tensors: by any of their names; those that are not given are the module's own. (torch's `functional_call` by itself
    leaves tensors in place of the parameters of a part that has two names, and wants one object for all names of a weight.)
    """
    named = dict(chain(*(each(remove_duplicate=False) for each in (module.named_parameters, module.named_buffers))))
    by_own = {id(named[name]): value for name, value in tensors.items()}
    found: dict[str, Tensor] = {}
    for prefix, part in module.named_modules():  # each part once
        for leaf, own in chain(part._parameters.items(), part._buffers.items()):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if own is not None and (value := tensors.get(name, by_own.get(id(own)))) is not None:
                found[name] = value
    return lambda *args, **kwargs: functional_call(module, found, args, kwargs, tie_weights=False)
