"""Estimators on unmodified modules: unbiased gradients, fallbacks, zeros, precision, what is refused."""

import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from estimator_parts import Rig, normal, seeded
from tombola import Bayesian, Layout, PosteriorSettings, TombolaError, TrainSettings, train
from tombola.batches import TensorBatches
from tombola.inference import VI
from tombola.posterior.estimators import ESTIMATORS
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.likelihood import Categorical, GaussianNoise
from tombola.posterior.noise_outputs import OutputNoise
from tombola.posterior.state import State, initial_state
from tombola.streams import generator

NOISY = [name for name in ESTIMATORS if name != "mean"]
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
output_estimators = pytest.mark.parametrize("name", ["local", "flipout"])


# --- unbiased ---

D, N, NOISE_STD = 3, 40, 0.7


def draws_of(name: str, tasks: int, steps: int, noise_refresh: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients [steps, tasks, D] of a linear model with Gaussian noise, as many independent tasks at once; the exact ones.

    With residual r = y - X m: E_q loss = (|r|^2 + sum_j (X'X)_jj std_j^2) / (2 N s^2) + const.
    """
    x = normal(N, D, name="inputs")
    y = (x @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)).unsqueeze(1)
    module = nn.Linear(D, tasks, bias=False).double()
    layout = Layout.of(module, classifier=True)
    m, std = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.2, 0.4, 0.3])
    mean, log_std = (v.double().repeat(tasks) for v in (m, std.log()))
    state = State(Gaussian(layout, mean, log_std, torch.ones(layout.numel, dtype=torch.bool)), {}, {})
    samples = 2 if name == "antithetic" else 1
    settings = TrainSettings(estimator=name, samples=samples, noise_refresh=noise_refresh, heat=0.0)
    likelihood = GaussianNoise(NOISE_STD).double()
    learner = VI(module, state, likelihood, settings, N, ("unbiased",))
    found: dict[str, list[Tensor]] = {"mean": [], "log_std": []}
    with learner.binding:
        for step in range(steps):
            learner.gradients((x, y.expand(N, tasks)), step)
            found["mean"].append(learner.sample.mean_grad.view(tasks, D).clone())
            found["log_std"].append(learner.sample.log_std_grad.view(tasks, D).clone())
    residual = y.squeeze(1) - x @ m.double()
    exact = {
        "mean": -(x.T @ residual) / (N * likelihood.noise_std**2),
        "log_std": std.double() ** 2 * x.square().sum(0) / (N * likelihood.noise_std**2),
    }
    return {kind: torch.stack(grads) for kind, grads in found.items()}, exact


@pytest.mark.parametrize(
    ("tasks", "steps", "noise_refresh"),
    [(100, 100, 1.0), (2000, 60, 0.0625)],  # 80,000 outputs: so many that their noise comes from the pool
)
@pytest.mark.parametrize("name", NOISY)
def test_10_000_draws_average_to_the_exact_gradient(name: str, tasks: int, steps: int, noise_refresh: float):
    found, exact = draws_of(name, tasks, steps, noise_refresh)
    for kind, value in exact.items():
        of_steps = found[kind].mean(1)  # tasks of one step share signs (Flipout): steps are what is independent
        error = (of_steps.mean(0) - value).abs()
        standard_error = of_steps.std(0) / math.sqrt(steps)
        assert (error < 4 * standard_error + 1e-12).all(), (kind, error / standard_error)  # pairs are exact for the mean
        assert (standard_error < 0.02 * value.abs().max()).all()  # the test can tell


def test_the_mean_has_the_means_gradient_and_none_of_std():
    found, exact = draws_of("mean", 1, 1, 1.0)
    torch.testing.assert_close(found["mean"][0, 0], exact["mean"])  # exact, as the model is linear
    assert bool((found["log_std"] == 0).all())


def test_variances_are_ordered_as_the_theory_says():
    # one gradient sees N examples with one noise (weight sample), N noises (local), or noise that cancels (antithetic)
    variance = {name: draws_of(name, 100, 40, 1.0)[0]["mean"].flatten(0, 1).var(0).mean().item() for name in NOISY}
    assert variance["antithetic"] < 1e-20
    assert variance["local"] < 0.3 * variance["weight_sample"]
    assert variance["flipout"] < 0.6 * variance["weight_sample"]


def test_pairs_have_opposite_noise():
    rig = Rig("antithetic", seeded(lambda: nn.Linear(3, 2)), 0.5)
    shown = []
    for tick in range(6):
        rig.est.draw(tick, True)
        shown.append(rig.est.theta - rig.mean)
    for first, second in zip(shown[::2], shown[1::2], strict=True):
        torch.testing.assert_close(first, -second)
    assert not torch.equal(shown[0], shown[2])


def test_pairs_need_an_even_number_of_samples():
    with pytest.raises(TombolaError, match="samples is 3; estimator antithetic draws pairs"):
        TrainSettings(estimator="antithetic", samples=3)
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    with pytest.raises(TombolaError, match="must be even"):
        Bayesian(nn.Linear(3, 2), estimator="antithetic").negative_elbo((x, y), examples=4)


# --- whole modules ---


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attention(q, k, v, need_weights=False)[0]


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("inputs", ["self", "cross", "all different"])
def test_the_linear_parts_of_multihead_attention_are_locally_reparameterised(inputs: str):
    x, z, u = normal(2, 5, 8, name="q"), normal(2, 5, 8, name="k"), normal(2, 5, 8, name="v")
    q, k, v = {"self": (x, x, x), "cross": (x, z, z), "all different": (x, z, u)}[inputs]
    rig = Rig("local", seeded(Attention))
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(q, k, v))
        return outputs[0].square().sum()

    _, by_mean, by_log_std = rig.run(loss)
    mean, log_std, means, stds = rig.leaves()
    eps = iter(rig.eps)

    def local(x: Tensor, name: str, rows: slice) -> Tensor:
        w, b, sw, sb = (p[f"attention.{name}{kind}"][rows] for p in (means, stds) for kind in ("weight", "bias"))
        out, variance = F.linear(x, w, b), F.linear(x**2, sw**2, sb**2)
        # in attention the sequence is the first dimension
        noise = next(eps).view(out.transpose(0, 1).shape).transpose(0, 1) if name == "in_proj_" else next(eps).view_as(out)
        return out + variance.sqrt() * noise

    parts = {"self": [(x, 0, 24)], "cross": [(x, 0, 8), (z, 8, 24)], "all different": [(x, 0, 8), (z, 8, 16), (u, 16, 24)]}
    projected = torch.cat([local(t, "in_proj_", slice(start, stop)) for t, start, stop in parts[inputs]], -1)
    y = attended(*projected.chunk(3, -1))
    w, b, sw, sb = (p[f"attention.out_proj.{kind}"] for p in (means, stds) for kind in ("weight", "bias"))
    flat = y.transpose(0, 1).reshape(-1, 8)
    out = F.linear(flat, w, b) + F.linear(flat**2, sw**2, sb**2).sqrt() * next(eps).view(-1, 8)
    expected = out.view(5, 2, 8).transpose(0, 1)
    torch.testing.assert_close(outputs[0], expected)
    expected.square().sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)


@output_estimators
def test_a_transformer_layer_of_torch_needs_no_weight_sample(name: str):
    layer = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1))
    rig = Rig(name, layer, random=None)
    _, by_mean, by_log_std = rig.run(lambda: layer(normal(2, 5, 8)).square().sum())  # a warning would be an error
    n = rig.layout.random_numel
    assert (by_mean != 0).double().mean() > 0.7  # some hidden units are off
    assert (by_log_std[:n] != 0).double().mean() > 0.7
    layer.eval()  # its fast path would not show its parts
    assert not torch.equal(rig.output(normal(2, 5, 8), tick=1), rig.output(normal(2, 5, 8), tick=2))


class Tied(nn.Module):
    """An embedding whose weight is the classifier's too; a class token that is concatenated."""

    def __init__(self):
        super().__init__()
        self.embedding, self.token = nn.Embedding(6, 4), nn.Parameter(torch.randn(1, 1, 4))
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), self.embedding(x)], 1)
        return self.head(h.tanh().mean(1))


