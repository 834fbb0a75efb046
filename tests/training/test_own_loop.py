"""A loop, a loader and a likelihood of one's own: accumulation, resuming, what is learned, what is refused."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tombola import (
    Bayesian,
    LoaderBatches,
    NextToken,
    PosteriorSettings,
    PruneSettings,
    TombolaError,
    TrainSettings,
    find_tickets,
    load,
    train,
)
from tombola.data import digits
from tombola.posterior.batch import Batch
from tombola.posterior.predictive import outputs
from tombola.posterior.state import initial_state, layout_of
from tombola.streams import generator, global_stream
from tombola.training.checkpoint import Checkpoint


def net() -> nn.Sequential:
    with global_stream("own loop"):
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def data() -> tuple[Tensor, Tensor]:
    stream = generator("own loop")
    inputs = torch.randn(32, 4, generator=stream)
    return inputs, inputs[:, :3].argmax(-1)


class Noisy(nn.Module):
    """A likelihood that learns a temperature for each class, from what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(3))

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        return -F.cross_entropy(output * self.log_temperature.exp(), batch[1], reduction="none")


def steps(model: Bayesian, optimiser: torch.optim.Optimizer, count: int, first: int = 0) -> None:
    inputs, targets = data()
    for i in range(first, first + count):
        rows = torch.arange(32).roll(5 * i)[:16]
        optimiser.zero_grad()
        model.negative_elbo((inputs[rows], targets[rows]), examples=32, heat=0.5, samples=2).backward()
        optimiser.step()


def made() -> tuple[Bayesian, torch.optim.Optimizer]:
    model = Bayesian(
        net(),
        likelihood=Noisy(),
        posterior=PosteriorSettings(prior_mean="start", mean="kaiming_uniform"),
        noise_refresh=0.25,
        seed=4,
    )
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def assert_same(a: Bayesian, b: Bayesian) -> None:
    assert a.step == b.step
    for x, y in ((a.state(), b.state()), (a._start, b._start)):
        assert x.tensors().keys() == y.tensors().keys()
        for name, value in x.tensors().items():
            assert torch.equal(value, y.tensors()[name]), name
    assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_loop_resumed_by_state_dicts_has_the_same_bits(pruned: bool):
    """With dropout, batch norm, a likelihood that learns, momentum, and whatever the global randomness is."""
    whole, optimiser = made()
    steps(whole, optimiser, 3)
    if pruned:
        whole.prune("mu", 0.5)
        optimiser = torch.optim.Adam(whole.parameters(), lr=0.01)
        steps(whole, optimiser, 2, first=3)
    file = io.BytesIO()
    torch.save({"model": whole.state_dict(), "optimiser": optimiser.state_dict()}, file)
    steps(whole, optimiser, 4, first=9)

    torch.manual_seed(99)
    module = net()
    with global_stream("another initialisation"):
        module[0].reset_parameters()
    resumed = Bayesian(
        module, likelihood=Noisy(), posterior=PosteriorSettings(prior_mean="start"), noise_refresh=0.25, seed=4
    )
    other = torch.optim.Adam(resumed.parameters(), lr=0.01)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimiser"])
    steps(resumed, other, 4, first=9)
    assert_same(whole, resumed)
    assert torch.equal(whole.prune("mu", 0.5).mask, resumed.prune("mu", 0.5).mask)
    assert_same(whole, resumed)  # the survivors are at the saved start


def test_what_was_saved_is_not_moved_by_going_on():
    model, optimiser = made()
    steps(model, optimiser, 2)
    saved = model.state_dict()
    before = copy.deepcopy(saved["_extra_state"])
    steps(model, optimiser, 2)
    for name, value in before["buffers"].items():
        assert torch.equal(saved["_extra_state"]["buffers"][name], value)
    assert saved["_extra_state"]["step"] == before["step"] == 2


def test_dropout_is_the_steps_and_leaves_the_global_randomness():
    (inputs, targets), losses = data(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model, _ = made()
        losses.append([model.negative_elbo((inputs, targets), examples=32).item() for _ in range(2)])
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]


