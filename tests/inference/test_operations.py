"""Local reparameterisation and Flipout of single operations against their formulas in plain autograd, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.estimator_parts import Rig, normal, seeded
from tombola.inference.estimators.operations import RULES


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2: addmm, the weight stored input first."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], -1)


class MatMul(nn.Module):
    def __init__(self, write: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.weight, self.write = nn.Parameter(torch.randn(4, 3)), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(x, self.weight)


Weights = dict[str, Tensor]


def conv(function: Callable, **options) -> Callable[[Tensor, Weights], Tensor]:
    return lambda x, p: function(x, p["weight"], p.get("bias"), **options)


CASES: dict[str, tuple[Callable[[], nn.Module], Tensor, Callable[[Tensor, Weights], Tensor]]] = {
    "linear": (lambda: nn.Linear(4, 3), normal(5, 4), lambda x, p: F.linear(x, p["weight"], p["bias"])),
    "linear of tokens": (lambda: nn.Linear(4, 3, bias=False), normal(2, 5, 4), lambda x, p: F.linear(x, p["weight"])),
    "linear of one vector": (lambda: nn.Linear(4, 3), normal(4), lambda x, p: F.linear(x, p["weight"], p["bias"])),
    "addmm": (lambda: Conv1D(3, 4), normal(2, 5, 4), lambda x, p: x @ p["weight"] + p["bias"]),
    "mm": (lambda: MatMul(torch.mm), normal(5, 4), lambda x, p: x @ p["weight"]),
    "matmul": (lambda: MatMul(lambda x, w: x @ w), normal(2, 5, 4), lambda x, p: x @ p["weight"]),
    "matmul of a transpose": (lambda: MatMul(lambda x, w: x.matmul(w.T)), normal(5, 3), lambda x, p: x @ p["weight"].T),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, 2, 1), normal(2, 2, 7), conv(F.conv1d, stride=2, padding=1)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), normal(2, 2, 5, 4), conv(F.conv2d, padding=1)),
    "conv2d in groups": (
        lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2, bias=False),
        normal(2, 4, 6, 6),
        conv(F.conv2d, dilation=2, groups=2),
    ),
    "conv2d of one image": (lambda: nn.Conv2d(2, 3, 2), normal(2, 5, 4), conv(F.conv2d)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, (2, 3), padding="same"), normal(2, 2, 5, 4), conv(F.conv2d, padding="same")),
    "conv2d valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), normal(2, 2, 5, 4), conv(F.conv2d)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), normal(1, 2, 3, 4, 3), conv(F.conv3d)),
    "transposed conv2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
        normal(2, 4, 3, 3),
        conv(F.conv_transpose2d, stride=2, padding=1, output_padding=1, groups=2),
    ),
    "embedding": (
        lambda: nn.Embedding(6, 3),
        torch.tensor([[0, 2, 2], [5, 1, 0]]),
        lambda x, p: F.embedding(x, p["weight"]),
    ),
}
every_case = pytest.mark.parametrize("case", CASES)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, of the reference


def laid_out(eps: Tensor, output: Tensor) -> Tensor:
    """Noise in the shape of an output, to whose memory it was added in order: a convolution's is channels-last."""
    return eps.as_strided(output.shape, output.stride())


def square(x: Tensor) -> Tensor:
    return x * x if x.is_floating_point() else x


@every_case
@pytest.mark.parametrize("density", [1.0, 0.4])
def test_local_reparameterisation_is_its_formula(case: str, density: float):
    make, x, f = CASES[case]
    rig = Rig("local", seeded(make), density)
    own, reference = (x.clone().requires_grad_(x.is_floating_point()) for _ in range(2))
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(own))
        return (outputs[0] * normal(*outputs[0].shape, name="g")).sum()

    _, by_mean, by_log_std = rig.run(loss)
    mean, log_std, means, stds = rig.leaves()
    (eps,) = rig.eps
    variance = f(square(reference), {name: std**2 for name, std in stds.items()})
    # masks at this density leave outputs without variance, where the root has no derivative
    noise = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0) * laid_out(eps, outputs[0])
    expected = f(reference, means) + noise
    torch.testing.assert_close(outputs[0], expected)
    (expected * normal(*expected.shape, name="g")).sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)
    assert bool((by_log_std[rig.mask] != 0).any())
    if x.is_floating_point():
        torch.testing.assert_close(own.grad, reference.grad)