def test_tied_weights_have_noise_at_each_use_and_gradients_from_both():
    rig, x = Rig("local", seeded(Tied), random=["embedding.*"]), torch.tensor([[0, 2, 2], [5, 1, 0]])
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(x))
        return outputs[0].square().sum()

    _, by_mean, by_log_std = rig.run(loss)
    mean, log_std, means, stds = rig.leaves()
    e, token, s = means["embedding.weight"], means["token"], stds["embedding.weight"]
    first, second = rig.eps
    tokens = F.embedding(x, e) + F.embedding(x, s) * first.view(2, 3, 4)
    h = torch.cat([token.expand(2, -1, -1), tokens], 1).tanh().mean(1)
    expected = h @ e.T + (h**2 @ (s**2).T).sqrt() * second.view(2, 6)
    torch.testing.assert_close(outputs[0], expected)
    expected.square().sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)


# --- where there is no rule ---


class Odd(nn.Module):
    """Uses of weights that no rule covers, beside one that a rule does."""

    def __init__(self):
        super().__init__()
        self.token, self.scale = nn.Parameter(torch.randn(1, 1, 3)), nn.Parameter(torch.randn(3))
        self.mix, self.linear = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 2)

    def odd(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x * self.scale], 1)
        return torch.einsum("btd,de->bte", x, self.mix[[2, 0, 1]]) + F.layer_norm(x, (3,), self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(x)


ODD = ["token", "scale", "mix"]


@output_estimators
def test_without_a_rule_a_weight_is_a_weight_sample_and_said_so_once(name: str):
    x = normal(2, 4, 3)
    rig, oracle = Rig(name, seeded(Odd), random=ODD), Rig("weight_sample", seeded(Odd), random=ODD)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for tick in range(3):
            found = rig.run(lambda: rig.module(x).square().sum(), tick)
            expected = oracle.run(lambda: oracle.module(x).square().sum(), tick)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)
    sentences = [str(w.message) for w in said]
    assert len(sentences) == len(set(sentences)) == 4, sentences
    for function, parameter in (("cat", "token"), ("mul", "scale"), ("layer_norm", "scale"), ("__getitem__", "mix")):
        assert any(f"no rule for {function} of parameter '{parameter}'" in s for s in sentences), sentences


