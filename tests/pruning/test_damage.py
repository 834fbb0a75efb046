"""Ticket files with a right checksum whose parts do not fit: each is one sentence, and never a ticket."""

import copy
import math
import re

import pytest
import torch

from support.damaged import a_ticket, check_finite, fuzz, loaded, net
from tombola import files
from tombola.pruning.ticket import Ticket


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Tensors and description of good files, by family."""
    path, found = tmp_path_factory.mktemp("good") / "t", {}
    for kind in ("gaussian", "point"):
        a_ticket(kind).save(path)
        found[kind] = files.read(path)
    return found


MEAN, MASK = "trained.posterior.gaussian.mean", "mask"


def segment(i, **changes):
    return lambda tensors, about: about["layout"][i].update(changes)


def put(name, change):
    def mutate(tensors, about):
        tensors[name] = change(tensors[name])

    return mutate


def rename(old, new):
    return lambda tensors, about: tensors.update({new: tensors.pop(old)})


def first_is(value):
    return lambda tensor: torch.cat([torch.tensor([value]), tensor[1:]])


WRONG = {
    "a mean too short": (put(MEAN, lambda t: t[:-1]), "surviving weights"),
    "a mean of two dimensions": (put(MEAN, lambda t: t[:, None]), "must be a finite number for each of 21 parameters"),
    "a mean of whole numbers": (put(MEAN, lambda t: t.long()), "mean of its trained posterior is torch.int64"),
    "a mean of half precision": (put(MEAN, lambda t: t.half()), "log_std of its trained posterior is torch.float32"),
    "a mean that is nan": (put(MEAN, first_is(math.nan)), "mean of its trained posterior .* not finite"),
    "a log_std that is infinite": (put("rewind.posterior.gaussian.log_std", first_is(math.inf)), "log_std of its rewind"),
    "a std that is infinite": (put("rewind.posterior.gaussian.log_std", first_is(99.0)), "the std of its rewind"),
    "a prior that is infinite": (put("rewind.posterior.gaussian.prior_mean", first_is(-math.inf)), "prior_mean of its"),
    "a noise that is nan": (put("trained.likelihood.log_noise", lambda t: t * math.nan), "log_noise .* no finite number"),
    "a noise beyond all measure": (
        put("trained.likelihood.log_noise", lambda t: t + 800),
        "log_noise .* between -40 and 40",
    ),
    "a mean of 8 bits": (put(MEAN, lambda t: t.to(torch.float8_e4m3fn)), "has numbers of torch.float8_e4m3fn"),
    "a mean of complex numbers": (
        put(MEAN, lambda t: t.to(torch.complex64)),
        "mean of its trained posterior is torch.complex64",
    ),
    "a noise of two numbers": (put("trained.likelihood.log_noise", lambda t: torch.zeros(2)), "log_noise"),
    "no mean": (lambda t, about: (t.pop(MEAN), about["surviving"].pop(MEAN)), "posterior do not fit: .*'mean'"),
    "a mean that is listed alone": (lambda t, about: t.pop(MEAN), "'surviving' names 'trained.posterior.gaussian.mean'"),
    "a tensor too many": (
        lambda t, about: t.update({"trained.posterior.gaussian.x": torch.zeros(21)}),
        "posterior do not fit",
    ),
    "two families": (lambda t, about: t.update({"trained.posterior.point.mean": torch.zeros(21)}), "is of one family"),
    "a tensor of no state": (
        lambda t, about: t.update({"before.buffer.x": torch.zeros(1)}),
        "'before.buffer.x', which is of no",
    ),
    "a tensor of no part": (
        rename("rewind.buffer.1.running_var", "rewind.bufer.1.running_var"),
        "'rewind.bufer.1.running_var'",
    ),
    "no start": (
        lambda t, about: [
            about["surviving"].pop(n, None) for n in list(t) if n.startswith("rewind") and t.pop(n) is not None
        ],
        "rewind posterior do not fit",
    ),
    "a mask too long": (put(MASK, lambda t: torch.cat([t, t])), "its mask is torch.uint8 of shape .6., .* 21 parameters"),
    "a mask too short": (put(MASK, lambda t: t[:2]), "its mask is"),
    "a mask of whole numbers": (put(MASK, lambda t: t.int()), "its mask is torch.int32"),
    "a bit behind the mask": (put(MASK, lambda t: t | torch.tensor([0, 0, 128], dtype=torch.uint8)), "bits behind the last"),
    "a mask that keeps another number": (put(MASK, lambda t: t | 1 | 2 | 4), "surviving weights"),
    "an unknown field": (lambda t, about: about.update(note="x"), "has an unknown field 'note'"),
    "no info": (lambda t, about: about.pop("info"), "lacks the field 'info'"),
    "an info that is a list": (lambda t, about: about.update(info=[]), "its info is no mapping"),
    "no surviving": (lambda t, about: about.pop("surviving"), "lacks the field 'surviving'"),
    "surviving as a list": (lambda t, about: about.update(surviving=[]), "'surviving' is no mapping"),
    "a dimension that is not there": (lambda t, about: about["surviving"].update({MEAN: 1}), "dimension 1 of"),
    "a dimension that is text": (lambda t, about: about["surviving"].update({MEAN: "0"}), "dimension '0' of"),
    "a buffer as surviving": (
        lambda t, about: about["surviving"].update({"rewind.buffer.1.running_var": 0}),
        "no tensor",
    ),
    "no layout": (lambda t, about: about.update(layout=[]), "its layout is no list of parameters"),
    "a layout of words": (lambda t, about: about.update(layout=["0.weight"]), "whose fields are not name, shape"),
    "a segment with a field": (segment(0, colour="red"), "whose fields are not name, shape"),
    "a shape of text": (segment(0, shape="23"), "whose fields are not"),
    "a shape below 0": (segment(0, shape=[-2, -3]), "does not fit the one before"),
    "a shape that is larger": (segment(0, shape=[2, 4]), "does not fit the one before"),
    "a start that overlaps": (segment(1, start=1), "does not fit the one before"),
    "a flag that is a number": (segment(0, random=1), "whose fields are not"),
    "roles out of order": (segment(0, random=False), "random ones after the others"),
    "a name twice": (segment(1, name="0.weight"), "has a parameter twice"),
    "another format": (lambda t, about: about.update(format=4), "no ticket of format 1"),
}


def test_the_files_that_are_mutated_are_good(parts, tmp_path):
    for tensors, description in parts.values():
        assert isinstance(loaded(tmp_path / "t", tensors, description, net()), Ticket)


@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_does_not_fit_is_named(kind, parts, tmp_path):
    mutate, said = WRONG[kind]
    tensors, description = copy.deepcopy(parts["gaussian"])
    mutate(tensors, description)
    error = loaded(tmp_path / "t", tensors, description)
    assert isinstance(error, str)
    assert re.search(said, error), error


def test_buffers_are_those_of_the_model(parts, tmp_path):
    for old, new in (("var", "vary"), ("mean", "men")):
        tensors, description = copy.deepcopy(parts["point"])
        for when in ("rewind", "trained"):
            rename(f"{when}.buffer.1.running_{old}", f"{when}.buffer.1.running_{new}")(tensors, description)
        said = loaded(tmp_path / "t", tensors, description, net())
        assert re.search(
            "does not fit the model: (it|Sequential) has a buffer '1.running_.*' that (it|Sequential) lacks", said
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[:1],
        lambda t: t * math.nan,
        lambda t: t.double(),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.float8_e4m3fn),
        lambda t: t.new_zeros(0),
    ],
)
@pytest.mark.parametrize("name", ["rewind.buffer.1.running_mean", "trained.buffer.1.running_var"])
def test_batch_norm_statistics_fit_the_model(change, name, parts, tmp_path):
    tensors, description = copy.deepcopy(parts["point"])
    put(name, change)(tensors, description)
    said = loaded(tmp_path / "t", tensors, description, net())
    assert re.search(r"does not fit the model: its buffer '1.running_\w+' \((start|end)\) is torch.* not finite", said), said


def whole(found):
    """The ticket's states have its shape and sound numbers."""
    for state in (found.rewind, found.end):
        assert state.posterior.mean.shape == found.mask.shape == (found.layout.numel,)
        check_finite(state.posterior, found.mask)
    assert "\n" not in repr(found)


test_twenty_mutations = fuzz(20, whole)
test_many_mutations = pytest.mark.slow(fuzz(400, whole))


def test_a_ticket_is_shown_in_one_line():
    ticket = a_ticket()
    assert repr(ticket) == "<Ticket: 5 of 10 prunable weights (50.000%), gaussian, trained, level 1>"
    assert repr(Ticket(ticket.mask, ticket.rewind)) == "<Ticket: 5 of 10 prunable weights (50.000%), gaussian, untrained>"
    assert repr([a_ticket("point")]) == "[<Ticket: 5 of 10 prunable weights (50.000%), point, trained, level 1>]"
