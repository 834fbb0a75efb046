"""Bad input is one clear sentence that names culprit, value and remedy; exit code 2; nothing that was finished is lost."""

import itertools
import os
import subprocess
import sys

import pytest
import torch

from tombola.engine.store import Store


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.epoch=3", r"unknown key 'train\.epoch': did you mean 'epochs'"),
        ("trian={}", r"unknown key 'trian': did you mean 'train'"),
        ("train.epochs=many", r"train\.epochs is 'many'"),
        ("train.epochs=true", r"train\.epochs is True"),
        ("train.lr=1e-3", r"train\.lr is the text '1e-3': YAML reads .* write 1\.0e-3"),
        ("prune.fraction=1.5", r"prune: fraction is 1\.5; it must be below 1"),
        ("prune.fraction=0", r"prune: fraction is 0.*; it must be above 0"),
        ("train.heat=-1", r"train: heat is -1.*; it must be at least 0"),
        ("train.optimiser=lion", r"train\.optimiser is 'lion'.*'adam', 'adamw' or 'sgd'"),
        ("model.name=mlpp", r"unknown model 'mlpp': did you mean 'mlp'"),
        ("model.args={hiden: [3]}", r"model mlp does not fit args \{'hiden': \[3\]\}"),
        ("model.name=nowhere:net", r"cannot import model 'nowhere:net'"),
        ("data.name=digit", r"unknown data set 'digit': did you mean 'digits'"),
        ("data.args={test: 5000}", r"hold.*5000|5000.*held-out examples leave nothing"),
        ("prune.score=snrr", r"unknown score 'snrr': did you mean 'snr'"),
        ("train.schedule=cosin", r"unknown schedule 'cosin': did you mean 'cosine'"),
        ("train.estimator=locl", r"unknown estimator 'locl': did you mean 'local'"),
        ("train.estimator=antithetic", r"samples is 1; estimator antithetic draws pairs, so it must be even"),
        ("train.objective=log_expect", r"unknown objective 'log_expect': did you mean 'log_expected'"),
        ("train.method=math:sqrt", r"method 'math:sqrt' is no method"),
        ("size={a: 1}", r"size is \{'a': 1\}: there are full, gpu, cpu"),
        ("train={compile: true, estimator: local}", r"compile is on, but estimator 'local' has to see"),
        ("train={cuda_graphs: true, estimator: flipout}", r"cuda_graphs is on, but estimator 'flipout' changes"),
        ("train={cuda_graphs: true, objective: log_expected}", r"cuda_graphs is on, but objective 'log_expected'"),
        ("train.method=vii", r"unknown method 'vii': did you mean 'vi'"),
        ("prune.rewind=soon", r"rewind is 'soon'; it must be init"),
        ("prune.exclude=[nothing*]", r"pattern 'nothing\*' matches no parameter"),
        ("posterior.random=[]", r"no parameter is random, .*: choose some by posterior\.random"),
        ("posterior.random=['3.*']", r"score 'snr' needs a std, but '1\.weight' is prunable and deterministic"),
        ("arms=", r"arms: None is no list; write one arm a line"),
        ("arms=[tickets]", r"arms\.0\.arm is 'tickets'"),
        ("arms=[{arm: deterministic, score: snr}]", r"score 'snr'.*needs a std"),
        ("seeds=[]", r"seeds"),
        ("seeds=[1, 1]", r"seeds are \[1, 1\].*each once"),
        ("train.likelihood=gaussian", r"likelihood is 'gaussian'.*needs 'categorical'"),
        ("arms=[{arm: ticket, levels: [1]}]", r"arm ticket has levels, but a chain has all levels"),
        ("arms=[{arm: deterministic, densities: [0.5]}]", r"arm deterministic has densities, but a chain has all"),
        ("arms=[{arm: reinit, levels: []}]", r"arm reinit has levels \[\]; give at least one, and each once"),
        ("arms=[{arm: reinit, levels: [1, 1]}]", r"arm reinit has levels \[1, 1\]; give at least one, and each once"),
        ("threads=1000000", r"threads is 1000000; it must be at most 1024"),
        ("train.samples=1000000000", r"samples is 1000000000; it must be at most 10000"),
        ("name=tombola-stages", r"name is 'tombola-stages'; the output folder is named so"),
        ("name='  '", r"name is '  '; the output folder is named so"),
        ("nonsense", r"--set 'nonsense' is no PATH=VALUE"),
        ("train.lr.x=1", r"--set 'train\.lr\.x=1'"),
    ],
)
def test_a_bad_setting(change: str, sentence: str, refused, tiny, study_file):
    import re

    said = refused("run", study_file(tiny), "--out", "out", "--set", change)
    assert re.search(sentence, said), said


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--jobs", "2"]], ids=str)
def test_graphs_on_a_cpu_are_refused_before_anything_runs(more, refused, tiny, study_file, tmp_path):
    study = study_file(tiny | {"train": tiny["train"] | {"cuda_graphs": True}})
    said = refused("run", study, "--out", "out", "--device", "cpu", *more)
    assert "train.cuda_graphs needs a CUDA device; this training is on cpu" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("without", ["start", "optimiser", "restore"])
def test_a_method_that_lacks_a_member_is_told_which(without, refused, tiny, study_file, user_module):
    members = ["start", "groups", "optimiser", "gradients", "hold_generators", "seed", "show_mean", "state", "restore"]
    members += ["begin", "end"]
    lines = [f"    def {name}(self, *args): ..." for name in members if name != without]
    user_module("old_methods", "\n".join(["class Old:", "    learns = 'gaussian'", *lines]))
    said = refused("run", study_file(tiny), "--out", "out", "--set", "train.method=old_methods:Old")
    assert f"method 'old_methods:Old' is no method: it has no `{without}`" in said


