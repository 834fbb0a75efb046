"""The small network that is left of a ticket of whole units: an ordinary module without the pruned ones, and its ticket.

Legend: P parameters of the layout, p those of the smaller one.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.batch import leaves, length_of, parts, run
from tombola.posterior.full import FullGaussian
from tombola.posterior.layout import Layout
from tombola.posterior.modes import in_evaluation, training_mode
from tombola.posterior.state import State

from .ticket import Ticket
from .units import Units, units_of

_HEADS = ("heads", "num_heads")
"""Attributes in which modules keep their number of heads."""

Kept = dict[str, tuple[Tensor, ...]]
"""Indices that stay, by the names of parameters and buffers, for each dimension."""


@training_mode
def smaller(ticket: Ticket, module: nn.Module, inputs: Any) -> tuple[nn.Module, Ticket]:
    """Return a copy of `module` without the units that a trained `ticket` has pruned, with its mean weights; and its ticket.

    inputs: a batch of examples as the module takes them. The ticket's posterior is that of the survivors; it has no
    batch-norm statistics (`with_statistics` measures them). Masks of single weights stay masks. Raises TombolaError where
    the smaller module does not compute what `module` does: one whose `forward` has sizes written in it.
    """
    layout = ticket.layout
    if ticket.end.posterior.family == FullGaussian.family:
        raise TombolaError("a posterior with a full covariance is of all parameters together; train another family")
    whole = ticket.write_mean(copy.deepcopy(module))
    units = units_of(whole, layout, inputs, "units")
    alive = units.alive(ticket.mask)
    kept = _kept(whole, layout, units.dead(alive))
    small = copy.deepcopy(whole)
    _resize(small, kept)
    _set_heads(small, layout, units, alive)
    _compare(small, whole, next(parts(inputs, length_of(inputs), 2)))
    own = _layout(layout, kept)
    numbers = layout.views(torch.arange(layout.numel))
    places = torch.cat([s.flat(_cut(numbers[s.name], kept[s.name])) for s in own.segments])
    mask = ticket.mask[places]
    rewind, trained = (_state(state, own, mask, places, kept) for state in (ticket.rewind, ticket.end))
    measured = dict(small.named_buffers())  # with batch-norm statistics of the mean, where the ticket keeps them
    trained = replace(trained, buffers={name: measured[name].detach().clone() for name in trained.buffers})
    return small, Ticket(mask, rewind, trained, ticket.info)


def _kept(module: nn.Module, layout: Layout, dead: Tensor) -> Kept:
    """Return what stays: an index of a dimension goes where all that it has is dead."""
    views, start = layout.views(dead[: layout.numel]), layout.numel
    for name, buffer in module.named_buffers():
        views[name] = dead[start : start + buffer.numel()].view(buffer.shape)
        start += buffer.numel()
    return {name: tuple(_kept_along(view, dim) for dim in range(view.ndim)) for name, view in views.items()}


def _kept_along(dead: Tensor, dim: int) -> Tensor:
    return (~dead.movedim(dim, 0).reshape(dead.shape[dim], -1).all(1)).nonzero().flatten()


def _cut(value: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
    for dim, indices in enumerate(kept):
        value = value.index_select(dim, indices.to(value.device))
    return value


def _resize(module: nn.Module, kept: Kept) -> None:
    """Cut the parameters and buffers of a module, and set the sizes of its layers."""
    made: dict[int, nn.Parameter] = {}
    for prefix, owner in module.named_modules():
        at = f"{prefix}." if prefix else ""
        for leaf, p in owner._parameters.items():
            if p is not None:
                if id(p) not in made:  # tied ones stay tied
                    made[id(p)] = nn.Parameter(_cut(p.detach(), kept[at + leaf]), requires_grad=p.requires_grad)
                owner._parameters[leaf] = made[id(p)]
        for leaf, buffer in owner._buffers.items():
            if buffer is not None and at + leaf in kept:
                owner._buffers[leaf] = _cut(buffer, kept[at + leaf])
        if isinstance(owner, nn.Linear):
            owner.out_features, owner.in_features = owner.weight.shape
        elif isinstance(owner, nn.modules.conv._ConvNd):
            first, second = owner.weight.shape[:2]
            if owner.groups == owner.in_channels == owner.out_channels:  # depthwise
                owner.groups = first
            sizes = first, second * owner.groups
            owner.in_channels, owner.out_channels = sizes if owner.transposed else reversed(sizes)
        elif isinstance(owner, nn.modules.batchnorm._BatchNorm):
            size = owner.running_mean if owner.weight is None else owner.weight
            owner.num_features = owner.num_features if size is None else len(size)


def _set_heads(module: nn.Module, layout: Layout, units: Units, alive: Tensor) -> None:
    """Set the number of heads of the modules whose layers have lost some."""
    ends = torch.tensor([s.slice.stop for s in layout.segments])
    for layer in units.layer[units.is_head].unique():
        own = units.layer == layer
        product = next(p for p in units.products if p.is_weight and bool(torch.isin(p.out, own.nonzero()).any()))
        name = layout.segments[int(torch.searchsorted(ends, product.places[0, 0, 0], right=True))].name
        parent = module.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
        for attribute in _HEADS:
            if isinstance(getattr(parent, attribute, None), int):
                setattr(parent, attribute, getattr(parent, attribute) * int(alive[own].sum()) // int(own.sum()))


def _compare(small: nn.Module, whole: nn.Module, inputs: Any) -> None:
    """Raise TombolaError unless both modules compute the same for a batch."""
    with in_evaluation(small), in_evaluation(whole), torch.no_grad():
        expected = [leaf for leaf in leaves(run(whole, inputs)) if isinstance(leaf, Tensor)]
        try:
            found = [leaf for leaf in leaves(run(small, inputs)) if isinstance(leaf, Tensor)]
            same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(found, expected, strict=True))
        except (RuntimeError, ValueError) as error:  # sizes that do not fit
            if is_out_of_memory(error):
                raise
            same = False
    if not same:
        raise TombolaError(
            f"{type(whole).__name__} without its pruned units is another network: its forward has sizes of its own; "
            "tombola.compile leaves them out of any network"
        )


def _layout(layout: Layout, kept: Kept) -> Layout:
    segments, start = [], 0
    for s in layout.segments:
        shape = tuple(map(len, kept[s.name]))
        segments.append(replace(s, shape=shape, start=start, fan_in=max(1, s.fan_in * _inputs(shape) // _inputs(s.shape))))
        start += segments[-1].numel
    return Layout(tuple(segments))


def _inputs(shape: tuple[int, ...]) -> int:
    return max(1, torch.Size(shape[1:]).numel())


def _state(state: State, layout: Layout, mask: Tensor, places: Tensor, kept: Mapping[str, tuple[Tensor, ...]]) -> State:
    """Return the survivors' part of a state, [p] for [P]."""
    whole, q = state.posterior.layout.numel, state.posterior
    tensors = {}
    for name, value in q.tensors().items():
        for dim in [dim for dim, size in enumerate(value.shape) if size == whole]:
            value = value.index_select(dim, places)
        tensors[name] = value
    buffers = {name: _cut(value, kept[name]) for name, value in state.buffers.items()}
    return replace(state, posterior=type(q).of_tensors(layout, mask, tensors), buffers=buffers)