def test_microbatches_of_one_weight_sample_are_the_big_batch():
    inputs, targets = data()
    model = Bayesian(nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double(), prior_std=0.5)
    inputs = inputs.double()
    for part in range(4):
        model.step = 7  # names the weight sample: the same for all parts
        rows = slice(8 * part, 8 * part + 8)
        (model.negative_elbo((inputs[rows], targets[rows]), examples=32, heat=0.7) / 4).backward()
    parts = model.mean.grad, model.log_std.grad
    model.zero_grad()
    model.step = 7
    model.negative_elbo((inputs, targets), examples=32, heat=0.7).backward()
    torch.testing.assert_close(parts[0], model.mean.grad)
    torch.testing.assert_close(parts[1], model.log_std.grad)


def test_microbatches_with_samples_of_their_own_are_unbiased():
    """Their average over many steps is the big batch's over as many, and spreads less."""
    inputs, targets = data()
    with global_stream("unbiased"):
        model = Bayesian(nn.Linear(4, 3), posterior=PosteriorSettings(std=0.5))

    def draws(parts: int) -> Tensor:
        grads = []
        for _ in range(400):
            model.zero_grad()
            for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
                (model.negative_elbo((x, y), examples=32) / parts).backward()
            grads.append(model.mean.grad)
        return torch.stack(grads)

    one, four = draws(1), draws(4)
    error = (one.var(0) / 400 + four.var(0) / 400).sqrt()
    assert float(((one.mean(0) - four.mean(0)) / error).abs().max()) < 4.5
    assert float(four.var(0).mean()) < 0.5 * float(one.var(0).mean())


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*data()), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))


def test_a_loaders_examples_are_those_of_its_data_set():
    assert LoaderBatches(loader()).examples == 32
    assert LoaderBatches(loader(), examples=320).examples == 320


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (iter([data()]), "has no length"),
        ([data()], "give `examples`"),
        ([], "is empty"),
        (data()[0], "data is a Tensor"),
        ({"x": data()[0], "labels": data()[1]}, "data is a dict; it must be a pair of tensors"),
        ((*data(), data()[1]), "data is a tuple"),
    ],
)
def test_data_that_cannot_be_trained_on_is_said(given: object, sentence: str):
    with pytest.raises(TombolaError, match=sentence):
        find_tickets(net(), given, progress=False)


def test_find_tickets_with_a_loader_and_a_likelihood_that_learns(tmp_path: Path):
    module, given = net(), Noisy()
    tickets = find_tickets(
        module,
        loader(),
        likelihood=given,
        train=TrainSettings(epochs=5, lr=0.02),
        prune=PruneSettings(levels=1, fraction=0.5),
        progress=False,
    )
    assert bool((given.log_temperature == 0).all())  # a copy of it was trained
    learned = [ticket.trained.likelihood["log_temperature"] for ticket in tickets]
    assert all(bool((value != 0).all()) for value in learned)
    tickets[1].save(tmp_path / "ticket")
    back = load(tmp_path / "ticket", module)
    assert torch.equal(back.trained.likelihood["log_temperature"], learned[1])
    again = Noisy()
    again.load_state_dict(back.trained.likelihood)  # what it learned is in the ticket, its code is the caller's
    assert torch.equal(again.log_temperature, learned[1])


def test_a_prior_precise_by_many_examples_is_that_of_examples():
    """N of the KL's weight heat / N is `examples`, not the length of the loader."""
    ends = []
    for examples in (32, 10**9):
        settings = TrainSettings(epochs=30, lr=0.02, heat=30.0, prior_std=0.05)
        (ticket,) = find_tickets(
            net(), loader(), examples=examples, train=settings, prune=PruneSettings(levels=0), progress=False
        )
        ends.append(float(ticket.posterior.mean[ticket.layout.is_random].norm()))
    assert ends[0] < 0.5 * ends[1]


