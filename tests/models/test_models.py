"""Models by name and by import path: shapes, initialisation, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola import plugins
from tombola.errors import TombolaError
from tombola.models import MODELS, build
from tombola.streams import generator

NEEDED = {"fast": {}, "resnet": {"depth": 8}, "vgg": {"depth": 11}, "vit": {"dim": 8, "heads": 1}}
NAMES = ", ".join(MODELS)
SHAPE = (1, 16, 16)
OF_IMAGES = [name for name in MODELS if name != "text"]  # whose shapes are in test_text.py


def small(name):
    """Arguments that make the model of that name quick."""
    family = next((f for f in NEEDED if name.startswith(f)), "")
    return NEEDED.get(name, {}) | ({"depth": 1} if family == "vit" else {"width": 2} if family else {})


def made(name, input_shape, outputs=10, stream=("here",), **args):
    return build(name, args, input_shape, outputs, stream)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("name", "input_shape"),
    # of 8x8 the four poolings of VGG leave nothing
    [(n, s) for n in OF_IMAGES for s in [(1, 8, 8), (1, 28, 28), (3, 32, 32)] if s[1] >= 16 or "vgg" not in n],
)
def test_every_model_takes_images_gives_logits_and_trains_every_parameter(name, input_shape):
    module = made(name, input_shape, 7, **small(name))
    logits = module(torch.randn(3, *input_shape, generator=generator("images")))
    assert logits.shape == (3, 7)
    logits.square().sum().backward()
    learned = [p for p in module.parameters() if p.requires_grad]
    assert len(learned) == len(list(module.parameters())) or name == "fast"  # whose frozen ones test_fast.py names
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in learned)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_conv_with_and_without_batch_norm(batch_norm):
    module = made("conv", (3, 12, 12), widths=[4, 5], batch_norm=batch_norm)
    layers = [type(layer).__name__ for layer in module]
    norm = ["BatchNorm2d"] * batch_norm
    assert layers == ["Conv2d", *norm, "ReLU", "Conv2d", *norm, "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    shapes = [tuple(p.shape) for name, p in module.named_parameters() if name.endswith("weight") and p.ndim > 1]
    assert shapes == [(4, 3, 3, 3), (5, 4, 3, 3), (10, 5)]
    assert all((layer.bias is None) == batch_norm for layer in module if isinstance(layer, nn.Conv2d))
    assert module(torch.ones(2, 3, 12, 12)).shape == (2, 10)
    assert [tuple(layer(torch.ones(1, *s)).shape[2:]) for layer, s in conv_inputs(module)] == [(12, 12), (6, 6)]


def conv_inputs(module):
    convs = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    return list(zip(convs, [(3, 12, 12), (4, 12, 12)], strict=True))


def test_mlp_of_the_given_widths():
    module = made("mlp", (1, 8, 8), hidden=[300, 100])
    assert [tuple(p.shape) for p in module.parameters()] == [(300, 64), (300,), (100, 300), (100,), (10, 100), (10,)]
    assert sum(p.numel() for p in module.parameters()) == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10
    assert len(made("mlp", (5,), 2, hidden=[])) == 2  # flatten, one linear layer


def test_lenet_on_mnist_has_the_parameters_of_lenet_5():
    """LeCun et al. 1998 with 5x5 kernels, full connections and padding: 6, 16, 120, 84, 10."""
    shapes = [tuple(p.shape) for p in made("lenet", (1, 28, 28)).parameters() if p.ndim > 1]
    assert shapes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]


@pytest.mark.parametrize("name", MODELS)
def test_initialisation_is_a_function_of_the_stream(name):
    torch.manual_seed(1)
    shape = SHAPE if name in OF_IMAGES else (16,)
    first = weights(made(name, shape, stream=(0, "first"), **small(name)))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = weights(made(name, shape, stream=(0, "first"), **small(name)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    for words in [(1, "first"), (0, "redrawn"), (2**32, "first")]:
        assert not torch.equal(first, weights(made(name, shape, stream=words, **small(name))))


@pytest.mark.parametrize("name", ["lenet", "conv"])
@pytest.mark.parametrize("input_shape", [(64,), (8, 8), (1, 3, 8), (1, 2, 2)])
def test_convolutions_refuse_what_is_no_image(name, input_shape):
    with pytest.raises(TombolaError, match=rf"{name} takes images \[C, H, W\] of at least 4x4"):
        made(name, input_shape)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mpl", f"unknown model 'mpl': did you mean 'mlp'? there are {NAMES}, or package.module:name"),
        ("resnet9000", f"unknown model 'resnet9000': did you mean 'resnet20'? there are {NAMES}, or package.module:name"),
        ("no_such_package:net", "cannot import model 'no_such_package:net': No module named 'no_such_package'"),
        ("math:net", "model 'math:net': module 'math' has no function 'net'; check the name"),
        ("math:pi", "model 'math:pi': module 'math' has no function 'pi'; check the name"),
        (":net", "cannot import model ':net': ValueError: Empty module name"),
        ("..net:net", "cannot import model '..net:net': TypeError"),
        ("builtins:dict", "model builtins:dict: ValueError: no signature found"),
    ],
)
def test_a_name_that_is_none_is_refused(name, said):
    with pytest.raises(TombolaError) as caught:
        made(name, (1, 8, 8))
    assert str(caught.value).startswith(said)


@given(name=st.text(alphabet="qxz.:-_ é\n", max_size=8))
def test_any_other_text_is_refused_too(name):
    with pytest.raises(TombolaError):
        plugins.resolve(name, MODELS, "model")


MINE = """
from torch import nn

