"""Every use of a random weight is seen in unmodified modules, or said, or refused."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from support.estimator_parts import Rig, normal, seeded
from tombola import TombolaError

output_estimators = pytest.mark.parametrize("name", ["local", "flipout"])


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


@output_estimators
def test_parametrised_weights_are_weight_samples(name: str):
    # spectral norm iterates under no_grad, weight norm divides: both compute with the weight before a layer sees it
    def make() -> nn.Module:
        first, last = nn.Linear(3, 4), nn.Linear(4, 2)
        return nn.Sequential(parametrizations.spectral_norm(first), nn.Tanh(), parametrizations.weight_norm(last))

    names = ["*original*"]
    rigs = [Rig(n, seeded(make), random=names) for n in (name, "weight_sample")]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"{name.capitalize()} has no rule for")
        found, expected = (rig.run(lambda rig=rig: rig.module(normal(5, 3)).square().sum()) for rig in rigs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@output_estimators
def test_an_embedding_with_sparse_gradients_is_a_weight_sample(name: str):
    x = torch.tensor([[0, 2, 2], [4, 1, 0]])
    rigs = [Rig(n, seeded(lambda: nn.Embedding(5, 3, sparse=True))) for n in (name, "weight_sample")]
    with pytest.warns(UserWarning, match="no rule for embedding of parameter 'weight'"):
        found, expected = (rig.run(lambda rig=rig: rig.module(x).square().sum()) for rig in rigs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@output_estimators
def test_a_weight_that_changes_in_the_forward_pass_is_refused(name: str):
    rig = Rig(name, seeded(lambda: nn.Embedding(5, 3, max_norm=0.1)))
    with pytest.raises(TombolaError, match="embedding_renorm_ changes parameter 'weight' in the forward pass"):
        rig.output(torch.tensor([1, 2]))


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
    sentence = "under no_grad" if reentrant else "activations that checkpointing makes again differ from the first ones"
    with pytest.raises(TombolaError, match=sentence):
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
