"""Tickets in files: the same bits back, or one sentence; and what can be read off a ticket by hand."""

import ast
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import tombola
from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.batch_norm import Statistics, fingerprint
from tombola.posterior.families import FAMILIES
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.point import Point
from tombola.posterior.state import State, initial_state
from tombola.pruning.ticket import Ticket, load, with_mask
from tombola.settings import PosteriorSettings

DATA = Path(__file__).parent / "data"


def net():
    """6 + 4 prunable weights of 21 parameters; two buffers of batch norm and its counter."""
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))


def noisy(state, seed):
    """The same tensors with other numbers."""
    stream = torch.Generator().manual_seed(seed)
    q = state.posterior
    tensors = {
        name: torch.randn(value.shape, generator=stream) if value.is_floating_point() else value + seed
        for name, value in state.tensors().items()
    }
    return State.of_tensors(q.layout, q.mask, tensors)


def a_ticket(kind="gaussian", trained=True, density=0.5, module=None):
    """Of a regression, unless another module is given."""
    regression, module = module is None, module or net()
    layout = Layout.of(module)
    start = noisy(initial_state(module, layout, PosteriorSettings(), 0), 1)
    start = start.as_family(kind)
    mask = torch.rand(layout.numel, generator=torch.Generator().manual_seed(0)) < density
    mask |= ~layout.prunable
    end = noisy(start, 2)
    learned = {f"{k}": v.detach() for k, v in GaussianNoise(0.3, learn_noise=True).state_dict().items()}
    end = State(end.posterior, end.buffers, learned if regression else {}).masked(mask)
    info = {"model": {"name": "ours"}, "level": 3, "history": [{"loss": 0.1 + 0.2}]}
    return Ticket(mask, start.masked(mask), end if trained else None, info)


def statistics(ticket, samples=3):
    """Of the batch norm of `net`."""
    names, stream = ("1.running_mean", "1.running_var"), torch.Generator().manual_seed(4)
    mean, drawn = ({n: torch.rand(*size, 2, generator=stream) for n in names} for size in ((), (samples,)))
    return Statistics(7, fingerprint(ticket.posterior), mean, drawn)


def assert_same_state(a, b):
    assert type(a.posterior) is type(b.posterior)
    assert a.tensors().keys() == b.tensors().keys()
    for name, value in a.tensors().items():
        other = b.tensors()[name]
        assert value.dtype == other.dtype
        assert torch.equal(value, other), name
    assert torch.equal(a.posterior.mask, b.posterior.mask)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_a_saved_ticket_comes_back_bit_by_bit(kind, trained, density, path):
    ticket = a_ticket(kind, trained, density)
    ticket.save(path)
    back = load(path, net())
    assert torch.equal(back.mask, ticket.mask)
    assert back.layout.segments == ticket.layout.segments
    assert_same_state(back.rewind, ticket.rewind)
    assert (back.trained is None) == (not trained)
    if trained:
        assert_same_state(back.trained, ticket.trained)
        assert back.trained.likelihood.keys() == {"log_noise"}
        assert back.trained.buffers.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert {k: back.info[k] for k in ticket.info} == ticket.info
    assert back.info["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(("kind", "stored"), [("gaussian", 16), ("point", 8)])
def test_nothing_is_stored_of_masked_weights(kind, stored, tmp_path):
    """Four bytes each of (mean, log_std) at the start and at the end; of a point, of the mean."""
    module, sizes = nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10)), []
    for density in (1.0, 0.5, 0.0):
        ticket = a_ticket(kind, density=density, module=module)
        ticket.save(tmp_path / "t")
        sizes.append((tmp_path / "t").stat().st_size + stored * int((~ticket.mask).sum()))
    assert max(sizes) - min(sizes) <= 64  # numbers in the header have fewer digits