@output_estimators
def test_recurrent_layers_fall_back_to_a_weight_sample(name: str):
    x = normal(2, 4, 3)
    rigs = [Rig(n, seeded(lambda: nn.LSTM(3, 4, batch_first=True)), random=["*"]) for n in (name, "weight_sample")]
    with pytest.warns(UserWarning, match="no rule for lstm of parameter"):
        found, expected = (rig.run(lambda rig=rig: rig.module(x)[0].square().sum()) for rig in rigs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_deterministic_and_wholly_pruned_layers_are_as_ever():
    module = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    rig = Rig("local", module, random=["2.*"])
    x = normal(6, 4)
    rig.output(x)
    assert [len(eps) for eps in rig.eps] == [18]  # of the second layer alone
    mask = rig.mask.clone()
    for segment in rig.layout.segments:
        if segment.name.startswith("2."):
            mask[segment.slice] = False
    rig.est = type(rig.est)(rig.layout, rig.mean.clone(), rig.log_std, mask, rig.noise, False)
    assert torch.equal(rig.output(x), torch.zeros(6, 3, dtype=torch.float64))
    assert rig.eps == []


def test_a_random_bias_of_a_deterministic_weight_is_a_weight_sample():
    rigs = [Rig(name, seeded(lambda: nn.Linear(4, 3)), random=["bias"]) for name in ("local", "weight_sample")]
    found, expected = (rig.run(lambda rig=rig: rig.module(normal(5, 4)).square().sum()) for rig in rigs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


class Reentrant(nn.Module):
    def __init__(self, reentrant: bool):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(3, 3), nn.Linear(3, 2), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(lambda t: self.first(t).tanh(), x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
@output_estimators
def test_activation_checkpointing_is_refused_and_not_silently_wrong(name: str, reentrant: bool):
    rig = Rig(name, seeded(lambda: Reentrant(reentrant)))
    x = normal(4, 3).requires_grad_()
    error, sentence = (TombolaError, "under no_grad") if reentrant else (Exception, "checkpoint")
    with pytest.raises(error, match=sentence):
        rig.run(lambda: rig.module(x).square().sum())


@output_estimators
def test_a_use_that_cannot_be_seen_is_an_error(name: str):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch._C.DisableTorchFunction():  # as scripted or compiled code
                return self.inner(x)

    rig = Rig(name, seeded(Hidden))
    with pytest.raises(TombolaError, match=r"parameter 'inner.weight' is used where no noise could be added"):
        rig.run(lambda: rig.module(normal(4, 3)).square().sum())


def test_a_sparse_operand_is_no_weight():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sparse.mm(torch.eye(4, dtype=torch.float64).to_sparse(), self.linear(x))

    rig, plain = Rig("local", seeded(Graph)), Rig("local", seeded(lambda: nn.Linear(3, 2)))
    torch.testing.assert_close(rig.output(normal(4, 3)), plain.output(normal(4, 3)))


def test_scripted_code_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is old
        module = torch.jit.script(seeded(lambda: nn.Linear(3, 2)))
    rig = Rig("local", module)
    with pytest.raises(TombolaError, match="use estimator weight_sample"):
        rig.run(lambda: rig.module(normal(4, 3)).square().sum())


# --- training ---


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def data(examples: int = 32) -> tuple[Tensor, Tensor]:
    stream = generator("estimators")
    return torch.randn(examples, 1, 4, 4, generator=stream), torch.randint(3, (examples,), generator=stream)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@every_estimator
def test_masked_weights_stay_exactly_zero_over_200_steps(name: str, optimiser: str):
    module, seen = net(), []
    layout = Layout.of(module)
    mask = torch.rand(layout.numel, generator=generator("mask")) < 0.5
    mask[layout.segments[0].slice][:9] = False  # a whole kernel
    state = initial_state(module, layout, PosteriorSettings(std=0.1), 0).masked(mask)

    def look(module: nn.Module, inputs: object) -> None:
        with torch._C.DisableTorchFunction():  # the parameters themselves, not a weight sample in their place
            seen.append(layout.flatten(dict(module.named_parameters()))[~mask])

    module.register_forward_pre_hook(look)
    settings = TrainSettings(
        estimator=name, samples=2, optimiser=optimiser, lr=0.01, weight_decay=0.1, batch_size=32, epochs=200
    )
    q = train(module, state, TensorBatches(*data(), 32, 0), settings, words=("zeros",)).state.posterior
    assert len(seen) == 400
    assert all(bool((shown == 0).all()) for shown in seen)
    assert bool((q.mean[~mask] == 0).all())
    assert bool((q.std[~mask] == 0).all())
    assert (q.mean != state.posterior.mean)[mask].double().mean() > 0.8
    moved = (q.std / state.posterior.std)[mask & layout.is_random] - 1
    assert bool(moved.isfinite().all())
    assert moved.abs().mean() > 0.001


@output_estimators
def test_pruned_weights_leave_no_noise_in_any_output(name: str):
    rig = Rig(name, seeded(lambda: nn.Linear(4, 3)))
    rig.mask[4:8] = False  # the second row: its output is its bias, if that is pruned too it is 0
    rig.mask[rig.layout.segments[-1].start + 1] = False
    rig.est = type(rig.est)(rig.layout, rig.mean.mul_(rig.mask), rig.log_std, rig.mask, rig.noise, False)
    for tick in range(5):
        assert bool((rig.output(normal(6, 4), tick=tick)[:, 1] == 0).all())


@pytest.mark.parametrize("channels_last", [True, False])
@output_estimators
def test_bf16_and_channels_last_are_near_full_precision(name: str, channels_last: bool):
    found = {}
    for precision in ("fp32", "bf16"):
        module = seeded(net).float()
        state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.1), 0)
        learner = VI(module, state, Categorical(), TrainSettings(estimator=name, precision=precision), 32, ("bf16",))
        x, y = data()
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        with learner.binding:
            module.train()
            learner.gradients((x, y), 0)
        found[precision] = learner.sample.mean_grad.clone(), learner.sample.log_std_grad.clone()
    for full, low in zip(*found.values(), strict=True):
        assert low.dtype == torch.float32
        assert 0 < (low - full).norm() / full.norm() < 0.05


def test_channels_last_changes_no_formula():
    make = lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 3, groups=1))  # noqa: E731
    rig, x = Rig("local", seeded(make)), normal(2, 2, 5, 4).contiguous(memory_format=torch.channels_last)
    outputs = []

    def loss() -> Tensor:
        outputs.append(rig.module(x))
        return outputs[0].square().sum()

    _, by_mean, by_log_std = rig.run(loss)
    mean, log_std, p, s = rig.leaves()
    eps, h = iter(rig.eps), x
    for i, pad in (("0", 1), ("2", 0)):
        h = h.tanh() if i == "2" else h
        out = F.conv2d(h, p[f"{i}.weight"], p[f"{i}.bias"], padding=pad)
        variance = F.conv2d(h**2, s[f"{i}.weight"] ** 2, s[f"{i}.bias"] ** 2, padding=pad)
        n, c, height, width = out.shape
        in_memory = (n, height, width, c) if outputs[0].is_contiguous(memory_format=torch.channels_last) else None
        noise = next(eps)
        h = out + variance.sqrt() * (noise.view(in_memory).permute(0, 3, 1, 2) if in_memory else noise.view_as(out))
    torch.testing.assert_close(outputs[0], h)
    h.square().sum().backward()
    torch.testing.assert_close(by_mean, mean.grad)
    torch.testing.assert_close(by_log_std, log_std.grad)


