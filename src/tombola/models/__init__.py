"""Models by name: functions (input_shape, outputs, **args) -> nn.Module. Any import path works as well."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from .. import plugins, streams
from ..errors import TombolaError
from .conv import conv, lenet
from .mlp import mlp

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "lenet": lenet, "conv": conv}


def build(
    name: str, args: Mapping[str, Any], input_shape: Sequence[int], outputs: int, words: tuple[streams.Word, ...]
) -> nn.Module:
    """The model, initialised from the named stream. Raises TombolaError for an unknown name or arguments that do not fit."""
    factory = plugins.resolve(name, MODELS, "model")
    with streams.global_stream("init", *words):
        module = plugins.call(factory, {"input_shape": tuple(input_shape), "outputs": outputs}, args, f"model {name}")
    if not isinstance(module, nn.Module):
        raise TombolaError(f"model {name!r} returned {type(module).__name__}, not a torch nn.Module")
    return module


__all__ = ["MODELS", "build", "conv", "lenet", "mlp"]
