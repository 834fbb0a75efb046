"""Draws of rows of a source: held-out parts and subsets, each class in proportion.

Legend: N rows, n rows wanted, C classes.
"""

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError


def apportion(counts: list[int], n: int) -> list[int]:
    """Share n out in proportion to `counts`, by largest remainders; no share is above its count.

    If n is at least the number of non-empty classes, each of them gets at least one.
    """
    total = sum(counts)
    assert 0 <= n <= total, (n, total)
    least = [min(1, c) for c in counts] if n >= sum(c > 0 for c in counts) else [0] * len(counts)
    left, room = n - sum(least), [c - k for c, k in zip(counts, least, strict=True)]
    whole = max(1, sum(room))
    shares = [k + left * r // whole for k, r in zip(least, room, strict=True)]
    by_rest = sorted(range(len(counts)), key=lambda i: (-(left * room[i] % whole), i))  # ties: the lower class
    for i in by_rest[: n - sum(shares)]:
        shares[i] += 1
    return shares


def draw(targets: Tensor, n: int, *stream: streams.Word) -> Tensor:
    """Draw n rows of `targets` [N] without repeats from the named stream, classes in proportion; return them sorted, [n]."""
    order = torch.randperm(len(targets), generator=streams.generator(*stream))
    if targets.is_floating_point():
        return order[:n].sort().values
    shares = apportion(targets.bincount().tolist(), n)
    ordered = targets[order]
    drawn = [order[(ordered == label).nonzero()[:share, 0]] for label, share in enumerate(shares)]
    return torch.cat(drawn).sort().values


def hold_out(targets: Tensor, rows: Tensor, n: int, part: str, name: str) -> tuple[Tensor, Tensor]:
    """Return (rows that stay, n rows held out as `part`), drawn from the stream ("split", name, part)."""
    if not 0 <= n < len(rows):
        raise TombolaError(f"data {name!r}: {part} is {n}, of {len(rows)} training examples; leave some to train on")
    drawn = draw(targets[rows], n, "split", name, part)
    stays = torch.ones(len(rows), dtype=torch.bool)
    stays[drawn] = False
    return rows[stays], rows[drawn]


def subset(targets: Tensor, rows: Tensor, n: int | None, part: str, name: str) -> Tensor:
    """Return n of the rows, or all for None. Raises TombolaError if n is too large, or too small to keep every class."""
    if n is None:
        return rows
    classes = 1 if targets.is_floating_point() else len(targets[rows].unique())
    if not classes <= n <= len(rows):
        raise TombolaError(
            f"data {name!r}: {part} is {n}; there are {len(rows)} examples in {classes} classes to choose from, "
            f"so give {classes} to {len(rows)}"
        )
    return rows[draw(targets[rows], n, "subset", name, part)]


def check_classes(train: Tensor, classes: list[str], name: str) -> None:
    """Raise TombolaError naming a class that none of the training targets has."""
    missing = (train.bincount(minlength=len(classes)) == 0).nonzero()[:, 0].tolist()
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise TombolaError(
            f"data {name!r}: class {classes[missing[0]]!r}{more} has no training examples; drop it from the source, or hold "
            "out less"
        )
