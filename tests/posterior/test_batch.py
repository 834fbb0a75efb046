"""What a batch is, and what a likelihood makes of a module's output for it."""

import re
from collections import UserDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from tombola import Bayesian, PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.posterior.arrays import as_tensors, is_real
from tombola.posterior.batch import (
    channels_last,
    examples_of,
    inputs_of,
    logits_of,
    moved,
    parts,
    run,
    targets_of,
)
from tombola.posterior.likelihood import Categorical, NextToken
from tombola.streams import generator


class Named(nn.Module):
    """a - 2 b: so that swapped arguments show."""

    def forward(self, a: Tensor, b: Tensor | float = 0.0) -> Tensor:
        return a - 2 * b


a, b, y = torch.arange(3.0), torch.ones(3), torch.tensor([2, 0, 1])


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((a, y), a),
        ([a, y], a),  # as torch's default collation gives a pair
        (((a, b), y), a - 2),
        (([a, b], y), a - 2),
        (({"b": b, "a": a}, y), a - 2),
        ({"b": b, "labels": y, "a": a}, a - 2),
        (UserDict({"a": a, "labels": y}), a),  # as the batches of Hugging Face's tokenizers
    ],
)
def test_a_module_is_run_on_the_inputs_of_a_batch(batch: object, expected: Tensor):
    assert torch.equal(run(Named(), inputs_of(batch)), expected)
    assert targets_of(batch) is y
    assert examples_of(batch) == 3


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ((a, b, y), r"this one has 3 parts; several inputs are a tuple"),
        (a, "this one has one Tensor"),
        ({"a": a}, "has a but no 'labels'"),
    ],
)
def test_what_is_no_batch_is_said(batch: object, sentence: str):
    with pytest.raises(TombolaError, match=sentence):
        targets_of(batch)


class Out(NamedTuple):
    hidden: Tensor
    logits: Tensor


class Object:
    logits = b


@pytest.mark.parametrize("output", [b, Object(), {"loss": a, "logits": b}, (b, a), [b], Out(a, b)])
def test_logits_are_found_in_an_output(output: object):
    assert logits_of(output) is b


@pytest.mark.parametrize("output", [{"loss": a}, (), (None, a), 3.0])
def test_an_output_without_logits_is_said(output: object):
    with pytest.raises(TombolaError, match="without a tensor `logits`"):
        logits_of(output)


def test_a_batch_is_moved_whole():
    there = moved({"x": (a, [b]), "name": "n", "labels": y}, "meta")
    assert there["x"][0].is_meta
    assert there["x"][1][0].is_meta
    assert there["labels"].is_meta
    assert there["name"] == "n"


@given(length=st.integers(1, 30), size=st.integers(1, 12))
def test_the_parts_of_a_batch_are_the_batch(length: int, size: int):
    batch = {"x": (torch.arange(length), torch.zeros(1, 4)), "flag": True, "labels": torch.arange(length) + 1}
    cut = list(parts(batch, length, size))
    assert all(examples_of(part) <= size for part in cut)
    assert torch.equal(torch.cat([part["x"][0] for part in cut]), batch["x"][0])
    assert torch.equal(torch.cat([part["labels"] for part in cut]), batch["labels"])
    assert all(part["x"][1].shape == (1, 4) and part["flag"] is True for part in cut)


class Pair(NamedTuple):
    a: object
    b: object


