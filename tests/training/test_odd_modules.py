"""Modules that are not a plain stack of layers: several dtypes, buffers of every sort, hooks, parametrisations."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune

from tombola import (
    Bayesian,
    Layout,
    PosteriorSettings,
    PruneSettings,
    TombolaError,
    TrainSettings,
    find_tickets,
    load,
    train,
)
from tombola.data.batches import TensorBatches
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.state import initial_state
from tombola.pruning.scores import warn_of_bare
from tombola.pruning.ticket import ticket_of
from tombola.streams import generator, global_stream


class Mixed(nn.Module):
    """A narrow layer between two wide ones."""

    def __init__(self, wide: torch.dtype, narrow: torch.dtype):
        super().__init__()
        with global_stream("mixed"):
            self.first, self.last = nn.Linear(3, 8, dtype=wide), nn.Linear(8, 2, dtype=wide)
            self.middle = nn.Linear(8, 8, dtype=narrow)
        self.wide, self.narrow = wide, narrow

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.to(self.wide)).tanh()
        return self.last(self.middle(hidden.to(self.narrow)).tanh().to(self.wide))


PAIRS = [(torch.float64, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float16)]


def theta_of(layout: Layout, *words: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.5 * torch.randn(layout.numel, generator=generator("theta", *words), dtype=dtype)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 3, generator=generator("x")), torch.randn(8, 2, generator=generator("y"))


@pytest.mark.parametrize(("wide", "narrow"), PAIRS)
def test_gradients_of_several_dtypes_are_autograds_through_the_conversion(wide: torch.dtype, narrow: torch.dtype):
    module, (x, y) = Mixed(wide, narrow), batch()
    layout = Layout.of(module)
    own = {name: p.dtype for name, p in module.named_parameters()}
    assert layout.flatten(dict(module.named_parameters())).dtype == wide
    theta = theta_of(layout, dtype=wide)
    out = torch.zeros_like(theta)
    with Binding(module, layout, theta) as binding:
        for seed in range(3):  # each with weights of its own
            theta.copy_(theta_of(layout, seed, dtype=wide))
            binding.wrote()
            binding.backward(F.mse_loss(module(x), y.to(wide)), out)
            flat = theta.clone().requires_grad_()
            weights = {name: value.to(own[name]) for name, value in layout.views(flat).items()}
            expected = torch.autograd.grad(F.mse_loss(functional_call(module, weights, x), y.to(wide)), flat)[0]
            torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-9)
    assert {name: p.dtype for name, p in module.named_parameters()} == own


def test_gradients_of_several_dtypes_are_near_those_in_float64():
    module, (x, y) = Mixed(torch.float32, torch.bfloat16), batch()
    model = Bayesian(module, posterior=PosteriorSettings(std=0.05), likelihood=lambda out, b: -(out - b[1]).square().sum(1))
    model.negative_elbo((x, y), examples=8, heat=0.3, samples=2).backward()
    exact = Mixed(torch.float64, torch.float64)
    exact.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    other = Bayesian(exact, posterior=PosteriorSettings(std=0.05), likelihood=lambda out, b: -(out - b[1]).square().sum(1))
    with torch.no_grad():
        other._weight_sample().noise.window = lambda tick: model._weight_sample().noise.window(tick).double()
    other.negative_elbo((x, y), examples=8, heat=0.3, samples=2).backward()
    for a, b in ((model.mean.grad, other.mean.grad), (model.log_std.grad, other.log_std.grad)):
        assert float((a - b).norm() / b.norm()) < 0.03  # bfloat16 has 8 bits


@pytest.mark.parametrize("method", ["vi", "map"])
def test_steps_below_a_narrow_dtypes_resolution_are_not_lost(method: str):
    # 1 + 1e-4 is 1 in bfloat16: only a wide copy of the weights can add up such steps
    module = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(module.weight)
    layout = Layout.of(module, classifier=True)
    state = initial_state(module, layout, PosteriorSettings(std=1e-6), 0)
    state = state if method == "vi" else state.as_family("point")
    inputs, targets = torch.ones(4, 1, dtype=torch.bfloat16), torch.full((4, 1), 9.0)
    settings = TrainSettings(
        method=method, epochs=300, batch_size=4, lr=1e-4, optimiser="sgd", momentum=0.0, likelihood="gaussian", heat=0.0
    )
    trained = train(module, state, TensorBatches(inputs, targets, 4, 0), settings, stream=("narrow",))
    expected = 9 - 8 * (1 - 1e-4) ** 300  # gradient descent on (w - 9)^2 / 2
    assert trained.state.posterior.mean.item() == pytest.approx(expected, rel=0.01)
    assert module.weight.item() == 1


class Moving(nn.Module):
    """Its forward pass puts new tensors in the place of buffers, one of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("average", torch.zeros(2))
        self.register_buffer("last", torch.zeros(0))
        self.register_buffer("cache", None)
        self.register_buffer("rotation", torch.polar(torch.ones(2), torch.arange(2.0)))
        self.register_buffer("table", torch.ones(2, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x) * self.rotation.abs() * self.table.float()
        self.average = 0.5 * self.average + out.detach().mean(0)
        self.last = out.detach()[:, 0].clone()
        self.cache = x
        return out

    def get_extra_state(self) -> object:
        return {"not": "a tensor"}

    def set_extra_state(self, state: object) -> None:
        pass


def test_buffers_that_a_forward_pass_replaces_come_back():
    module, (x, y) = Moving(), batch()
    before = {name: (id(b), b.clone(), b.dtype) for name, b in module.named_buffers()}
    model = Bayesian(module, likelihood=lambda out, b: -(out - b[1]).square().sum(1))
    for _ in range(3):
        model.negative_elbo((x, y), examples=8, samples=2).backward()
    after = dict(module.named_buffers())
    assert after.keys() == before.keys()
    for name, (identity, value, dtype) in before.items():
        assert id(after[name]) == identity
        assert torch.equal(after[name], value)
        assert after[name].dtype == dtype
    learned = model.state().buffers
    assert learned.keys() == {"average", "last", "cache", "rotation"}  # the persistent ones
    assert learned["last"].shape == (8,)
    assert bool((learned["average"] != 0).all())
    assert torch.equal(learned["rotation"], module.rotation)


def test_the_statistics_that_it_replaces_go_on_from_step_to_step(tmp_path):
    x, y = batch()
    module = Moving()
    state = initial_state(module, Layout.of(module, classifier=True), PosteriorSettings(), 0)
    settings = TrainSettings(epochs=2, batch_size=8, lr=1e-9, likelihood="gaussian", method="map")
    trained = train(module, state.as_family("point"), TensorBatches(x, y, 8, 0), settings, stream=())
    mean = module(x).detach().mean(0)
    torch.testing.assert_close(trained.state.buffers["average"], 1.5 * mean)  # m, then m / 2 + m
    model = Bayesian(Moving(), likelihood=lambda out, b: -(out - b[1]).square().sum(1))
    model.negative_elbo((x, y), examples=8)
    model.ticket().save(tmp_path / "ticket")
    back = load(tmp_path / "ticket", module)
    for name, value in model.state().buffers.items():
        assert torch.equal(back.trained.buffers[name], value)
    assert back.outputs(module, x).shape == (16, 8, 2)
    module.load_state_dict(back.state_dict(module))  # but for what has another shape there
    assert torch.equal(module.average, back.trained.buffers["average"])


def test_buffers_are_read_and_written_by_every_name():
    module = nn.Sequential(nn.BatchNorm1d(2))
    module.append(module[0])  # the same module twice
    assert buffers_of(module).keys() == {name for name in module.state_dict() if "running" in name or "num" in name}
    load_buffers(module, {"1.running_mean": torch.ones(2)})
    assert bool((module[0].running_mean == 1).all())


def test_hooks_that_a_module_has_already_fire():
    module, calls = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), []
    module[0].register_forward_hook(lambda m, args, out: calls.append("forward") or 2 * out)
    module[1].register_full_backward_hook(lambda m, grad_in, grad_out: calls.append("backward"))
    module.register_state_dict_post_hook(lambda m, state, prefix, meta: calls.append("state"))
    model = Bayesian(module, posterior=PosteriorSettings(std=1e-9))
    x, _ = batch()
    assert torch.allclose(model.ticket().outputs(module, x, samples=1)[0], module(x), atol=1e-5)
    calls.clear()
    model.negative_elbo((x, torch.zeros(8, dtype=torch.long)), examples=8).backward()
    assert calls[:2] == ["forward", "backward"]


