"""The compact form of a ticket's file: the trained state alone, of its survivors, exact or rounded.

Legend: P parameters of the layout, K of them kept, k of these random, R tensors that are random.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.layout import Layout

from .damage import check_fields, damaged, layout_in, mask_in

FORMAT = 3
"""Format of compact files; `ticket.FORMAT` is that of whole ones."""

StoredAs = Literal["exact", "fp16", "int8"]
"""Numbers of random parameters: as they are, in half precision, or as one of 256 levels between their tensor's extremes."""

Parts = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and description of a file."""

_LEVELS = 255
_ESCAPE = 255


def compacted(parts: Parts, stored_as: StoredAs) -> Parts:
    """Return the compact form of a whole trained ticket's parts, as `Ticket.parts` has them.

    Raises TombolaError for a posterior that cannot be rounded: of another family than gaussian and point, or with a number
    that half precision lacks.
    """
    tensors, description = parts
    layout = Layout.from_json(description["layout"])
    mask = files.unpack(tensors["mask"], layout.numel)
    gaps, counts = gaps_of(mask), _counts(layout, mask)
    found = {"gaps": gaps} if len(gaps) < len(tensors["mask"]) else {"mask": tensors["mask"]}
    surviving = {name: dim for name, dim in description["surviving"].items() if name.startswith("trained.")}
    for name, value in tensors.items():
        if name == "mask" or name.startswith("rewind."):
            continue
        if stored_as == "exact" or not name.startswith("trained.posterior."):
            found[name] = value
            continue
        if name.split(".")[2] not in ("gaussian", "point"):
            raise TombolaError(f"a {name.split('.')[2]} posterior cannot be stored as {stored_as}; store it as exact")
        found |= {f"{name}.{part}": coded for part, coded in _coded(name, value, counts, stored_as).items()}
    info = {**description["info"], "compact": stored_as}
    return found, {**description, "format": FORMAT, "surviving": surviving, "stored_as": stored_as, "info": info}


def expanded(tensors: dict[str, Tensor], description: dict[str, Any]) -> Parts:
    """Return the parts of a compact file in the form of a whole one; survivors start where they ended.

    Raises TombolaError for parts that do not fit; the rest is for the checks of a whole ticket's parts.
    """
    check_fields(description, {"format", "layout", "surviving", "stored_as", "info"})
    layout, surviving, stored_as = (description[name] for name in ("layout", "surviving", "stored_as"))
    if stored_as not in ("exact", "fp16", "int8") or not isinstance(surviving, dict):
        raise damaged("its field 'stored_as' is none of exact, fp16 and int8, or 'surviving' is no mapping")
    layout = layout_in(layout)
    found = dict(tensors)
    found["mask"] = _mask_bits(found, layout.numel)
    mask = mask_in(found["mask"], layout.numel)
    for name in surviving if stored_as != "exact" else ():
        if name in found:
            raise damaged(f"it has {name!r} both as it is and stored as {stored_as}")
        found[name] = _decoded(name, found, _counts(layout, mask), int(mask.sum()), stored_as)
    if first := [name for name in found if name.startswith("rewind.")]:
        raise damaged(f"it has a tensor {first[0]!r}, which a compact file has not")
    for name in [name for name in found if name.startswith("trained.")]:
        start = f"rewind.{name.removeprefix('trained.')}"
        found[start] = found[name]
        surviving = surviving | ({start: surviving[name]} if name in surviving else {})
    return found, {"format": 2, "layout": description["layout"], "surviving": surviving, "info": description["info"]}


def gaps_of(mask: Tensor) -> Tensor:
    """Return a mask, bool [P], as the number of pruned weights before each kept one: bytes, uint8.

    255 stands for 255 pruned weights with more to come, so the last byte of each number is below.
    """
    places = mask.nonzero().squeeze(1)
    before = places.diff(prepend=places.new_tensor([-1])) - 1
    ends = (before // _ESCAPE + 1).cumsum(0)
    coded = torch.full((int(ends[-1]) if len(ends) else 0,), _ESCAPE, dtype=torch.uint8)
    coded[ends - 1] = (before % _ESCAPE).to(torch.uint8)
    return coded


def _mask_bits(tensors: dict[str, Tensor], numel: int) -> Tensor:
    """Take `mask` or `gaps` out of the tensors; return the packed mask."""
    bits, coded = tensors.pop("mask", None), tensors.pop("gaps", None)
    if (bits is None) == (coded is None):
        raise damaged("it has both a mask and gaps, or neither")
    if bits is not None:
        return bits
    assert coded is not None
    if coded.dtype != torch.uint8 or coded.ndim != 1 or (len(coded) and int(coded[-1]) == _ESCAPE):
        raise damaged(f"its gaps are {coded.dtype} of shape {list(coded.shape)}, or end within a number")
    ends = (coded < _ESCAPE).nonzero().squeeze(1)
    places = coded.long().cumsum(0)[ends] + torch.arange(len(ends))
    if len(places) and int(places[-1]) >= numel:
        raise damaged(f"its gaps lead to parameter {int(places[-1])}, its layout has {numel} parameters")
    mask = torch.zeros(numel, dtype=torch.bool)
    mask[places] = True
    return files.pack(mask)


def _counts(layout: Layout, mask: Tensor) -> Tensor:
    """Return the number of kept parameters of each random tensor, int64 [R]. mask: in row-major order."""
    kept = [int(mask[s.slice].sum()) for s in layout.segments if s.random]
    return torch.tensor(kept, dtype=torch.int64)


def _coded(name: str, value: Tensor, counts: Tensor, stored_as: StoredAs) -> dict[str, Tensor]:
    """Return the parts of a posterior's tensor, float [K]."""
    drawn, rest = value.split([int(counts.sum()), len(value) - int(counts.sum())])
    if stored_as == "fp16":
        half = drawn.half()
        if not bool(half.isfinite().all()):
            largest = float(drawn.abs().max())
            raise TombolaError(f"{name} has the number {largest:.3g}, which half precision lacks; store it as int8 or exact")
        return {"codes": half, "rest": rest.clone()}
    ranges = [part.aminmax() if len(part) else (part.new_zeros(()),) * 2 for part in drawn.split(counts.tolist())]
    low, high = (torch.stack(ends).float() if ends else torch.zeros(0) for ends in zip(*ranges, strict=True))
    step = ((high.double() - low) / _LEVELS).float()
    spread = step.repeat_interleave(counts)
    places = (drawn.double() - low.repeat_interleave(counts)) / spread.where(spread > 0, 1)
    codes = places.round().clamp(0, _LEVELS).to(torch.uint8)
    return {"codes": codes, "rest": rest.clone(), "low": low, "step": step}