def test_a_training_from_a_shuffling_loader_resumes_with_the_same_bits(tmp_path: Path):
    class KilledError(Exception):
        pass

    def run(**options) -> dict[str, Tensor]:
        module, orders = net(), DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True)  # by global randomness
        state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
        settings = TrainSettings(epochs=3, lr=0.02)
        return train(module, state, LoaderBatches(orders), settings, stream=("t",), **options).state.tensors()

    def kill(done: int, total: int) -> None:
        if done == 7:  # in the middle of the second epoch
            raise KilledError

    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KilledError):
        run(checkpoint=checkpoint, on_step=kill)
    torch.manual_seed(5)
    whole, resumed = run(), run(checkpoint=checkpoint)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_state_goes_on_with_the_likelihood_that_it_was_trained_with():
    settings, prune = TrainSettings(epochs=1), PruneSettings(levels=0)
    (ticket,) = find_tickets(net(), data(), likelihood=Noisy(), train=settings, prune=prune, progress=False)
    assert ticket.info["likelihood"].endswith("test_own_loop:Noisy")
    with pytest.raises(TombolaError, match="learns log_temperature, Categorical learns nothing; give the likelihood"):
        train(net(), ticket.trained, LoaderBatches(loader()), settings, stream=("t",))
    train(net(), ticket.trained, LoaderBatches(loader()), settings, stream=("t",), likelihood=Noisy())


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, right: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        return scale * (self.left(left) - self.right(right))


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_predictions_of_any_inputs_in_any_pieces(batch: int):
    inputs, _ = data()
    left, right, scale = inputs[:, :2], inputs[:, 2:], torch.tensor(2.0)
    module = Two()
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
    flat = state.posterior.sample(generator("predict", "w", 1))
    weights = state.posterior.layout.views(flat)
    expected = 2 * (
        F.linear(left, weights["left.weight"], weights["left.bias"])
        - F.linear(right, weights["right.weight"], weights["right.bias"])
    )
    for given in ((left, right, scale), [left, right, scale], {"right": right, "scale": scale, "left": left}):
        out = outputs(module, state, given, samples=2, stream=("w",), batch=batch)
        torch.testing.assert_close(out[1], expected)


def test_validation_takes_any_batch_and_a_likelihood_of_ones_own():
    inputs, targets = data()
    module, batches = Two(), [{"left": inputs[:, :2], "right": inputs[:, 2:], "labels": targets}]
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)

    def log_likelihood(output: Tensor, batch: Batch) -> Tensor:
        return -2 * F.cross_entropy(output, batch["labels"], reduction="none")

    trained = train(
        module,
        state,
        LoaderBatches(batches, examples=32),
        TrainSettings(epochs=1, lr=1e-12),
        stream=("v",),
        likelihood=log_likelihood,
        validation=batches[0],
    )
    logits = module(inputs[:, :2], inputs[:, 2:])
    assert trained.history[0]["nll"] == pytest.approx(2 * F.cross_entropy(logits, targets).item(), rel=1e-4)
    assert trained.history[0]["accuracy"] == pytest.approx((logits.argmax(-1) == targets).double().mean().item())