class Recurrent(nn.Module):
    """The last hidden state of sequences, whose lengths are an optional second input."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, sequences: PackedSequence, ages: Tensor | float = 0.0) -> Tensor:
        return self.head(self.rnn(sequences)[1][0]) + ages


def packed(lengths: list[int], in_order: bool) -> PackedSequence:
    sequences = [torch.randn(n, 3, generator=generator("sequence", i)) for i, n in enumerate(lengths)]
    return pack_sequence(sequences, enforce_sorted=in_order)


LENGTHS = [([4, 3, 3, 1], True), ([1, 4, 2, 3], False)]


@pytest.mark.parametrize(("lengths", "in_order"), LENGTHS)
@pytest.mark.parametrize("ages", [False, True])
def test_a_packed_sequence_is_one_input_of_as_many_examples_as_sequences(lengths: list[int], in_order: bool, ages: bool):
    sequences, net = packed(lengths, in_order), Recurrent()
    inputs = (sequences, torch.ones(4, 1)) if ages else sequences
    assert examples_of((inputs, None)) == 4
    whole = run(net, inputs)
    torch.testing.assert_close(torch.cat([run(net, part) for part in parts(inputs, 4, 3)]), whole)
    padded, back = pad_packed_sequence(next(parts(sequences, 4, 3)), batch_first=True)
    assert back.tolist() == lengths[:3]
    assert torch.equal(padded, pad_packed_sequence(sequences, batch_first=True)[0][:3, : max(lengths[:3])])


@pytest.mark.filterwarnings("ignore:'rnn.weight_ih_l0' is a bare parameter")
def test_packed_sequences_are_trained_on_and_predicted_as_the_padded_ones():
    batch = packed([1, 4, 2, 3], False), torch.tensor([0, 1, 0, 1])
    settings = TrainSettings(epochs=2, batch_size=4, accumulate=2)
    net = Recurrent()
    ticket = find_tickets(net, [batch], examples=4, train=settings, prune=PruneSettings(levels=0), progress=False)[-1]
    probs = ticket.predict(net, batch[0], samples=3).probs
    torch.testing.assert_close(ticket.predict(net, batch[0], samples=3, batch=3).probs, probs)
    assert Bayesian(net).negative_elbo((moved(batch[0], "cpu"), batch[1]), examples=4).isfinite()


@pytest.mark.parametrize("change", [lambda v: moved(v, "cpu"), channels_last, lambda v: next(parts(v, 3, 2))])
def test_named_tuples_keep_their_names(change: object):
    batch = Pair(Pair(a, [b]), {"a": Pair(a, None)})
    found = change(batch)
    assert isinstance(found, Pair)
    assert isinstance(found.a, Pair)
    assert isinstance(found.b["a"], Pair)
    assert torch.equal(run(Named(), Pair(a, b)), a - 2)  # at the top they are positional arguments


class Whole(nn.Module):
    """Takes a named tuple as one argument."""

    def forward(self, pair: Pair) -> Tensor:
        return pair.a - 2 * pair.b


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [(Whole(), Pair(a, b), a - 2), (lambda pair: pair.b, Pair(a, b), b), (lambda *both: both[0], Pair(a, b), a)],
)
def test_a_named_tuple_is_one_argument_of_a_module_that_takes_one(module: object, inputs: Pair, expected: Tensor):
    assert torch.equal(run(module, inputs), expected)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float64, "float64, as NumPy's are"),
        (torch.int64, "int64"),
        (torch.float16, "float16"),
        (torch.uint8, "uint8, as pixels are"),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(4, 2), nn.Conv1d(4, 2, 1), nn.LSTM(4, 2)])
def test_inputs_of_a_dtype_that_the_module_does_not_take_are_said(layer: nn.Module, dtype: torch.dtype, name: str):
    with pytest.raises(TombolaError, match=f"^the inputs are {name}, which the module does not take .*; give inputs.float"):
        run(layer, torch.ones(4, 4, dtype=dtype))


class Connected(nn.Module):
    """A graph convolution: each example is a node, and the second input says which are neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return self.last((adjacency @ self.first(x)).relu())


@pytest.mark.parametrize(
    "adjacency", [torch.eye(6), torch.ones(6, 6) / 6, torch.eye(6).to_sparse()], ids=["1", "2", "sparse"]
)
def test_examples_that_are_connected_are_taken_whole_and_never_cut(adjacency: Tensor):
    net, batch = Connected(), ((torch.randn(6, 3), adjacency), torch.tensor([0, 1, 0, 1, 1, 0]))
    settings = {"prune": PruneSettings(levels=0), "examples": 6, "progress": False}
    ticket = find_tickets(net, [batch], train=TrainSettings(epochs=1), **settings)[-1]
    assert ticket.predict(net, batch[0], samples=2).probs.shape == (6, 2)
    with pytest.raises(TombolaError, match=r"cannot be cut into parts: one of them is a matrix of shape \[6, 6\]"):
        ticket.predict(net, batch[0], samples=2, batch=3)
    with pytest.raises(TombolaError, match=r"cannot be cut into parts: one of them is a matrix of shape \[6, 6\]"):
        find_tickets(net, [batch], train=TrainSettings(epochs=1, accumulate=2), **settings)


def logits_of_positions() -> Tensor:
    return torch.randn(2, 3, 5, generator=generator("positions"))


def test_positions_are_summed_but_for_those_that_are_ignored():
    logits = logits_of_positions()
    labels = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    p = logits.log_softmax(-1)
    expected = torch.stack([p[0, 0, 1] + p[0, 2, 4], p[1, 2, 0]])
    torch.testing.assert_close(Categorical()(logits, (None, labels)), expected)
    torch.testing.assert_close(Categorical()({"logits": logits}, {"labels": labels}), expected)