def test_batches_without_statistics_are_found_before_anything_is_trained(refused, tiny, study_file):
    changes = {"model": {"name": "conv", "args": {"widths": [4], "batch_norm": True}}}
    study = study_file(tiny | changes | {"evaluate": {"batch_norm": "batch", "batch_size": 1499}})
    said = refused("run", study, "--out", "out")
    assert said.startswith("1500 examples in batches of 1499 leave one alone, which has no batch-norm statistics")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("name: [", "is not YAML at line"), ("- a\n- b", "is no study"), ("just words", "is no study"), ("", "is no study")],
)
def test_a_file_that_is_no_study(text: str, sentence: str, refused, study_file):
    assert sentence in refused("run", study_file(text), "--out", "out")


def test_a_missing_study_names_what_there_is(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to which nobody writes
    assert "no study 'pipe'" in refused("run", "pipe")
    assert "did you mean 'demo'" in refused("run", "dmo")
    assert "no study 'nowhere.yaml'" in refused("run", "nowhere.yaml")
    assert "no study 'dmo'" in refused("studies", "dmo")


@pytest.mark.usefixtures("quick_pages")
def test_folders_that_belong_to_something_else(refused, cli, tiny, study_file, tmp_path):
    path = study_file(tiny | {"prune": {"levels": 0}})
    assert cli("run", path, "--out", "out/a").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    other = study_file(tiny | {"name": "other"}, "other.yaml")
    assert "holds the study 'tiny', not 'other'" in refused("run", other, "--out", "out/a")
    assert "no study.json" in refused("status", "out")
    assert "no study.json" in refused("report", "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "is not empty and holds no study" in refused("run", path, "--out", "mine")
    assert "is a file" in refused("run", path, "--out", "mine/thesis.tex")
    assert ".html" in refused("report", "out/a", "--out", "page.pdf")
    assert before == {p: p.read_bytes() for p in before}  # nothing was lost


def test_no_permission_to_write(refused, tiny, study_file, tmp_path):
    (tmp_path / "file").write_text("x")  # a file where a folder must be: refused for root as well
    assert "cannot write to" in refused("run", study_file(tiny), "--out", "file/out", "--store", "stages")
    assert "cannot write to" in refused("run", study_file(tiny), "--out", "out", "--store", "file/stages")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused, tiny, study_file):
    assert "torch sees no GPU" in refused("run", study_file(tiny), "--out", "out", "--device", "cuda")


@pytest.mark.usefixtures("quick_pages")
def test_tickets_that_cannot_be_evaluated(refused, tiny, study_file, cli, tmp_path, monkeypatch):
    assert cli("run", study_file(tiny), "--out", "out/a").exit_code == 0
    store = Store(tmp_path / "out" / "tombola-stages")
    tickets = {store.record(p.parent.name)["kind"]: p for p in store.root.glob("*/ticket.safetensors")}
    assert "has no trained state" in refused("evaluate", tickets["prune"])
    assert "there is no file" in refused("evaluate", "nowhere.safetensors")

    whole = tickets["train"].read_bytes()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(whole[:-100])
    assert "truncated" in refused("evaluate", bad)
    bad.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert "checksum" in refused("evaluate", bad)
    bad.write_text("no ticket")
    assert "not a whole safetensors file" in refused("evaluate", bad)

    from tombola.data import DATA, digits
    from tombola.models import MODELS, lenet

    monkeypatch.setitem(DATA, "digits", lambda validation=0, test=1500: digits(validation + 1, test))
    assert "the data has changed since" in refused("evaluate", tickets["train"])
    monkeypatch.setitem(MODELS, "mlp", lambda input_shape, outputs, hidden: lenet(input_shape, outputs))
    assert "another model" in refused("evaluate", tickets["train"])


@pytest.mark.parametrize(
    "change",
    [
        "model.name=" + "m" * 1500,
        "model.name=" + "m" * 900 + ":x",
        "data.name='" + "no " * 500 + "'",
        "nowhere=" + "x" * 1900,
        "model.args={hidden: [" + "a, " * 600 + "]}",
        "prune.score=" + "s" * 1000 + ":" + "t" * 900,
    ],
    ids=itertools.count(),
)
def test_a_sentence_is_short_whatever_was_given(change, refused, tiny, study_file):
    assert len(refused("run", study_file(tiny), "--set", change)) <= 300


def test_usage_errors_leave_with_2_too(cli):
    for arguments in (["run"], ["run", "demo", "--devise", "cpu"], ["paint"], ["evaluate", "t", "--samples", "0"]):
        assert cli(*arguments).exit_code == 2, arguments


def test_a_module_beside_a_study_hides_no_installed_package(study_file, tiny, tmp_path):
    (tmp_path / "pandas.py").write_text("raise RuntimeError('not the package')")
    (tmp_path / "beside_it.py").write_text("def large(mean, std, generator): return mean.abs()")
    path = study_file(tiny | {"train": {"epochs": 1}, "prune": {"levels": 0, "score": "beside_it:large"}})
    main = "import sys; sys.argv[0] = 'tombola'; from tombola.cli.app import main; main()"
    command = [sys.executable, "-P", "-c", main, "run", path, "--out", tmp_path / "out", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "source", ["raise SystemExit(0)", "def leave(**args):\n    raise SystemExit(0)"], ids=["import", "call"]
)
def test_a_plugin_that_leaves_the_program_is_an_error(source, tiny, study_file, refused, user_module):
    user_module("leaving", source)
    said = refused("run", study_file(tiny | {"model": {"name": "leaving:leave"}}))
    assert "SystemExit: 0" in said
