"""The networks that are timed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tombola.models import build


@dataclass(frozen=True)
class Net:
    """A network as it is timed."""

    model: str
    target: float
    """A variational step takes at most so many deterministic ones."""
    local_target: float | None = 2.2
    """The same by local reparameterisation."""
    batch: int = 128
    """Examples a step."""
    args: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (3, 32, 32)

    def make(self) -> nn.Module:
        """The network, always with the same weights."""
        return build(self.model, self.args, self.input_shape, 10, ("benchmark",))

    def data(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """One batch of random inputs and labels."""
        generator = torch.Generator().manual_seed(0)
        size = batch or self.batch
        inputs = torch.randn((size, *self.input_shape), generator=generator)
        return inputs, torch.randint(10, (size,), generator=generator)


NETS = {
    "resnet20": Net("resnet20", target=1.10),
    "vgg11": Net("vgg11", target=1.25, batch=64),
    "vit_tiny": Net("vit_tiny", target=1.10, batch=64, args={"patch": 4, "depth": 6}),
    "mlp-5m": Net("mlp", target=1.20, local_target=None, args={"hidden": [1600, 1600, 700]}, input_shape=(784,)),
}
