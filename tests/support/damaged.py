"""Tickets' files with a right checksum whose parts do not fit."""

import copy
import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.state import State, initial_state
from tombola.pruning.ticket import Ticket, load
from tombola.settings import PosteriorSettings


def net():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))


def a_ticket(kind="gaussian"):
    """Of a regression; 21 parameters, so that the last byte of the mask has 3 bits to spare."""
    module = net()
    layout = Layout.of(module)
    state = initial_state(module, layout, PosteriorSettings(prior_mean="start"), 0).as_family(kind)
    mask = ~layout.prunable | (torch.arange(layout.numel) % 2 == 0)
    learned = {name: value.detach() for name, value in GaussianNoise(learn_noise=True).state_dict().items()}
    end = State(state.posterior, state.buffers, learned)
    return Ticket(mask, state.masked(mask), end.masked(mask), {"level": 1})


def loaded(path, tensors, description, module=None):
    """The ticket in a file of these parts, or the sentence that refuses it."""
    files.write(path, tensors, description)
    try:
        return load(path, module)
    except TombolaError as error:
        said = str(error)
    assert "\n" not in said
    assert str(path) in said
    return said


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 30), st.floats(), st.text(max_size=3), st.just([]), st.just({})
)
VALUES = st.sampled_from([0.0, 1.0, -1.0, 1e38, math.nan, math.inf])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])


def mutated(data, tensors, description, rows, surviving):
    """One change of a tensor's values, shape, dtype, or name; or of a field of the description, its rows or `surviving`."""
    name = data.draw(st.sampled_from(sorted(tensors)))
    row = data.draw(st.sampled_from(rows))
    what = data.draw(
        st.sampled_from(["value", "cut", "grown", "shape", "dtype", "name", "gone", "row", "field", "surviving"])
    )
    value = tensors[name]
    if what == "value" and value.numel():
        flat = value.flatten().clone()
        number = data.draw(VALUES if value.is_floating_point() else st.integers(0, 255))
        flat[data.draw(st.integers(0, value.numel() - 1))] = number
        tensors[name] = flat.view(value.shape)
    elif what in ("cut", "grown"):
        tensors[name] = value[..., :-1] if what == "cut" and value.ndim else torch.stack([value, value])
    elif what == "shape":
        tensors[name] = value[None]
    elif what == "dtype":
        tensors[name] = value.to(data.draw(DTYPES))
    elif what in ("name", "gone"):
        tensors[data.draw(st.sampled_from([f"{name}x", f"x{name}", name.replace("rewind", "trained"), "x"]))] = value
        tensors.pop(name)
    elif what == "row":
        row[data.draw(st.sampled_from([*row, "x"]))] = data.draw(ANYTHING)
    elif what == "field":
        description[data.draw(st.sampled_from([*description, "x"]))] = data.draw(ANYTHING)
    else:
        surviving[name] = data.draw(ANYTHING)


def fuzz(examples, check):
    """A test that a file with up to three changes is refused in one sentence, or gives a ticket, which `check` looks at.

    It takes the fixtures `parts`, kind -> (tensors, description), and `tmp_path`.
    """

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def run(parts, tmp_path, data):
        tensors, description = copy.deepcopy(parts[data.draw(st.sampled_from(sorted(parts)))])
        rows, surviving = description["layout"], description["surviving"]
        for _ in range(data.draw(st.integers(1, 3))):
            mutated(data, tensors, description, rows, surviving)
        found = loaded(tmp_path / "t", tensors, description)
        if isinstance(found, Ticket):
            check(found)

    return run


def check_finite(q, mask):
    """Look at a posterior's numbers: finite, no std below 0, and 0 where masked."""
    assert q.mean.isfinite().all()
    assert q.std is None or (q.std.isfinite() & (q.std >= 0)).all()
    assert not q.mean[~mask].any()
