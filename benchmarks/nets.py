"""The networks that are timed, and the targets for them."""

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
    batch: int = 128
    """Examples a training step."""
    args: Mapping[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (3, 32, 32)
    targets: Mapping[str, float] = field(default_factory=dict)
    """Configuration -> the most that its training step may take, in fastest deterministic steps (CPU, fp32)."""
    predict_targets: Mapping[str, float] = field(default_factory=dict)
    """Kind -> the most that its prediction may take, in fastest fp32 forward passes."""

    def make(self) -> nn.Module:
        """Return the network, always with the same weights."""
        return build(self.model, dict(self.args), self.input_shape, 10, ("benchmark",))

    def data(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """Return one batch of random inputs and labels."""
        generator = torch.Generator().manual_seed(0)
        size = batch or self.batch
        inputs = torch.randn((size, *self.input_shape), generator=generator)
        return inputs, torch.randint(10, (size,), generator=generator)


TOY = "toy"
NETS = {
    TOY: Net("conv", batch=8, args={"widths": [4, 4]}, input_shape=(3, 8, 8)),
    "resnet20": Net(
        "resnet20",
        targets={"vi": 1.05, "vi, 10 samples": 10.5, "ivon": 1.08, "local": 2.0},
        predict_targets={"16 samples, channels_last": 17.0},
    ),
    "vgg11": Net(
        "vgg11",
        batch=64,
        targets={"vi": 1.12, "vi, 10 samples": 11.0, "ivon": 1.3, "local": 2.0},
        predict_targets={"16 samples, channels_last": 19.0},
    ),
    "vit_tiny": Net(
        "vit_tiny",
        batch=64,
        args={"patch": 4, "depth": 6},
        targets={"vi": 1.05, "ivon": 1.08, "local": 2.0},
        predict_targets={"16 samples": 17.0},
    ),
    "mlp-5m": Net("mlp", args={"hidden": [1600, 1600, 700]}, input_shape=(784,), targets={"vi": 1.20}),
}
TIMED = [name for name in NETS if name != TOY]
"""Networks to time unless others are named; the toy serves to try a benchmark."""

AGAINST = ("vi, 10 samples", "torch-blue, 10 samples")
"""The paper's ten samples, ours and its library's."""
AGAINST_TARGETS = {"time": 1 / 4, "peak memory": 1 / 3}
"""The most of ours over theirs, for the networks whose targets name the first."""