def test_sparse_gradients_of_embeddings_are_used():
    ids, labels = torch.tensor([[1, 1, 4]]), torch.tensor([2])

    def grad(sparse: bool) -> Tensor:
        with global_stream("sparse"):
            module = nn.Sequential(nn.Embedding(6, 5, sparse=sparse), nn.Flatten(), nn.Linear(15, 3))
        model = Bayesian(module)
        model.negative_elbo((ids, labels), examples=1).backward()
        return model.mean.grad

    assert torch.equal(grad(True), grad(False))


def test_frozen_parameters_stay():
    with global_stream("frozen"):
        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    model = Bayesian(module)
    start = {name: value.clone() for name, value in model.layout.views(model.mean.detach()).items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        model.negative_elbo((batch()[0], torch.zeros(8, dtype=torch.long)), examples=8).backward()
        optimiser.step()
    views = model.layout.views(model.state().posterior.mean)
    for name, p in module.named_parameters():
        assert torch.equal(views[name], start[name]) != p.requires_grad, name


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


REPARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Double()),
    "weight_norm by hooks": nn.utils.weight_norm,
    "spectral_norm by hooks": nn.utils.spectral_norm,
}


def reparametrised(kind: str) -> nn.Module:
    with global_stream("parametrised"):
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        REPARAMETRISED[kind](module[0])
    return module


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_reparametrised_modules_learn_their_originals(kind: str):
    """Their originals are bare parameters: deterministic unless they are chosen, and with the gradients of autograd."""
    module, reference = (reparametrised(kind).eval() for _ in range(2))  # spectral norm moves its buffers in training
    x, y = batch()
    layout = Layout.of(module)
    original = [s for s in layout.segments if s.name.startswith("0.") and not s.name.endswith("bias")]
    assert original
    assert not any(s.random or s.prunable for s in original)
    assert all("random where posterior.random, prunable where prune.include names it" in s.why for s in original)
    theta = layout.flatten(dict(module.named_parameters()))
    out = torch.zeros_like(theta)
    F.mse_loss(reference(x), y).backward()
    with Binding(module, layout, theta) as binding:
        binding.backward(F.mse_loss(module(x), y), out)
    views = layout.views(out)
    for name, p in reference.named_parameters():
        torch.testing.assert_close(views[name], p.grad, rtol=1e-5, atol=1e-7)
    chosen = Layout.of(module, random=[s.name for s in original], include=[s.name for s in original])
    assert {s.name for s in chosen.segments if s.random and s.prunable} >= {s.name for s in original}


