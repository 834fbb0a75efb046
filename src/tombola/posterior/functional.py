"""A forward pass of a module on tensors in place of its own."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_on(module: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the module's output on `tensors` in place of its parameters and buffers of these names, tied ones under any.

    The module is as it was afterwards. torch's own `functional_call` leaves the tensors in a part that has two names, since
    it exchanges them once for each name; here each place is exchanged once.
    """
    by_name = dict(_places(module, every_name=True))
    values = {id(by_name[name]): value for name, value in tensors.items()}
    places = {name: values[id(own)] for name, own in _places(module, every_name=False) if id(own) in values}
    return functional_call(module, places, args, kwargs, tie_weights=False)


def _places(module: nn.Module, every_name: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of parameters and buffers; those of a part with two names once, or under every name."""
    for prefix, owner in module.named_modules(remove_duplicate=not every_name):
        yield from owner.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from owner.named_buffers(prefix, recurse=False, remove_duplicate=False)
