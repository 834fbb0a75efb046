"""Predictions of a posterior."""

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, Prediction, PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.posterior.predictive import outputs
from tombola.posterior.state import initial_state
from tombola.settings import EvaluateSettings
from tombola.streams import generator
from tombola.training.evaluate import evaluate_ticket


def setting() -> tuple[nn.Module, Layout, torch.Tensor]:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    return module, Layout.of(module), torch.randn(7, 4, generator=generator("x"))


def test_each_sample_is_the_module_at_a_draw_of_the_posterior():
    module, layout, inputs = setting()
    state = initial_state(module, layout, PosteriorSettings(std=0.3), 0)
    out = outputs(module, state, inputs, samples=3, stream=("a",), batch=2)
    module.eval()
    for s in range(3):
        theta = state.posterior.sample(generator("predict", "a", s))
        expected = torch.func.functional_call(module, layout.views(theta), (inputs,))
        torch.testing.assert_close(out[s], expected)


def test_the_same_words_give_the_same_samples_and_a_point_gives_one():
    module, layout, inputs = setting()
    state = initial_state(module, layout, PosteriorSettings(), 0)
    a, b, c = (outputs(module, state, inputs, samples=2, stream=(w,)) for w in ("a", "a", "b"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert outputs(module, state.as_family("point"), inputs, samples=9, stream=("a",)).shape == (1, 7, 3)


def test_samples_differ_within_the_callers_autocast_which_has_the_modules_own_weights_after_it():
    # autocast caches bf16 copies of weights by parameter: every sample would see the first one's
    module, layout, inputs = setting()
    module.eval()
    state = initial_state(module, layout, PosteriorSettings(std=0.3), 0)
    plain = outputs(module, state, inputs, samples=3, stream=("a",))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = module(inputs)
        out = outputs(module, state, inputs, samples=3, stream=("a",))
        assert torch.equal(module(inputs), before)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), plain, rtol=0.05, atol=0.05)


def test_the_states_running_statistics_are_used_and_not_moved():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    inputs = torch.randn(7, 4, generator=generator("x"))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    state.buffers["1.running_mean"].fill_(2.0)
    out = outputs(module, state.as_family("point"), inputs, samples=1, stream=())
    torch.testing.assert_close(out[0], (module[0](inputs) - 2) / (1 + 1e-5) ** 0.5)
    assert bool((state.buffers["1.running_mean"] == 2).all())
    assert bool((module[1].running_mean == 0).all())


class StaysRandom(nn.Module):
    """Dropout that is on in evaluation, too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 50)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.linear(x), 0.5, training=True)


def test_what_a_module_draws_itself_comes_from_the_streams_and_not_from_the_global_one():
    module, inputs = StaysRandom(), torch.randn(7, 4, generator=generator("x"))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    before = torch.get_rng_state()
    a, b, c = (outputs(module, state, inputs, samples=2, stream=(w,), batch=2) for w in ("a", "a", "b"))
    assert torch.equal(a, b)
    assert not torch.equal(a == 0, c == 0)
    assert not torch.equal(a[0] == 0, a[1] == 0)
    assert not torch.equal(a[0, :2] == 0, a[0, 2:4] == 0)
    assert torch.equal(torch.get_rng_state(), before)


NONSENSE = [
    ({"batch_norm": "test"}, "batch_norm is 'test'"),
    ({"batch": 0}, "batch is 0"),
    ({"precision": "fp16"}, "precision is 'fp16'"),
]


@pytest.mark.parametrize(("given", "said"), NONSENSE)
def test_nonsense_is_said(given: dict, said: str):
    module, layout, inputs = setting()
    state = initial_state(module, layout, PosteriorSettings(), 0)
    with pytest.raises(TombolaError, match=said):
        outputs(module, state, inputs, samples=1, stream=("a",), **given)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3))


def by_batch_statistics(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """By hand, without dropout."""
    linear, norm, _, last = module
    hidden = linear(inputs)
    variance, mean = torch.var_mean(hidden, dim=0, correction=0)
    return last((hidden - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias)


class Drawing(nn.Module):
    """Draws in evaluation too: `kind` of dropout that stays on, or noise on the inputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = {
            "nothing": lambda: x,
            "dropout": lambda: F.dropout(x, 0.5, training=True),
            "feature dropout": lambda: F.feature_alpha_dropout(x, 0.5, training=True),
            "noise": lambda: x + torch.randn_like(x),
        }[self.kind]()
        return self.layer(x)


@pytest.mark.parametrize(("kind", "samples"), [("nothing", 1), ("dropout", 5), ("feature dropout", 5), ("noise", 5)])
def test_a_point_whose_module_draws_itself_has_as_many_samples_as_are_asked_for(kind: str, samples: int):
    module, x = Drawing(kind), torch.randn(8, 3)
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).as_family("point")
    found = outputs(module, state, x, samples=5, stream=("s",), batch=3)
    assert len(found) == samples
    assert len({tuple(each.flatten().tolist()) for each in found}) == samples
    assert torch.equal(found, outputs(module, state, x, samples=5, stream=("s",), batch=3))


