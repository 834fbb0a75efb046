"""Parameters and buffers that are not plain dense tensors: they work, or one sentence refuses them before any training."""

import pytest
import torch
from torch import Tensor, nn

from tombola import Bayesian, Layout, PruneSettings, TombolaError, TrainSettings, find_tickets, load
from tombola.posterior.binding import Binding


class Net(nn.Module):
    """A linear layer, and whatever parameter and buffer is given."""

    def __init__(self, parameter: Tensor | None = None, buffer: Tensor | None = None, persistent: bool = True):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        if parameter is not None:
            self.own = nn.Parameter(parameter)
        self.register_buffer("table", buffer, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1, 0])


def trained(module: nn.Module) -> object:
    settings = TrainSettings(epochs=1, batch_size=3)
    return find_tickets(module, batch(), train=settings, prune=PruneSettings(levels=0), progress=False)[-1]


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        (torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn, which cannot be trained"),
        (torch.ones(2, dtype=torch.complex64), "a posterior is over floating-point parameters"),
        (torch.ones(2, device="meta"), "on the meta device and has no values"),
        (torch.eye(2).to_sparse(), "is sparse, but a state consists of dense tensors"),
        (torch.ones(1).expand(4), "is expanded: its elements share memory"),
    ],
)
def test_a_parameter_that_cannot_be_trained_is_refused(parameter: Tensor, sentence: str):
    with pytest.raises(TombolaError, match=f"parameter 'own' of Net .*{sentence}"):
        Layout.of(Net(parameter))


@pytest.mark.parametrize(
    ("buffer", "persistent", "sentence"),
    [
        (torch.ones(2, device="meta"), True, "on the meta device"),
        (torch.eye(2).to_sparse(), True, "is sparse"),
        (torch.eye(2).to_sparse(), False, "is sparse"),
        (torch.ones(2, dtype=torch.complex128), True, "complex128, which cannot be saved"),
    ],
)
def test_a_buffer_that_could_not_be_saved_is_refused(buffer: Tensor, persistent: bool, sentence: str):
    with pytest.raises(TombolaError, match=f"buffer 'table' of Net .*{sentence}"):
        trained(Net(buffer=buffer, persistent=persistent))


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    "buffer",
    [
        torch.ones(1).expand(4),
        torch.arange(3.0)[:, None].expand(3, 2),
        torch.ones(2).to(torch.float8_e5m2),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(0, 3),
    ],
)
def test_other_buffers_are_trained_with_saved_and_given_back(buffer: Tensor, persistent: bool, tmp_path):
    module = Net(buffer=buffer, persistent=persistent)
    for _ in range(2):  # the module is not left bound
        ticket = trained(module)
    assert module.table is buffer
    ticket.save(tmp_path / "ticket.safetensors")
    state = load(tmp_path / "ticket.safetensors", module).trained.buffers
    assert not persistent or torch.equal(state["table"].to(torch.complex64), buffer.to(torch.complex64))


def tied(kind: str) -> nn.Module:
    one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    if kind == "whole":
        other.weight = nn.Parameter(one.weight.data)
    elif kind == "transposed":
        other.weight = nn.Parameter(one.weight.data.t())
    else:
        other.bias = nn.Parameter(one.weight.data[0])
    return nn.Sequential(one, other)


@pytest.mark.parametrize("kind", ["whole", "transposed", "part"])
def test_parameters_tied_by_their_memory_alone_are_refused(kind: str):
    with pytest.raises(TombolaError, match=r"shares memory with another one \(0.weight\); tie them by"):
        Layout.of(tied(kind))


def test_parts_of_one_memory_that_do_not_overlap_are_no_tie():
    memory, module = torch.randn(4, 8), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[0].weight, module[1].weight = nn.Parameter(memory[:, ::2]), nn.Parameter(memory[:, 1::2])
    module[0].bias, module[1].bias = nn.Parameter(torch.zeros(8)[:4]), nn.Parameter(torch.zeros(8)[4:])
    assert Layout.of(module).numel == 40


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv1d(1, 3, 3), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.linear(self.conv(x[:, None]).flatten(1)).relu())


@pytest.mark.parametrize("frozen", ["conv.weight", "linear.weight", "linear.bias"])
@pytest.mark.parametrize("method", ["vi", "map"])
@pytest.mark.filterwarnings("ignore:pruning by mu has emptied")
def test_frozen_parameters_are_never_pruned_and_never_random(frozen: str, method: str):
    module = Frozen()
    module.get_parameter(frozen).requires_grad_(False)
    before = module.get_parameter(frozen).clone()
    prune = PruneSettings(score="mu", fraction=0.5, levels=2, include=["*"])  # also where a pattern chooses them
    settings = TrainSettings(method=method, epochs=1, batch_size=3)
    ticket = find_tickets(module, (torch.randn(6, 4), batch()[1]), train=settings, prune=prune, progress=False)[-1]
    segment = next(s for s in ticket.layout.segments if s.name == frozen)
    assert not segment.random
    assert not segment.prunable
    assert "frozen" in segment.why
    assert torch.equal(ticket.state_dict(module, seed=3)[frozen], before)


@pytest.mark.parametrize(
    ("kind", "sizes"), [(nn.Embedding, (0, 4)), (nn.Linear, (0, 3)), (nn.Linear, (3, 0)), (nn.Conv2d, (3, 0, 1))]
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_parameters_of_size_zero_are_there_and_nothing_else(kind: type[nn.Module], sizes: tuple[int, ...]):
    module, empty = Net(), kind(*sizes)
    module.extra = empty
    ticket = trained(module)
    segments = [s for s in ticket.layout.segments if s.name.startswith("extra")]
    assert len(segments) == len(list(empty.parameters()))
    assert all(s.prunable is False for s in segments if s.numel == 0)
    assert ticket.state_dict(module)["extra.weight"].shape == empty.weight.shape
    assert Bayesian(module).negative_elbo(batch(), examples=6).isfinite()


@pytest.mark.parametrize("broken", ["buffers", "guard", "renew"])
def test_a_binding_that_fails_on_its_way_is_undone(broken: str, monkeypatch: pytest.MonkeyPatch):
    module = Net(buffer=torch.ones(3)).train()
    layout, memory = Layout.of(module), {name: p.data_ptr() for name, p in module.named_parameters()}
    buffers = {"missing.table": torch.ones(3)} if broken == "buffers" else {"table": torch.zeros(3)}
    binding = Binding(module, layout, torch.zeros(layout.numel), buffers)

    def fail(*_: object) -> None:
        raise AttributeError

    with monkeypatch.context() as patch:
        if broken == "guard":
            patch.setattr("tombola.posterior.binding._saved_buffers", fail)
        elif broken == "renew":
            patch.setattr(binding, "_renew", fail)
        with pytest.raises(AttributeError), binding:
            pass
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == memory
    assert torch.equal(module.table, torch.ones(3))
    with Binding(module, layout, torch.zeros(layout.numel)):  # it is not left bound
        assert not module.linear.weight.any()
