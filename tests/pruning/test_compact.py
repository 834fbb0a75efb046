"""Compact files: what is kept exactly, how far rounding goes, how large they are, and that damage is one sentence."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from benchmarks.tickets import random_ticket
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from support.damaged import a_ticket, check_finite, fuzz, loaded, net
from tombola import Ticket, TombolaError, load
from tombola.export import compact
from tombola.files import read
from tombola.models import build
from tombola.pruning.compact import _mask_bits, expanded, gaps_of
from tombola.pruning.ticket import ticket_in

HOW = ("exact", "fp16", "int8")


@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_an_exact_file_has_the_same_bits_but_for_the_start(kind, tmp_path):
    ticket = a_ticket(kind)
    written = compact(ticket, tmp_path / "t")
    found = load(tmp_path / "t", net())
    for one in (written, found):
        assert torch.equal(one.mask, ticket.mask)
        for name, value in ticket.trained.tensors().items():
            assert torch.equal(one.trained.tensors()[name], value), name
        assert torch.equal(one.rewind.posterior.mean, ticket.trained.posterior.mean)
    assert found.info["compact"] == "exact"
    assert found.info["level"] == 1
    found.save(tmp_path / "whole")
    assert torch.equal(load(tmp_path / "whole").trained.posterior.mean, ticket.trained.posterior.mean)


@pytest.mark.parametrize("store_as", ["fp16", "int8"])
def test_rounded_numbers_are_as_near_as_they_can_be(store_as, tmp_path):
    ticket = a_ticket()
    compact(ticket, tmp_path / "t", store_as=store_as)
    q, exact = load(tmp_path / "t", net()).posterior, ticket.posterior
    for name, value in exact.tensors().items():
        rounded = q.tensors()[name]
        for segment in exact.layout.segments:
            kept = exact.mask[segment.slice]
            one, other = value[segment.slice][kept], rounded[segment.slice][kept]
            if not segment.random:
                assert torch.equal(one, other)
            elif store_as == "int8" and len(one):
                assert (one - other).abs().max() <= (one.max() - one.min()) / 255 / 2 + 1e-6
            else:
                assert torch.equal(one.half(), other.half())
        assert not rounded[~exact.mask].any()


def test_batch_norm_statistics_go_with_the_rounded_posterior(tmp_path):
    module = build("resnet", {"depth": 8, "width": 4}, (3, 8, 8), 10, ("compact",))
    inputs = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ticket = random_ticket(module, 0.3, std=0.02).with_statistics(module, inputs, samples=3)
    expected, far = ticket.predict(module, inputs, samples=3).probs, {}
    for how in HOW:
        compact(ticket, tmp_path / how, store_as=how)
        found = load(tmp_path / how, module).predict(module, inputs, samples=3).probs
        far[how] = float((found - expected).abs().sum(1).mean() / 2)
    assert far["exact"] == 0
    assert far["fp16"] < 0.002
    assert far["int8"] < 0.02
    sizes = [(tmp_path / how).stat().st_size for how in HOW]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
def test_a_ticket_of_vgg_with_two_percent_left_is_small(tmp_path):
    """98% pruned, mean and std: at most 8% of the dense deterministic network's file."""
    module = build("vgg11", {}, (3, 32, 32), 10, ("compact",))
    save_file(module.state_dict(), tmp_path / "dense.safetensors")
    dense = (tmp_path / "dense.safetensors").stat().st_size
    inputs = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ticket = random_ticket(module, 0.02, std=0.1).with_statistics(module, inputs)
    for how, share in (("exact", 0.065), ("fp16", 0.045), ("int8", 0.035)):
        compact(ticket, tmp_path / how, store_as=how)
        print(how, (tmp_path / how).stat().st_size / dense)
        assert (tmp_path / how).stat().st_size <= share * dense


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_gaps_are_the_mask(seed, density):
    numel = seed % 2000 + 1
    mask = torch.rand(numel, generator=torch.Generator().manual_seed(seed)) < density
    assert torch.equal(mask, _unpacked(gaps_of(mask), numel))


@pytest.mark.parametrize("places", [[], [0], [254], [255], [256], [510, 511], [999], [0, 999]])
def test_gaps_at_the_limits_of_a_byte(places):
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[places] = True
    assert torch.equal(mask, _unpacked(gaps_of(mask), 1000))


def _unpacked(gaps, numel):
    bits = _mask_bits({"gaps": gaps}, numel)
    return (bits[:, None] >> torch.arange(8) & 1).flatten()[:numel].bool()