def test_validation_of_a_language_model_looks_at_the_next_token():
    class Successor(nn.Module):
        """Says that the next token is the present one plus 1."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding.from_pretrained(5 * torch.eye(6).roll(1, 1), freeze=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.table(input_ids)

    tokens = (torch.arange(6)[:, None] + torch.arange(4)) % 6
    labels = tokens.clone()
    labels[0, 2:] = -100  # padded
    labels[1, 1] = 0  # and one that the model does not foresee
    batch, module = {"input_ids": tokens, "labels": labels}, Successor()
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
    settings = TrainSettings(epochs=1, lr=1e-12)
    batches = LoaderBatches([batch], examples=6)
    trained = train(module, state, batches, settings, stream=("v",), likelihood=NextToken(), validation=batch)
    assert trained.history[0]["accuracy"] == pytest.approx(15 / 16)


def test_validation_of_an_output_that_only_its_likelihood_can_read_has_no_accuracy():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.inner(x)}

    module = Wrapped()
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
    trained = train(
        module,
        state,
        LoaderBatches(loader()),
        TrainSettings(epochs=1),
        stream=("v",),
        likelihood=lambda out, batch: -F.cross_entropy(out["scores"], batch[1], reduction="none"),
        validation=data(),
    )
    assert trained.history[0].keys() == {"epoch", "loss", "lr", "nll"}


def test_a_loader_that_gives_fewer_batches_than_it_says_is_refused():
    class Short(list):
        def __len__(self) -> int:
            return 5

    batches = Short(zip(*(part.split(16) for part in data()), strict=True))
    settings, prune = TrainSettings(epochs=2), PruneSettings(levels=0)
    with pytest.raises(TombolaError, match="the loader Short gave 2 batches in epoch 1, its length is 5; it must give"):
        find_tickets(net(), batches, examples=32, train=settings, prune=prune, progress=False)


def test_a_model_that_takes_up_a_ticket_comes_back_to_the_tickets_start():
    inputs, targets = data()
    prune, settings = PruneSettings(levels=1, fraction=0.5, score="mu"), TrainSettings(epochs=1)
    posterior = PosteriorSettings(std=0.05, prior_mean="start")
    found = find_tickets(net(), (inputs, targets), train=settings, prune=prune, posterior=posterior, progress=False)[-1]
    module = net()
    for p in module.parameters():
        p.data.add_(1.0)
    model = Bayesian(module, training_inputs=inputs)  # other weights, another std, another prior
    model.rewind(found)
    assert all(torch.equal(model.ticket().rewind.tensors()[k], v) for k, v in found.rewind.tensors().items())
    assert torch.equal(model.posterior.prior_mean, found.rewind.posterior.prior_mean)
    kept = model.prune("mu", 0.5)
    assert torch.equal(model.mean, found.rewind.posterior.mean * kept.mask)
    assert torch.equal(kept.rewind.posterior.std[kept.mask], found.rewind.posterior.std[kept.mask])


def test_frozen_parameters_are_kept_whatever_the_optimiser_decays():
    module, (inputs, targets) = net(), data()
    for p in module[0].parameters():
        p.requires_grad_(False)
    model = Bayesian(module, seed=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        model.negative_elbo((inputs, targets), examples=32).backward()
        optimiser.step()
    for mean in (model.posterior.mean, model.state().posterior.mean, model.ticket().posterior.mean):
        values = model.layout.views(mean)
        assert torch.equal(values["0.weight"], module[0].weight)
        assert torch.equal(values["0.bias"], module[0].bias)
        assert not torch.equal(values["4.weight"], module[4].weight)


def test_a_ticket_in_another_flat_order_is_refused():
    ticket = Bayesian(net(), posterior=PosteriorSettings(random=["*.weight"])).ticket()
    model = Bayesian(net())
    before = model.mean.detach().clone()
    with pytest.raises(TombolaError, match=r"'1.weight' is a random parameter at .* of the ticket's order, a determ"):
        model.rewind(ticket)
    assert torch.equal(model.mean, before)


@pytest.mark.parametrize("given", [{"prior_std": 0.0}, {"noise_refresh": 0.0}, {"noise_refresh": 2.0}])
def test_values_out_of_bounds_are_said_at_once(given: dict):
    with pytest.raises(TombolaError, match="the first must be above 0, the second in"):
        Bayesian(net(), **given)


@pytest.mark.parametrize(("given", "said"), [({"samples": 0}, "samples is 0"), ({"examples": 0}, "examples is 0")])
def test_a_loss_of_nothing_is_refused(given: dict, said: str):
    with pytest.raises(TombolaError, match=said):
        Bayesian(net()).negative_elbo(data(), **({"examples": 32} | given))


def test_one_output_has_no_class_probabilities():
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    model = Bayesian(module, likelihood=lambda out, batch: -(out[:, 0] - batch[1]).square())
    with pytest.raises(TombolaError, match="one output, which has no class probabilities"):
        model.predict(data()[0])
    assert model.ticket().outputs(module, data()[0], samples=2).shape == (2, 32, 1)


def test_validating_by_the_elbo_in_between_changes_nothing_of_the_training():
    def trained(validate: bool) -> Tensor:
        torch.manual_seed(0)
        model = Bayesian(nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = torch.randn(10, 3, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 2
        for _ in range(3):
            optimiser.zero_grad()
            model.negative_elbo(batch, examples=10).backward()
            optimiser.step()
            if validate:
                model.eval()
                with torch.no_grad():
                    model.negative_elbo(batch, examples=10)
                model.train()
        return model.mean.detach().clone()

    assert torch.equal(trained(True), trained(False))


def test_a_dataset_in_place_of_its_tensors_is_refused_with_what_to_give():
    with pytest.raises(TombolaError, match=r"data is a Dataset; give its training part"):
        find_tickets(nn.Linear(64, 10), digits(), progress=False)


@pytest.mark.parametrize("sizes", [{"test": 1.5}, {"validation": -1}, {"test": "many"}])
def test_held_out_parts_are_numbers_of_examples(sizes):
    with pytest.raises(TombolaError, match="both are numbers of examples"):
        digits(**sizes)
