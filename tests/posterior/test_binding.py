"""A module bound to one flat buffer: views inside, everything as it was outside, right gradients or an error."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from tombola import Layout, TombolaError
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.functional import holding
from tombola.streams import generator


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()


def flat(layout: Layout, *words: str | int) -> Tensor:
    return 0.5 * torch.randn(layout.numel, generator=generator("theta", *words), dtype=torch.float64)


def batch(inputs: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(8, inputs, generator=generator("x"), dtype=torch.float64)
    return x, torch.randn(8, 2, generator=generator("y"), dtype=torch.float64)


def loss_of(module: nn.Module, inputs: int = 3) -> Tensor:
    x, y = batch(inputs)
    return F.mse_loss(module(x), y)


def reference(module: nn.Module, layout: Layout, theta: Tensor, inputs: int = 3) -> Tensor:
    """d loss / d theta by plain autograd through `functional_call`."""
    theta = theta.clone().requires_grad_()
    x, y = batch(inputs)
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    return torch.autograd.grad(F.mse_loss(functional_call(module, (layout.views(theta), buffers), x), y), theta)[0]


def snapshot(module: nn.Module) -> dict[str, object]:
    parts: dict[str, object] = {}
    for name, p in module.named_parameters():
        grad = None if p.grad is None else p.grad.clone()
        parts[name] = (p.detach().clone(), grad, p.requires_grad, id(p), p.data_ptr())
    parts |= {name: (b.clone(), id(b), b.data_ptr()) for name, b in module.named_buffers()}
    return parts | {f"mode of {name}": m.training for name, m in module.named_modules()}


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def used(module: nn.Module, layout: Layout) -> Binding:
    """A binding of a module with gradients, a frozen parameter and submodules in different modes."""
    loss_of(module).backward()
    module[3].bias.requires_grad_(False)
    module[1].eval()
    return Binding(module, layout, flat(layout), {name: b + 1 for name, b in buffers_of(module).items()})


def work(module: nn.Module, binding: Binding) -> None:
    module.train()
    for seed in range(3):
        binding.theta.copy_(flat(Layout.of(module), seed))
        binding.wrote()
        binding.backward(loss_of(module), torch.zeros_like(binding.theta))
    module.eval()


def test_parameters_are_views_of_theta_within_the_context():
    module = net()
    layout = Layout.of(module)
    theta = flat(layout)
    with Binding(module, layout, theta):
        for name, p in module.named_parameters():
            assert p.data_ptr() == layout.views(theta)[name].data_ptr()
            assert torch.equal(p, layout.views(theta)[name])
        theta.fill_(0.25)
        assert all(bool((p == 0.25).all()) for p in module.parameters())


def test_the_module_is_as_it_was_after_the_context():
    module = net()
    binding = used(module, Layout.of(module))
    before = snapshot(module)
    with binding:
        work(module, binding)
        assert not same(list(snapshot(module).values()), list(before.values()))
    after = snapshot(module)
    for name, value in before.items():
        assert same(value, after[name]), name


def test_the_module_is_as_it_was_after_an_exception():
    module = net()
    binding = used(module, Layout.of(module))
    before = snapshot(module)

    def fail() -> None:
        with binding:
            work(module, binding)
            loss_of(module).backward()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    after = snapshot(module)
    assert all(same(value, after[name]) for name, value in before.items())
    with binding:  # and it can be bound again
        pass


def test_given_buffers_are_loaded_within_the_context():
    module = net()
    buffers = {name: torch.full_like(b, 3) for name, b in buffers_of(module).items()}
    assert set(buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    with Binding(module, Layout.of(module), flat(Layout.of(module)), buffers):
        assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())
        module.train()(batch()[0])
        assert module[1].num_batches_tracked == 4
    assert module[1].num_batches_tracked == 0
    assert bool((buffers["1.running_mean"] == 3).all())  # the caller's stay his


def test_buffers_are_copied_out_and_in():
    module, other = net(), net()
    module.train()(batch()[0])
    load_buffers(other, buffers_of(module))
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), other.buffers(), strict=True))
    module.train()(batch()[0])
    assert other[1].num_batches_tracked == 1


def test_the_flat_gradient_is_autograds():
    module = net().train()
    layout = Layout.of(module)
    theta, out = flat(layout), torch.full((layout.numel,), float("nan"), dtype=torch.float64)
    expected = reference(copy.deepcopy(module), layout, theta)
    with Binding(module, layout, theta) as binding:
        for _ in range(2):  # gradients replace what was there
            binding.wrote()
            binding.backward(loss_of(module), out)
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)


def test_overwriting_theta_between_forward_and_backward_is_an_error():
    module = net()
    layout = Layout.of(module)
    theta = flat(layout)
    with Binding(module, layout, theta) as binding:
        loss = loss_of(module)
        theta.copy_(flat(layout, "other"))
        binding.wrote()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            binding.backward(loss, torch.zeros_like(theta))


@pytest.mark.parametrize("convert", [lambda m: m.to(torch.float32), lambda m: m.half(), lambda m: m.float().double()])
def test_conversion_of_the_module_within_the_context_is_detected(convert):
    module = net()
    with Binding(module, Layout.of(module), flat(Layout.of(module))) as binding:
        convert(module)
        with pytest.raises(RuntimeError, match=r"parameter '[0-9a-z.]+' was moved or converted"):
            binding.wrote()


def test_conversion_to_double_of_a_single_precision_module_is_detected():
    module = net().float()
    layout = Layout.of(module)
    with Binding(module, layout, flat(layout).float()) as binding:
        module.to(torch.float64)
        with pytest.raises(RuntimeError, match="moved or converted"):
            binding.wrote()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.middle = nn.Linear(2, 4, bias=False)
        self.middle.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x) + 2 * self.middle(x.square())))


def test_tied_weights_get_the_sum_of_their_gradients():
    module = Tied().double()
    layout = Layout.of(module)
    theta, out = flat(layout), torch.zeros(layout.numel, dtype=torch.float64)
    with Binding(module, layout, theta) as binding:
        assert module.middle.weight is module.embedding.weight
        binding.backward(loss_of(module, 2), out)

    def untied(one: Tensor, other: Tensor) -> Tensor:
        x, y = batch(2)
        head = layout.views(theta)["head.weight"]
        return F.mse_loss(torch.tanh(x @ one.T + 2 * x.square() @ other.T) @ head.T, y)

    shared = layout.views(theta)["embedding.weight"]
    first, second = (shared.clone().requires_grad_() for _ in range(2))
    parts = torch.autograd.grad(untied(first, second), (first, second))
    torch.testing.assert_close(layout.views(out)["embedding.weight"], parts[0] + parts[1], rtol=1e-12, atol=1e-14)


class Twice(nn.Module):
    """A part of two names, with buffers, and a layer tied to one in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.again, self.tied = self.first, nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.again(torch.tanh(self.first(x))))


