"""Batch-norm statistics of mean and weight samples, against direct computation in float64, and predictions by them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tombola import Bayesian, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, load, streams
from tombola.data import digits
from tombola.data.batches import LoaderBatches, TensorBatches
from tombola.posterior.batch_norm import EXAMPLES, Statistics, measured, measuring_layers
from tombola.posterior.layout import Layout
from tombola.posterior.predictive import outputs, sample_statistics, statistics_of
from tombola.posterior.state import initial_state
from tombola.training.reference import reference_of, stored_reference


def net() -> nn.Sequential:
    with streams.global_stream("net"):
        layers = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2), nn.BatchNorm1d(2)
    return nn.Sequential(*layers)


def state_of(module, std=0.3):
    return initial_state(module, Layout.of(module), PosteriorSettings(std=std), 0)


def inputs(count=3, examples=8):
    return list(torch.randn(count, examples, 3, generator=streams.generator("x")).unbind())


def direct(module, layout, theta, batches):
    """In float64 by hand: of both layers the mean over batches of mean and unbiased variance, without dropout."""
    w = {name: value.double() for name, value in layout.views(theta).items()}
    found = {name: [] for name in ("1.running_mean", "1.running_var", "5.running_mean", "5.running_var")}
    for x in batches:
        hidden = x.double() @ w["0.weight"].T + w["0.bias"]
        found["1.running_mean"].append(hidden.mean(0))
        found["1.running_var"].append(hidden.var(0))
        normed = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + module[1].eps).sqrt()
        out = (normed * w["1.weight"] + w["1.bias"]).relu() @ w["4.weight"].T + w["4.bias"]
        found["5.running_mean"].append(out.mean(0))
        found["5.running_var"].append(out.var(0))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_of_each_sample_are_those_of_its_weights(count):
    module, batches = net(), inputs(count)
    state = state_of(module)
    found = sample_statistics(module, state, batches, samples=3, stream=("w",))
    for s in range(3):
        theta = state.posterior.sample(streams.generator("predict", "w", s))
        for name, value in direct(module, state.posterior.layout, theta, batches).items():
            torch.testing.assert_close(found[name][s].double(), value, rtol=1e-5, atol=1e-6)
    kept = statistics_of(module, state, batches, samples=2, seed=5)
    assert kept is not None
    assert (kept.seed, kept.kept) == (5, 2)
    for name, value in direct(module, state.posterior.layout, state.posterior.mean, batches).items():
        torch.testing.assert_close(kept.mean[name].double(), value, rtol=1e-5, atol=1e-6)


def test_predictions_by_them_are_those_of_a_module_that_holds_sample_and_statistics():
    module, x = net(), inputs(1, 5)[0]
    state = state_of(module)
    found = sample_statistics(module, state, inputs(), samples=3, stream=("w",))
    logits = outputs(module, state, x, samples=2, stream=("w",), statistics=found)
    for s in range(2):
        by_hand, theta = net(), state.posterior.sample(streams.generator("predict", "w", s))
        views = state.posterior.layout.views(theta) | {name: values[s] for name, values in found.items()}
        by_hand.load_state_dict(views, strict=False)
        torch.testing.assert_close(logits[s], by_hand.eval()(x))
    alone = torch.cat([outputs(module, state, row, samples=2, stream=("w",), statistics=found) for row in x.split(1)], 1)
    torch.testing.assert_close(alone, logits)  # an example does not depend on its batch


def test_nothing_else_changes():
    module = net().train()
    state, before = state_of(module), {name: value.clone() for name, value in module.state_dict().items()}
    module[3].eval()
    for broken in (False, True):
        if broken:
            with pytest.raises(RuntimeError):
                sample_statistics(module, state, [*inputs(), torch.ones(8, 4)], samples=2, stream=("w",))
        else:
            sample_statistics(module, state, inputs(), samples=2, stream=("w",))
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert [m.training for m in module.modules()] == [True, True, True, True, False, True, True]
        assert module[1].momentum == 0.1
        assert not module[1]._forward_pre_hooks


def test_running_statistics_come_back_in_place():
    module = net().eval()
    buffer, before = module[1].running_mean, module[1].running_mean.clone()
    with measured(module, inputs()):
        assert not torch.equal(buffer, before)
    assert module[1].running_mean is buffer
    assert torch.equal(buffer, before)
    with measured(module, []):
        assert torch.equal(buffer, before)


def test_layers_that_measure_nothing_in_training_are_left_alone():
    assert not measuring_layers(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))

    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    assert list(measuring_layers(Frozen(*net()))) == ["5"]
    plain = nn.Linear(3, 2)
    assert sample_statistics(plain, state_of(plain), inputs(), samples=2, stream=("w",)) == {}
    assert statistics_of(plain, state_of(plain), inputs()) is None
    assert statistics_of(net(), state_of(net()).as_family("point"), inputs()) is None


def test_a_layer_that_is_used_twice_has_the_average_of_its_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(self.linear(self.norm(x)))

    module, x = Twice(), 5 + inputs(1, 20)[0]
    state = state_of(module).as_family("point")
    found = sample_statistics(module, state, [x], samples=1, stream=("w",))["norm.running_mean"][0]
    once = (x - x.mean(0)) / (x.var(0, correction=0) + module.norm.eps).sqrt()
    torch.testing.assert_close(found, (x.mean(0) + module.linear(once).mean(0)).detach() / 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "have no batch-norm statistics"),
        ({"statistics": {"1.running_mean": torch.zeros(1, 4)}}, "2 weight samples, but batch-norm statistics of 1"),
    ],
)
def test_samples_without_statistics_are_refused(given, said):
    module = net()
    with pytest.raises(TombolaError, match=said):
        outputs(module, state_of(module), inputs()[0], samples=2, stream=("w",), **given)


@pytest.mark.parametrize(("batches", "said"), [([], "no training examples"), ([torch.ones(1, 3)], "one training example")])
def test_too_few_examples_are_refused(batches, said):
    module = net()
    with pytest.raises(TombolaError, match=said):
        sample_statistics(module, state_of(module), batches, samples=1, stream=("w",))


def test_reference_examples_are_few_prepared_and_not_augmented():
    stored = torch.arange(1000.0).view(-1, 1)
    device = torch.device("cpu")
    (found,) = stored_reference(stored, lambda x: x + 0.5, device)
    assert len(found.unique()) == EXAMPLES
    assert bool(((found - 0.5) % 1 == 0).all())
    batches = TensorBatches(stored, stored, 10, "s", augment=None, prepare=lambda x: x + 0.5)
    assert torch.equal(reference_of(batches)[0], found)
    loader = [(part, part) for part in stored.split(100)]
    assert [len(part) for part in reference_of(LoaderBatches(loader, examples=1000))] == [100, 100, 100]
    last = LoaderBatches([(stored[:3], stored[:3]), (stored[3:4], stored[3:4])], examples=4)
    assert [len(part) for part in reference_of(last)] == [3]


def digits_net() -> nn.Sequential:
    layers: list[nn.Module] = []
    with streams.global_stream("digits"):
        for channels, width in ((1, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


ALL = PosteriorSettings(random=["*.weight", "*.bias"], std=0.02)


@pytest.fixture(scope="module")
def found():
    data = digits(validation=0, test=400)
    train = (data.train[0].view(-1, 1, 8, 8), data.train[1])
    test = (data.test[0].view(-1, 1, 8, 8), data.test[1])
    settings = TrainSettings(epochs=8, batch_size=32, lr=0.01)
    module, prune = digits_net(), PruneSettings(levels=0)
    (ticket,) = find_tickets(module, train, train=settings, prune=prune, posterior=ALL, progress=False)
    return module, ticket, train, test


def accuracy(probs, labels):
    return (probs.argmax(-1) == labels).double().mean().item()


def test_random_biases_ruin_running_statistics_and_not_those_of_samples(found):
    module, ticket, _, (x, labels) = found
    by = {how: accuracy(ticket.predict(module, x, batch_norm=how).probs, labels) for how in ("samples", "running", "batch")}
    assert by["running"] < by["samples"] - 0.1
    assert by["samples"] > 0.95
    assert abs(by["samples"] - by["batch"]) < 0.02


def test_the_mean_has_statistics_of_its_own(found):
    module, ticket, train, (x, labels) = found
    ticket.write_mean(module)
    mine = TensorBatches(*train, 32, 0)
    kept = statistics_of(module, ticket.trained, reference_of(mine))
    assert torch.equal(module[1].running_mean, kept.mean["1.running_mean"])
    with torch.no_grad():
        assert accuracy(module.eval()(x), labels) > 0.95
    first = ticket.state_dict(module, seed=0)
    assert torch.equal(first["1.running_var"], ticket.statistics.samples["1.running_var"][0])


def test_a_saved_ticket_predicts_the_same(found, tmp_path):
    module, ticket, _, (x, _) = found
    ticket.save(tmp_path / "a.safetensors")
    back = load(tmp_path / "a.safetensors", module)
    assert back.statistics.tensors().keys() == ticket.statistics.tensors().keys()
    assert torch.equal(back.predict(module, x).probs_SBC, ticket.predict(module, x).probs_SBC)


def test_other_samples_than_the_kept_ones_are_measured_on_request(found):
    module, ticket, train, (x, labels) = found
    for given in ({"seed": 1}, {"samples": 20}):
        with pytest.raises(TombolaError, match=r"statistics of 16 weight samples of seed 0, not of .*\.with_statistics\("):
            ticket.predict(module, x, **given)
    more = ticket.with_statistics(module, train[0][:EXAMPLES], samples=20, seed=1)
    assert accuracy(more.predict(module, x, samples=20, seed=1).probs, labels) > 0.95
    with pytest.raises(TombolaError, match="of seed 1, not"):
        more.state_dict(module, seed=0)


def test_a_ticket_without_statistics_is_warned_of(found):
    module, ticket, _, (x, _) = found
    bare = replace(ticket, statistics=None)
    with pytest.warns(UserWarning, match="has no batch-norm statistics"):
        probs = bare.predict(module, x).probs
    assert torch.equal(probs, ticket.predict(module, x, batch_norm="running").probs)
    point = replace(bare, trained=bare.trained.as_family("point"))
    point.predict(module, x)  # has its running ones: no warning


def test_a_bayesian_module_measures_on_its_training_inputs(found):
    _, _, train, (x, _) = found
    module = digits_net()
    model = Bayesian(module, training_inputs=train[0][:EXAMPLES])
    assert {s.name for s in model.layout.segments if not s.random and "bias" in s.name} >= {"0.bias", "3.bias", "6.bias"}
    probs = model.predict(x, samples=4, seed=3).probs
    kept = model.ticket().with_statistics(module, train[0][:EXAMPLES], samples=4, seed=3)
    assert torch.equal(kept.predict(module, x, samples=4, seed=3).probs, probs)
    assert isinstance(model.ticket().statistics, Statistics)
