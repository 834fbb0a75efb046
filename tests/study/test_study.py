"""Studies: what fans out, and what is refused."""

import dataclasses

import pytest
import torch
import yaml

from tombola import Dataset
from tombola.engine.local import dataset
from tombola.errors import TombolaError
from tombola.settings import DataSettings, EvaluateSettings, ModelSettings, PosteriorSettings, PruneSettings, TrainSettings
from tombola.study.plan import plan_study
from tombola.study.spec import Arm, Study, read, shipped, unfold

SETTINGS = [PosteriorSettings, TrainSettings, PruneSettings, ModelSettings, DataSettings, EvaluateSettings]


def variants(text):
    return unfold({"name": "it"} | (yaml.safe_load(text) or {}))


def only(text):
    (variant,) = variants(text)
    return variant.study


def refused(text):
    with pytest.raises(TombolaError) as caught:
        plan_study(variants(text), dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_study_is_all_defaults_with_a_ticket():
    assert only("") == Study(name="it", arms=[Arm()])
    assert variants("")[0].axes == {}


@pytest.mark.parametrize(
    ("text", "read", "values", "labels"),
    [
        ("train: {lr: [0.1, 0.2]}", lambda s: s.train.lr, [0.1, 0.2], ["train.lr=0.1", "train.lr=0.2"]),
        ("prune: {score: [snr, mu]}", lambda s: s.prune.score, ["snr", "mu"], ["", ""]),
        ("prune: {rewind: [init, 'epoch:1']}", lambda s: s.prune.rewind, ["init", "epoch:1"], ["", ""]),
        ("model: {name: [mlp, conv]}", lambda s: s.model.name, ["mlp", "conv"], ["", ""]),
        ("model: [{name: mlp}, {name: conv}]", lambda s: s.model.name, ["mlp", "conv"], ["", ""]),
        (
            "model: [{args: {hidden: [3]}}, {args: {hidden: [4]}}]",
            lambda s: s.model.args["hidden"],
            [[3], [4]],
            ["model.args={'hidden': [3]}", "model.args={'hidden': [4]}"],
        ),
        (
            "model: {args: [{hidden: [3]}, {hidden: [4]}]}",
            lambda s: s.model.args["hidden"],
            [[3], [4]],
            ["model.args.hidden=[3]", "model.args.hidden=[4]"],
        ),
        (
            "train: {milestones: [[0.5], [0.2, 0.3]]}",
            lambda s: s.train.milestones,
            [[0.5], [0.2, 0.3]],
            ["train.milestones=[0.5]", "train.milestones=[0.2, 0.3]"],
        ),
        ("seeds: [[0, 1], [2]]", lambda s: s.seeds, [[0, 1], [2]], ["seeds=[0, 1]", "seeds=[2]"]),
        (
            "train: {learn_noise: [true, false]}",
            lambda s: s.train.learn_noise,
            [True, False],
            ["train.learn_noise=True", "train.learn_noise=False"],
        ),
        (
            "train: {clip_norm: [null, 1.0]}",
            lambda s: s.train.clip_norm,
            [None, 1.0],
            ["train.clip_norm=None", "train.clip_norm=1.0"],
        ),
        ("train: [{lr: 0.1}, {lr: 0.2}]", lambda s: s.train.lr, [0.1, 0.2], ["train.lr=0.1", "train.lr=0.2"]),
    ],
)
def test_a_list_fans_out(text, read, values, labels):
    made = variants(text)
    assert [read(v.study) for v in made] == values
    assert [v.label for v in made] == labels


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("seeds: [3, 4]", lambda s: s.seeds == [3, 4]),
        ("train: {milestones: [0.3, 0.6]}", lambda s: s.train.milestones == [0.3, 0.6]),
        ("train: {milestones: []}", lambda s: s.train.milestones == []),
        (
            "prune: {include: ['*.bias'], exclude: ['1.*']}",
            lambda s: (s.prune.include, s.prune.exclude) == (["*.bias"], ["1.*"]),
        ),
        ("posterior: {random: ['*.weight']}", lambda s: s.posterior.random == ["*.weight"]),
        ("prune: {levels: 3}\narms: [{arm: reinit, levels: [1, 3]}]", lambda s: s.arms[0].levels == [1, 3]),
        ("model: {args: {hidden: [5, 6]}}", lambda s: s.model.args == {"hidden": [5, 6]}),
    ],
)
def test_a_fields_own_list_does_not_fan_out(text, read):
    assert read(only(text))


def test_lists_multiply():
    made = variants("train: {lr: [0.1, 0.2], epochs: [1, 2, 3]}\nposterior: {std: [0.01, 0.02]}")
    assert len({(v.study.train.lr, v.study.train.epochs, v.study.posterior.std) for v in made}) == len(made) == 12
    assert made[0].axes == {"train.lr": 0.1, "train.epochs": 1, "posterior.std": 0.01}