def test_batch_statistics_are_those_of_each_batch_and_dropout_stays_off():
    module, inputs = normed(), torch.randn(7, 4, generator=generator("x"))
    nn.init.uniform_(module[1].weight, generator=generator("scale"))
    nn.init.uniform_(module[1].bias, generator=generator("shift"))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).as_family("point")
    before = {name: value.clone() for name, value in state.buffers.items()}
    found = outputs(module, state, inputs, samples=1, stream=(), batch=4, batch_norm="batch")[0]
    torch.testing.assert_close(found, torch.cat([by_batch_statistics(module, part) for part in inputs.split(4)]))
    whole = outputs(module, state, inputs, samples=1, stream=(), batch_norm="batch")[0]
    torch.testing.assert_close(whole, by_batch_statistics(module, inputs))
    assert not torch.allclose(found, whole)  # the batch's size matters
    running = outputs(module, state, inputs, samples=1, stream=())[0]
    torch.testing.assert_close(running, module.eval()(inputs))  # dropout off, statistics of the start
    for buffers in (state.buffers, dict(module.named_buffers())):
        assert all(torch.equal(buffers[name], value) for name, value in before.items())


def test_the_modules_mode_comes_back_after_batch_statistics():
    module = normed()
    module.eval()
    module[2].train()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    outputs(module, state, torch.ones(4, 4), samples=2, stream=(), batch_norm="batch")
    assert [m.training for m in module.modules()] == [False, False, False, True, False]


@pytest.mark.parametrize(("examples", "batch"), [(1, 1024), (7, 3), (4, 1)])
def test_a_batch_of_one_example_has_no_statistics(examples, batch):
    module, inputs = normed(), torch.ones(examples, 4)
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    with pytest.raises(TombolaError, match=f"{examples} examples in batches of {batch} leave one alone"):
        outputs(module, state, inputs, samples=1, stream=(), batch=batch, batch_norm="batch")
    plain = setting()[0]  # without batch norm there is nothing to refuse
    state = initial_state(plain, Layout.of(plain), PosteriorSettings(), 0)
    assert outputs(plain, state, inputs, samples=1, stream=(), batch=batch, batch_norm="batch").shape == (1, examples, 3)


def test_a_ticket_and_its_evaluation_use_the_statistics_that_are_asked_for():
    module, inputs = normed(), torch.randn(20, 4, generator=generator("x"))
    targets = torch.arange(20) % 3
    train = TrainSettings(method="map", epochs=2, batch_size=10, lr=0.1)
    prune = PruneSettings(score="magnitude", levels=0)
    (ticket,) = find_tickets(module, (inputs, targets), train=train, prune=prune, progress=False)
    found = {}
    for how in ("running", "batch"):
        settings = EvaluateSettings(batch_norm=how, batch_size=5)
        row = evaluate_ticket(module, ticket, (inputs, targets), inputs, settings, train, ("here",), torch.device("cpu"))
        logits = ticket.outputs(module, inputs, batch=5, batch_norm=how)[0].double()
        assert row["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item())
        torch.testing.assert_close(ticket.predict(module, inputs, batch=5, batch_norm=how).probs, logits.softmax(-1))
        found[how] = logits
    ticket.write_mean(module)
    torch.testing.assert_close(found["running"].float(), module.eval()(inputs))
    torch.testing.assert_close(found["batch"].float(), torch.cat([by_batch_statistics(module, p) for p in inputs.split(5)]))


def test_entropy_and_mutual_information_of_two_samples_that_disagree():
    certain = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)  # each sure, of another class
    prediction = Prediction(certain)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(prediction.probs[0], half)
    torch.testing.assert_close(prediction.entropy[0], torch.tensor(2.0).double().log())
    torch.testing.assert_close(prediction.mutual_information[0], torch.tensor(2.0).double().log())


class Watched(nn.Module):
    """A small convolutional network that remembers how its inputs lay and in what precision it multiplied."""

    seen: ClassVar[set[tuple[bool, torch.dtype]]] = set()  # of the class: what a module's own attributes hold comes back

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        self.seen.add((x.is_contiguous(memory_format=torch.channels_last), y.dtype))
        return self.last(y.mean((2, 3)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_bf16_and_channels_last_change_a_prediction_by_rounding_alone(
    channels_last: bool, precision: str, dtype: torch.dtype
):
    module, inputs = Watched(), torch.randn(6, 3, 8, 8, generator=generator("x"))
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.3), 0)
    plain = outputs(module, state, inputs, samples=3, stream=("a",), batch=4)
    module.seen.clear()
    found = outputs(
        module, state, inputs, samples=3, stream=("a",), batch=4, precision=precision, channels_last=channels_last
    )
    assert module.seen == {(channels_last, dtype)}
    assert found.dtype == torch.float32
    close = {"rtol": 0.02, "atol": 0.02} if precision == "bf16" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found, plain, **close)


def test_an_evaluation_uses_the_precision_and_layout_that_are_asked_for():
    module, inputs = Watched(), torch.randn(12, 3, 8, 8, generator=generator("x"))
    test = inputs, torch.arange(12) % 3
    train = TrainSettings(method="map", epochs=1, batch_size=6)
    (ticket,) = find_tickets(module, test, train=train, prune=PruneSettings(score="magnitude", levels=0), progress=False)
    module.seen.clear()
    settings = EvaluateSettings(precision="bf16", channels_last=True)
    row = evaluate_ticket(module, ticket, test, inputs, settings, train, ("here",), torch.device("cpu"))
    assert module.seen == {(True, torch.bfloat16)}
    plain = evaluate_ticket(module, ticket, test, inputs, EvaluateSettings(), train, ("here",), torch.device("cpu"))
    assert row["nll"] == pytest.approx(plain["nll"], abs=0.02)
    assert row["nll"] != plain["nll"]