def test_what_cannot_be_compact_is_refused(tmp_path):
    ticket = a_ticket()
    large = ticket.posterior.with_mean(ticket.posterior.mean * 1e6)
    nan = ticket.posterior.with_mean(ticket.posterior.mean * math.nan)
    for wrong, how, said in (
        (Ticket(ticket.mask, ticket.rewind), "exact", "has no trained state"),
        (ticket, "int4", "store_as is 'int4'; it must be exact, fp16 or int8"),
        (replace(ticket, trained=replace(ticket.trained, posterior=large)), "fp16", "which half precision lacks; store it"),
        (replace(ticket, trained=replace(ticket.trained, posterior=nan)), "int8", "mean is not finite"),
    ):
        with pytest.raises(TombolaError, match=said):
            compact(wrong, tmp_path / "t", store_as=how)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Tensors and description of good files."""
    path, found = tmp_path_factory.mktemp("good") / "t", {}
    for how in HOW:
        for kind in ("gaussian", "point"):
            compact(a_ticket(kind), path, store_as=how)
            found[f"{how} {kind}"] = read(path)
    return found


def test_the_files_that_are_mutated_are_good(parts, tmp_path):
    for tensors, description in parts.values():
        assert isinstance(loaded(tmp_path / "t", tensors, description, net()), Ticket)
        assert ticket_in(*expanded(dict(tensors), description)).info["compact"] == description["stored_as"]


MEAN = "trained.posterior.gaussian.mean"


def put(name, change):
    return lambda tensors, about: tensors.update({name: change(tensors[name])})


WRONG = {
    "codes too few": (put(f"{MEAN}.codes", lambda t: t[:-1]), "mean.codes' is torch.uint8 of shape .* does not fit int8"),
    "codes of another kind": (put(f"{MEAN}.codes", lambda t: t.half()), "mean.codes' is torch.float16"),
    "no scale": (lambda t, about: t.pop(f"{MEAN}.step"), "mean.step' is torch.float32 of shape .."),
    "a step below 0": (put(f"{MEAN}.step", lambda t: t - 1), "mean.step' has a number that is not 0 or more"),
    "a step that is nan": (put(f"{MEAN}.step", lambda t: t * math.nan), "mean.step' has a number that is not 0 or more"),
    "a low end that is infinite": (put(f"{MEAN}.low", lambda t: t - math.inf), "not finite"),
    "a rest of whole numbers": (put(f"{MEAN}.rest", lambda t: t.long()), "mean.rest' is torch.int64"),
    "numbers twice": (lambda t, about: t.update({MEAN: torch.zeros(9)}), "both as it is and stored as int8"),
    "a part too many": (lambda t, about: t.update({f"{MEAN}.high": torch.zeros(9)}), "posterior do not fit"),
    "a start": (
        lambda t, about: t.update({"rewind.posterior.gaussian.mean": torch.zeros(9)}),
        "which a compact file has not",
    ),
    "no mask": (lambda t, about: (t.pop("gaps", None), t.pop("mask", None)), "both a mask and gaps, or neither"),
    "both": (
        lambda t, about: t.update(mask=torch.zeros(3, dtype=torch.uint8), gaps=torch.zeros(1, dtype=torch.uint8)),
        "both",
    ),
    "open gaps": (
        lambda t, about: (t.pop("mask", None), t.update(gaps=torch.tensor([3, 255], dtype=torch.uint8))),
        "end within a number",
    ),
    "gaps too far": (
        lambda t, about: (t.pop("mask", None), t.update(gaps=torch.tensor([3, 17], dtype=torch.uint8))),
        "its gaps lead to parameter 21, its layout has 21 parameters",
    ),
    "another kind of numbers": (lambda t, about: about.update(stored_as="int4"), "'stored_as' is none of"),
    "an unknown field": (lambda t, about: about.update(note="x"), "has an unknown field 'note'"),
    "surviving as a list": (lambda t, about: about.update(surviving=[]), "'surviving' is no mapping"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_does_not_fit_is_named(kind, parts, tmp_path):
    mutate, said = WRONG[kind]
    tensors, description = copy.deepcopy(parts["int8 gaussian"])
    mutate(tensors, description)
    error = loaded(tmp_path / "t", tensors, description)
    assert isinstance(error, str)
    assert re.search(said, error), error


def sound(found):
    """The ticket's numbers are sound, under its own mask."""
    check_finite(found.posterior, found.mask)


test_twenty_mutations_of_compact_files = fuzz(20, sound)
test_many_mutations_of_compact_files = pytest.mark.slow(fuzz(400, sound))
