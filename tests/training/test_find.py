"""find_tickets against its operations called by hand, and against the chain of a study on the same data."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tombola import PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.data import load_data
from tombola.data.batches import TensorBatches
from tombola.engine.local import dataset
from tombola.models import build
from tombola.posterior.state import initial_state, layout_of
from tombola.pruning.iterate import prune_ticket
from tombola.pruning.rewind import step_of
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.streams import generator
from tombola.study.plan import plan_study
from tombola.study.spec import unfold
from tombola.study.stages import Evaluate, RunContext, Train
from tombola.training.loop import train

CPU = torch.device("cpu")
SETTINGS = TrainSettings(epochs=2, batch_size=8, lr=0.01)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    stream = generator("find")
    return torch.randn(32, 4, generator=stream), torch.randint(3, (32,), generator=stream)


def by_hand(prune: PruneSettings, posterior: PosteriorSettings) -> list:
    """The levels one after another: a training and a pruning each, with the streams that find_tickets names."""
    module, batches = net(), TensorBatches(*data(), 8, 0)
    dense = initial_state(module, layout_of(module, posterior, prune), posterior, 0)
    at = prune.rewind if ":" in prune.rewind else ""
    start = step_of(at, batches.steps) or 0

    def trained(state, level, begin, stop=None):
        return train(module, state, batches, SETTINGS, stream=(0, "find_tickets", level), start=begin, stop=stop).state

    restart = trained(dense, 0, 0, start) if start else dense
    ticket, found = ticket_of(dense), []
    for level in range(prune.levels + 1):
        found.append(replace(ticket, trained=trained(ticket.rewind, level, start if level else 0)))
        there = found[-1].trained if prune.rewind == "learning_rate" else restart
        ticket = prune_ticket(found[-1], there, prune, generator("score", 0, level))
    return found


@pytest.mark.parametrize("sigma", ["trained", "start", "shuffled"])
@pytest.mark.parametrize("rewind", ["init", "epoch:1", "step:0", "learning_rate"])
def test_every_field_of_pruning_is_heeded(sigma: str, rewind: str):
    prune = PruneSettings(levels=3, fraction=0.3, scope="layerwise", sigma=sigma, rewind=rewind)
    posterior = PosteriorSettings(std_jitter=0.5)  # so that the sigma at the start ranks weights, too
    found = find_tickets(net(), data(), train=SETTINGS, prune=prune, posterior=posterior, progress=False)
    expected = by_hand(prune, posterior)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.mask, theirs.mask)
        for name, value in theirs.rewind.tensors().items():
            assert torch.equal(ours.rewind.tensors()[name], value), name
        for name, value in theirs.trained.tensors().items():
            assert torch.equal(ours.trained.tensors()[name], value), name
    if sigma != "trained":  # and it makes a difference
        other = find_tickets(
            net(), data(), train=SETTINGS, prune=replace(prune, sigma="trained"), posterior=posterior, progress=False
        )
        assert not torch.equal(found[1].mask, other[1].mask)


def test_a_sigma_that_is_none_is_an_error():
    with pytest.raises(TombolaError, match="sigma is 'shufled'; it must be one of trained, start, shuffled"):
        PruneSettings(sigma="shufled")


@pytest.mark.parametrize("rewind", ["init", "epoch:1", "step:3", "learning_rate"])
def test_a_deterministic_chain_is_that_of_a_study(rewind: str):
    """Which draws no noise, so that the streams of both are the same."""
    prune = {"score": "magnitude", "fraction": 0.4, "levels": 2, "rewind": rewind}
    given = {"epochs": 2, "batch_size": 512, "lr": 0.01}
    raw = {"name": "same", "seeds": [3], "model": {"name": "mlp", "args": {"hidden": [8]}}, "arms": ["deterministic"]}
    plan, around = plan_study(unfold(raw | {"train": given, "prune": prune}), dataset), RunContext(CPU, dataset)
    tickets: dict[str, Ticket] = {}
    for stage in plan.stages:  # parents come first
        if not isinstance(stage, Evaluate):
            tickets[stage.key] = stage.run([tickets[parent.key] for parent in stage.parents], around).ticket
    chain = [stage for stage in plan.stages if isinstance(stage, Train) and not stage.stop]

    digits = load_data("digits", {})
    inputs, targets = digits.prepare(digits.train[0]), digits.train[1]
    module = build("mlp", {"hidden": [8]}, tuple(inputs.shape[1:]), 10, (3, "first", chain[0].net.identity))
    found = find_tickets(
        *(module, (inputs, targets)),
        train=TrainSettings(method="map", **given),
        prune=PruneSettings(**prune),
        seed=3,
        progress=False,
    )
    for ours, stage in zip(found, chain, strict=True):
        theirs = tickets[stage.key]
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.rewind.posterior.mean, theirs.rewind.posterior.mean)
        assert torch.equal(ours.posterior.mean, theirs.posterior.mean)


def test_validation_enters_the_history_and_changes_no_bit():
    (inputs, targets), held_out = data(), (torch.randn(10, 4), torch.randint(3, (10,)))
    prune = PruneSettings(levels=1)
    plain = find_tickets(net(), (inputs, targets), train=SETTINGS, prune=prune, progress=False)
    assert "accuracy" not in plain[0].info["history"][-1]
    for validation in (held_out, torch.utils.data.TensorDataset(*held_out), tuple(part.numpy() for part in held_out)):
        found = find_tickets(net(), (inputs, targets), train=SETTINGS, prune=prune, validation=validation, progress=False)
        for ours, theirs in zip(found, plain, strict=True):
            assert torch.equal(ours.posterior.mean, theirs.posterior.mean)
            logits = ours.write_mean(net())(held_out[0])
            row = ours.info["history"][-1]
            assert row["accuracy"] == (logits.argmax(-1) == held_out[1]).double().mean().item()
            assert row["nll"] == pytest.approx(nn.functional.cross_entropy(logits, held_out[1]).item(), rel=1e-5)


def test_a_callback_sees_every_level_and_may_end_the_search():
    prune, seen = PruneSettings(levels=3, fraction=0.5), []
    whole = find_tickets(net(), data(), train=SETTINGS, prune=prune, on_level=seen.append, progress=False)
    assert [id(ticket) for ticket in seen] == [id(ticket) for ticket in whole]
    found = find_tickets(
        net(), data(), train=SETTINGS, prune=prune, on_level=lambda ticket: ticket.density < 0.6, progress=False
    )
    assert [ticket.info["level"] for ticket in found] == [0, 1]
    assert torch.equal(found[1].posterior.mean, whole[1].posterior.mean)