@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_a_file_of_format_1_which_names_no_family_is_read(kind):
    """Written by tombola before there were families: 1, 2 and 3 of 18 parameters are pruned, the others randn of seed 2."""
    ticket = load(DATA / f"format_1_{kind}.safetensors", nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)))
    q = ticket.posterior
    assert (q.family, ticket.rewind.posterior.family) == (kind, kind)
    assert (~ticket.mask).nonzero().squeeze(1).tolist() == [1, 2, 3]
    stream, names = torch.Generator().manual_seed(2), ["mean", "log_std", "prior_mean"] if kind == "gaussian" else ["mean"]
    assert list(q.tensors()) == names
    for name in names:
        drawn = torch.randn(18, generator=stream)
        torch.testing.assert_close(q.tensors()[name], drawn.masked_fill(~ticket.mask, 0.0))
    assert [int(s.buffers["1.num_batches_tracked"]) for s in (ticket.rewind, ticket.trained)] == [1, 3]
    assert ticket.info["level"] == 1


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, (2, 3), groups=2), nn.BatchNorm2d(4), nn.Linear(4, 2)
    )


@pytest.mark.parametrize("form", [1, 2])
def test_files_have_the_weights_of_convolutions_in_row_major_order(form, path):
    """Written when memory was row-major: means of the end -1, -2, ... and log_std 0, -1/64, ... over the file's order, every
    third prunable weight pruned."""
    old = DATA / "format_2_convolutions.safetensors"
    if form == 1:  # names no family, and all of a posterior is stored for the survivors
        tensors, description = files.read(old)
        tensors = {name.replace("posterior.gaussian.", "posterior."): value for name, value in tensors.items()}
        old = path.with_name("old.safetensors")
        files.write(old, tensors, {**{k: v for k, v in description.items() if k != "surviving"}, "format": 1})
    ticket, start = load(old, convolutions()), 0
    views = [ticket.layout.views(t) for t in (ticket.mask, ticket.posterior.mean, ticket.posterior.log_std)]
    for s in ticket.layout.segments:
        place = torch.arange(start, start + s.numel).view(s.shape)
        start += s.numel
        kept = (place % 3 != 1) | (not s.prunable)
        for view, expected in zip(views, (kept, (-1.0 - place) * kept, -place / 64 * kept), strict=True):
            assert torch.equal(view[s.name], expected), s.name
    ticket.save(path)
    again, first = files.read(path)[0], files.read(DATA / "format_2_convolutions.safetensors")[0]
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.filterwarnings("ignore:the ticket has no batch-norm statistics")  # it was never trained
def test_a_ticket_of_convolutions_comes_back_and_its_state_dict_is_contiguous(path):
    ticket = a_ticket(module=convolutions())
    ticket.save(path)
    back = load(path, convolutions())
    assert torch.equal(back.mask, ticket.mask)
    assert_same_state(back.rewind, ticket.rewind)
    assert_same_state(back.trained, ticket.trained)
    plain = back.state_dict(convolutions())
    save_file(plain, path)  # refuses what is not contiguous
    assert torch.equal(plain["0.weight"], ticket.layout.views(ticket.posterior.mean)["0.weight"])


def test_statistics_come_back_bit_by_bit(path):
    ticket = replace(a_ticket(), statistics=statistics(a_ticket()))
    ticket.save(path)
    load(path, net()).write_mean(net())  # of the same posterior still, without its masked weights
    back = load(path, net()).statistics
    assert (back.seed, back.kept) == (7, 3)
    assert back.tensors().keys() == ticket.statistics.tensors().keys()
    assert all(torch.equal(value, back.tensors()[name]) for name, value in ticket.statistics.tensors().items())
    assert with_mask(ticket, ticket.mask, ticket.rewind).statistics is None  # of an untrained ticket
    other = replace(ticket, trained=noisy(ticket.trained, 3))
    with pytest.raises(TombolaError, match="of another posterior than its trained one"):
        other.write_mean(net())


