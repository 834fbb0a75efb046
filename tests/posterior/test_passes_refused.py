"""What a module does in a pass that cannot be right, and errors of a call in words: several members of each kind."""

import pytest
import torch
from torch import Tensor, nn

from tombola import Bayesian, PruneSettings, TombolaError, TrainSettings, find_tickets

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
ONCE = {"train": TrainSettings(epochs=1, batch_size=6), "prune": PruneSettings(levels=0), "progress": False}


class Net(nn.Module):
    """A layer whose inputs the kinds below change."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def changed(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.changed(x))


class Subtracting(Net):
    def changed(self, x: Tensor) -> Tensor:
        x -= 1.0
        return x


class Assigning(Net):
    def changed(self, x: Tensor) -> Tensor:
        x[:, 0] = 0.0
        return x


class Making(Net):
    """A parameter that the first pass makes."""

    def changed(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.scale = nn.Parameter(torch.ones(4))
        return x * self.scale


class Building(Net):
    """A layer that the first pass makes."""

    def changed(self, x: Tensor) -> Tensor:
        if not hasattr(self, "before"):
            self.before = nn.Linear(4, 4)
        return self.before(x)


class Replacing(Net):
    def changed(self, x: Tensor) -> Tensor:
        self.layer.weight = nn.Parameter(self.layer.weight.detach().clone())
        return x


class Differentiating(Net):
    def changed(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return x + torch.autograd.grad(self.layer(x).sum(), x, create_graph=True)[0]


class Viewing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.conv.weight.view(3, -1)
        return nn.functional.conv2d(x.view(-1, 2, 1, 2).repeat(1, 1, 2, 1), flat.view(3, 2, 2, 2)).flatten(1)


IN_PLACE = [Subtracting, Assigning, lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3))]
KINDS = [
    *((make, "changes its inputs in place") for make in IN_PLACE),
    (Making, "makes the parameter 'scale', which is not trained"),
    (Building, r"makes the parameter 'before\.weight'"),
    (Replacing, r"makes the parameter 'layer\.weight'"),
    (Differentiating, r"within torch\.enable_grad\(\)"),
    (Viewing, "use reshape in place of view"),
]


@pytest.mark.parametrize(("make", "said"), KINDS)
def test_what_cannot_be_right_is_said_before_the_training_and_the_module_is_as_it_was(make, said):
    torch.manual_seed(0)
    module = make()
    own = {name: id(p) for name, p in module.named_parameters()}
    with pytest.raises(TombolaError, match=said):
        find_tickets(module, (X.clone(), Y), **ONCE)
    assert {name: id(p) for name, p in module.named_parameters()} == own


@pytest.mark.parametrize("make", IN_PLACE)
def test_inputs_that_a_module_writes_to_are_said_in_a_prediction(make):
    model = Bayesian(make())
    with pytest.raises(TombolaError, match="changes its inputs in place"):
        model.predict(X.clone(), samples=2)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"x": X, "label": Y}, "cannot be called with the entries x, label of a batch"),
        ({"y": X, "labels": Y}, "cannot be called with the entries y of a batch"),
        (((X, X), Y), "cannot be called with 2 inputs of a batch"),
    ],
)
def test_inputs_that_forward_does_not_take_are_said(batch, said):
    with pytest.raises(TombolaError, match=said):
        find_tickets(Net(), [batch], examples=12, **ONCE)


def test_an_error_of_the_modules_own_stays():
    class Failing(Net):
        def changed(self, x: Tensor) -> Tensor:
            raise TypeError("of its own")

    with pytest.raises(TypeError, match="of its own"):
        find_tickets(Failing(), [(X, Y)], examples=12, **ONCE)


class Beside(Net):
    """A tensor beside the parameters, of the weight's memory."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        data = self.layer.weight.data
        if kind == "buffer":
            self.register_buffer("seen", data)
        else:
            self.seen = {"attribute": data, "transposed": data.t(), "part": data[1:], "bits": data.view(torch.int32)}[kind]


@pytest.mark.parametrize("kind", ["buffer", "attribute", "transposed", "part", "bits"])
def test_what_would_not_follow_a_parameter_in_training_is_refused(kind):
    with pytest.raises(TombolaError, match=r"'seen' of Beside shares memory with parameter 'layer\.weight'"):
        Bayesian(Beside(kind))


def test_a_likelihood_with_parameters_of_the_module_is_refused():
    class Penalised(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, output: Tensor, batch: tuple) -> Tensor:
            return -nn.functional.cross_entropy(output, batch[1], reduction="none") - self.net.layer.weight.square().sum()

    net = Net()
    for attempt in (
        lambda: Bayesian(net, likelihood=Penalised(net)),
        lambda: find_tickets(net, (X, Y), likelihood=Penalised(net), **ONCE),
    ):
        with pytest.raises(TombolaError, match=r"learns 'net\.layer\.weight', a parameter of the module; keep"):
            attempt()
