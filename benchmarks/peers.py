"""Other libraries on the same networks: the set-up of each, and a check of its outputs.

torch-blue (BSD-3-Clause) and bayesian-torch (BSD-3-Clause) turn layers into Bayesian ones; ivon-opt (GPL-3.0-or-later) is an
optimiser. They come with `pip install --no-deps` of constraints.txt's versions, or the extra `peers`; each is used through
its public interface, with its defaults but for the standard deviation at the start, the heat and exceptions named here.
"""

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.record import installed

EXAMPLES, HEAT, STD = 50_000, 0.1, 0.02
Batch = tuple[Tensor, Tensor]
Step = Callable[[], Tensor]
"""One training step; returns its loss."""


def autograd_step(
    optimiser: torch.optim.Optimizer,
    precision: str,
    forward: Callable[[], Tensor],
    loss_of: Callable[[Tensor], Tensor],
    device: str = "cpu",
) -> Step:
    """Return a step of a plain loop: forward pass in that precision, loss in fp32, backward pass, optimiser."""

    def step() -> Tensor:
        optimiser.zero_grad()
        with autocast(precision, device):
            out = forward()
        loss = loss_of(out.float())
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def torch_blue_step(samples: int, module: nn.Module, batch: Batch, precision: str) -> Step:
    """Return a step by the mean of `samples` predictions, which vmap computes at once."""
    from torch_blue import vi

    # vmap cannot update running statistics: functorch's remedy takes them away
    net = torch_blue_net(torch.func.replace_all_batch_norm_modules_(module), STD)
    loss_of = vi.AnalyticalKullbackLeiblerLoss(net, vi.distributions.Categorical(), EXAMPLES, heat=HEAT)
    optimiser = torch.optim.Adam(net.parameters(), fused=True)
    return autograd_step(optimiser, precision, lambda: net(batch[0], samples=samples), lambda out: loss_of(out, batch[1]))


def bayesian_torch_step(kind: str, module: nn.Module, batch: Batch, precision: str) -> Step:
    """Return a step by one noisy pass of `Reparameterization` or `Flipout` layers."""
    net = bayesian_torch_net(module, STD, kind)
    from bayesian_torch.models.dnn_to_bnn import get_kl_loss

    optimiser = torch.optim.Adam(net.parameters(), fused=True)

    def loss_of(out: Tensor) -> Tensor:
        return F.cross_entropy(out, batch[1]) + HEAT / EXAMPLES * get_kl_loss(net)

    return autograd_step(optimiser, precision, lambda: net(batch[0]), loss_of)


def ivon_step(module: nn.Module, batch: Batch, precision: str) -> Step:
    optimiser = ivon_optimiser(module, STD)

    def step() -> Tensor:
        with optimiser.sampled_params(train=True):
            optimiser.zero_grad()
            with autocast(precision):
                out = module(batch[0])
            loss = F.cross_entropy(out.float(), batch[1])
            loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def torch_blue_predict(module: nn.Module, inputs: Tensor, samples: int, std: float) -> Callable[[], Tensor]:
    net = torch_blue_net(module, std).eval()
    net.return_log_probs = False
    return lambda: net(inputs, samples=samples)


def bayesian_torch_predict(module: nn.Module, inputs: Tensor, samples: int, std: float) -> Callable[[], Tensor]:
    net = bayesian_torch_net(module, std, "Reparameterization").eval()
    return lambda: torch.stack([net(inputs) for _ in range(samples)])


def ivon_predict(module: nn.Module, inputs: Tensor, samples: int, std: float) -> Callable[[], Tensor]:
    net = copy.deepcopy(module).eval()
    optimiser = ivon_optimiser(net, std)

    def predict() -> Tensor:
        drawn = []
        for _ in range(samples):
            with optimiser.sampled_params():
                drawn.append(net(inputs))
        return torch.stack(drawn)

    return predict


STEPS: dict[str, tuple[str, Callable[[nn.Module, Batch, str], Step]]] = {
    "torch-blue, 1 sample": ("torch-blue", partial(torch_blue_step, 1)),
    "torch-blue, 10 samples": ("torch-blue", partial(torch_blue_step, 10)),
    "bayesian-torch": ("bayesian-torch", partial(bayesian_torch_step, "Reparameterization")),
    "bayesian-torch, flipout": ("bayesian-torch", partial(bayesian_torch_step, "Flipout")),
    "ivon-opt": ("ivon-opt", ivon_step),
}
"""Label -> package and the maker of a training step. torch-blue's default is 10 samples."""

PREDICT: dict[str, Callable[[nn.Module, Tensor, int, float], Callable[[], Tensor]]] = {
    "torch-blue": torch_blue_predict,
    "bayesian-torch": bayesian_torch_predict,
    "ivon-opt": ivon_predict,
}
"""Package -> maker of a prediction [S, B, C] of a network with the same std for every random weight."""


def torch_blue_net(module: nn.Module, std: float) -> nn.Module:
    """Return a copy of the module with the same means, in torch-blue's classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_blue import vi
        from torch_blue.vi.utils.convert import ban_convert

    net = copy.deepcopy(module)
    # it would take one class of a name for all of that name, as `Block`
    own = {type(m) for m in net.modules() if not type(m).__module__.startswith("torch.")}
    ban_convert(list(own), "reuse")
    vi.convert_to_vimodule(net, keep_weights=True)
    for name, value in net.named_parameters():
        if name.endswith("_log_std"):
            value.data.fill_(math.log(std) if std else -math.inf)
    return net


def bayesian_torch_net(module: nn.Module, std: float, kind: str) -> nn.Module:
    """Return a copy of the module with the same means, its layers replaced by layers of `kind`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports are of deprecated parts of torch
        from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn

    net = copy.deepcopy(module)
    start = {"prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -4.0}
    dnn_to_bnn(net, {**start, "type": kind, "moped_enable": True, "moped_delta": 0.1})  # the means are the module's
    for name, value in net.named_parameters():
        if name.rpartition(".")[2].startswith("rho_"):
            value.data.fill_(math.log(math.expm1(std)) if std else -math.inf)
    return net


def ivon_optimiser(module: nn.Module, std: float, lr: float = 0.01) -> Any:
    """Return IVON over all parameters; it knows no deterministic ones."""
    import ivon

    ess, decay = EXAMPLES / HEAT, HEAT / EXAMPLES
    hess = 1 / (ess * max(std, 1e-15) ** 2)
    return ivon.IVON(module.parameters(), lr=lr, ess=ess, hess_init=hess, beta2=0.999, weight_decay=decay)


def say_missing() -> None:
    """Print a line for each peer that is absent."""
    for package in PREDICT:
        if installed(package) is None:
            print(f"{package} is not installed: nothing of it is measured (see the extra `peers`)")


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    """Return bf16 autocast, which does nothing at another precision."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")


def assert_same_outputs(package: str, module: nn.Module, inputs: Tensor) -> None:
    """Assert that the package's network, with the same weights and no variance, gives the module's outputs."""
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        found = PREDICT[package](module, inputs, 2, 0.0)()
        for sample in found:
            torch.testing.assert_close(torch.Tensor(sample), module(inputs), rtol=1e-4, atol=1e-4)
