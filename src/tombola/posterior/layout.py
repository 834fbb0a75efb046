"""The flat order of a module's parameters, and the role of each.

Parameters follow one another; each is in row-major order of its shape, but a convolution's weight is channels-last, as the
kernels want it: a network that runs on views of flat memory converts no weight in any step. What is flat (means, masks,
noise, gradients) is in this order. Files, initial draws and rankings are in row-major order throughout: `row_major`, `rows`.

Legend: P parameters of the module (tied ones once), counted over all segments.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError

from .roles import (
    Predicate,
    check_apart,
    check_buffers,
    fan_in_of,
    is_weight,
    kind_of,
    later_names,
    matches,
    owned,
    randomness,
    with_first,
)

ORDER = "convolutions channels-last"
"""Name of the flat order, for checkpoints: tensors that were saved in another order are not read."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One parameter tensor and its place in the flat order."""

    name: str
    shape: tuple[int, ...]
    start: int
    """Index of its first element in the flat order."""
    random: bool
    """True of a parameter with a distribution; others are numbers that are learned, or kept where frozen."""
    decayed: bool
    """True where weight decay acts on it."""
    prunable: bool
    """True where scores rank its elements and masks may zero them."""
    fan_in: int
    """Number of inputs that one output sums over; the Kaiming scale is 1/sqrt(fan_in)."""
    why: str
    """Reason of the roles, in words."""

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.numel)

    @property
    def channels_last(self) -> bool:
        """True of the weight of a convolution, [O, I, height, width], whose order in flat memory is [O, height, width, I].

        It depends on name and shape alone, so that two layouts of one model, or a file of one, cannot differ in it.
        """
        return len(self.shape) == 4 and self.name.rpartition(".")[2] == "weight"

    def view(self, flat: Tensor) -> Tensor:
        """Return the view of `flat` [P] that is this parameter, in its shape."""
        if not self.channels_last:
            return flat[self.slice].view(self.shape)
        out, channels, height, width = self.shape
        return flat[self.slice].view(out, height, width, channels).permute(0, 3, 1, 2)

    def flat(self, tensor: Tensor) -> Tensor:
        """Return the elements of `tensor`, of this parameter's shape, in flat order [n]: the inverse of `view`."""
        return (tensor.permute(0, 2, 3, 1) if self.channels_last else tensor).reshape(-1)

    def rows(self) -> Tensor:
        """Return the places in flat order [P] of the elements in row-major order: int64 [n]."""
        return replace(self, start=0).view(torch.arange(self.start, self.slice.stop)).reshape(-1)

    def kept(self, mask: Tensor) -> Tensor:
        """Return the survivors of `mask` (bool [P]) among `rows`."""
        rows = self.rows()
        return rows[mask[rows]]


