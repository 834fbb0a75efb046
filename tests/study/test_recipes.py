"""Recipes: what `size` and `nets` of a study stand for."""

from unittest.mock import Mock

import pytest
import torch
import yaml

from tombola.engine.local import LocalEngine, dataset
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.models import build
from tombola.posterior.state import layout_of
from tombola.study.recipes import cifar10, merged
from tombola.study.spec import read, resolved, unfold

EVERY = [(size, net) for size, there in cifar10()["sizes"].items() for net in there["nets"]]
NETS = ["resnet20", "resnet18", "resnet110", "vgg11", "vgg19", "vit_tiny", "vit_base", "fast"]
TOY = """
import torch
from tombola import Dataset

def images(side):
    def some(n):
        return torch.randint(256, (n, 3, side, side), dtype=torch.uint8), torch.arange(n) % 10
    return Dataset("toy", some(20), some(10), some(10))
"""


def study(text=""):
    return {"name": "it", "size": "cpu", "nets": ["resnet20", "vgg11"]} | (yaml.safe_load(text) or {})


def refused(text):
    with pytest.raises(TombolaError) as caught:
        unfold(study(text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_size_has_every_net():
    assert {size: list(there["nets"]) for size, there in cifar10()["sizes"].items()} == dict.fromkeys(
        ("full", "gpu", "cpu", "toy"), NETS
    )


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("size", "net"), EVERY)
def test_every_net_of_every_size_can_be_planned(size, net, user_module, plan_of):
    user_module("toy", TOY)
    side = 16 if size == "cpu" else 32
    toy = {"name": "toy:images", "args": {"side": side}}
    arms = ["ticket", "deterministic", "transplant"]
    plan = plan_of({"name": "it", "size": size, "nets": [net], "data": toy, "arms": arms, "prune": {"levels": 1}})
    assert {row.labels["model"] for row in plan.rows} == {f"{net}/{size}" if size in ("cpu", "toy") else net}
    assert [(row.labels["arm"], row.labels["level"]) for row in plan.rows] == [
        *(("ticket", 0), ("ticket", 1), ("deterministic", 0), ("deterministic", 1), ("transplant", 1))
    ]


def test_the_full_size_is_the_papers_setting():
    (one,) = unfold({"name": "it", "size": "full", "nets": ["resnet20"]})
    train, data = one.study.train, one.study.data
    assert (train.epochs, train.lr, train.milestones, train.gamma) == (160, 1e-3, [0.5, 0.75], 0.1)
    assert (train.weight_decay, train.heat, train.samples, train.batch_size) == (1e-4, 0.1, 10, 128)
    assert (one.study.prune.fraction, one.study.prune.levels, one.study.prune.classifier) == (0.2, 20, False)
    assert (data.flip, data.crop, data.args) == (True, 4, {"path": "uoft-cs/cifar10", "normalise": "imagenet"})
    (vit,) = unfold({"name": "it", "size": "full", "nets": ["vit_tiny"]})
    assert vit.study.train.batch_size == 1024


@pytest.mark.parametrize("net", NETS)
def test_the_gpu_size_takes_a_fifth_of_the_papers_epochs_and_meets_its_densities(net):
    full, gpu = (unfold({"name": "it", "size": size, "nets": [net]})[0].study for size in ("full", "gpu"))
    assert gpu.train.epochs <= full.train.epochs / 5
    assert (1 - gpu.prune.fraction) ** gpu.prune.levels == pytest.approx((1 - full.prune.fraction) ** full.prune.levels)


def test_the_cpu_size_ends_near_the_papers_density():
    (one,) = unfold({"name": "it", "size": "cpu", "nets": ["vgg11"]})
    assert (1 - one.study.prune.fraction) ** one.study.prune.levels == pytest.approx(0.8**20, rel=0.1)


def test_nets_fan_out_and_a_studys_own_settings_count_last():
    made = unfold(study("{train: {epochs: 3}, data: {args: {path: here}}, seeds: [4, 5]}"))
    assert [v.model for v in made] == ["resnet20/cpu", "vgg11/cpu"]
    assert [v.label for v in made] == ["", ""]
    for variant, recipe in zip(made, (plain.study for plain in unfold(study())), strict=True):
        assert (variant.study.train.epochs, variant.study.train.lr) == (3, recipe.train.lr)
        assert variant.study.data.args == recipe.data.args | {"path": "here"}
        assert variant.study.seeds == [4, 5]


def test_a_section_given_as_a_list_lies_on_the_recipe_too():
    made = unfold(study("{nets: [vit_tiny], train: [{lr: 0.5}, {heat: 0.7}]}"))
    (plain,) = unfold(study("nets: [vit_tiny]"))
    assert [(v.study.train.lr, v.study.train.heat) for v in made] == [(0.5, 0.1), (plain.study.train.lr, 0.7)]
    assert made[0].study.train.epochs == plain.study.train.epochs


def test_merging_changes_neither():
    under, over = {"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}}
    found = merged(under, over)
    assert found == {"a": {"b": [3], "c": 2}}
    found["a"]["b"].append(4)
    assert (under, over) == ({"a": {"b": [1], "c": 2}}, {"a": {"b": [3]}})


def test_reading_a_study_leaves_the_recipe_as_it_is():
    before = yaml.safe_dump(cifar10())
    unfold(study("data: {name: digits}"))[0].study.data.args["path"] = "elsewhere"
    resolved(study("train: {epochs: 1}"))
    assert yaml.safe_dump(cifar10()) == before


def test_other_data_has_none_of_the_recipes_arguments():
    assert unfold(study("data: {name: digits}"))[0].study.data.args == {}
    assert unfold(study("data: {name: huggingface}"))[0].study.data.args["path"] == "uoft-cs/cifar10"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size: cpux", "size is 'cpux': did you mean 'cpu'? there are full, gpu, cpu"),
        ("size: null", "size is None"),
        ("size: [cpu, gpu]", "size is the list"),
        ("nets: []", "nets is [] at size cpu; give a list of resnet20"),
        ("nets: resnet20", "nets is 'resnet20'"),
        ("nets: [resnet20, vgg1]", "nets.1 is 'vgg1': did you mean 'vgg1"),
        ("nets: [3]", "nets.0 is 3: there are resnet20"),
        ("nets: [vgg11, vgg11]", "give vgg11 once"),
        ("model: {name: vgg11}", "model.name is 'vgg11' beside nets"),
    ],
)
def test_what_there_is_not_is_one_sentence(text, words):
    assert words in refused(text)


