"""Ticket: a mask, the state its weights start at and (once trained) the state they ended at; and its file.

Legend: P parameters of the layout, S weight samples, B examples.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.batch import logits_of
from tombola.posterior.batch_norm import KEPT, Choice, Statistics, kept_of
from tombola.posterior.families import Posterior, draws_of, weight_sample
from tombola.posterior.layout import Layout
from tombola.posterior.predictive import Prediction, classes_of, outputs, statistics_of
from tombola.posterior.state import State

from .compact import FORMAT as COMPACT
from .compact import expanded
from .damage import check_buffers, check_fields, check_surviving, damaged, layout_in, mask_in, state_in, statistics_in
from .estimators import Estimator, estimated
from .surviving import indices, parameters_along, spread

FORMAT = 2
"""Format of files as written: 2 names the posterior's family. Files of format 1, which do not, are read as well."""


@dataclass(frozen=True)
class Ticket:
    """Mask, rewind state, trained state, and in `info` its origin (model, data, settings, parents, versions)."""

    mask: Tensor
    """Mask, bool [P]; False is pruned."""
    rewind: State
    """State at which the surviving weights start."""
    trained: State | None = None
    info: dict[str, Any] = field(default_factory=dict)
    statistics: Statistics | None = None
    """Batch-norm statistics of the trained state's mean and weight samples, for `predict`; None where it has none."""

    def __repr__(self) -> str:
        """Return density, sizes and kind in one line."""
        kept, total = int(self.mask.cpu()[self.layout.prunable].sum()), int(self.layout.prunable.sum())
        kind = f"{self.end.posterior.family}, {'untrained' if self.trained is None else 'trained'}"
        level = f", level {self.info['level']}" if "level" in self.info else ""
        return f"<Ticket: {kept:,} of {total:,} prunable weights ({self.density:.3%}), {kind}{level}>"

    @property
    def layout(self) -> Layout:
        """Layout of the parameters."""
        return self.rewind.posterior.layout

    @property
    def posterior(self) -> Posterior:
        """Posterior as trained. Raises TombolaError if the ticket is untrained."""
        return self._trained().posterior

    @property
    def end(self) -> State:
        """State at the end: the trained one, or the rewind state of an untrained ticket."""
        return self.trained or self.rewind

    @property
    def density(self) -> float:
        """Surviving fraction of the prunable weights."""
        prunable = self.layout.prunable
        return self.mask.cpu()[prunable].double().mean().item() if bool(prunable.any()) else 1.0

    @property
    def density_all(self) -> float:
        """Surviving fraction of all parameters."""
        return int(self.mask.sum()) / self.mask.numel()

    def layer_density(self) -> dict[str, float]:
        """Return the surviving fraction of each prunable tensor, by name."""
        return {s.name: self.mask[s.slice].double().mean().item() for s in self.layout.prunable_segments()}

    def check(self, module: nn.Module) -> None:
        """Raise TombolaError unless `module` has the ticket's parameters and buffers, and sound batch-norm statistics."""
        self.layout.check(module)
        check_buffers({"start": self.rewind.buffers, "end": self.end.buffers}, module)

    def state_dict(self, module: nn.Module, *, seed: int | None = None, sample: int = 0) -> dict[str, Any]:
        """Return a plain state_dict of `module` with the trained posterior's mean, or with a weight sample of `seed`.

        The samples (0 is the first) are those of `predict`, with their batch-norm statistics. Values have the dtypes of
        `module`, which is not changed; tied weights stand under all their names.
        Raises TombolaError if the ticket is untrained or of another model, for a sample that its posterior does not have,
        and for one of which it keeps no statistics.
        """
        self.layout.check(module)
        state = self._trained()
        q = state.posterior
        views = self.layout.views(q.mean if seed is None else weight_sample(q, (seed,), sample))
        own = kept_of(self.statistics, module, q, samples=sample + 1, seed=seed) or {}
        buffers = state.buffers | {name: values[0 if seed is None else sample] for name, values in own.items()}
        first = {id(p): name for name, p in module.named_parameters()}
        found = {name: views[first[id(p)]].to(p.dtype) for name, p in module.named_parameters(remove_duplicate=False)}
        own = module.state_dict()
        found |= {k: v for k, v in buffers.items() if k in own and own[k].shape == v.shape}
        return {k: _own_copy(found[k]) if k in found else copy.deepcopy(value) for k, value in own.items()}

    def write_mean(self, module: nn.Module) -> nn.Module:
        """Load `state_dict` of the mean into `module`, which becomes an ordinary sparse network; return it."""
        module.load_state_dict(self.state_dict(module))
        return module

    def predict(
        self,
        module: nn.Module,
        inputs: Any,
        *,
        samples: int | None = None,
        seed: int = 0,
        batch: int = 1024,
        batch_norm: Choice = "samples",
        select: Callable[[Any], Tensor] = logits_of,
        estimator: Estimator = "weight_sample",
    ) -> Prediction:
        """Return class probabilities with their uncertainty for `inputs` of B examples, from `samples` weight samples.

        Arguments as of `outputs`. Raises TombolaError as it does, and for a regression (then use `outputs`).
        """
        if "log_noise" in self._trained().likelihood:
            raise TombolaError("the ticket is a regression and has no class probabilities; use ticket.outputs")
        how: dict[str, Any] = {"batch": batch, "batch_norm": batch_norm, "select": select, "estimator": estimator}
        return classes_of(self.outputs(module, inputs, samples=samples, seed=seed, **how))

    def outputs(
        self,
        module: nn.Module,
        inputs: Any,
        *,
        samples: int | None = None,
        seed: int = 0,
        batch: int = 1024,
        batch_norm: Choice = "samples",
        select: Callable[[Any], Tensor] = logits_of,
        estimator: Estimator = "weight_sample",
    ) -> Tensor:
        """Return the module's output at each weight sample, [S, B, ...], on its device: logits, or means of a regression.

        A posterior of K points, such as kept samples, gives at most K, each point once.

        inputs: what the module is called with: a tensor, a tuple of positional or a mapping of keyword arguments. Equal
        seeds give equal weight samples, so batches of a loader can be predicted one by one. batch: examples a forward pass.
        batch_norm: by the statistics that the ticket keeps of each weight sample, by the running ones of the training (as a
        point does in any case), or by those of each `batch`: the result then depends on its size and on which examples
        share one. select: the tensor of an output [B, ...]; by default itself, its `logits`, or the first of a tuple.
        estimator: `moments` in place of weight samples: `samples` normal outputs, drawn from the mean and the variance of
        the outputs that one pass carries through the network on the CPU (see docs/deploy.md), for one tensor of inputs.
        samples: by default 16, or 512 normal outputs, which cost little.

        Raises TombolaError for weight samples of which the ticket keeps no statistics; one that keeps none at all (see
        `with_statistics`) predicts by running ones and warns.
        """
        if estimator != "weight_sample":
            if batch_norm == "batch" or select is not logits_of:
                raise TombolaError(f"estimator {estimator!r} has neither batch_norm 'batch' nor select; leave them out")
            samples = 512 if samples is None else samples
            return estimated(estimator, self, module, inputs, samples=samples, seed=seed, batch=batch)
        samples = 16 if samples is None else samples
        state, kept, device = self._trained(), None, next(module.parameters()).device
        if batch_norm == "samples":
            needed = draws_of(state.posterior, samples)
            kept = kept_of(self.statistics, module, state.posterior, samples=needed, seed=seed)
            batch_norm = "running" if kept is None else "samples"
        state = state.to("cpu" if kept else device)  # kept ones are of samples drawn on the CPU
        return outputs(
            module,
            state,
            inputs,
            samples=samples,
            stream=(seed,),
            device=device,
            batch=batch,
            batch_norm=batch_norm,
            statistics=kept,
            select=select,
        )

    def with_statistics(self, module: nn.Module, inputs: Any, *, samples: int = KEPT, seed: int = 0) -> "Ticket":
        """Return the ticket with batch-norm statistics of its mean and of its first weight samples of `seed`.

        inputs: training examples as the module takes them, two or more; 256 are enough. A point, and a module without
        running statistics, need none: the ticket keeps none then. Raises TombolaError if the ticket is untrained.
        """
        state = self._trained().to(next(module.parameters()).device)
        return replace(self, statistics=statistics_of(module, state, [inputs], samples=samples, seed=seed))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file of `parts`, without the masked weights, so that its size shrinks with the density."""
        files.write(Path(path), *self.parts())

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the description of a file of the ticket.

        A tensor of the posterior whose first, or else last, dimension is P, and which is 0 at every masked weight, is
        stored for the surviving ones alone; the description says along which dimension (`surviving`). All that is P long is
        in row-major order, the layout's parameters one after another.
        """
        mask = self.layout.row_major(self.mask.cpu())
        tensors = {"mask": files.pack(mask)}
        surviving: dict[str, int] = {}
        kept, pruned = indices(mask), indices(~mask)
        for when, state in (("rewind", self.rewind), ("trained", self.trained)):
            for name, value in state.tensors().items() if state else ():
                value, dim = value.cpu(), None
                if name.startswith("posterior."):
                    value = self.layout.row_major(value)
                    dim = parameters_along(value, kept, pruned)
                surviving |= {} if dim is None else {f"{when}.{name}": dim}
                # a copy in any case: one tensor may be part of both states, which safetensors refuses
                tensors[f"{when}.{name}"] = value.clone() if dim is None else value.index_select(dim, kept)
        for name, value in self.statistics.tensors().items() if self.statistics else ():
            tensors[f"statistics.{name}"] = value
        versions = {"tombola": _own_version(), "torch": torch.__version__, "python": sys.version.split()[0]}
        description = {
            "format": FORMAT,
            "layout": self.layout.to_json(),
            "surviving": surviving,
            "info": {"versions": versions, **self.info},
        }
        return tensors, description

    def _trained(self) -> State:
        if self.trained is None:
            raise TombolaError("the ticket has no trained state: it is a mask and a start; train it first")
        return self.trained