def test_the_next_token_is_what_the_position_before_predicts():
    logits, tokens = logits_of_positions(), torch.tensor([[1, 2, 4], [3, 0, -100]])
    p = logits.log_softmax(-1)
    expected = torch.stack([p[0, 0, 2] + p[0, 1, 4], p[1, 0, 0]])
    torch.testing.assert_close(NextToken()(logits, (None, tokens)), expected)


def test_labels_may_be_probabilities_and_are_smoothed_in_training_alone():
    logits = torch.randn(4, 5, generator=generator("soft"))
    soft = torch.rand(4, 5, generator=generator("probabilities")).softmax(-1)
    torch.testing.assert_close(Categorical()(logits, (None, soft)), (soft * logits.log_softmax(-1)).sum(-1))
    labels = torch.tensor([0, 1, 2, 3])
    hard = -F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(Categorical(0.2).eval()(logits, (None, labels)), hard)
    assert not torch.allclose(Categorical(0.2)(logits, (None, labels)), hard)


@pytest.mark.parametrize("shape", [(2, 5), (3,), (2, 3, 5), (2,)])
def test_labels_that_do_not_fit_are_said(shape: tuple[int, ...]):
    with pytest.raises(TombolaError, match="do not fit logits of shape"):
        Categorical()(logits_of_positions(), (None, torch.zeros(shape, dtype=torch.long)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_likelihood_that_reduces_over_the_batch_is_said(reduction: str):
    def log_likelihood(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -F.cross_entropy(output, batch[1], reduction=reduction)

    model = Bayesian(nn.Linear(4, 3), likelihood=log_likelihood)
    with pytest.raises(TombolaError, match=r"returned shape \(\) for 5 examples; it must return the log likeli"):
        model.negative_elbo((torch.ones(5, 4), torch.zeros(5, dtype=torch.long)), examples=5)


def test_a_likelihood_of_positions_instead_of_examples_is_said():
    # the common slip with sequences: a mean over B * T positions would weigh the data T times too little against the KL
    def log_likelihood(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return -F.cross_entropy(output.flatten(0, 1), batch[1].flatten(), reduction="none")

    model = Bayesian(nn.Linear(4, 3), likelihood=log_likelihood)
    with pytest.raises(TombolaError, match=r"returned shape \(10,\) for 5 examples; it must .*sum over positions"):
        model.negative_elbo((torch.ones(5, 2, 4), torch.zeros(5, 2, dtype=torch.long)), examples=5)
    model = Bayesian(nn.Linear(4, 3), likelihood=lambda output, batch: 0.0)
    with pytest.raises(TombolaError, match="returned a float for 5 examples"):
        model.negative_elbo((torch.ones(5, 4), torch.zeros(5, dtype=torch.long)), examples=5)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.bool])
def test_labels_may_be_of_any_integer_type(dtype: torch.dtype):
    logits, labels = torch.randn(6, 2, generator=generator("x")), torch.tensor([0, 1, 1, 0, 1, 0])
    assert torch.equal(Categorical()(logits, (None, labels.to(dtype))), Categorical()(logits, (None, labels)))


def test_a_function_and_a_module_are_the_same_likelihood():
    inputs, labels = torch.randn(6, 4, generator=generator("x")), torch.tensor([0, 1, 2, 0, 1, 2])
    module = nn.Linear(4, 3)

    def log_likelihood(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return output.log_softmax(-1)[torch.arange(6), batch[1]]

    losses = [
        Bayesian(module, likelihood=given).negative_elbo((inputs, labels), examples=6).item()
        for given in (log_likelihood, Categorical(), None)
    ]
    assert losses[1] == losses[2]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *(("datetime64[D]", 1), ("timedelta64[s]", 1), ("V4", b"abcd"), ("uint64", 2**63)),
        ([("x", "f4"), ("y", "i4")], (1, 2)),
    ],
)
def test_arrays_that_torch_cannot_hold_are_refused(dtype, value):
    array = np.array([value], dtype=dtype)
    assert is_real(array.dtype) == (dtype == "uint64")
    with pytest.raises(
        TombolaError, match=rf"an array has the dtype {re.escape(str(array.dtype))}, whose values torch cannot"
    ):
        as_tensors({"x": (array,)})


@pytest.mark.parametrize("dtype", ["bool", "int8", ">i2", "uint16", "uint32", "uint64", "float16", ">f4", "float64"])
def test_all_other_numbers_become_tensors_of_the_same_values(dtype):
    array = np.array([[0, 1], [3, 2]], dtype=dtype)[::-1]
    found = as_tensors(array)
    assert found.tolist() == array.tolist()
    assert not found.is_floating_point() or found.dtype == torch.float32