@pytest.mark.parametrize("case", [case for case in CASES if case != "embedding"])  # which has no rule
def test_flipout_is_its_formula(case: str):
    make, x, f = CASES[case]
    rig = Rig("flipout", seeded(make), 0.6)
    own, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(own))
        return (outputs[0] * normal(*outputs[0].shape, name="g")).sum()

    _, by_mean, by_log_std = rig.run(loss, tick=7)
    mean, log_std, means, stds = rig.leaves()
    signs_in, signs_out = rig.eps
    eps = rig.layout.views(rig.noise.window(7))
    if case == "conv2d of one image":
        signs_in, signs_out = signs_in[0], signs_out[0]
    if case == "addmm":  # its rows are tokens
        signs_in, signs_out = signs_in.view(2, 5, -1), signs_out.view(2, 5, -1)
    expected = f(reference, means) + signs_out * f(signs_in * reference, {n: std * eps[n] for n, std in stds.items()})
    torch.testing.assert_close(outputs[0], expected)
    (expected * normal(*expected.shape, name="g")).sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)
    torch.testing.assert_close(own.grad, reference.grad)


@every_case
def test_each_output_has_the_mean_and_the_variance_that_weight_samples_give_it(case: str):
    # by weight samples an output is m + J (std * eps) with J = d output / d weights: its variance is the sum of (J std)^2
    make, x, f = CASES[case]
    rig = Rig("local", seeded(make), 0.7)
    names = [s.name for s in rig.layout.segments]
    means = rig.layout.views(rig.mean * rig.mask)
    stds = rig.layout.views(rig.std)
    jacobians = torch.autograd.functional.jacobian(
        lambda *weights: f(x, dict(zip(names, weights, strict=True))), tuple(means[n] for n in names)
    )
    shown = rig.output(x)
    dims = shown.ndim
    variance = sum((j * stds[n]).square().flatten(dims).sum(-1) for n, j in zip(names, jacobians, strict=True))
    (eps,) = rig.eps
    torch.testing.assert_close(shown, f(x, means) + variance.sqrt() * laid_out(eps, shown))
    assert len(eps.unique()) == shown.numel()  # noise of its own for every output


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["local", "flipout", "antithetic", "weight_sample"])
@pytest.mark.parametrize("case", ["linear", "conv2d", "addmm", "embedding"])
@pytest.mark.filterwarnings("ignore:.*no rule for embedding")
def test_the_moments_over_many_draws_are_the_weight_samples(name: str, case: str):
    make, x, f = CASES[case]
    rig, draws = Rig(name, seeded(make)), 1500
    means, stds = rig.layout.views(rig.mean), rig.layout.views(rig.std)
    variance = f(square(x), {n: std**2 for n, std in stds.items()})  # as the test above shows
    found = torch.stack([rig.output(x, tick=tick) for tick in range(draws)])
    assert ((found.mean(0) - f(x, means)).abs() < 5 * (variance / draws).sqrt()).all()
    assert ((found.var(0) / variance - 1).abs() < 5 * (2 / draws) ** 0.5 * (2**0.5 if name == "antithetic" else 1.5)).all()


def test_flipout_decorrelates_examples_and_keeps_one_weight_within_an_image():
    rig = Rig("flipout", seeded(lambda: nn.Conv2d(1, 1, 1, bias=False)), random=None)
    x = torch.ones(2, 1, 1, 2, dtype=torch.float64)
    found = torch.stack([rig.output(x, tick=tick).view(2, 2) for tick in range(1000)]) - rig.mean
    assert torch.equal(found[:, :, 0], found[:, :, 1])  # positions of one image
    assert abs(torch.corrcoef(found[:, :, 0].T)[0, 1]) < 5 / 1000**0.5  # two images


def test_local_noise_differs_between_positions():
    rig = Rig("local", seeded(lambda: nn.Conv2d(1, 1, 1, bias=False)), random=None)
    x = torch.ones(2, 1, 1, 2, dtype=torch.float64)
    found = torch.stack([rig.output(x, tick=tick).view(4) for tick in range(1000)])
    correlations = torch.corrcoef(found.T) - torch.eye(4, dtype=torch.float64)
    assert correlations.abs().max() < 5 / 1000**0.5


def test_no_variance_means_no_noise_and_no_nan():
    module = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)))
    rig = Rig("local", module)
    rig.mask[rig.layout.segments[0].start :][:9] = False  # one kernel
    rig.est = type(rig.est)(rig.layout, rig.mean.mul_(rig.mask), rig.log_std, rig.mask, rig.noise, False)
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)  # no input: only the biases have variance
    x[1, 0, 0, 0] = 1.0
    for tick in range(3):
        gradients = rig.run(lambda: module(x).square().sum(), tick)
        assert all(bool(g.isfinite().all()) for g in gradients)
    nothing = Rig("local", seeded(lambda: nn.Linear(4, 3, bias=False)))
    x = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.equal(nothing.output(x), torch.zeros(2, 3, dtype=torch.float64))


def test_every_rule_is_covered_by_a_case():
    assert {f.__name__ for f in RULES} == {
        *("linear", "addmm", "mm", "matmul", "__matmul__", "embedding"),
        *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)),
    }
