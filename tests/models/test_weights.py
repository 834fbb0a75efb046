"""A study that starts from the weights in a file."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tombola.errors import TombolaError
from tombola.models import build
from tombola.models.weights import fingerprint, load_weights
from tombola.streams import generator


@pytest.fixture
def weights(tmp_path):
    """A file for the tiny study's MLP; called again, with other numbers."""
    path = tmp_path / "weights.safetensors"

    def write(seed=0):
        own = build("mlp", {"hidden": [8]}, (1, 8, 8), 10, ("any",)).state_dict()
        stream = generator("weights", seed)
        save_file({name: torch.randn(value.shape, generator=stream) for name, value in own.items()}, path)
        return str(path)

    return write


@pytest.fixture
def raw(tiny, weights):
    return tiny | {
        "model": {**tiny["model"], "weights": weights()},
        "posterior": {"prior_mean": "start", "std_scale": "weight"},
        "arms": ["ticket", "deterministic", "reinit"],
    }


def starts(plan, store):
    return {
        stage.draw: store.ticket(stage.key)
        for stage in plan.stages
        if stage.kind == "init" and stage.posterior.prior_mean == "start"
    }


def test_a_missing_file_is_said_once():
    with pytest.raises(TombolaError, match=r"^model.weights is 'nowhere', but there is no such file; check the path$"):
        load_weights(nn.Linear(2, 2), "nowhere")


def test_means_start_at_the_files_weights_and_re_drawn_ones_do_not(raw, plan_of, run_plan):
    plan = plan_of(raw)
    store, _, _ = run_plan(plan)
    found = starts(plan, store)
    given = load_file(raw["model"]["weights"])
    q = found["first"].rewind.posterior
    for name, value in q.layout.views(q.mean).items():
        assert torch.equal(value, given[name])
    assert torch.equal(q.prior_mean, q.mean)
    again = found["redrawn"].rewind.posterior
    assert not torch.isin(again.mean, q.mean).any()
    for stage in plan.stages:
        if stage.kind == "train" and stage.settings.method == "vi":
            ticket = store.ticket(stage.key)
            begun = again if "redraw" in {p.kind for p in stage.parents} else q
            assert torch.equal(ticket.trained.posterior.prior_mean, begun.mean * ticket.mask)


def test_what_is_in_the_file_is_in_the_keys(raw, tiny, plan_of, weights):
    def keys():
        return {stage.key for stage in plan_of(raw).stages}

    before = keys()
    assert keys() == before
    weights(seed=1)
    after = keys()
    redrawn = {stage.key for stage in plan_of(raw).stages if stage.kind == "init" and stage.draw == "redrawn"}
    assert before & after == redrawn
    plain = plan_of(tiny | {"arms": ["ticket"]})
    assert not {stage.key for stage in plain.stages} & after


def test_tied_weights_need_one_name(tmp_path):
    def tied():
        module = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
        module["b"].weight = module["a"].weight
        return module

    save_file({"b.weight": torch.full((3, 3), 2.0)}, tmp_path / "w")
    assert bool((load_weights(tied(), str(tmp_path / "w"))["a"].weight == 2).all())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop("1.weight"), "lacks '1.weight'"),
        (lambda t: t.update(extra=torch.ones(1)), "the model lacks, 'extra'"),
        (lambda t: t.update({"1.weight": torch.ones(2)}), "in another shape '1.weight'"),
    ],
)
def test_weights_of_another_model_are_refused(change, sentence, raw, plan_of):
    path = raw["model"]["weights"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(TombolaError, match=sentence):
        plan_of(raw)


def test_a_file_that_is_none_is_refused(raw, plan_of, tmp_path):
    (tmp_path / "text").write_text("weights")
    for path, sentence in ((tmp_path / "none", "no such file"), (tmp_path / "text", "no safetensors file")):
        with pytest.raises(TombolaError, match=sentence):
            plan_of(raw | {"model": {**raw["model"], "weights": str(path)}})
    with pytest.raises(TombolaError, match="no such file"):
        fingerprint(str(tmp_path / "none"))
    with pytest.raises(TombolaError, match=r"would write over model\.weights"):
        plan_of(raw | {"posterior": {"mean": "kaiming_uniform"}})
