"""Forward and backward pass as one CUDA graph: one launch in place of a step's thousand."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch, moved
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.settings import TrainSettings

from .compiled import Compiled, check_compile, intercepts
from .estimators.sample import WeightSample
from .forward import DataTerm, Within

_WARM_UP = 3  # passes before a capture, in which libraries allocate and choose kernels; torch's documentation has 3


def term_of(
    binding: Binding, likelihood: nn.Module, settings: TrainSettings, sample: WeightSample | None = None
) -> DataTerm:
    """Return the data term of the settings. Raises TombolaError where `compile` or `cuda_graphs` is impossible."""
    estimator = None if sample is None else type(sample)
    if settings.compile:
        check_compile(settings, estimator)
    if settings.cuda_graphs:
        check_graphs(settings, estimator)
        check_device(binding.theta.device)
    forward = Compiled(binding.module) if settings.compile else None
    kind = GraphedTerm if settings.cuda_graphs else DataTerm
    return kind(binding, likelihood, settings.precision, settings.accumulate, forward)


def check_device(device: torch.device) -> None:
    """Raise TombolaError for a device without CUDA graphs."""
    if device.type != "cuda":
        raise TombolaError(
            f"train.cuda_graphs needs a CUDA device; this training is on {device.type}: set cuda_graphs: false"
        )


def check_graphs(settings: TrainSettings, estimator: Callable[..., Any] | None) -> None:
    """Raise TombolaError for settings whose steps cannot be replayed. estimator: None of a method without one."""
    if intercepts(estimator):
        raise TombolaError(f"cuda_graphs is on, but estimator {settings.estimator!r} changes from step to step; turn it off")
    if estimator is not None and settings.objective != "expected_log":
        raise TombolaError(f"cuda_graphs is on, but objective {settings.objective!r} is no single pass; turn it off")


@dataclass(frozen=True)
class _Captured:
    graph: Any
    batch: Batch
    """The graph's own input, which each batch is copied into."""
    loss: Tensor
    learned: list[tuple[nn.Parameter, Tensor]]
    """Parameters of the likelihood, and the tensors in which the graph leaves their gradients."""


@dataclass(eq=False)
class GraphedTerm(DataTerm):
    """A data term whose passes are captured once for each kind of batch (the last, smaller one is another) and replayed.

    The module must do the same work for every batch: nothing that depends on values, no transfer to the CPU.
    """

    likelihood: nn.Module
    _captured: dict[Any, _Captured] = field(default_factory=dict, init=False)

    def backward(
        self, batch: Batch, out: Tensor, scale: float, weights_B: Tensor | None = None, within: Within = nullcontext
    ) -> Tensor:
        """Replay `DataTerm.backward`.

        No weights and an empty `within`: `check_graphs` refuses objectives and estimators that have others.
        """
        assert weights_B is None, "of an objective that check_graphs refuses"
        batch = moved(batch, out.device)  # also mappings and sequences of a user's own type become dicts and tuples
        key = kind_of(batch), scale, out.data_ptr()
        if key not in self._captured:
            self._captured[key] = self._capture(batch, out, scale)
        captured = self._captured[key]
        copy_into(captured.batch, batch)
        captured.graph.replay()
        for p, grad in captured.learned:
            p.grad = grad.clone() if p.grad is None else p.grad + grad
        return captured.loss.clone()

    def _capture(self, batch: Batch, out: Tensor, scale: float) -> _Captured:
        module, device = self.binding.module, out.device
        likelihood = [p for p in self.likelihood.parameters() if p.requires_grad]
        static, before = like(batch), buffers_of(module)
        saved, random = [p.grad for p in likelihood], torch.cuda.get_rng_state(device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                super().backward(static, out, scale)
        torch.cuda.current_stream(device).wait_stream(side)
        load_buffers(module, before)  # the warm-up is no training: it must leave no trace in statistics and random streams
        torch.cuda.set_rng_state(random, device)
        for p in likelihood:
            p.grad = None  # so that the capture allocates it
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread, which reads the next batches, may pin memory during the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = super().backward(static, out, scale)
        learned = [(p, p.grad) for p in likelihood if p.grad is not None]
        for p, grad in zip(likelihood, saved, strict=True):
            p.grad = grad
        return _Captured(graph, static, loss, learned)


def kind_of(batch: Any) -> str:
    """Return the key of a capture: shapes, strides, dtypes and devices of a batch's tensors, other values themselves."""
    kinds = tree_map(lambda x: (x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x, batch)
    return repr(kinds)


def like(batch: Any) -> Any:
    """Return a copy of a batch with tensors of its own, of the same strides."""
    return tree_map_only(Tensor, lambda t: t.clone(memory_format=torch.preserve_format), batch)


def copy_into(target: Any, batch: Any) -> None:
    """Write a batch's tensors into the tensors of another of its kind."""
    for own, value in zip(tree_leaves(target), tree_leaves(batch), strict=True):
        if isinstance(own, Tensor):
            own.copy_(value, non_blocking=True)
