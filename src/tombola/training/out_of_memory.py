"""Out of memory in training: name the settings to lower in one sentence."""

import contextlib
import ctypes
import functools
import gc
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from tombola.errors import MemoryShortError, is_out_of_memory
from tombola.settings import EvaluateSettings, TrainSettings

if TYPE_CHECKING:
    from .memory import MemoryForecast

P = ParamSpec("P")
R = TypeVar("R")

_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


def short_of_memory(
    error: BaseException,
    train: TrainSettings,
    evaluate: EvaluateSettings | None = None,
    forecast: "MemoryForecast | None" = None,
) -> MemoryShortError:
    """Return the error to raise instead of one of memory. evaluate: given where an evaluation is short of it."""
    size = ""
    if asked := _ASKED.search(str(error)):
        number, unit = asked.groups()
        size = f" when {f'{float(number) / 1e9:.3g} GB' if unit == 'bytes' else f'{number} {unit}'} more was asked for"
    known = f" (forecast: {forecast})" if forecast else ""
    return MemoryShortError(f"out of memory{size}{known}; {what_to_lower(train, evaluate, forecast)}")


def what_to_lower(
    train: TrainSettings, evaluate: EvaluateSettings | None = None, forecast: "MemoryForecast | None" = None
) -> str:
    """Return a clause that names settings, the most helpful first: those of the forecast's largest part, if known.

    evaluate: given where an evaluation is short of memory.
    """
    if evaluate is not None:
        return f"use a smaller evaluate.batch_size (now {evaluate.batch_size}), then fewer evaluate.samples"
    parts = forecast.parts if forecast else {}
    advice = {
        "activations": {
            f"a larger train.accumulate (now {train.accumulate})": True,
            f"a smaller train.batch_size (now {train.batch_size})": True,
            f"train.estimator weight_sample (now {train.estimator})": train.estimator in ("local", "flipout"),
            "train.precision bf16": train.precision != "bf16",
        },
        "weights and optimiser": {
            f"train.optimiser sgd (now {train.optimiser})": train.optimiser != "sgd",
            "a smaller model": True,
        },
        "data": {"data.resident false": bool(parts.get("data"))},
    }
    order = sorted(advice, key=lambda part: -parts.get(part, 0.0))  # stable: as above where nothing is known
    fitting = [item for part in order for item, helps in advice[part].items() if helps]
    return f"use, what helps most first: {', '.join(fitting[:-1])} or {fitting[-1]}"


def says_what_to_lower(training: Callable[P, R]) -> Callable[P, R]:
    """Make errors of memory a `MemoryShortError`, in a function with an argument `settings`, a TrainSettings."""
    signature = inspect.signature(training)

    @functools.wraps(training)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return training(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise short_of_memory(error, signature.bind(*args, **kwargs).arguments["settings"]) from error

    return wrapped


def free_cached(device: torch.device) -> None:
    """Free the memory of a failed computation: cycles of its tensors, and blocks that torch keeps on a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Stop glibc from returning freed memory to the system, for the rest of this process; does nothing elsewhere.

    A training step frees its activations and asks for as much again at once; fetching it from the system each time, page by
    page, costs up to 15% of a convolutional step on a CPU. The process keeps its peak of memory until it ends.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
