"""Parts that several models share: checks of their arguments, and He initialisation."""

from collections.abc import Sequence

from torch import nn

from tombola.errors import TombolaError


def image(input_shape: Sequence[int], name: str, least: int = 4) -> tuple[int, int, int]:
    """Return (channels, height, width). Raises TombolaError for a shape that is no image [C, H, W] of `least` size."""
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise TombolaError(
            f"{name} takes images [C, H, W] of at least {least}x{least}; the data has inputs of shape {list(input_shape)}"
        )
    channels, height, width = input_shape
    return channels, height, width


def positive(name: str, **sizes: int) -> None:
    """Raise TombolaError naming the first of `sizes` that is below 1."""
    for size, value in sizes.items():
        if value < 1:
            raise TombolaError(f"{size} of {name} is {value}; it must be at least 1")


def he_normal(module: nn.Module) -> None:
    """Draw convolution and linear weights from N(0, 2 / fan_in), biases 0 (He et al. 2015); norm layers stay as they are.

    Fan_in, not fan_out: the std of a posterior is set relative to the same scale (`posterior.std_scale: kaiming`).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
