"""Held-out examples and labels of every form, and that what a validation would not take is said before the first step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from tombola import PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.posterior.arrays import as_tensors

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


class Counting(nn.Module):
    """Passes in training mode are counted where a copy of the module sees them, too."""

    steps = 0

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        Counting.steps += self.training
        return self.layer(x)


def history(data=(X, Y), make=Counting, likelihood="categorical", **options):
    torch.manual_seed(0)
    train = TrainSettings(epochs=1, batch_size=6, likelihood=likelihood)
    (ticket,) = find_tickets(make(), data, train=train, prune=PruneSettings(levels=0), progress=False, **options)
    return ticket, ticket.info["history"]


WRONG = [
    ((X, Y + 1), "there is a label 3, but the network has 3 outputs"),
    ((X, torch.where(torch.arange(12) == 11, 7, Y)), "there is a label 7"),  # the last one
    ((X, Y[:5]), "do not fit logits"),
    ((X[:0], Y[:0]), "there are no validation examples"),
    ((X, Y.float()), "do not fit logits"),
    (Subset(TensorDataset(X, Y), [0, 1]), "validation is a Subset, which gives single examples"),
    ([], "the loader of the validation examples is empty"),
]


@pytest.mark.parametrize(("validation", "said"), WRONG)
@pytest.mark.parametrize("data", [(X, Y), DataLoader(TensorDataset(X, Y), 6)], ids=["memory", "loader"])
def test_a_validation_that_would_fail_is_said_before_the_first_step(data, validation, said):
    Counting.steps = 0
    with pytest.raises(TombolaError, match=said):
        history(data, validation=validation)
    assert not Counting.steps


def test_a_validation_of_another_form_than_the_examples_in_memory_is_said_before_the_first_step():
    """Of a loader none is read before: its module may need a step of training first."""
    Counting.steps = 0
    with pytest.raises(TombolaError, match="the validation examples do not go through the module"):
        history((X, Y), validation=(X[:, :3], Y))
    assert not Counting.steps


@pytest.mark.parametrize("labels", [Y + 1, torch.where(torch.arange(12) == 11, -1, Y)])
def test_a_label_of_training_that_is_no_class_is_said_before_the_first_step(labels):
    Counting.steps = 0
    with pytest.raises(TombolaError, match="there is a label"):
        history((X, labels))
    assert not Counting.steps


class Padded(nn.Module):
    """The mean over positions that are not padding, of inputs [B, T, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        return torch.stack([self.layer(row[:n]).mean(0) for row, n in zip(x, length, strict=True)])


def test_batches_padded_to_their_own_length_are_validated_example_by_example():
    lengths = [1, 2, 4, 3, 5, 2, 2]
    rows = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in lengths]

    def batch_of(pairs):
        return {
            "x": nn.utils.rnn.pad_sequence([row for row, _ in pairs], batch_first=True),
            "length": torch.tensor([len(row) for row, _ in pairs]),
            "labels": torch.tensor([label for _, label in pairs]),
        }

    examples = list(zip(rows, (i % 3 for i in range(7)), strict=True))
    loader = DataLoader(examples, 2, collate_fn=batch_of)
    ticket, (row,) = history(loader, make=Padded, validation=loader)
    plain = Padded()
    plain.load_state_dict(ticket.state_dict(plain))
    whole = batch_of(examples)
    with torch.no_grad():
        nll = F.cross_entropy(plain(whole["x"], whole["length"]), whole["labels"])
    assert row["nll"] == pytest.approx(nll.item(), rel=1e-6)
    assert history(loader, make=Padded, validation=list(loader))[1] == [row]


class Passing(nn.Module):
    """Messages along edges [2, E]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        out = self.layer(x)
        return out.index_add(0, edges[1], out[edges[0]])


def test_a_graph_of_many_nodes_is_validated_whole_and_never_cut():
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(1100, 4, generator=draw), torch.randint(3, (1100,), generator=draw)
    edges = torch.randint(500, (2, 40), generator=draw)  # all among the first ones: cut, they would be others' in silence
    ticket, (row,) = history([((x, edges), y)], make=Passing, validation=((x, edges), y), examples=1100)
    plain = Passing()
    plain.load_state_dict(ticket.state_dict(plain))
    with torch.no_grad():
        assert row["nll"] == pytest.approx(F.cross_entropy(plain(x, edges), y).item(), rel=1e-6)
    with pytest.raises(TombolaError, match=r"whole numbers of shape \[2, 40\], which may say how examples are connected"):
        ticket.predict(plain, (x, edges), samples=2)
    assert ticket.predict(plain, (x, edges), samples=2, batch=1100).probs.shape == (1100, 3)


ONE_HOT, SOFT = F.one_hot(Y, 3).float(), torch.softmax(X[:, :3], 1)


@pytest.mark.parametrize("targets", [ONE_HOT, SOFT])
def test_class_probabilities_in_memory_are_labels_as_from_a_loader(targets):
    _, (row,) = history((X, targets), validation=(X, targets))
    ticket, (own,) = history((X, targets), validation=[(X[:5], targets[:5]), (X[5:], targets[5:])])
    assert own["nll"] == pytest.approx(row["nll"], rel=1e-6)
    plain = Counting()
    plain.load_state_dict(ticket.state_dict(plain))
    with torch.no_grad():
        assert row["nll"] == pytest.approx(F.cross_entropy(plain(X), targets).item(), rel=1e-6)


@pytest.mark.parametrize(("likelihood", "targets"), [("bernoulli", Y > 0), ("bernoulli", (Y > 0).long()), ("poisson", Y)])
def test_whole_numbers_are_targets_of_ones_and_of_counts(likelihood, targets):
    (one, _), (other, _) = (history((X, given), lambda: Counting(1), likelihood) for given in (targets, targets.float()))
    assert torch.equal(one.posterior.mean, other.posterior.mean)


@pytest.mark.parametrize(
    ("targets", "likelihood", "mend"),
    [
        (Y.float(), "categorical", r"use 'gaussian', or give labels\.long\(\)"),
        (Y.float()[:, None], "categorical", r"use 'gaussian', or give labels\.long\(\)"),
        ((X[:, :3] > 0).float(), "categorical", "use 'bernoulli' for several classes an example"),
        (Y, "gaussian", r"use 'categorical' for classes, or give targets\.float\(\)"),
    ],
)
def test_targets_of_another_kind_are_refused_with_what_fits(targets, likelihood, mend):
    with pytest.raises(TombolaError, match=mend):
        history((X, targets), likelihood=likelihood)


def test_masked_values_are_missing():
    array = np.ma.masked_array(X.numpy(), mask=X.numpy() > 1)
    with pytest.raises(TombolaError, match=r"an array of shape \[12, 4\] has \d+ masked values; fill them"):
        history((array, Y))
    assert torch.equal(as_tensors(np.ma.masked_array(X.numpy(), mask=False)), X)


@pytest.mark.parametrize(("kind", "dtype"), [("longdouble", torch.float32), ("complex128", torch.complex64)])
def test_arrays_of_every_precision_are_taken(kind, dtype):
    found = as_tensors(X.numpy().astype(kind))
    assert found.dtype == dtype
    torch.testing.assert_close(found.real, X)