@pytest.mark.parametrize("names", ["first", "all"])
def test_a_module_that_holds_other_values_for_a_call_is_as_it_was(names: str):
    module, x = Twice().eval(), torch.randn(5, 3)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.normal_()
    before = snapshot(module)
    values = {k: v.detach().clone() for k, v in other.named_parameters()} if names == "first" else other.state_dict()
    values = {name: value.clone() for name, value in values.items()}  # an object of its own for each name
    torch.testing.assert_close(holding(module, values)(x), other(x))
    assert all(same(value, before[name]) for name, value in snapshot(module).items())
    assert all(type(p) is nn.Parameter for p in (module.again[0].weight, module.first[0].weight, module.tied.weight))


def test_parameters_that_the_loss_does_not_reach_and_frozen_ones_get_zero():
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2), "frozen": nn.Linear(3, 2)}).double()
    module["frozen"].requires_grad_(False)
    layout = Layout.of(module)
    x, y = batch()
    out = torch.full((layout.numel,), float("nan"), dtype=torch.float64)
    with Binding(module, layout, flat(layout)) as binding:
        binding.backward(F.mse_loss(module["used"](x) + module["frozen"](x), y), out)
    grads = layout.views(out)
    assert all(bool((grads[f"{m}.{p}"] == 0).all()) for m in ("unused", "frozen") for p in ("weight", "bias"))
    assert bool((grads["used.weight"] != 0).all())


