"""Convolutions that torch 2.13 must not train on a CPU without AVX-512.

There the backward pass of a strided 1x1 convolution with 2 to 7 input channels, whose weight or input is channels-last in
memory, writes past its memory (oneDNN 3.12), and weights in flat memory are. The same convolution with stride 1, of every
second row and column, is the same function and is safe.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn

_SAFE_CHANNELS = 8


def is_narrow(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether the module is a strided 1x1 convolution of the kind above."""
    return (
        isinstance(module, nn.Conv2d)
        and not isinstance(module, torch.jit.ScriptModule)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.groups == 1
        and 1 < module.in_channels < _SAFE_CHANNELS
        and module.padding in ((0, 0), "valid")
    )


@contextmanager
def guarded(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the narrow convolutions of `module` with stride 1 on strided inputs, within the context.

    Does nothing for other devices, or where the CPU has AVX-512.
    """
    with ExitStack() as undo:
        if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512":
            for layer in filter(is_narrow, module.modules()):
                undo.callback(setattr, layer, "stride", layer.stride)
                hook = layer.register_forward_pre_hook(_every(*layer.stride), with_kwargs=True)
                undo.callback(hook.remove)
                layer.stride = (1, 1)
        yield


def _every(rows: int, columns: int) -> Callable[..., tuple[Any, Any]]:
    """Return the hook that thins out the input, which may be given by position or by name."""

    def thin_out(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        def cut(x: torch.Tensor) -> torch.Tensor:
            return x[..., ::rows, ::columns]

        return tuple(map(cut, args)), {name: cut(x) for name, x in kwargs.items()}

    return thin_out
