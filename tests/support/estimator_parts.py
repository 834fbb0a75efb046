"""What the tests of estimators share: one estimator on one module, without a training around it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tombola import Layout
from tombola.inference.estimators import ESTIMATORS
from tombola.inference.estimators.noise import NoisePool
from tombola.posterior.binding import Binding
from tombola.streams import generator


class Rig:
    """An estimator over every parameter of a module, with means of order 1, stds that differ, and a mask."""

    def __init__(self, name: str, module: nn.Module, density: float = 1.0, std: float = 0.3, random=("*",), refresh=1.0):
        self.module = module
        self.layout = layout = Layout.of(module, random=list(random) if random else None)
        self.mean = layout.flatten(dict(module.named_parameters())).clone()
        stream = generator("rig")
        self.log_std = (math.log(std) + 0.3 * torch.randn(layout.numel, generator=stream, dtype=torch.float64)).to(self.mean)
        self.mask = torch.rand(layout.numel, generator=stream) < density
        self.noise = NoisePool(layout.random_numel, ("rig",), refresh, like=self.mean)
        self.est = ESTIMATORS[name](layout, self.mean, self.log_std, self.mask, self.noise, False)
        self.eps: list[Tensor] = []
        """Noise of outputs, as it was drawn."""

    @property
    def std(self) -> Tensor:
        return self.log_std.exp() * self.mask * self.layout.is_random

    def run(self, loss: Callable[[], Tensor], tick: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """The loss at that tick and its gradients by mean and log_std."""
        with Binding(self.module, self.layout, self.est.theta) as binding:
            self.est.draw(tick, True)
            binding.wrote()
            self._record()
            with self.est.forward():
                value = loss()
            binding.backward(value, self.est.grad)
            self.est.finish(True, 0.0, 1.0)
        return value.detach(), self.est.mean_grad.clone(), self.est.log_std_grad.clone()

    def output(self, *inputs, tick: int = 0, **options):
        """What the module gives, without gradients."""
        with torch.no_grad(), Binding(self.module, self.layout, self.est.theta) as binding:
            self.est.draw(tick, True)
            binding.wrote()
            self._record()
            with self.est.forward():
                return self.module(*inputs, **options)

    def _record(self) -> None:
        outputs = getattr(self.est, "_outputs", None)
        if outputs is None:
            return
        self.eps, blocks, signs = [], type(outputs).blocks, type(outputs).signs

        def recorded(count: int):
            parts = []
            for part, eps in blocks(outputs, count):
                parts.append(eps.clone())
                yield part, eps
            self.eps.append(torch.cat(parts))

        def recorded_signs(shape):
            self.eps.append(signs(outputs, shape))
            return self.eps[-1]

        outputs.blocks, outputs.signs = recorded, recorded_signs

    def leaves(self) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """mean, log_std with gradients, and the effective mean and std of each parameter made of them, by name."""
        mean, log_std = self.mean.clone().requires_grad_(), self.log_std.clone().requires_grad_()
        std = log_std.exp() * self.mask * self.layout.is_random
        return mean, log_std, self.layout.views(mean * self.mask), self.layout.views(std)


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(name, *shape), dtype=torch.float64)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()
