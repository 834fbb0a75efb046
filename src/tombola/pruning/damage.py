"""Checks of the parts of a ticket's file: a right checksum shows that a file is whole, not that its parts fit.

Legend: P parameters of the layout.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tombola import files
from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.batch_norm import Statistics
from tombola.posterior.binding import buffers_of
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.layout import Layout
from tombola.posterior.point import Point
from tombola.posterior.state import State

_LARGEST_LOG = 40
"""Bound of the logarithm of a noise: in float32 its square and the square's inverse are finite and above 0."""
_REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_FLAGS = {"random": bool, "decayed": bool, "prunable": bool}
_ROW = {"name": str, "shape": list, "start": int, **_FLAGS, "fan_in": int, "why": str}
"""Fields of a segment in the description of a layout."""


def damaged(text: str) -> TombolaError:
    """Return the error of a file that no version of tombola wrote."""
    return TombolaError(f"{text}; take another copy of the file, or train it anew")


def check_fields(description: dict[str, Any], known: set[str]) -> None:
    """Raise TombolaError unless the description has exactly the `known` fields, and `info` is a mapping."""
    for name in sorted(description.keys() ^ known):
        raise damaged(f"its description {'has an unknown' if name in description else 'lacks the'} field {name!r}")
    if not isinstance(description["info"], dict):
        raise damaged("its info is no mapping")


def layout_in(rows: Any) -> Layout:
    """Return the layout of a description. Raises TombolaError for segments that are no flat order of parameters."""
    if not isinstance(rows, list) or not rows:
        raise damaged("its layout is no list of parameters")
    start, roles = 0, []
    for row in rows:
        if not isinstance(row, dict) or {name: type(value) for name, value in row.items()} != _ROW:
            name = row.get("name", "?") if isinstance(row, dict) else row
            raise damaged(f"its layout has a parameter {name!r} whose fields are not {', '.join(_ROW)}")
        if not all(type(n) is int and n >= 0 for n in row["shape"]) or row["fan_in"] < 0 or row["start"] != start:
            raise damaged(
                f"the shape, fan_in or start of parameter {row['name']!r} in its layout does not fit the one before"
            )
        start += math.prod(row["shape"])
        roles.append((not row["random"], row["random"] != row["decayed"]))
    if len({row["name"] for row in rows}) < len(rows) or roles != sorted(roles):
        raise damaged("its layout has a parameter twice, or random ones after the others")
    return Layout.from_json(rows)


