"""A posterior family of one's own, in this file and one line of registry: it goes wherever the Gaussian does."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tombola import PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, load
from tombola.data.batches import TensorBatches
from tombola.inference import METHODS, Map
from tombola.posterior.families import FAMILIES, Posterior
from tombola.posterior.layout import Layout
from tombola.posterior.point import Point
from tombola.posterior.state import State, initial_state, interpolated
from tombola.pruning.iterate import prune_ticket, transplanted
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.streams import generator
from tombola.training.checkpoint import Checkpoint
from tombola.training.loop import train

RANK = 2


@dataclass(frozen=True)
class Factored:
    """N(mean, diag(spread^2) + factor factor^T)."""

    family: ClassVar[str] = "factored"
    points: ClassVar[None] = None
    layout: Layout
    mask: Tensor
    mean: Tensor
    spread: Tensor
    """[P]; 0 where masked or deterministic."""
    factor: Tensor
    """[P, r]; rows are 0 where masked or deterministic."""

    @property
    def std(self) -> Tensor:
        return (self.spread.square() + self.factor.square().sum(1)).sqrt()

    def sample(self, generator: torch.Generator) -> Tensor:
        like = {"generator": generator, "dtype": self.mean.dtype, "device": self.mean.device}
        own, shared = torch.randn(len(self.mean), **like), torch.randn(self.factor.shape[1], **like)
        return self.mean + self.spread * own + self.factor @ shared

    def masked(self, mask: Tensor) -> "Factored":
        kept = mask & self.layout.is_random.to(mask.device)
        mean, spread = self.mean.masked_fill(~mask, 0.0), self.spread.masked_fill(~kept, 0.0)
        return replace(self, mask=mask, mean=mean, spread=spread, factor=self.factor.masked_fill(~kept[:, None], 0.0))

    def with_mean(self, mean: Tensor) -> "Factored":
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "Factored", alpha: float) -> "Factored":
        theirs = other.tensors()
        tensors = {name: torch.lerp(value, theirs[name], alpha) for name, value in self.tensors().items()}
        return self.of_tensors(self.layout, self.mask | other.mask, tensors)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "spread": self.spread, "factor": self.factor}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "Factored":
        return cls(layout, mask, **tensors)

    @classmethod
    def of(cls, other: Posterior) -> "Factored":
        if isinstance(other, cls):
            return other
        if other.std is None:
            raise TombolaError("a factored posterior needs a std, and this posterior is a point")
        drawn = torch.randn(len(other.mean), RANK, generator=generator("factor")).to(other.mean)
        return cls(other.layout, other.mask, other.mean, other.std, other.std[:, None] * drawn)


class MeansOfFactored(Map):
    """Trains the means; spread and factor stay."""

    learns: ClassVar[str] = "factored"

    def __init__(self, module, state, *rest):
        self._start = Factored.of(state.posterior)
        super().__init__(module, state, *rest)

    def state(self) -> State:
        point = super().state()
        return replace(point, posterior=self._start.with_mean(point.posterior.mean))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(FAMILIES, "factored", Factored)
    monkeypatch.setitem(METHODS, "means", MeansOfFactored)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3))


def start(module=None) -> State:
    module = module or net()
    state = initial_state(module, Layout.of(module), PosteriorSettings(std=0.1, std_jitter=0.5), 0)
    return state.as_family("factored")


def some_mask(layout: Layout) -> Tensor:
    return ~layout.prunable | (torch.arange(layout.numel) % 3 > 0)


def data(n: int = 60) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()


def assert_equal(a: State, b: State) -> None:
    assert isinstance(a.posterior, Factored)
    assert a.tensors().keys() == b.tensors().keys()
    assert all(torch.equal(value, b.tensors()[name]) for name, value in a.tensors().items())
    assert torch.equal(a.posterior.mask, b.posterior.mask)


def test_the_covariance_of_samples_is_the_closed_form():
    """Of n draws the entry ij of the sample covariance has standard error sqrt((C_ii C_jj + C_ij^2) / n)."""
    q = start().posterior
    q, n = q.masked(some_mask(q.layout)), 40_000
    stream = generator("draws")
    draws = torch.stack([q.sample(stream) for _ in range(n)]).double()
    expected = torch.diag(q.spread.double().square()) + q.factor.double() @ q.factor.double().T
    torch.testing.assert_close(expected.diagonal().sqrt(), q.std.double(), rtol=1e-6, atol=0)
    found = (draws - q.mean).T @ (draws - q.mean) / n
    variances = expected.diagonal()
    error = ((variances[:, None] * variances + expected.square()) / n).sqrt()
    z = ((found - expected)[error > 0] / error[error > 0]).abs()
    assert float(z.max()) < 5.5  # of about 1,000 distinct entries the largest is near 3.3
    assert float((expected - torch.diag(variances)).abs().max()) > 20 * float(error.max())  # what a mean field would miss


def test_what_is_masked_or_deterministic_has_zero_variance():
    q = start().posterior
    mask = some_mask(q.layout)
    q = q.masked(mask)
    draws = torch.stack([q.sample(generator("s", i)) for i in range(5)])
    for values in (q.mean, q.std, *draws, *q.factor.T):
        assert not values[~mask].any()
    norm = mask & ~q.layout.is_random
    assert norm.any()
    assert not q.std[norm].any()
    assert torch.equal(draws[:, norm], q.mean[norm].expand(5, -1))


def test_a_file_holds_the_rows_of_surviving_weights_and_gives_the_ticket_back(tmp_path):
    state = start()
    mask = some_mask(state.posterior.layout)
    ticket = Ticket(mask, state.masked(mask), state.masked(mask), {})
    sizes = []
    for name, one in (("sparse", ticket), ("dense", replace(ticket_of(state), trained=state))):
        one.save(tmp_path / name)
        sizes.append((tmp_path / name).stat().st_size)
        back = load(tmp_path / name, net())
        assert_equal(back.rewind, one.rewind)
        assert_equal(back.trained, one.trained)
    assert abs(sizes[1] - sizes[0] - 2 * 4 * (2 + RANK) * int((~mask).sum())) <= 64  # mean, spread, factor, of two states


def test_a_factor_with_the_parameters_last_is_stored_alike_and_what_has_none_whole(tmp_path, monkeypatch):
    """Also where by chance r is P, so that both dimensions have that length."""

    class Turned(Factored):
        family = "turned"

        def tensors(self):
            return {"mean": self.mean, "spread": self.spread, "turned": self.factor.T, "rank": torch.tensor(RANK)}

        @classmethod
        def of_tensors(cls, layout, mask, tensors):
            return cls(layout, mask, tensors["mean"], tensors["spread"], tensors["turned"].T)

    monkeypatch.setitem(FAMILIES, "turned", Turned)
    state = start()
    mask, q = some_mask(state.posterior.layout), state.posterior
    square = torch.randn(len(mask), len(mask), generator=generator("square"))
    for factor in (q.factor, square):
        state = replace(state, posterior=Turned(q.layout, q.mask, q.mean, q.spread, factor)).masked(mask)
        Ticket(mask, state, state).save(tmp_path / "t")
        back = load(tmp_path / "t")
        assert torch.equal(back.posterior.factor, state.posterior.factor)
        assert torch.equal(back.rewind.posterior.factor, state.posterior.factor)


def test_a_ticket_is_scored_pruned_and_rewound_by_its_marginal_std():
    state = start()
    q = state.posterior
    trained = replace(state, posterior=q.with_mean(torch.randn(len(q.mean), generator=generator("means"))))
    ticket = replace(ticket_of(state), trained=trained)
    pruned = prune_ticket(ticket, state, PruneSettings(score="snr", fraction=0.4), generator("score"))
    ratio, prunable = trained.posterior.mean.abs() / q.std, q.layout.prunable
    assert int((~pruned.mask).sum()) == round(0.4 * int(prunable.sum()))
    assert float(ratio[~pruned.mask].max()) <= float(ratio[pruned.mask & prunable].min())
    assert_equal(pruned.rewind, state.masked(pruned.mask))


def test_found_tickets_predict_and_the_chain_stays_of_the_family():
    module, (inputs, targets) = net(), data()
    settings = TrainSettings(method="means", epochs=2, batch_size=20, lr=0.01)
    prune = PruneSettings(score="snr", fraction=0.5, levels=2)
    tickets = find_tickets(module, (inputs, targets), train=settings, prune=prune, progress=False)
    assert [round(t.density, 1) for t in tickets] == [1.0, 0.5, 0.2]
    for ticket in tickets:
        assert isinstance(ticket.posterior, Factored)
        assert not ticket.posterior.std[~ticket.mask].any()
        probs = ticket.predict(module, inputs, samples=6).probs_SBC
        assert probs.shape == (6, 60, 3)
        assert float(probs.var(0).max()) > 0
    assert not torch.equal(tickets[2].posterior.mean, tickets[2].rewind.posterior.mean)


class StopError(Exception):
    pass


def test_a_training_resumes_from_its_checkpoint(tmp_path):
    def run(checkpoint=None, on_step=None):
        settings = TrainSettings(method="means", epochs=2, batch_size=20, lr=0.01)
        batches = TensorBatches(*data(), 20, 0)
        return train(net(), start(), batches, settings, stream=("c",), checkpoint=checkpoint, on_step=on_step).state

    def stop(done, _):
        if done == 5:
            raise StopError

    whole = run()
    with pytest.raises(StopError):
        run(Checkpoint(tmp_path / "c", 0), stop)
    assert_equal(run(Checkpoint(tmp_path / "c", 0)), whole)


def test_moved_to_another_device_it_is_the_same_family():
    there = start().to("meta").posterior
    assert isinstance(there, Factored)
    assert {value.device.type for value in (there.mask, *there.tensors().values())} == {"meta"}
    assert_equal(start().to("cpu"), start())


def test_it_takes_the_values_of_a_deterministic_ticket_and_a_point_takes_its_mean():
    module = net()
    point = initial_state(module, Layout.of(module), PosteriorSettings(), 3).as_family("point")
    mask = some_mask(point.posterior.layout)
    planted = transplanted(Ticket(mask, point.masked(mask)), start()).rewind
    assert_equal(planted, replace(start(), posterior=start().posterior.with_mean(point.posterior.mean)).masked(mask))
    assert torch.equal(Point.of(planted.posterior).mean, planted.posterior.mean)
    assert torch.equal(planted.as_family("gaussian").posterior.std > 0, planted.posterior.std > 0)
    torch.testing.assert_close(planted.as_family("gaussian").posterior.std, planted.posterior.std)
    with pytest.raises(TombolaError, match="needs a std"):
        point.as_family("factored")


def test_there_is_a_line_between_two_and_none_to_another_family():
    a = start()
    b = replace(a, posterior=a.posterior.with_mean(a.posterior.mean + 1)).masked(some_mask(a.posterior.layout))
    middle = interpolated(a, b, 0.5).posterior
    torch.testing.assert_close(middle.factor, (a.posterior.factor + b.posterior.factor) / 2)
    with pytest.raises(TombolaError, match="a factored and the other a gaussian"):
        interpolated(a, a.as_family("gaussian"), 0.5)


def test_a_method_that_learns_what_is_not_registered_is_refused(monkeypatch):
    monkeypatch.delitem(FAMILIES, "factored")
    with pytest.raises(TombolaError, match="no posterior family 'factored' is registered, only gaussian, point"):
        find_tickets(net(), data(), train=TrainSettings(method="means"), progress=False)
