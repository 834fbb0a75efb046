"""Units of a network that live or die as a whole: neurons and channels of convolutions, and heads of attention.

With a unit die the weights that make it (rows of its layers), what is of it alone (biases, parameters of norms) and the
weights that read it (columns of the layers behind), so that a smaller network computes the same. Channels that a shortcut
adds are one unit. No unit are channels that something mixes, as a layer norm does, or that the network returns.

Legend: P parameters of the layout, B elements of buffers, U units.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tombola.errors import TombolaError
from tombola.posterior.batch import leaves, length_of, parts, run
from tombola.posterior.functional import holding
from tombola.posterior.layout import Layout
from tombola.posterior.modes import in_evaluation, training_mode

from .tracing import Product, Tracer

KINDS = {"channels": (False,), "heads": (True,), "units": (False, True)}
"""Structures, and the kinds of units that each has: heads or not."""


@dataclass(frozen=True)
class Units:
    """Units of a network, in the order of its layers."""

    products: tuple[Product, ...]
    """Parameters, with the numbers of units in place of channels; U of none."""
    layer: Tensor
    """Number of the layer, or of the layers that shortcuts tie, of each unit, int64 [U]."""
    is_head: Tensor
    """Bool [U]."""
    size: int
    """P + B: places number the parameters in flat order, then the buffers."""

    def __len__(self) -> int:
        return len(self.layer)

    def alive(self, mask: Tensor) -> Tensor:
        """Return bool [U], True of the units of which a parameter survives in `mask` [P]."""
        return self._sums(mask) > 0

    def masked(self, mask: Tensor, alive: Tensor) -> Tensor:
        """Return a copy of `mask` [P] without the units that are not `alive`, bool [U]."""
        return mask & ~self.dead(alive)[: len(mask)]

    def dead(self, alive: Tensor) -> Tensor:
        """Return bool [P + B], True of the elements that die with the other units than `alive`."""
        found, kept = torch.zeros(self.size, dtype=torch.bool), torch.cat([alive, alive.new_ones(1)])
        for product in self.products:
            found[product.places[~kept[product.out]].flatten()] = True
            found[product.places[:, ~kept[product.read]].flatten()] = True
        return found

    def worth(self, scores: Tensor, counted: Tensor) -> Tensor:
        """Return the mean over a unit's weights of the squared scores with their signs, float64 [U].

        Molchanov et al. 2017 ("Pruning Convolutional Neural Networks for Resource Efficient Inference"), "minimum weight",
        for every score, over the rows and columns that die together. counted: bool [P], the weights that survive and are
        prunable. Scores of -inf are left out; a unit of nothing else is worth -inf.
        """
        counted = counted & (scores > -torch.inf)
        signed = torch.where(counted, scores.sign() * scores.square(), 0.0)
        worth = self._sums(signed) / self._sums(counted)
        return worth.where(~worth.isnan(), -torch.inf)

    def _sums(self, values: Tensor) -> Tensor:
        """Return the sum of `values` [P] over the parameters of each unit, float64 [U]."""
        flat, found = self._spread(values.double()), torch.zeros(len(self) + 1, dtype=torch.float64)
        for product in self.products:
            own = flat[product.places].sum(2)
            found.index_add_(0, product.out, own.sum(1))
            found.index_add_(0, product.read, torch.where(product.out[:, None] == product.read, 0, own).sum(0))
        return found[:-1]

    def _spread(self, values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(self.size - len(values))])


@training_mode
def units_of(module: nn.Module, layout: Layout, inputs: Any, structure: str) -> Units:
    """Return the units of a structure of `KINDS`, found by a forward pass in evaluation mode; the module is not changed.

    inputs: a batch as in `batch.run`, on the module's device, whose first two examples are read. A unit whose own weights
    are not all prunable stays out; columns of a layer that is not prunable, as the classifier, die with what they read.
    Raises TombolaError where there is no unit, and for a network that reads units in a way that is not seen.
    """
    tracer, named, size = Tracer(), dict(module.named_parameters()), layout.numel
    for name, places in layout.views(torch.arange(layout.numel)).items():
        tracer.number(named[name], places)
    for buffer in module.buffers():
        tracer.number(buffer, torch.arange(size, size + buffer.numel()).view(buffer.shape))
        size += buffer.numel()
    inputs = next(parts(inputs, length_of(inputs), 2))
    tracer.fix(_tensors(inputs))
    with in_evaluation(module), sdpa_kernel(SDPBackend.MATH):
        with tracer:
            output = run(module, inputs)
        tracer.fix(_tensors(output))
        units = _found(tracer, layout, size, structure)
        if not len(units):
            raise TombolaError(
                f"structure is {structure!r}, but {type(module).__name__} has no {structure} that can be pruned: weights of "
                "a unit must be prunable, and what it computes may be read by linear layers and convolutions alone"
            )
        _check_unread(units, layout, module, inputs)
    return units


def _found(tracer: Tracer, layout: Layout, size: int, structure: str) -> Units:
    roots = tracer.roots(torch.arange(tracer.count))
    prunable = torch.cat([layout.prunable, torch.zeros(size - layout.numel, dtype=torch.bool)])
    heads = {int(roots[channel]) for channel in tracer.attended}
    made: dict[int, list[int]] = {}  # by channel: the products that make it
    barred = {0}
    for number, product in enumerate(tracer.products):
        if product.is_weight:
            free = prunable[product.places].flatten(1).all(1)
            for channel, is_free in zip(roots[product.out].tolist(), free.tolist(), strict=True):
                made.setdefault(channel, []).append(number)
                barred |= set() if is_free else {channel}
    chosen = [c for c in sorted(made) if c not in barred and (c in heads) in KINDS[structure]]
    unit = torch.full((len(roots),), len(chosen))
    unit[chosen] = torch.arange(len(chosen))
    unit = unit[roots]
    layers: dict[tuple[int, ...], int] = {}
    layer = [layers.setdefault(tuple(sorted(set(made[c]))), len(layers)) for c in chosen]
    products = (replace(p, out=unit[p.out], read=unit[p.read]) for p in tracer.products)
    touched = tuple(p for p in products if bool((p.out < len(chosen)).any() or (p.read < len(chosen)).any()))
    is_head = torch.tensor([c in heads for c in chosen], dtype=torch.bool)
    return Units(touched, torch.tensor(layer, dtype=torch.int64), is_head, size)


def _check_unread(units: Units, layout: Layout, module: nn.Module, inputs: Any) -> None:
    """Raise TombolaError unless nothing reads all but the first unit of each layer when their columns are zero."""
    alive = torch.zeros(len(units), dtype=torch.bool)
    alive[[units.layer.tolist().index(layer) for layer in range(int(units.layer.max()) + 1)]] = True
    kept, columns = torch.cat([alive, alive.new_ones(1)]), torch.zeros(units.size, dtype=torch.bool)
    for product in units.products:
        columns[product.places[:, ~kept[product.read]].flatten()] = True
    outputs = []
    for dead in (columns, units.dead(alive)):
        zeros = layout.views(dead[: layout.numel])
        named = {name: p.detach().masked_fill(zeros[name].to(p.device), 0) for name, p in module.named_parameters()}
        outputs.append(_tensors(run(holding(module, named), inputs)))
    for unread, removed in zip(*outputs, strict=True):
        if not torch.allclose(unread, removed, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise TombolaError(
                f"{type(module).__name__} reads channels in a way that is not seen from its operations, so they cannot be "
                "pruned as a whole; use structure none"
            )


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]
