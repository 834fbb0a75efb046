"""Models by name: functions (input_shape, outputs, **args) -> nn.Module. Any import path works as well."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tombola import plugins, streams
from tombola.errors import TombolaError

from .conv import conv, lenet
from .fast import fast
from .mlp import mlp
from .resnet import resnet, resnet18
from .text import text
from .vgg import vgg
from .vit import vit

# the depth or size in a name is bound by position, so that no argument can change it
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet": lenet,
    "conv": conv,
    "resnet": resnet,
    **{f"resnet{depth}": partial(resnet, depth) for depth in (20, 32, 44, 56, 110)},
    "resnet18": resnet18,
    "vgg": vgg,
    **{f"vgg{depth}": partial(vgg, depth) for depth in (11, 13, 16, 19)},
    "fast": fast,
    "vit": vit,
    "vit_tiny": partial(vit, 192, 3),
    "vit_small": partial(vit, 384, 6, depth=12),
    "vit_base": partial(vit, 768, 3, depth=12),
    "text": text,
}
"""Name -> factory. The sizes of all are in docs/models.md."""


@runtime_checkable
class FitsFirstLayer(Protocol):
    """Protocol of a module with parameters that are made from data and not drawn, such as a whitening first layer.

    The stage that draws a study's dense start calls it once, before anything is trained; the data's fingerprint is then in
    the stage's key.
    """

    def fit_first_layer(self, inputs: Tensor) -> None:
        """Make these parameters from training inputs [N, ...] as the network takes them: normalised, not augmented."""
        ...


def build(name: str, args: Mapping[str, Any], input_shape: Sequence[int], outputs: int, stream: streams.Name) -> nn.Module:
    """Return the model, initialised from the named stream. Raises TombolaError for an unknown name or wrong arguments."""
    factory = plugins.resolve(name, MODELS, "model")
    with streams.global_stream("init", *stream):
        module = plugins.call(factory, {"input_shape": tuple(input_shape), "outputs": outputs}, args, f"model {name}")
    if not isinstance(module, nn.Module):
        raise TombolaError(f"model {name!r} returned {type(module).__name__}, not a torch nn.Module")
    return module


__all__ = ["MODELS", "FitsFirstLayer", "build", "conv", "fast", "lenet", "mlp", "resnet", "resnet18", "text", "vgg", "vit"]