BROKEN = {
    "seed": (None, "have no seed"),
    "posterior": (torch.ones(1), "have no seed or posterior"),
    "other.x": (torch.ones(1), r"'statistics\.other\.x', which is of no state"),
    "mean.1.running_var": (None, "not of the running means and variances"),
    "samples.1.running_mean": (torch.ones(2, 2), "not of the running means and variances"),
    "samples.1.running_var": (torch.full((3, 2), torch.nan), "not finite numbers of shape"),
    "mean.1.running_mean": (torch.ones(3), r"not finite numbers of shape \[2\]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_statistics_that_do_not_fit_are_refused(name, path):
    replace(a_ticket(), statistics=statistics(a_ticket())).save(path)
    tensors, description = files.read(path)
    value, said = BROKEN[name]
    tensors.pop(f"statistics.{name}", None)
    files.write(path, tensors | ({} if value is None else {f"statistics.{name}": value}), description)
    assert re.search(said, one_sentence(path))


def test_a_family_that_is_not_registered_is_refused(path, monkeypatch):
    monkeypatch.setattr(Point, "family", "os:system")
    monkeypatch.setitem(FAMILIES, "os:system", Point)
    a_ticket("os:system").save(path)
    monkeypatch.undo()
    assert "no posterior family 'os:system' is registered, only gaussian, point" in one_sentence(path)


def test_a_tensor_whose_pruned_part_is_not_zero_is_stored_whole(path):
    """Pruned all the same when it is read."""
    ticket = a_ticket()
    whole = replace(ticket, rewind=noisy(ticket.rewind, 5))
    whole.save(path)
    assert len(files.read(path)[0]["rewind.posterior.gaussian.mean"]) == ticket.layout.numel
    assert_same_state(load(path).rewind, whole.rewind.masked(ticket.mask))


def one_sentence(path, module=None):
    """What `load` says of a file that it must refuse."""
    with pytest.raises(TombolaError) as caught:
        load(path, module)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


def test_a_file_truncated_anywhere_is_refused(path):
    a_ticket().save(path)
    whole = path.read_bytes()
    for length in [*range(64), *range(64, len(whole), 41), len(whole) - 1]:
        path.write_bytes(whole[:length])
        one_sentence(path)


def test_one_flipped_bit_anywhere_is_refused(path):
    a_ticket().save(path)
    whole = path.read_bytes()
    tensors_at = 8 + int.from_bytes(whole[:8], "little")
    for i in range(len(whole)):
        altered = bytearray(whole)
        altered[i] ^= 1 << i % 8 if i >= tensors_at else 0x80
        path.write_bytes(altered)
        said = one_sentence(path)
        assert i < tensors_at or "corrupt" in said


def test_a_foreign_safetensors_file_is_refused(path):
    save_file({"weight": torch.ones(3)}, path)
    assert "tombola did not write it" in one_sentence(path)


def test_a_file_of_ours_that_is_no_ticket_is_refused(path):
    files.write(path, {"weight": torch.ones(3)}, {"step": 3})
    assert "no ticket of format 1" in one_sentence(path)


def write_torch(path):
    torch.save({"weight": torch.ones(3)}, path)


class Bomb:
    def __reduce__(self):
        return (exit, ("unpickled",))


FOREIGN = {
    "torch.save": write_torch,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "text": lambda path: path.write_text("mask: [1, 0, 1]\n"),
    "empty": lambda path: path.write_bytes(b""),
    "numbers": lambda path: path.write_bytes(bytes(range(256)) * 8),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused_and_never_unpickled(kind, path):
    FOREIGN[kind](path)
    assert "not a whole safetensors file" in one_sentence(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "there is no file" in one_sentence(tmp_path / "none.safetensors")
    assert "there is no file" in one_sentence(tmp_path)


@pytest.mark.parametrize(
    ("module", "culprit"),
    [
        (nn.Linear(3, 2), "'0.weight'"),
        (nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1)), "'0.weight'"),
        (nn.Sequential(*net(), nn.Linear(1, 1)), "'5.bias'"),
    ],
)
def test_another_model_is_refused_by_the_parameter_that_differs(module, culprit, path):
    a_ticket().save(path)
    assert culprit in one_sentence(path, module)


def test_nothing_in_the_source_unpickles():
    root = Path(tombola.__file__).parent
    forbidden = {"pickle", "cPickle", "dill", "shelve", "joblib", "marshal"}
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [(node.module or "").split(".")[0]]
            assert not forbidden & set(names), file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "yaml.load":  # a subclass of the safe loader
                assert file.name == "parse.py", file
                assert ast.unparse(node.args[1]) == "_Loader", file


@given(mask=st.lists(st.booleans(), max_size=70))
def test_unpack_is_the_inverse_of_pack(mask):
    bits = torch.tensor(mask, dtype=torch.bool)
    packed = files.pack(bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == -(-len(mask) // 8)
    assert torch.equal(files.unpack(packed, len(mask)), bits)


def test_pack_puts_the_first_weight_in_the_lowest_bit():
    mask = torch.tensor([True, False, True, False, False, False, False, False, True])
    assert files.pack(mask).tolist() == [5, 1]


def test_an_untrained_ticket_says_so():
    ticket = a_ticket(trained=False)
    for ask in (lambda: ticket.posterior, lambda: ticket.predict(net(), torch.ones(1, 3)), lambda: ticket.write_mean(net())):
        with pytest.raises(TombolaError, match="no trained state"):
            ask()


def test_densities_by_hand():
    """0.weight keeps 2 of 6, 3.weight 3 of 4; the classifier, biases and batch norm (11) are not prunable."""
    module = net()
    layout = Layout.of(module)
    mask = torch.ones(layout.numel, dtype=torch.bool)
    at = {s.name: s.start for s in layout.segments}
    mask[at["0.weight"] + 1 : at["0.weight"] + 5] = False
    mask[at["3.weight"]] = False
    start = initial_state(module, layout, PosteriorSettings(), 0)
    ticket = Ticket(mask, start.masked(mask))
    assert layout.numel == 21
    assert ticket.density == 0.5
    assert ticket.density_all == 16 / 21
    assert ticket.layer_density() == {"0.weight": 2 / 6, "3.weight": 3 / 4}


def test_a_ticket_without_prunable_weights_is_dense():
    module = nn.Linear(3, 2)
    assert (
        Ticket(torch.ones(8, dtype=torch.bool), initial_state(module, Layout.of(module), PosteriorSettings(), 0)).density
        == 1
    )


@pytest.mark.parametrize("kind", ["gaussian", "point"])
def test_write_mean_makes_an_ordinary_sparse_network(kind):
    ticket, module = a_ticket(kind), net()
    ticket = replace(ticket, statistics=statistics(ticket)) if kind == "gaussian" else ticket
    ticket.write_mean(module)
    flat = torch.cat([dict(module.named_parameters())[s.name].detach().flatten() for s in ticket.layout.segments])
    assert torch.equal(flat, ticket.posterior.mean)
    assert not flat[~ticket.mask].any()
    own = ticket.statistics.mean if kind == "gaussian" else ticket.trained.buffers
    assert torch.equal(module[1].running_mean, own["1.running_mean"])


def test_predictions_are_a_function_of_the_seed():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    ticket, inputs = a_ticket(module=module), torch.ones(5, 3)
    first = ticket.predict(module, inputs, samples=7, seed=1)
    assert first.probs_SBC.shape == (7, 5, 2)
    assert torch.equal(first.probs_SBC, ticket.predict(module, inputs, samples=7, seed=1).probs_SBC)
    assert not torch.equal(first.probs_SBC, ticket.predict(module, inputs, samples=7, seed=2).probs_SBC)


def test_a_regression_has_no_class_probabilities():
    with pytest.raises(TombolaError, match=r"use ticket\.outputs"):
        a_ticket().predict(net(), torch.ones(5, 3))


def test_a_deterministic_ticket_predicts_what_its_network_does():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    ticket, inputs = a_ticket("point", module=module), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    predicted = ticket.predict(module, inputs, samples=7)
    assert predicted.probs_SBC.shape == (1, 5, 2)
    ticket.write_mean(module)
    torch.testing.assert_close(predicted.probs, module(inputs).double().softmax(-1), check_dtype=False)


def test_write_to_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(TombolaError, match="cannot write"):
        a_ticket().save(tmp_path / "none" / "t.safetensors")


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(path, monkeypatch):
    a_ticket().save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(TombolaError, match="No space left on device"):
        a_ticket("point").save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