def test_sizes_can_be_changed_on_the_command_line(study_file, cli, refused):
    path = study_file(study())
    (one, _) = unfold(read(str(path), ["size=gpu"]))
    assert (one.model, one.study.train.epochs) == ("resnet20", 30)
    assert "size is 'tiny'" in refused("run", path, "--set", "size=tiny")
    assert "nets.0 is 'lenet'" in refused("run", path, "--set", "nets=[lenet]")


def test_data_that_is_not_there_says_how_to_name_it(study_file, refused, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", offline)
    assert "--set data.args.path=FOLDER" in refused("run", study_file(study()))


def test_a_resolved_study_lists_what_differs_between_its_nets():
    found = resolved(study("nets: [resnet20, vit_tiny]"))
    assert found["model"]["name"] == ["resnet", "vit"]
    assert found["nets"] == ["resnet20", "vit_tiny"]
    assert found["train"]["epochs"] == unfold(study())[0].study.train.epochs
    assert resolved({"name": "it", "train": {"lr": [0.1, 0.2]}})["train"]["lr"] == [0.1, 0.2]


def held_out(tiny, split):
    return tiny | {"data": {"name": "digits", "args": {"validation": 200, "test": 1300}}, "evaluate": {"split": split}}


def test_measuring_validation_examples_trains_a_dense_net_to_the_same_bits_and_measures_others(tiny, tmp_path, plan_of):
    found = {}
    for split in ("test", "validation"):
        plan, store = plan_of(held_out(tiny, split)), Store(tmp_path / "stages")
        LocalEngine(store, torch.device("cpu"), Mock()).run(plan)
        trained = plan.rows[0].stage.parents[0]  # dense; later levels draw noise by the keys of all before them
        found[split] = collect(plan, store), store.ticket(trained.key)
    (tested, one), (validated, other) = found["test"], found["validation"]
    assert (set(tested["examples"]), set(validated["examples"])) == ({1300}, {200})
    assert set(validated["data"]) == {"digits (validation split)"}
    assert torch.equal(one.posterior.mean, other.posterior.mean)
    assert torch.equal(one.posterior.std, other.posterior.std)
    assert [row["loss"] for row in one.info["history"]] == [row["loss"] for row in other.info["history"]]
    assert [row["nll"] for row in one.info["history"]] != [row["nll"] for row in other.info["history"]]

    split = dataset(plan.rows[0].stage.source.settings).validation  # the history's last row, by hand
    module = plan.rows[0].stage.net.build("skeleton")
    mean = other.layout.views(other.posterior.mean)
    logits = torch.func.functional_call(module.eval(), mean, (split[0],))
    accuracy = (logits.argmax(-1) == split[1]).double().mean().item()
    assert other.info["history"][-1]["accuracy"] == pytest.approx(accuracy)


def test_a_validation_split_that_holds_nothing_out_is_refused(tiny, plan_of):
    with pytest.raises(TombolaError, match=r"evaluate.split is validation, but .* set data.args.validation"):
        plan_of(tiny | {"evaluate": {"split": "validation"}})


def test_the_test_split_is_in_no_key(tiny, plan_of):
    raw = held_out(tiny, "test")
    assert plan_of(raw).rows[0].stage.key == plan_of(raw | {"evaluate": {}}).rows[0].stage.key


@pytest.mark.parametrize("size", ["full", "gpu", "cpu"])
@pytest.mark.parametrize("net", ["vgg11", "vgg19"])
def test_biases_before_batch_norm_cannot_ruin_a_vgg(size, net):
    """Their posterior goes to the prior; running statistics leave its noise in the predictions."""
    (one,) = unfold({"name": "it", "size": size, "nets": [net]})
    module = build(one.study.model.name, one.study.model.args, (3, 32, 32), 10, ("test",))
    layout = layout_of(module, one.study.posterior, one.study.prune)
    random = {segment.name for segment in layout.segments if segment.random}
    convolutions = {name for name, _ in module.named_parameters() if ".conv" in name}
    assert {name for name in convolutions if name.endswith("weight")} | {"classifier.weight", "classifier.bias"} <= random
    if one.study.evaluate.batch_norm == "running":
        assert not {name for name in convolutions if name.endswith("bias")} & random
    assert not {name for name in random if "norm" in name}
