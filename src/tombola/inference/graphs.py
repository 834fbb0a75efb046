"""Forward and backward pass as one CUDA graph: a step's thousand launches become one."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.settings import TrainSettings

from .compiled import forward_of, has_to_see_operations
from .estimators.sample import WeightSample
from .forward import DataTerm, Within

_WARM_UP = 3  # passes before the capture, in which libraries allocate and choose their kernels: as torch's docs say


def term_of(
    binding: Binding, likelihood: nn.Module, settings: TrainSettings, sample: WeightSample | None = None
) -> DataTerm:
    """The data term as the settings want it. Raises TombolaError where `compile` or `cuda_graphs` cannot be."""
    kind = GraphedTerm if settings.cuda_graphs else DataTerm
    if settings.cuda_graphs:
        check_graphs(settings, None if sample is None else type(sample))
        check_device(binding.theta.device)
    return kind(binding, likelihood, settings.precision, settings.accumulate, forward_of(binding.module, settings, sample))


def check_device(device: torch.device) -> None:
    """Raises TombolaError where a device has no CUDA graphs."""
    if device.type != "cuda":
        raise TombolaError(
            f"train.cuda_graphs needs a CUDA device; this training is on {device.type}: set cuda_graphs: false"
        )


def check_graphs(settings: TrainSettings, estimator: Callable[..., Any] | None) -> None:
    """Raises TombolaError for settings whose steps cannot be replayed. estimator: None of a method that has none."""
    if has_to_see_operations(estimator):
        raise TombolaError(f"cuda_graphs is on, but estimator {settings.estimator!r} changes from step to step; turn it off")
    if estimator is not None and settings.objective != "expected_log":
        raise TombolaError(f"cuda_graphs is on, but objective {settings.objective!r} is no single pass; turn it off")


@dataclass(frozen=True)
class _Captured:
    graph: Any
    batch: Batch
    """The graph's own input, which each batch is copied to."""
    loss: Tensor
    learned: list[tuple[nn.Parameter, Tensor]]
    """Parameters of the likelihood, and where the graph leaves their gradients."""


class GraphedTerm(DataTerm):
    """A data term whose passes are captured once for each kind of batch (the last, smaller one is another) and replayed.

    The module must do the same work for every batch: nothing that depends on values, no transfer to the CPU.
    """

    def __init__(
        self,
        binding: Binding,
        likelihood: nn.Module,
        precision: str = "fp32",
        accumulate: int = 1,
        forward: Callable[..., Any] | None = None,
    ):
        super().__init__(binding, likelihood, precision, accumulate, forward)
        self._learned = [p for p in likelihood.parameters() if p.requires_grad]
        self._captured: dict[Any, _Captured] = {}

    def backward(
        self, batch: Batch, out: Tensor, scale: float, weights_B: Tensor | None = None, within: Within = nullcontext
    ) -> Tensor:
        """As `DataTerm.backward`; `within` is empty for the estimators that are let in."""
        assert weights_B is None, "of an objective that is not let in"
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
        static, before = like(batch), buffers_of(module)
        saved, random = [p.grad for p in self._learned], torch.cuda.get_rng_state(device)
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                super().backward(static, out, scale)
        torch.cuda.current_stream(device).wait_stream(side)
        load_buffers(module, before)  # the warm-up was no training
        torch.cuda.set_rng_state(random, device)
        for p in self._learned:
            p.grad = None
        graph = torch.cuda.CUDAGraph()
        # another thread, which reads the next batches, may pin memory meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = super().backward(static, out, scale)
        learned = [(p, p.grad) for p in self._learned if p.grad is not None]
        for p, grad in zip(self._learned, saved, strict=True):
            p.grad = grad
        return _Captured(graph, static, loss, learned)


def kind_of(batch: Any) -> Any:
    """What a capture depends on: shapes, dtypes and memory formats of all tensors of a batch, other values themselves."""
    if isinstance(batch, Tensor):
        return tuple(batch.shape), batch.stride(), batch.dtype, str(batch.device)
    if isinstance(batch, Mapping):
        return tuple((name, kind_of(value)) for name, value in batch.items())
    if isinstance(batch, tuple | list):
        return tuple(kind_of(value) for value in batch)
    return batch


def like(batch: Any) -> Any:
    """A copy of a batch with tensors of its own, of the same strides."""
    if isinstance(batch, Tensor):
        return batch.clone(memory_format=torch.preserve_format)
    if isinstance(batch, Mapping):
        return {name: like(value) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(like(value) for value in batch)
    return batch


def copy_into(target: Any, batch: Any) -> None:
    """Writes a batch's tensors into those of another of its kind."""
    if isinstance(target, Tensor):
        target.copy_(batch, non_blocking=True)
    elif isinstance(target, Mapping):
        for name, value in target.items():
            copy_into(value, batch[name])
    elif isinstance(target, tuple | list):
        for own, value in zip(target, batch, strict=True):
            copy_into(own, value)