def load(path: str | Path, module: nn.Module | None = None) -> Ticket:
    """Return the ticket in a file. module: checks that it is a ticket of that model.

    Raises TombolaError naming what does not fit: a missing, truncated or altered file, another format, another model.
    """
    tensors, description = files.read(Path(path))
    found = description.get("format")
    compact = found == COMPACT
    if not (compact or (found in (1, FORMAT) and "mask" in tensors)):
        raise TombolaError(f"{path} is no ticket of format 1 to {COMPACT} (found {found!r}); use the tombola that wrote it")
    try:
        ticket = ticket_in(*(expanded(tensors, description) if compact else (tensors, description)))
    except TombolaError as error:
        raise TombolaError(f"cannot load {path}: {error}") from None
    if module is not None:
        try:
            ticket.check(module)
        except TombolaError as error:
            raise TombolaError(f"{path} does not fit the model: {error}") from None
    return ticket


def ticket_in(tensors: dict[str, Tensor], description: dict[str, Any]) -> Ticket:
    """Return the ticket of a whole file's parts. Raises TombolaError for parts that do not fit."""
    first = description["format"] == 1
    known = {"format", "layout", "info"}
    check_fields(description, known if first else known | {"surviving"})
    layout = layout_in(description["layout"])
    mask = mask_in(tensors.pop("mask"), layout.numel)
    flat = {name: 0 for name in tensors if name.partition(".")[2].startswith("posterior.")}
    surviving = flat if first else description["surviving"]
    check_surviving(surviving, tensors, int(mask.sum()))
    states: dict[str, dict[str, Tensor]] = {"rewind": {}, "trained": {}, "statistics": {}}
    for name, value in tensors.items():
        when, _, rest = name.partition(".")
        if when not in states:
            raise damaged(f"it has a tensor {name!r}, which is of no state")
        value = spread(value, mask, surviving[name]) if name in surviving else value
        states[when][rest] = layout.of_row_major(value) if rest.startswith("posterior.") else value
    mask = layout.of_row_major(mask)
    rewind = state_in(layout, mask, states["rewind"], "rewind")
    trained = state_in(layout, mask, states["trained"], "trained") if states["trained"] else None
    statistics = statistics_in(states["statistics"], trained) if states["statistics"] else None
    return Ticket(mask, rewind, trained, description["info"], statistics)


def _own_copy(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)  # safetensors saves no other


def ticket_of(state: State, info: dict[str, Any] | None = None) -> Ticket:
    """Return the dense ticket that starts at `state`."""
    mask = torch.ones(state.posterior.layout.numel, dtype=torch.bool)
    return Ticket(mask, state.to("cpu"), None, info or {})


def with_mask(ticket: Ticket, mask: Tensor, start: State) -> Ticket:
    """Return the untrained ticket of `mask`, with `start` under it."""
    return replace(ticket, mask=mask, rewind=start.masked(mask), trained=None, statistics=None)


def _own_version() -> str:
    """Return the installed version; a source tree that is not installed has none."""
    try:
        return version("tombola")
    except PackageNotFoundError:
        return "not installed"