@dataclass(frozen=True)
class Layout:
    """Segments in flat order: random before deterministic, and within each so that decayed ones are contiguous."""

    segments: tuple[Segment, ...]

    @classmethod
    def of(
        cls,
        module: nn.Module,
        *,
        random: Sequence[str] | Predicate | None = None,
        decayed: Sequence[str] | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        classifier: bool = False,
        cancelled: Collection[str] = (),
    ) -> "Layout":
        """Return the layout of `module`.

        random: name patterns (as in a shell) or a predicate that choose the random parameters; by default the weights and
            biases of linear, convolution, attention and embedding layers, not `cancelled_biases`. Frozen ones never are.
        decayed: name patterns of the parameters that weight decay acts on; by default those of two or more dimensions.
        include, exclude: name patterns added to and taken from the prunable parameters, by default the weights of linear,
            convolution and attention layers; never frozen ones. classifier: whether the last such weight may be pruned.

        A tied parameter has all of its names for patterns. Parameters may have several floating-point dtypes.
        Raises TombolaError for a pattern that matches nothing, buffers that cannot be saved, and parameters that are integer
        or complex, sparse, without values (of a lazy module or on the meta device), pruned by torch, or share memory.
        """
        owners = owned(module)
        check_buffers(module)
        check_apart(module, owners)
        later = later_names(module)
        patterns = random if isinstance(random, Sequence) else ()
        _check_patterns([*patterns, *(decayed or ()), *include, *exclude], [*(name for name, _, _ in owners), *later])
        include, exclude, decays = (with_first(given, later) for given in (include, exclude, decayed or ()))
        random = with_first(random, later) if isinstance(random, Sequence) else random
        weights = [name for name, owner, p in owners if is_weight(name, owner, p)]
        uses = [id(p) for m in module.modules() for name, p in m.named_parameters(recurse=False) if is_weight(name, m, p)]
        # by identity: a classifier that is tied to an embedding has the embedding's name
        last = [n for n, _, p in owners if uses and not classifier and id(p) == uses[-1]]
        parts: list[dict[str, Any]] = []
        for name, owner, p in owners:
            is_random, why = randomness(name, owner, p, random, kind_of(name, owner), cancelled)
            is_decayed = p.requires_grad and (p.ndim >= 2 if decayed is None else matches(name, decays))
            chosen = (name in weights and name not in last) or matches(name, include)
            prunable = chosen and p.requires_grad and p.numel() > 0
            if name in last and not chosen:
                why += "; the final classifier is not pruned"
            if matches(name, exclude):
                prunable, why = False, why + "; excluded from pruning by a pattern"
            roles = {"random": is_random, "decayed": is_decayed, "prunable": prunable, "why": why}
            parts.append({"name": name, "shape": tuple(p.shape), "fan_in": fan_in_of(name, owner, p)} | roles)
        return cls(_segments(parts))

    @cached_property
    def numel(self) -> int:
        """Number of parameters, P."""
        return sum(s.numel for s in self.segments)

    @cached_property
    def random_numel(self) -> int:
        """Number of random parameters: the first ones in flat order."""
        return sum(s.numel for s in self.segments if s.random)

    @cached_property
    def prunable(self) -> Tensor:
        """Places where a mask may be zero: bool [P]."""
        return self._where(lambda s: s.prunable)

    @cached_property
    def is_random(self) -> Tensor:
        """Places of random parameters: bool [P]."""
        return self._where(lambda s: s.random)

    @cached_property
    def kaiming_scale(self) -> Tensor:
        """Scale of each parameter, 1/sqrt(fan_in): float [P]."""
        return torch.cat([torch.full((s.numel,), s.fan_in**-0.5) for s in self.segments])

    def decay_groups(self) -> list[tuple[slice, bool]]:
        """Return contiguous runs of the flat order and whether weight decay acts on them: at most three."""
        runs = []
        for decayed, segments in groupby(self.segments, key=lambda s: s.decayed):
            run = list(segments)
            runs.append((slice(run[0].start, run[-1].slice.stop), decayed))
        return runs

    def prunable_segments(self) -> list[Segment]:
        return [s for s in self.segments if s.prunable]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return name -> view of `flat` [P] in the parameter's shape."""
        return {s.name: s.view(flat) for s in self.segments}

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return [P] of tensors by parameter name, in the widest of their dtypes but at least float32.

        Raises TombolaError for a missing name or another shape.
        """
        dtype = torch.float32
        for s in self.segments:
            if s.name not in tensors:
                raise TombolaError(f"parameter {s.name!r} is missing; there is {', '.join(tensors)}")
            if tuple(tensors[s.name].shape) != s.shape:
                raise TombolaError(f"{s.name!r} has shape {tuple(tensors[s.name].shape)}, the layout says {s.shape}")
            dtype = torch.promote_types(dtype, tensors[s.name].dtype)
        return torch.cat([s.flat(tensors[s.name].detach()).to(dtype) for s in self.segments])

    def rows(self) -> Tensor:
        """Return the places in flat order of all elements, each parameter's in row-major order: int64 [P]."""
        return torch.cat([s.rows() for s in self.segments])

    def row_major(self, values: Tensor) -> Tensor:
        """Return `values` with each dimension of length P in row-major order; `of_row_major` is the inverse."""
        return self._taken(values, lambda: self.rows())

    def of_row_major(self, values: Tensor) -> Tensor:
        """Return `values`, each dimension of length P of which is in row-major order, in flat order."""
        return self._taken(values, lambda: self.rows().argsort())

    def _taken(self, values: Tensor, places: Callable[[], Tensor]) -> Tensor:
        dims = [dim for dim, size in enumerate(values.shape) if size == self.numel]
        if dims and any(s.channels_last for s in self.segments):
            where = places().to(values.device)
            for dim in dims:
                values = values.index_select(dim, where)
        return values

    def mask_of(self, masks: Mapping[str, Tensor], later: Mapping[str, str] | None = None) -> Tensor:
        """Return `masks` by parameter name (nonzero is kept) in flat order, bool [P]; parameters without one are kept.

        later: as of `later_names`. Raises TombolaError for a name that the layout lacks, another shape, and two names of one
        parameter with different masks.
        """
        flat = torch.ones(self.numel, dtype=torch.bool)
        views = self.views(flat)
        for given, mask in masks.items():
            name = (later or {}).get(given, given)
            if name != given and not torch.equal(masks.get(name, mask), mask):
                raise TombolaError(f"{name!r} and {given!r} are one parameter with two masks; give one of them")
            if name not in views:
                raise TombolaError(f"there is a mask for {name!r}, but no such parameter; there is {', '.join(views)}")
            if mask.shape != views[name].shape:
                raise TombolaError(f"the mask of {name!r} has shape {tuple(mask.shape)}, not {tuple(views[name].shape)}")
            views[name].copy_(mask != 0)
        return flat

    def check(self, module: nn.Module) -> None:
        """Raise TombolaError where `module` does not have exactly the layout's parameters; it names the first."""
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        for s in self.segments:
            if s.name not in shapes:
                raise TombolaError(
                    f"{type(module).__name__} has no parameter {s.name!r} of shape {s.shape}: it is another model"
                )
            if shapes[s.name] != s.shape:
                raise TombolaError(
                    f"parameter {s.name!r} of {type(module).__name__} has shape {shapes[s.name]}, not {s.shape}: "
                    "it is another model"
                )
        extra = sorted(shapes.keys() - {s.name for s in self.segments})
        if extra:
            raise TombolaError(
                f"{type(module).__name__} has a parameter {extra[0]!r} that the layout lacks: it is another model"
            )

    def summary(self) -> str:
        """Return a table in text: every tensor, its size, its roles and the reason of them."""
        rows = [("parameter", "shape", "count", "role", "why")]
        for s in self.segments:
            roles = [name for name, on in (("random", s.random), ("decayed", s.decayed), ("prunable", s.prunable)) if on]
            rows.append((s.name, "x".join(map(str, s.shape)), f"{s.numel:,}", " ".join(roles) or "deterministic", s.why))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
        prunable = int(self.prunable.sum())
        lines.append(f"{self.numel:,} parameters, {self.random_numel:,} random, {prunable:,} prunable")
        return "\n".join(lines)

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(s) for s in self.segments]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> "Layout":
        return cls(tuple(Segment(**{**row, "shape": tuple(row["shape"])}) for row in rows))

    def _where(self, role: Callable[[Segment], bool]) -> Tensor:
        return torch.cat([torch.full((s.numel,), role(s)) for s in self.segments])


def _check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise TombolaError(f"pattern {pattern!r} matches no parameter; the module has {', '.join(names)}")


def _segments(parts: list[dict[str, Any]]) -> tuple[Segment, ...]:
    """Return the segments in the layout's order."""
    # order of groups: random decayed | random | deterministic | deterministic decayed: undecayed ones are one run
    parts.sort(key=lambda part: (not part["random"], part["random"] != part["decayed"]))
    segments, start = [], 0
    for part in parts:
        segments.append(Segment(**part, start=start))
        start += segments[-1].numel
    return tuple(segments)