def mask_in(bits: Tensor, numel: int) -> Tensor:
    """Return the mask, bool [P], packed in `bits`. Raises TombolaError for bits of another number of parameters."""
    if bits.dtype != torch.uint8 or tuple(bits.shape) != (-(-numel // 8),):
        raise damaged(f"its mask is {bits.dtype} of shape {list(bits.shape)}, its layout has {numel} parameters")
    mask = files.unpack(bits, numel)
    if not torch.equal(files.pack(mask), bits):
        raise damaged(f"its mask has bits behind the last of {numel} parameters")
    return mask


def check_surviving(surviving: Any, tensors: dict[str, Tensor], kept: int) -> None:
    """Raise TombolaError unless `surviving` maps tensors to their dimension of the `kept` surviving weights.

    Also for a tensor of a posterior of numbers that torch cannot move about, such as those of 8 bits.
    """
    for name, stored in tensors.items():
        if name.partition(".")[2].startswith("posterior.") and stored.is_floating_point() and stored.dtype not in _REALS:
            raise damaged(f"{name!r} has numbers of {stored.dtype}, which no posterior has")
    if not isinstance(surviving, dict):
        raise damaged("its field 'surviving' is no mapping")
    for name, dim in surviving.items():
        value = tensors.get(name)
        if value is None or not name.partition(".")[2].startswith("posterior."):
            raise damaged(f"its field 'surviving' names {name!r}, which is no tensor of a posterior")
        if type(dim) is not int or not 0 <= dim < value.ndim or value.shape[dim] != kept:
            raise damaged(f"{name!r} has shape {list(value.shape)} and dimension {dim!r} of {kept} surviving weights")


def state_in(layout: Layout, mask: Tensor, tensors: dict[str, Tensor], when: str) -> State:
    """Return the state of the tensors under the mask. Raises TombolaError for tensors that are missing, extra or unfit."""
    for name in tensors:
        if name.partition(".")[0] not in ("posterior", "buffer", "likelihood"):
            raise damaged(f"it has a tensor {f'{when}.{name}'!r}, which is of no state")
    try:
        state = State.of_tensors(layout, mask, tensors)
        _check_posterior(state, layout.numel, when)
        state = state.masked(mask)
    except TombolaError:
        raise
    except Exception as error:  # whatever a family does with tensors that are missing, extra, or of another shape
        if is_out_of_memory(error):
            raise
        raise damaged(f"the tensors of its {when} posterior do not fit: {' '.join(str(error).split())}") from None
    noise = state.likelihood.get("log_noise", torch.zeros(()))
    if noise.ndim or not noise.is_floating_point() or not bool(noise.abs() < _LARGEST_LOG):
        raise damaged(f"log_noise of its {when} likelihood is no finite number between -{_LARGEST_LOG} and {_LARGEST_LOG}")
    return state


def statistics_in(tensors: dict[str, Tensor], trained: State | None) -> Statistics:
    """Return the statistics of the tensors. Raises TombolaError for ones that do not fit the trained state's buffers."""
    numbers = [tensors.get(name, torch.empty(0)) for name in ("seed", "posterior")]
    if trained is None or any(n.dtype != torch.int64 or n.ndim for n in numbers):
        raise damaged("its batch-norm statistics have no seed or posterior, or there is no trained state that they are of")
    if extra := [name for name in tensors if name.partition(".")[0] not in ("seed", "posterior", "mean", "samples")]:
        raise damaged(f"it has a tensor {f'statistics.{extra[0]}'!r}, which is of no state")
    found = Statistics.of_tensors(tensors)
    names = {name for name in trained.buffers if name.rpartition(".")[2] in ("running_mean", "running_var")}
    sizes = {tuple(values.shape[:1]) for values in found.samples.values()}
    if not found.samples.keys() == found.mean.keys() <= names or len(sizes) != 1 or sizes <= {(), (0,)}:
        raise damaged("its batch-norm statistics are not of the running means and variances of its trained state")
    for name, mean in found.mean.items():
        own = tuple(trained.buffers[name].shape)
        for value, shape in ((mean, own), (found.samples[name], (found.kept, *own))):
            if tuple(value.shape) != shape or not _is_finite(value):
                raise damaged(f"its batch-norm statistics of {name!r} are not finite numbers of shape {list(shape)}")
    return found


def check_buffers(states: Mapping[str, Mapping[str, Tensor]], module: nn.Module) -> None:
    """Raise TombolaError unless the states have the buffers of the module, by name, and batch-norm statistics that fit.

    Other buffers may have another shape, or be in one state alone: a forward pass may make and replace them.
    """
    own, kind = buffers_of(module), type(module).__name__
    everywhere = {name for found in states.values() for name in found}
    for name in sorted(own.keys() ^ everywhere):
        one, other = ("it", kind) if name in everywhere else (kind, "it")
        raise TombolaError(f"{one} has a buffer {name!r} that {other} lacks: it is another model")
    for when, found in states.items():
        for name, value in found.items():
            fits = value.shape == own[name].shape and value.dtype == own[name].dtype and _is_finite(value)
            if name.rpartition(".")[2] in ("running_mean", "running_var") and not fits:
                raise damaged(
                    f"its buffer {name!r} ({when}) is {value.dtype} of shape {list(value.shape)}, or not finite; {kind} has "
                    f"{own[name].dtype} of shape {list(own[name].shape)}"
                )


def _is_finite(value: Tensor) -> bool:
    """Return whether it has finite real numbers, of a dtype that arithmetic takes: not complex, not of 8 bits."""
    return value.dtype in _REALS and bool(value.isfinite().all())


def _check_posterior(state: State, numel: int, when: str) -> None:
    q = state.posterior
    for name, value in q.tensors().items():
        flat = tuple(value.shape) == (numel,) and value.is_floating_point() and value.dtype == q.mean.dtype
        # other families have tensors of any shape, and whole numbers
        exotic = (value.is_floating_point() or value.is_complex()) and not _is_finite(value)
        if (isinstance(q, Gaussian | Point) and not flat) or exotic:
            raise damaged(
                f"{name} of its {when} posterior is {value.dtype} of shape {list(value.shape)}, or not finite; it must be a "
                f"finite number for each of {numel} parameters"
            )
    for name, marginal in (("mean", q.mean), ("std", q.std)):
        if marginal is not None and (tuple(marginal.shape) != (numel,) or not _is_finite(marginal)):
            raise damaged(f"the {name} of its {when} posterior is not a finite number for each of {numel} parameters")