@every_estimator
def test_the_python_entry_takes_every_estimator(name: str):
    inputs, targets = data()
    module = seeded(net).float()
    bnn = Bayesian(module, estimator=name, posterior=PosteriorSettings(std=0.05))
    optimiser = torch.optim.Adam(bnn.parameters(), lr=0.01)

    def loss() -> Tensor:
        return bnn.negative_elbo((inputs, targets), examples=32, heat=0.01, samples=2)

    before = loss().item()
    for _ in range(30):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < before - 0.2


def test_an_unknown_estimator_is_refused():
    with pytest.raises(TombolaError, match="unknown estimator 'locall': did you mean 'local'"):
        Bayesian(nn.Linear(3, 2), estimator="locall")


# --- noise of outputs ---


@pytest.mark.parametrize("refresh", [1.0, 0.0625])
def test_output_noise_depends_on_the_tick_and_the_order_alone(refresh: float):
    def drawn(noise: OutputNoise, tick: int) -> list[Tensor]:
        noise.begin(tick)
        parts = [torch.cat([eps.clone() for _, eps in noise.blocks(count)]) for count in (100, 200_000, 70_000)]
        return [*parts, noise.signs((3, 1, 4))]

    def fresh() -> OutputNoise:
        return OutputNoise(("outputs",), refresh, torch.empty(0))

    one, many = fresh(), fresh()
    expected = [drawn(many, tick) for tick in range(4)]
    for tick in (2, 0, 3, 3):
        for again in (drawn(one, tick), drawn(fresh(), tick)):
            assert all(torch.equal(a, b) for a, b in zip(again, expected[tick], strict=True))
    assert not torch.equal(expected[0][1][:1000], expected[1][1][:1000])
    large = expected[0][1]
    assert abs(large.mean()) < 5 / math.sqrt(len(large))
    assert abs(large.var() - 1) < 5 * math.sqrt(2 / len(large))
    assert abs(torch.corrcoef(torch.stack([large[:65_536], large[65_536:131_072]]))[0, 1]) < 5 / 256
    assert set(expected[0][3].flatten().tolist()) == {-1.0, 1.0}


