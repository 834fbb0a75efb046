"""Strided 1x1 convolutions of few channels, which torch 2.13 may not train on a CPU without AVX-512."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tombola.posterior.narrow import guarded, is_narrow

SURVIVES = """
import torch, tombola
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.narrow = nn.Conv2d(3, {channels}, 3, padding=1), nn.Conv2d({channels}, 8, 1, stride={stride})
        self.last = nn.Linear(8, 10)
    def forward(self, x):
        return self.last(self.narrow(self.first(x).relu()).relu().mean((2, 3)))
torch.set_num_threads(1)
data = torch.randn(1024, 3, 16, 16), torch.randint(10, (1024,))
settings = tombola.TrainSettings(epochs=4, batch_size=32, method="{method}", channels_last={laid_out})
score = "snr" if "{method}" == "vi" else "magnitude"
tombola.find_tickets(Net(), data, train=settings, prune=tombola.PruneSettings(levels=0, score=score), progress=False)
"""


@pytest.fixture
def no_avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize(("channels", "stride", "method", "laid_out"), [(4, 2, "vi", True), (7, (1, 2), "map", False)])
def test_training_such_a_convolution_survives(channels, stride, method, laid_out):
    code = SURVIVES.format(channels=channels, stride=stride, method=method, laid_out=laid_out)
    without = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | without)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stride", [2, (1, 3), (2, 1)])
@pytest.mark.parametrize("by_name", [False, True])
def test_the_guard_changes_no_values_and_leaves_no_trace(no_avx512, stride, by_name):
    layer = nn.Conv2d(4, 5, 1, stride=stride).double()
    before, hooks = layer.stride, len(layer._forward_pre_hooks)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    expected = layer(x)
    wanted = torch.autograd.grad(expected.square().sum(), [x, layer.weight])
    with guarded(layer, torch.device("cpu")):
        assert layer.stride == (1, 1)
        found = layer(input=x) if by_name else layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), [x, layer.weight]), wanted, rtol=1e-12, atol=1e-12)
    assert (layer.stride, len(layer._forward_pre_hooks)) == (before, hooks)


@pytest.mark.parametrize(
    ("layer", "narrow"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(7, 3, 1, stride=(1, 2)), True),
        (nn.Conv2d(8, 8, 1, stride=2), False),
        (nn.Conv2d(1, 8, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2), False),
        (nn.Conv2d(4, 8, 1, stride=2, groups=2), False),
        (nn.Linear(4, 8), False),
    ],
)
def test_which_convolutions_are_meant(layer, narrow):
    assert is_narrow(layer) is narrow


def test_a_cpu_with_avx512_or_another_device_needs_no_guard(monkeypatch):
    layer = nn.Conv2d(4, 8, 1, stride=2)
    with guarded(layer, torch.device("meta")):
        assert layer.stride == (2, 2)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with guarded(layer, torch.device("cpu")):
        assert layer.stride == (2, 2)
