"""Out of memory: told from other errors, and said in one sentence that names what to lower."""

import contextlib
import ctypes
import functools
import gc
import inspect
import re
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import torch

from tombola.errors import TombolaError
from tombola.settings import EvaluateSettings, TrainSettings

P = ParamSpec("P")
R = TypeVar("R")

_SAID_BY = (
    "out of memory",  # CUDA, and most others
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the operating system
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",
    "alloc_failed",  # cuBLAS and cuDNN
)
_ASKED = re.compile(r"tried to allocate ([\d.]+ ?(?:bytes|[KMGT]iB))", re.IGNORECASE)


class MemoryShortError(TombolaError):
    """There was too little memory. Its message says what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is that memory could not be had, on whichever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | MemoryShortError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in _SAID_BY)


def short_of_memory(
    error: BaseException,
    train: TrainSettings,
    evaluate: EvaluateSettings | None = None,
    parts: Mapping[str, float] | None = None,
    forecast: str = "",
) -> MemoryShortError:
    """The error to raise in place of one of memory. evaluate: of an evaluation. parts, forecast: its needs, where known."""
    asked = _ASKED.search(str(error))
    size = f" when {_readable(asked[1])} more was asked for" if asked else ""
    known = f" (forecast: {forecast})" if forecast else ""
    return MemoryShortError(f"out of memory{size}{known}; {what_to_lower(train, evaluate, parts)}")


def what_to_lower(
    train: TrainSettings, evaluate: EvaluateSettings | None = None, parts: Mapping[str, float] | None = None
) -> str:
    """A clause that names settings, in the order that helps most: of the largest of `parts` first, where they are known.

    evaluate: given where an evaluation is short of memory.
    """
    known = parts or {}
    if evaluate is not None:
        return f"use a smaller evaluate.batch_size (now {evaluate.batch_size}), then fewer evaluate.samples"
    lower = [f"a larger train.accumulate (now {train.accumulate})", f"a smaller train.batch_size (now {train.batch_size})"]
    found: dict[str, list[str]] = {"activations": lower, "weights and optimiser": []}
    if train.estimator in ("local", "flipout"):
        found["activations"].append(f"train.estimator weight_sample (now {train.estimator})")
    if train.precision != "bf16":
        found["activations"].append("train.precision bf16")
    if known.get("data"):
        found["data"] = ["data.resident false"]
    if train.optimiser != "sgd":
        found["weights and optimiser"].append(f"train.optimiser sgd (now {train.optimiser})")
    found["weights and optimiser"].append("a smaller model")
    order = sorted(found, key=lambda part: -known.get(part, 0.0))  # stable: as above where nothing is known
    advice = [item for part in order for item in found[part]]
    return f"use, what helps most first: {', '.join(advice[:-1])} or {advice[-1]}"


def _readable(size: str) -> str:
    number, unit = re.match(r"([\d.]+) ?(\w+)", size).groups()  # type: ignore[union-attr]
    return f"{float(number) / 1e9:.3g} GB" if unit == "bytes" else f"{number} {unit}"


def says_what_to_lower(training: Callable[P, R]) -> Callable[P, R]:
    """For a function with an argument `settings`, a TrainSettings: its errors of memory become a `MemoryShortError`."""
    signature = inspect.signature(training)

    @functools.wraps(training)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return training(*args, **kwargs)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            settings = signature.bind(*args, **kwargs).arguments["settings"]
            raise short_of_memory(error, settings) from error

    return wrapped


def free_cached(device: torch.device) -> None:
    """Gives back what a failed computation has left: cycles of its tensors, and blocks that torch keeps on a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keeps glibc from giving freed memory back to the system, for the rest of this process; does nothing elsewhere.

    A training step frees its activations and asks for as much again at once; fetching it from the system each time, page by
    page, costs up to 15% of a convolutional step on a CPU. The process keeps its peak of memory until it ends.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
