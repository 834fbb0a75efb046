"""The number N of a loader's examples, and data that are given as numpy arrays or data sets."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import data as td

import tombola
from tombola.data.batches import LoaderBatches
from tombola.posterior.arrays import as_tensors

DATA = td.TensorDataset(torch.randn(100, 4), torch.randint(3, (100,)))
ONCE = {"train": tombola.TrainSettings(epochs=1, batch_size=20), "prune": tombola.PruneSettings(levels=0), "progress": False}


class Own(td.Sampler):
    """A user's sampler, of which only the length is known."""

    def __len__(self):
        return 40

    def __iter__(self):
        return iter(range(40))


class Batched(td.Dataset):
    """A data set whose items are batches."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return DATA[20 * i : 20 * i + 20]


@pytest.mark.parametrize(
    ("options", "examples"),
    [
        ({"shuffle": True}, 100),
        ({"shuffle": True, "drop_last": True}, 100),  # each epoch drops others
        ({}, 100),
        ({"drop_last": True}, 96),  # the last 4 are never seen
        ({"sampler": td.SubsetRandomSampler(range(40))}, 40),
        ({"sampler": td.SubsetRandomSampler([1, 1, 2])}, 2),
        ({"sampler": td.RandomSampler(DATA, num_samples=30)}, 100),
        ({"sampler": td.RandomSampler(DATA, replacement=True, num_samples=300)}, 100),
        ({"sampler": range(10, 30)}, 20),
        ({"sampler": [1, 5, 5]}, 2),
        ({"batch_sampler": td.BatchSampler(td.SubsetRandomSampler(range(40)), 8, False), "batch_size": 1}, 40),
    ],
)
def test_n_is_of_the_examples_that_a_loader_draws(options, examples):
    assert LoaderBatches(td.DataLoader(DATA, **{"batch_size": 8} | options)).examples == examples


@pytest.mark.parametrize(
    "loader",
    [
        td.DataLoader(DATA, 8, sampler=td.WeightedRandomSampler([1.0] * 100, 50)),
        td.DataLoader(DATA, 8, sampler=Own()),
        td.DataLoader(DATA, batch_sampler=[[1, 2], [3, 4]]),
        td.DataLoader(Batched(), batch_size=None),
        [DATA[:20]],
    ],
    ids=["weighted", "own sampler", "own batch sampler", "batches", "list"],
)
def test_where_n_is_not_known_it_is_asked_for(loader):
    with pytest.raises(tombola.TombolaError, match=r"number of training examples of the loader .* give `examples`"):
        LoaderBatches(loader)
    assert LoaderBatches(loader, examples=7).examples == 7


def test_a_data_set_is_no_loader():
    with pytest.raises(tombola.TombolaError, match="Batched is a data set, which gives single examples"):
        tombola.find_tickets(nn.Linear(4, 3), Batched(), **ONCE)
    with pytest.raises(tombola.TombolaError, match="data is a TensorDataset; it must be a pair"):
        tombola.find_tickets(nn.Linear(4, 3), td.TensorDataset(*DATA.tensors, DATA.tensors[1]), **ONCE)


def mean_of(given, **options):
    torch.manual_seed(0)
    (ticket,) = tombola.find_tickets(nn.Linear(4, 3), given, **ONCE | options)
    return ticket.posterior.mean


def test_arrays_and_tensor_datasets_train_as_tensors_do():
    x, y = DATA.tensors
    expected = mean_of((x, y))
    arrays = x.double().numpy(), y.numpy()
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(mean_of(DATA), expected)
    assert torch.equal(mean_of(arrays), expected)
    assert torch.equal(mean_of((frozen, y.numpy().astype(np.uint16))), expected)
    assert torch.equal(mean_of((x.numpy()[::-1][::-1], y)), expected)
    by_loader = mean_of([(x, y)], examples=100)
    assert torch.equal(mean_of([arrays], examples=100), by_loader)


@pytest.mark.parametrize("dtype", ["float64", "float32", ">f8", "int64"])
def test_predictions_take_arrays_as_they_take_tensors(dtype):
    (ticket,), x = tombola.find_tickets(nn.Linear(4, 3), DATA, **ONCE), DATA.tensors[0].round()
    array = x.numpy().astype(dtype)
    if dtype == "int64":
        with pytest.raises(tombola.TombolaError, match=r"the inputs are int64, which the module does not take"):
            ticket.predict(nn.Linear(4, 3), array)
    else:
        expected = ticket.outputs(nn.Linear(4, 3), x, samples=3)
        assert torch.equal(ticket.outputs(nn.Linear(4, 3), array, samples=3), expected)


def test_validation_examples_may_be_a_loader():
    x, y = DATA.tensors
    found = []
    for validation in ((x, y), (x.numpy(), y.numpy()), DATA, td.DataLoader(DATA, 7)):
        torch.manual_seed(0)
        (ticket,) = tombola.find_tickets(nn.Linear(4, 3), DATA, validation=validation, **ONCE)
        found.append(ticket.info["history"])
    assert all(history == found[0] for history in found)
    with pytest.raises(tombola.TombolaError, match="the loader of the validation examples is empty"):
        tombola.find_tickets(nn.Linear(4, 3), DATA, validation=td.DataLoader(td.Subset(DATA, []), 7), **ONCE)


class Stream(td.IterableDataset):
    """Examples one after another, of which the number is known or not."""

    def __iter__(self):
        return iter(zip(*DATA.tensors, strict=True))


class Counted(Stream):
    def __len__(self):
        return 100


def test_loaders_of_streams_count_what_they_draw_or_are_refused():
    assert LoaderBatches(td.DataLoader(Counted(), 8)).examples == 100
    assert LoaderBatches(td.DataLoader(Counted(), 8, drop_last=True)).examples == 96
    for loader in (td.DataLoader(Stream(), 8), td.DataLoader(Stream(), 8, drop_last=True), iter([DATA[:20]])):
        with pytest.raises(tombola.TombolaError, match="has no length"):
            LoaderBatches(loader, examples=100)


def test_a_stream_that_every_worker_gives_whole_is_said():
    loader = td.DataLoader(Counted(), 50, num_workers=2, multiprocessing_context="fork")
    with pytest.raises(tombola.TombolaError, match="gives more batches than its length, 2, as where each of its workers"):
        list(LoaderBatches(loader).epoch(0))
    assert len(list(LoaderBatches(td.DataLoader(Counted(), 50)).epoch(0))) == 2


def test_masks_may_be_arrays():
    keep = torch.ones(3, 4)
    keep[1] = 0
    options = {"prune": tombola.PruneSettings(levels=0, classifier=True)}
    assert torch.equal(
        mean_of(DATA, mask={"weight": keep.numpy()}, **options), mean_of(DATA, mask={"weight": keep}, **options)
    )


@pytest.mark.parametrize("kind", ["float64", "float16", "int16", "uint8", "uint16", "uint32", "bool", ">f4", ">i2", ">u4"])
def test_arrays_become_tensors_of_the_same_values(kind):
    array = np.array([[0, 1], [1, 0]]).astype(kind)
    for given in (array, array[:, ::-1], array[::-1].T):
        found = as_tensors({"x": (given, "text")})["x"][0]
        assert found.tolist() == given.tolist()
        assert not found.is_floating_point() or found.dtype == torch.float32


def test_what_is_no_array_of_numbers_stays():
    words = np.array(["a", "b"])
    assert as_tensors([words, None, 3])[0] is words