class Remembering(nn.Module):
    """Its forward pass leaves plain attributes: a cache of weights, a counter, an attribute that was not there."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.doubled, self.passes = 2 * self.linear.weight.detach(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.doubled, self.passes, self.seen = 2 * self.linear.weight.detach(), self.passes + 1, x
        return self.linear(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated", "ignore:'0.weight_.*' is a bare parameter")
@pytest.mark.parametrize("kind", ["weight_norm by hooks", "spectral_norm by hooks", "remembering"])
def test_plain_attributes_that_forward_passes_replace_come_back(kind: str):
    module = Remembering() if kind == "remembering" else reparametrised(kind)
    (x, y), settings = batch(), TrainSettings(epochs=1, batch_size=4, likelihood="gaussian")
    module(x)
    before = [dict(vars(m)) for m in module.modules()]
    values = [{name: v.clone() for name, v in own.items() if isinstance(v, Tensor)} for own in before]
    ticket = find_tickets(module, (x, y), train=settings, prune=PruneSettings(levels=0), progress=False)[-1]
    ticket.outputs(module, x)
    after = [dict(vars(m)) for m in module.modules()]
    assert any(values)
    for own, then, saved in zip(after, before, values, strict=True):
        assert own.keys() == then.keys()
        assert all(own[name] is then[name] for name in then)
        assert all(torch.equal(own[name], value) for name, value in saved.items())


@pytest.mark.parametrize("make", [lambda: nn.LSTM(3, 4), lambda: nn.GRUCell(3, 4), lambda: nn.EmbeddingBag(9, 4)])
def test_large_bare_parameters_are_warned_of_before_the_training(make: Callable[[], nn.Module]):
    module = nn.ModuleList([make(), nn.Linear(4, 2)])
    with pytest.warns(UserWarning, match=r"is a bare parameter of .*; so \d\d% of the parameters are neither random nor"):
        warn_of_bare(Layout.of(module))
    names = [name for name, p in module.named_parameters() if p.ndim > 1]
    warn_of_bare(Layout.of(module, random=names, include=names))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "EmbeddingBag"])
def test_a_net_of_bare_parameters_alone_is_told_what_makes_them_random_and_prunable(kind: str):
    layer = nn.EmbeddingBag(9, 4) if kind == "EmbeddingBag" else getattr(nn, kind)(3, 4)
    module = nn.Sequential(layer, nn.Linear(4, 2))
    with pytest.raises(TombolaError) as caught:
        find_tickets(module, batch(), prune=PruneSettings(levels=1), progress=False)
    name = "0.weight" if kind == "EmbeddingBag" else "0.weight_ih_l0"
    said = f"{name!r} is a bare parameter of {kind}: random where posterior.random, prunable where prune.include names it"
    assert said in str(caught.value)


def test_a_module_pruned_by_torch_is_pointed_to_the_way_in():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    prune.random_unstructured(module[0], "weight", 0.5)
    with pytest.raises(TombolaError, match=r"'0\.weight_orig' is pruned by torch\.nn\.utils\.prune.*from_torch_prune"):
        Bayesian(module)


def test_narrow_copies_show_theta_as_it_is_when_the_binding_is_entered():
    module = Mixed(torch.float32, torch.bfloat16)
    layout = Layout.of(module)
    theta = theta_of(layout)
    binding = Binding(module, layout, theta)
    theta.fill_(0.25)
    with binding:
        assert all(bool((p == 0.25).all()) for p in module.parameters())


@pytest.mark.parametrize("method", ["vi", "map"])
def test_validation_of_a_narrow_module_sees_the_mean_it_has_reached(method: str):
    module, (x, y) = Mixed(torch.float32, torch.bfloat16), batch()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    state = state if method == "vi" else state.as_family("point")
    settings = TrainSettings(method=method, epochs=1, batch_size=8, lr=0.1, likelihood="gaussian")  # one large step
    trained = train(module, state, TensorBatches(x, y, 8, 0), settings, stream=("v",), validation=(x, y))
    plain = Mixed(torch.float32, torch.bfloat16)
    plain.load_state_dict(replace(ticket_of(state), trained=trained.state).state_dict(plain))
    nll = -Normal(plain(x), 1.0).log_prob(y).sum(1).mean()
    assert trained.history[0]["nll"] == pytest.approx(nll.item(), rel=1e-4)


def test_a_state_dict_has_the_modules_dtypes():
    module = Mixed(torch.float32, torch.bfloat16)
    found = Bayesian(module).ticket().state_dict(module)
    assert {name: value.dtype for name, value in found.items()} == {n: v.dtype for n, v in module.state_dict().items()}


def test_a_buffer_of_another_shape_or_that_was_none_is_replaced():
    module = Moving()
    load_buffers(module, {"last": torch.ones(8), "cache": torch.ones(2)})
    assert torch.equal(module.last, torch.ones(8))
    assert torch.equal(module.cache, torch.ones(2))
