"""The command export: files of a study's ticket and of one from Python, what is printed, and what is refused."""

import re

import pytest
import torch
from typer.testing import CliRunner

import tombola
from tombola.cli.app import app
from tombola.data import digits
from tombola.models import build

ABOUT = {"name": "mlp", "args": {"hidden": [12]}, "input_shape": [1, 8, 8], "outputs": 10}


def run(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    """A ticket as a study saves it, and one of a loop in Python."""
    folder, data = tmp_path_factory.mktemp("tickets"), digits()
    module = build(ABOUT["name"], ABOUT["args"], (1, 8, 8), 10, ("test",))
    settings = tombola.TrainSettings(epochs=2, lr=0.01)
    prune = tombola.PruneSettings(levels=1, fraction=0.8)
    ticket = tombola.find_tickets(module, data.train, train=settings, prune=prune, device="cpu", progress=False)[-1]
    ticket.save(folder / "python")
    ticket.info.update(model=ABOUT, data={"name": "digits", "args": {}})
    ticket.save(folder / "study")
    return folder


NAMED = ("--model", "{name: mlp, args: {hidden: [12]}}", "--data", "digits")


def expected(tickets, inputs):
    module = build(ABOUT["name"], ABOUT["args"], (1, 8, 8), 10, ("other",))
    return tombola.load(tickets / "study").predict(module, inputs, samples=2).probs


@pytest.mark.slow
def test_a_network_is_written_as_onnx(tickets, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    code, said = run(tickets / "study", "--to", tmp_path / "x.onnx", "--samples", 2)
    assert code == 0, said
    inputs = digits().test[0]
    probs, _ = runtime.InferenceSession(str(tmp_path / "x.onnx")).run(None, {"input": inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(probs).double(), expected(tickets, inputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "named"), [("study", ()), ("python", NAMED)])
def test_a_network_is_written_as_a_program(name, named, tickets, tmp_path):
    code, said = run(tickets / name, "--to", tmp_path / "x.pt2", "--samples", 2, *named)
    assert code == 0, said
    assert re.search(r"x\.pt2: samples of \w+, \d+ kB, \d+\.\d% of the dense network's \d+ kB", said)
    inputs = digits().test[0]
    probs, _ = torch.export.load(tmp_path / "x.pt2").module()(inputs)
    torch.testing.assert_close(probs.double(), expected(tickets, inputs), atol=1e-4, rtol=0)


def test_a_compact_file_is_measured_beside_the_ticket(tickets, tmp_path):
    code, said = run(tickets / "study", "--to", tmp_path / "x.ticket", "--store-as", "int8")
    assert code == 0, said
    assert "int8 numbers of study" in said
    assert all(word in said for word in ("accuracy", "nll", "ece", "change", "360 examples"))
    assert tombola.load(tmp_path / "x.ticket").info["compact"] == "int8"
    code, said = run(tickets / "python", "--to", tmp_path / "x.ticket", "--store-as", "fp16")
    assert code == 0
    assert "what rounding costs is not measured" in said
    code, said = run(tickets / "study", "--to", tmp_path / "x.ticket")
    assert code == 0
    assert "exact numbers" in said
    assert "accuracy" not in said


BAD = {
    ("--to", "x.txt"): "its name must end in .onnx, .pt2 or .ticket",
    ("--to", "x.onnx", "--samples", "2", "--moments"): "--samples and --moments are both given; choose one",
    ("--to", "x.ticket", "--moments"): "leave --samples and --moments out",
    ("--to", "x.onnx", "--store-as", "int8"): "--store-as is for a .ticket file",
    ("--to", "no/x.pt2"): "there is no folder",
}


@pytest.mark.parametrize("arguments", BAD)
def test_what_does_not_go_together_is_one_sentence(arguments, tickets):
    code, said = run(tickets / "study", *arguments)
    assert code == 2
    assert BAD[arguments] in said


def test_a_ticket_that_names_no_model_needs_one(tickets, tmp_path):
    code, said = run(tickets / "python", "--to", tmp_path / "x.pt2")
    assert code == 2
    assert "does not name its model (it was saved from Python); give --model and --data" in said