def test_arms_fan_out_in_place_and_give_no_variant():
    study = only("""
        arms:
          - {arm: ticket, score: [snr, mu]}
          - deterministic
          - {arm: [reinit, shuffle_even], of: [ticket, deterministic]}
          - {arm: ticket, train: {lr: [0.1, 0.2], milestones: [0.5]}}
          - {arm: ticket, train: [{heat: 1.0}, {heat: 0.0}]}
          - {arm: transplant, levels: [[1], [2, 3]]}
        """)
    assert [(a.arm, a.score, a.of, a.levels, a.train) for a in study.arms] == [
        ("ticket", "snr", "ticket", None, {}),
        ("ticket", "mu", "ticket", None, {}),
        ("deterministic", None, "ticket", None, {}),
        ("reinit", None, "ticket", None, {}),
        ("reinit", None, "deterministic", None, {}),
        ("shuffle_even", None, "ticket", None, {}),
        ("shuffle_even", None, "deterministic", None, {}),
        ("ticket", None, "ticket", None, {"lr": 0.1, "milestones": [0.5]}),
        ("ticket", None, "ticket", None, {"lr": 0.2, "milestones": [0.5]}),
        ("ticket", None, "ticket", None, {"heat": 1.0}),
        ("ticket", None, "ticket", None, {"heat": 0.0}),
        ("transplant", None, "ticket", [1], {}),
        ("transplant", None, "ticket", [2, 3], {}),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "trian: {lr: 0.1}",
            "unknown key 'trian': did you mean 'train'? there are name, description, size, nets, seeds, data,",
        ),
        ("qqqq: 1", "unknown key 'qqqq': there are name, description,"),
        ("train: {lrr: 0.1}", "unknown key 'train.lrr': did you mean 'lr'? there are method, epochs,"),
        ("model: {nam: mlp}", "unknown key 'model.nam': did you mean 'name'? there are name, args"),
        (
            "arms: [ticket, {arm: ticket, scor: mu}]",
            "unknown key 'arms.1.scor': did you mean 'score'? there are arm, score, scope, of,",
        ),
        ("arms: [{train: {lrr: 0.1}}]", "arm ticket: unknown key 'train.lrr': did you mean 'lr'? there are method,"),
        (
            "train: {lr: 1e-3}",
            "train.lr is the text '1e-3': YAML reads numbers such as 1e-3 as text; write 1.0e-3 or 0.001,",
        ),
        ("arms: [{train: {lr: 1e-3}}]", "arm ticket: train.lr is the text '1e-3': YAML reads numbers such as 1e-3 as text;"),
        ("train: {epochs: '3'}", "train.epochs is the text '3'"),
        ("train: {lr: abc}", "train.lr is 'abc'; input should be a valid number"),
        ("train: {epochs: true}", "train.epochs is True; input should be a valid integer"),
        ("train: {lr: true}", "train.lr is True; input should be a valid number"),
        ("train: {nesterov: 1}", "train.nesterov is 1; input should be a valid boolean"),
        ("train: {epochs: 1.5}", "train.epochs is 1.5; input should be a valid integer"),
        (
            "train: {optimiser: adan}",
            "train.optimiser is 'adan'; input should be 'adam', 'adamw' or 'sgd'",
        ),
        ("train: {lr: .nan}", "train: lr is nan"),
        ("train: {lr: 0.0}", "train: lr is 0.0; it must be above 0"),
        ("train: {milestones: [0.5, 1.0]}", "train: milestones is 1.0; it must be below 1"),
        ("prune: {fraction: 1.5}", "prune: fraction is 1.5; it must be below 1"),
        ("prune: {fraction: [0.2, 1.5]}", "prune: fraction is 1.5; it must be below 1"),
        ("prune: {include: '*.bias'}", "prune.include is '*.bias'; input should be a valid array"),
        ("evaluate: {redraws: 10}", "evaluate: redraws is 10; it must be at least 100"),
        ("seeds: [0, -1]", "seeds is -1; it must be at least 0"),
        ("seeds: [0, 0]", "seeds are [0, 0]; give at least one, and each once"),
        ("seeds: []", "seeds are []; give at least one, and each once"),
        ("seeds: 3", "seeds is 3; input should be a valid array"),
        ("train: {lr: []}", "train.lr is an empty list; give at least one value"),
        ("train: 5", "train is 5; input should be an object"),
        ("model: mlp", "model is 'mlp'; input should be an object"),
        ("arms: ticket", "arms: 'ticket' is no list; write one arm a line,"),
        ("arms: [tickt]", "arms.0.arm is 'tickt'; input should be 'ticket', 'deterministic',"),
        ("arms: [3]", "arms.0 is 3; input should be an object"),
        ("arms: [{train: 3}]", "arms.0.train is 3; input should be an object"),
        ("name: a/b", "name is 'a/b'; the output folder is named so: give at most 100 printable characters without '/'"),
        ("name: ''", "name is ''; the output folder is named so: give"),
        ("name: [a, b]", "name is the list ['a', 'b']; it is of the whole study and does not fan out"),
        ("threads: [1, 2]", "threads is the list [1, 2]; it is of the whole study and does not fan out"),
        ("model: &m {args: *m}", "the study can't be written as JSON: Circular reference detected;"),
        ("1: 2", "unknown key '1': there are name,"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(text, said):
    assert refused(text).startswith(said)


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_field_has_a_sentence_and_a_default_that_survives_yaml(kind):
    for field in dataclasses.fields(kind):
        assert field.metadata["help"].endswith("."), field.name
    section = kind.__name__.removesuffix("Settings").lower()
    text = yaml.safe_dump({section: dataclasses.asdict(kind())})
    assert getattr(only(text), section) == kind()


def test_a_study_survives_yaml_whole():
    study = only(
        "arms: [ticket, {arm: reinit, of: deterministic, levels: [2], train: {lr: 0.5}}]\nthreads: 2\nseeds: [1, 5]"
    )
    assert only(yaml.safe_dump(dataclasses.asdict(study))) == study


# --set


def changed(*changes, text="name: it\ntrain: {lr: 0.1}\n", study_file):
    return read(str(study_file(text)), list(changes))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train.lr=0.5", {"train": {"lr": 0.5}}),
        ("train.epochs=3", {"train": {"lr": 0.1, "epochs": 3}}),
        ("prune.levels=2", {"train": {"lr": 0.1}, "prune": {"levels": 2}}),
        ("model.args.hidden=[3, 4]", {"train": {"lr": 0.1}, "model": {"args": {"hidden": [3, 4]}}}),
        ("arms=[ticket]", {"train": {"lr": 0.1}, "arms": ["ticket"]}),
        ("train.lr=[0.1, 0.2]", {"train": {"lr": [0.1, 0.2]}}),
        ("train.nesterov=false", {"train": {"lr": 0.1, "nesterov": False}}),
        ("description=a=b", {"train": {"lr": 0.1}, "description": "a=b"}),
        ("train={heat: 1.0}", {"train": {"heat": 1.0}}),
        ("train.clip_norm=", {"train": {"lr": 0.1, "clip_norm": None}}),
    ],
)
def test_set_changes_or_makes_one_setting(change, expected, study_file):
    assert changed(change, study_file=study_file) == {"name": "it"} | expected