def plain(input_shape, outputs, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Linear(width, outputs))

def outputs_only(outputs):
    return nn.Linear(3, outputs)

def everything(**args):
    return nn.Linear(args["input_shape"][0], args["outputs"] + args.get("more", 0))

class Net(nn.Module):
    def __init__(self, outputs, depth):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(outputs, outputs) for _ in range(depth))

def number(outputs):
    return outputs

def broken(outputs):
    raise RuntimeError("no such\\nlayer")
"""


def test_factories_of_the_users_own_take_what_they_ask_for(user_module):
    user_module("my_nets", MINE)
    assert made("my_nets:plain", (6,), 2, width=5)(torch.ones(1, 6)).shape == (1, 2)
    assert made("my_nets:outputs_only", (6,), 2).weight.shape == (2, 3)
    assert made("my_nets:everything", (6,), 2, more=1).weight.shape == (3, 6)
    assert len(made("my_nets:Net", (6,), 2, depth=3).layers) == 3


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("my_nets:plain", {"widht": 3}, r"does not fit args \{'widht': 3\}.*'widht'"),
        ("my_nets:Net", {}, r"does not fit args \{\}.*'depth'"),
        ("my_nets:number", {}, r"model 'my_nets:number' returned int, not a torch nn.Module"),
        ("my_nets:broken", {}, r"model my_nets:broken failed with args \{\}: RuntimeError: no such layer;"),
        ("mlp", {"hidden": "wide"}, r"model mlp failed with args \{'hidden': 'wide'\}: TypeError"),
        ("mlp", {"hiden": [3]}, r"model mlp.* does not fit args \{'hiden': \[3\]\}"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, args, said, user_module):
    user_module("my_nets", MINE)
    with pytest.raises(TombolaError, match=said):
        made(name, (6,), 2, **args)


@pytest.mark.parametrize("source", ["def net(:", "nothing_here", "raise SystemError('x')"])
def test_a_module_that_breaks_when_imported_is_refused(source, user_module):
    user_module("my_broken", source)
    with pytest.raises(TombolaError, match=r"cannot import model 'my_broken:net': .*; correct 'my_broken'"):
        made("my_broken:net", (6,))


def test_a_users_initialisation_is_paired_too(user_module):
    user_module("my_nets", MINE)
    first = weights(made("my_nets:plain", (6,), 2, stream=(0,)))
    assert torch.equal(first, weights(made("my_nets:plain", (6,), 2, stream=(0,))))
    assert not torch.equal(first, weights(made("my_nets:plain", (6,), 2, stream=(1,))))


def test_the_source_of_a_user_is_digested_and_ours_is_not(user_module, tmp_path):
    user_module(
        "my_nets",
        MINE + "\nmade = Net\n\nclass Rule:\n    def __call__(self, m, s, g):\n        return m\n\nrule = Rule()\n",
    )
    names = [f"my_nets:{name}" for name in ("plain", "Net", "made", "rule")]
    first = {plugins.source_digest(name, MODELS) for name in names}
    assert len(first) == 1  # they live in one file
    assert "" not in first
    assert plugins.source_digest("mlp", MODELS) == ""
    (tmp_path / "my_nets.py").write_text(MINE + "\nrule = Net\nmade = Net\n# a word more\n")
    assert first.isdisjoint(plugins.source_digest(name, MODELS) for name in names)
    assert plugins.source_digest("builtins:abs", MODELS) == ""  # it has no file