def _decoded(name: str, tensors: dict[str, Tensor], counts: Tensor, kept: int, stored_as: StoredAs) -> Tensor:
    """Take the parts of a posterior's tensor out of `tensors`; return it, float [K]. Raises TombolaError for unfit ones."""
    drawn, tensors_of = int(counts.sum()), len(counts)
    shapes = {"codes": drawn, "rest": kept - drawn} | (
        {"low": tensors_of, "step": tensors_of} if stored_as == "int8" else {}
    )
    parts = {part: tensors.pop(f"{name}.{part}", torch.empty(())) for part in shapes}
    dtypes = {"codes": torch.float16 if stored_as == "fp16" else torch.uint8, "low": torch.float32, "step": torch.float32}
    for part, value in parts.items():
        fits = value.dtype == dtypes[part] if part in dtypes else value.is_floating_point()
        if not fits or tuple(value.shape) != (shapes[part],):
            raise damaged(f"'{name}.{part}' is {value.dtype} of shape {list(value.shape)}, which does not fit {stored_as}")
    codes = parts["codes"].to(parts["rest"].dtype)
    if stored_as == "int8":
        if not bool((parts["step"] >= 0).all()):
            raise damaged(f"'{name}.step' has a number that is not 0 or more")
        low, step = (parts[part].to(codes).repeat_interleave(counts) for part in ("low", "step"))
        codes = low + step * codes
    return torch.cat([codes, parts["rest"]])