# --- Hugging Face ---


@pytest.mark.parametrize("kind", ["gpt2", "bert", "vit"])
def test_transformers_of_hugging_face_need_no_weight_sample(kind: str):
    # GPT-2 has addmm and an embedding that is tied to its head
    hub = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = torch.tensor([[0, 1, 2, 3], [3, 3, 2, 1]])
    make, x = {
        "gpt2": (
            lambda: hub.GPT2LMHeadModel(
                hub.GPT2Config(vocab_size=4, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
            ),
            ids,
        ),
        "bert": (
            lambda: hub.BertForSequenceClassification(hub.BertConfig(vocab_size=4, max_position_embeddings=4, **sizes)),
            ids,
        ),
        "vit": (
            lambda: hub.ViTForImageClassification(hub.ViTConfig(image_size=8, patch_size=4, **sizes)),
            normal(2, 3, 8, 8),
        ),
    }[kind]
    module = seeded(make)
    rig = Rig("local", module, random=None)
    with torch.random.fork_rng():
        _, _, by_log_std = rig.run(lambda: module(x).logits.square().mean())  # a warning would be an error
    unused = 0.4 if kind == "bert" else 0.1  # positions and kinds of tokens that do not occur, and what dropout hides
    assert (by_log_std[: rig.layout.random_numel] != 0).double().mean() > 1 - unused