def test_set_applies_in_order(study_file):
    assert changed("train.lr=0.5", "train.lr=0.7", study_file=study_file)["train"] == {"lr": 0.7}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.lr", "--set 'train.lr' is no PATH=VALUE; write for example --set train.epochs=20"),
        ("=3", "--set '=3' is no PATH=VALUE"),
        ("train.lr.x=3", "--set 'train.lr.x=3': 'lr' holds 0.1 and has no fields; check the path"),
        ("name.x=3", "--set 'name.x=3': 'name' holds 'it' and has no fields"),
        ("train.lr=[1", "--set 'train.lr=[1' is not YAML at line 1"),
    ],
)
def test_a_bad_set_is_refused(change, said, study_file):
    with pytest.raises(TombolaError) as caught:
        changed(change, study_file=study_file)
    assert str(caught.value).startswith(said)


# files


def test_a_file_without_a_name_is_named_by_its_stem(study_file):
    assert read(str(study_file("seeds: [1]", "mine.yaml")), [])["name"] == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: it\ntrain: {lr: 0.1\nseeds: [0]", "is not YAML at line 3: "),
        ("name: it\n\tlr: 1", "is not YAML at line 2: "),
        ("a: \0", "is not YAML: unacceptable character #x0000"),
        ("a: !!python/object:os.system {}", "is not YAML at line 1: "),
        ("- a\n- b", "is no study: it must be a YAML mapping that starts with name:"),
        ("", "is no study: it must be a YAML mapping that starts with name:"),
        ("just text", "is no study"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text, said, study_file):
    path = study_file(text)
    with pytest.raises(TombolaError) as caught:
        read(str(path), [])
    assert str(caught.value).startswith(f"{path} {said}")
    assert "\n" not in str(caught.value)


def test_an_unknown_study_is_refused_with_what_was_meant(tmp_path):
    with pytest.raises(
        TombolaError,
        match=r"there is no study 'dmeo': did you mean 'demo'\? give a YAML file or one of demo, cifar10, paper/",
    ):
        read("dmeo", [])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "none.yaml", tmp_path / "binary"):
        with pytest.raises(TombolaError, match="there is no study"):
            read(str(path), [])


def small_images(settings):
    """Stands in for data sets that are fetched: 32x32 colour images in ten classes."""
    images, labels = torch.zeros(2000, 3, 32, 32, dtype=torch.uint8), torch.arange(2000) % 10
    return Dataset("small", (images, labels), (images, labels), (images, labels))


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_study_parses_and_plans(name):
    raw = read(name, [])
    assert raw["description"].strip()
    fetched = raw.get("data", {}).get("name") != "digits"  # hubs are not for tests
    plan = plan_study(unfold(raw), small_images if fetched else dataset)
    assert {row.labels["seed"] for row in plan.rows} == set(raw["seeds"])
    assert len(plan.stages) > len(plan.rows)
