"""Other runtimes of a dense network, where they are installed: torch compiled, ONNX Runtime, OpenVINO."""

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], Any]

PACKAGES = ("onnxruntime", "openvino")
"""Packages whose versions a record names."""


@torch.no_grad()
def runtimes(module: nn.Module, x: Tensor, threads: int) -> dict[str, Call]:
    """Return the forward pass of each runtime on a batch, by label; what cannot run is said and left out."""
    found: dict[str, Call] = {}
    for label, made in (("torch compiled", _compiled), ("ONNX Runtime", _onnxruntime), ("OpenVINO", _openvino)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call = made(module, x, threads)
                call()
        except Exception as error:  # a peer that is absent, or cannot take the network
            print(f"  left out: {label}: {type(error).__name__}: {str(error).partition(chr(10))[0][:100]}")
            continue
        found[f"dense, {label}"] = call
    return found


def _compiled(module: nn.Module, x: Tensor, threads: int) -> Call:
    torch._dynamo.reset()
    return partial(torch.compile(module, dynamic=False, options={"freezing": True}), x)


def _onnx(module: nn.Module, x: Tensor) -> bytes:
    file = io.BytesIO()
    torch.onnx.export(module, (x,), file, dynamo=False)
    return file.getvalue()


def _onnxruntime(module: nn.Module, x: Tensor, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_onnx(module, x), options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {session.get_inputs()[0].name: x.numpy()})


def _openvino(module: nn.Module, x: Tensor, threads: int) -> Call:
    import openvino

    core = openvino.Core()
    model = core.read_model(io.BytesIO(_onnx(module, x)))
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return partial(request.infer, [x.numpy()])