def test_parameter_hooks_fire():
    module = net()
    layout = Layout.of(module)
    theta, out = flat(layout), torch.zeros(layout.numel, dtype=torch.float64)
    reached = []
    module[0].weight.register_hook(lambda grad: 3 * grad)
    module[3].weight.register_post_accumulate_grad_hook(lambda p: reached.append(p.grad.clone()))
    expected = layout.views(reference(net(), layout, theta))
    with Binding(module, layout, theta) as binding:
        binding.backward(loss_of(module), out)
    torch.testing.assert_close(layout.views(out)["0.weight"], 3 * expected["0.weight"], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(reached, [expected["3.weight"]], rtol=1e-12, atol=1e-14)


def test_binding_a_bound_module_is_an_error_and_leaves_the_first_binding_whole():
    module = net()
    layout = Layout.of(module)
    theta = flat(layout)
    with Binding(module, layout, theta) as binding:
        with pytest.raises(RuntimeError, match="Sequential is bound already"), Binding(module, layout, theta.clone()):
            pass
        binding.wrote()


def test_binding_another_model_names_the_difference():
    with pytest.raises(TombolaError, match=r"has no parameter '3\.weight'"):
        Binding(nn.Sequential(nn.Linear(3, 5)), Layout.of(net()), flat(Layout.of(net())))


class Recomputed(nn.Module):
    def __init__(self, use_reentrant: bool):
        super().__init__()
        self.first, self.block = nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2))
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, self.first(x), use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_gives_the_right_gradient(use_reentrant: bool):
    module, (x, y) = Recomputed(use_reentrant).double(), batch()
    layout = Layout.of(module)
    out = torch.zeros(layout.numel, dtype=torch.float64)
    with Binding(module, layout, torch.zeros(layout.numel, dtype=torch.float64)) as binding:
        for seed in range(2):  # a second weight sample recomputes with its own weights
            theta = flat(layout, seed).requires_grad_()
            w = layout.views(theta)
            hidden = F.linear(F.linear(x, w["first.weight"], w["first.bias"]), w["block.0.weight"], w["block.0.bias"])
            output = F.linear(hidden.tanh(), w["block.2.weight"], w["block.2.bias"])
            (expected,) = torch.autograd.grad(F.mse_loss(output, y), theta)
            binding.theta.copy_(theta.detach())
            binding.wrote()
            binding.backward(loss_of(module), out)
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019), whose code needs a contiguous weight."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.view(len(self.weight), -1)
        return self._conv_forward(x, ((flat - flat.mean(1, True)) / flat.std(1, keepdim=True)).view_as(self.weight), None)


def convolutions() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 1), Standardised(6, 4, 3, bias=False), nn.Tanh()
        grouped = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.ConvTranspose2d(4, 3, 2, stride=2)
        return nn.Sequential(*layers, *grouped, nn.Flatten(), nn.LazyLinear(2)).double()


@pytest.mark.parametrize("laid_out", [torch.contiguous_format, torch.channels_last])
def test_convolutions_run_on_channels_last_weights_and_foreign_code_on_contiguous_ones(laid_out: torch.memory_format):
    module, x = convolutions(), torch.randn(3, 2, 10, 10, dtype=torch.float64).to(memory_format=laid_out)
    module(x)
    layout = Layout.of(module)
    theta, out = flat(layout, "convolutions"), torch.full((layout.numel,), torch.nan, dtype=torch.float64)
    plain = copy.deepcopy(module)
    with Binding(module, layout, torch.zeros_like(theta)) as binding:
        binding.theta.copy_(theta)
        binding.wrote()
        for name in ("0.weight", "5.weight", "6.weight", "7.weight"):
            p = module.get_parameter(name)
            assert p.is_contiguous(memory_format=torch.channels_last)
            assert p.untyped_storage().data_ptr() == binding.theta.untyped_storage().data_ptr()
        assert module[3].weight.is_contiguous()
        assert [layout.views(theta)["3.weight"].shape.numel()] == [w.stop - w.start for w in binding.converted]
        for _ in range(2):  # the second pass writes to the views that the first has made
            binding.backward(module(x).square().sum(), out)
    plain.load_state_dict({name: value.contiguous() for name, value in layout.views(theta).items()})
    plain(x).square().sum().backward()
    expected = layout.flatten({name: p.grad for name, p in plain.named_parameters()})
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_convolutions_arrive_as_they_are_stored():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, stride=2), nn.Conv2d(4, 2, 1))
    layout, strides = Layout.of(module), {}
    theta = layout.flatten(dict(module.named_parameters()))
    out = torch.zeros_like(theta)
    for name, p in module.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: strides.update({name: p.grad.stride()}))
    with Binding(module, layout, theta) as binding:
        binding.backward(module(torch.randn(2, 3, 8, 8)).sum(), out)
    assert strides == {name: view.stride() for name, view in layout.views(out).items()}
