"""Ticket files, old ones too, are read as docs/ticket-format.md says: with safetensors and numpy, not with our reader."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import tombola
from tombola.engine.store import Store
from tombola.pruning.ticket import FORMAT

DATA = Path(__file__).parent / "data"
PAGE = (Path(__file__).parents[2] / "docs" / "ticket-format.md").read_text()
FIELDS = {"name", "shape", "start", "random", "decayed", "prunable", "fan_in", "why"}


def opened(path):
    """Return (tensors, description) of a file whose checksum is right."""
    with safe_open(path, framework="np") as file:
        checksum, text = file.metadata()["tombola"].split(" ", 1)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    total = hashlib.sha256(text.encode())
    for name, value in sorted(tensors.items()):
        total.update(f"{name} torch.{value.dtype} {value.shape}".encode())
        total.update(value.tobytes())
    assert total.hexdigest() == checksum
    return tensors, json.loads(text)


def mask_of(tensors, parameters):
    bits = tensors["mask"]
    assert (bits.dtype, bits.shape) == (np.uint8, (math.ceil(parameters / 8),))
    every = [bool(bits[i // 8] >> (i % 8) & 1) for i in range(8 * len(bits))]
    assert not any(every[parameters:])
    return np.array(every[:parameters])


def check_layout(rows):
    """Return P."""
    start = 0
    for row in rows:
        assert set(row) == FIELDS
        assert row["start"] == start
        start += math.prod(row["shape"])
    assert [row["random"] for row in rows] == sorted((row["random"] for row in rows), reverse=True)
    return start


def check_statistics(name, value):
    _, part, *_ = name.split(".", 2)
    assert {"seed": 0, "posterior": 0, "mean": 1, "samples": 2}[part] == value.ndim
    assert value.dtype == (np.int64 if value.ndim == 0 else np.float32)


def read(path):
    """Return (mask, when -> (family, tensors by name, whole), description)."""
    tensors, about = opened(path)
    assert about["format"] in (1, 2)
    assert set(about) == {"format", "layout", "info"} | ({"surviving"} if about["format"] == 2 else set())
    mask = mask_of(tensors, check_layout(about["layout"]))
    states = {}
    for name, value in tensors.items():
        if name == "mask":
            continue
        if name.startswith("statistics."):
            check_statistics(name, value)
            continue
        when, part, rest = name.split(".", 2)
        assert when in ("rewind", "trained")
        assert part in ("posterior", "buffer", "likelihood")
        if part != "posterior":
            continue
        surviving = about["surviving"].get(name) if about["format"] == 2 else 0
        if surviving is not None:
            whole = np.zeros([*value.shape[:surviving], len(mask), *value.shape[surviving + 1 :]], value.dtype)
            whole[(slice(None),) * surviving + (mask,)] = value
            value = whole
        family, _, own = rest.rpartition(".")
        states.setdefault(when, {})[own] = value
        states[when].setdefault("family", set()).add(family)
    for found in states.values():
        if about["format"] == 1:
            found["family"] = "gaussian" if "log_std" in found else "point"
        else:
            (found["family"],) = found["family"]
    return mask, states, about


def check(path, ticket):
    """Compare what the page's reader finds with what ours does."""
    mask, states, about = read(path)
    np.testing.assert_array_equal(mask, ticket.mask.numpy())
    assert about["info"]["level"] == ticket.info["level"]
    assert states.keys() == {"rewind", "trained"}
    for when, state in (("rewind", ticket.rewind), ("trained", ticket.trained)):
        found = states[when]
        assert found.pop("family") == state.posterior.family
        assert found.keys() == state.posterior.tensors().keys()
        for name, value in state.posterior.tensors().items():
            np.testing.assert_array_equal(found[name], value.numpy())


@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_an_old_file_is_read_by_the_page(kind):
    path = DATA / f"format_1_{kind}.safetensors"
    check(path, tombola.load(path))


@pytest.mark.parametrize("method", ["vi", "map"])
def test_a_file_of_today_and_its_kept_mask_are_read_by_the_page(method, tmp_path):
    assert f"The version is **{FORMAT}**" in PAGE
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    score = "snr" if method == "vi" else "magnitude"
    ticket = tombola.find_tickets(
        module,
        (torch.randn(40, 5), torch.randint(2, (40,))),
        train=tombola.TrainSettings(epochs=1, batch_size=20, method=method),
        prune=tombola.PruneSettings(score=score, fraction=0.5, levels=1),
        progress=False,
    )[-1]
    store = Store(tmp_path)
    path = store.ticket_path("a-key")
    path.parent.mkdir()
    ticket.save(path)
    check(path, ticket)
    store.keep_mask("a-key")
    tensors, about = opened(store.mask_path("a-key"))
    assert (set(tensors), set(about)) == ({"mask"}, {"parameters", "layout", "info"})
    assert check_layout(about["layout"]) == about["parameters"]
    np.testing.assert_array_equal(mask_of(tensors, about["parameters"]), ticket.mask.numpy())
