"""benchmarks.gpu paper at toy size on a CPU: the studies planned from JSON, run in sittings, recorded, put into a table."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.nets import noise, stored
from benchmarks.gpu.pace import Pace
from benchmarks.gpu.packed import pack, unpack
from benchmarks.gpu.prepare import collect, paper_studies
from benchmarks.gpu.sitting import Sitting
from benchmarks.gpu.studies import ORDER, STUDIES, Part, as_json, digest, parts, stored_studies, variant_of, variants_of
from hypothesis import given
from hypothesis import strategies as st

from support.bare import WHOLE, run_without
from tombola.data import IMAGENET, Dataset, Normalise
from tombola.engine import records
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.study.plan import plan_study
from tombola.study.spec import read, shipped, unfold
from tombola.study.stages import Train

ROOT = Path(__file__).parents[2]
TIMES = [*records.TIMING, *records.ENVIRONMENT]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data file of toys, with the studies beside it."""
    path = tmp_path_factory.mktemp("prepared") / "toy.safetensors"
    assert main(["prepare", "--toy", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def arguments(prepared):
    """Two studies of one net and seed, of which the second one needs nothing of its own."""
    chosen = ["--studies", "scores", "layers", "--nets", "resnet20", "--seeds", "1"]
    return ["paper", "--device", "cpu", "--toy", "--data", str(prepared), *chosen]


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """They in one sitting."""
    out = tmp_path_factory.mktemp("whole")
    assert main([*arguments, "--out", str(out)]) == 0
    return out


def record_of(out):
    return json.loads((out / "paper.json").read_text())


def tickets(out):
    """Part -> its rows, without what depends on the time."""
    found = {name: pd.DataFrame(unpack(row["tickets"])) for name, row in record_of(out)["rows"].items()}
    return {name: table.drop(columns=TIMES) for name, table in found.items()}


def assert_same_tickets(one, other):
    assert tickets(one).keys() == tickets(other).keys()
    for name, table in tickets(one).items():
        pd.testing.assert_frame_equal(table, tickets(other)[name], check_exact=True)


def few(side):
    """A data set of 100 images."""
    images, labels = torch.zeros(100, 3, side, side, dtype=torch.uint8), torch.arange(100) % 10
    nothing = images[:0], labels[:0]
    return Dataset("few", (images, labels), nothing, (images, labels), Normalise(*IMAGENET, 255.0))


def plans(variants):
    data = few(32)
    written = json.loads(json.dumps([as_json(one) for one in variants]))
    return plan_study(variants, lambda _: data), plan_study([variant_of(one) for one in written], lambda _: data)


@pytest.mark.parametrize(
    "changes",
    [
        *([name, "size=toy", "seeds=[0, 3]"] for name in shipped() if name.startswith("paper/")),
        *([name, "size=gpu", "nets=[resnet20]", "seeds=[0]"] for name in ("paper/scores", "paper/rate")),
        ["cifar10", "train.lr=1", "train.heat=1"],
    ],
    ids=lambda changes: " ".join(changes[:2]),
)
def test_a_plan_from_json_has_the_keys_and_labels_of_one_from_yaml(changes):
    name, *more = changes
    yaml, back = plans(unfold(read(name, more)))
    assert [stage.key for stage in back.stages] == [stage.key for stage in yaml.stages]
    assert [row.labels for row in back.rows] == [row.labels for row in yaml.rows]


def test_stored_studies_are_those_shipped_and_an_unknown_setting_is_named(prepared, tmp_path):
    found = stored_studies(prepared.with_name("toy.studies.json"))
    assert digest(found) == digest(paper_studies("toy"))
    assert {f"paper/{name}" for name in found} == {name for name in shipped() if name.startswith("paper/")}
    raw = as_json(found["scores"][0])
    raw["study"]["train"]["epoch"] = 7
    with pytest.raises(TombolaError, match=r"train\.epoch is no setting"):
        variant_of(json.loads(json.dumps(raw)))
    with pytest.raises(TombolaError, match="prepare"):
        stored_studies(tmp_path / "none.studies.json")


def test_the_most_telling_parts_come_first_and_one_seed_after_another():
    studies = paper_studies("toy")
    every = parts(studies, ["resnet20", "vgg11", "vit_tiny"], STUDIES, 5)
    assert [str(part) for part in every[:4]] == [
        "paper/scores, resnet20, seed 0",
        "paper/randomise, resnet20, seed 0",
        "paper/rewind, resnet20, seed 0",
        "paper/scores, vgg11, seed 0",
    ]
    assert [part.seed for part in every] == sorted(part.seed for part in every)
    shipped_parts = {
        (name, net, seed) for name, all in studies.items() for one in all for net in one.study.nets for seed in range(5)
    }
    assert {(part.study, part.net, part.seed) for part in every} == shipped_parts
    assert len(every) == len(set(every)) == len(shipped_parts)
    assert {name for names, _ in ORDER for name in names} == set(STUDIES)
    of_one = parts(studies, ["vgg11"], ["rewind", "size"], 2)
    assert [(part.net, part.seed) for part in of_one] == [(n, s) for s in (0, 1) for n in ("vgg11", "vgg11", "vgg19")]


def test_it_runs_on_torch_and_safetensors_alone(arguments, whole, tmp_path):
    """Beside them what these two need: filelock and numpy. The tickets are those of the whole package."""
    done = run_without(
        (*WHOLE, "plotly", "PIL"),
        f"""
torch.set_num_threads(1)
from benchmarks.gpu.__main__ import main
sys.exit(main([*{arguments!r}, '--out', {str(tmp_path)!r}]))
""",
    )
    assert "to run: paper/scores, resnet20, seed 0: 12 trainings" in done.stdout
    assert "paper/scores, resnet20, seed 0: 11 trainings left, about " in done.stdout
    assert "paper/layers, resnet20, seed 0: 0 trainings, 0 of 6 evaluations" in done.stdout
    assert_same_tickets(tmp_path, whole)


@pytest.mark.parametrize("fresh", [False, True], ids=["one machine", "a new machine each sitting"])
def test_sittings_that_stop_in_the_middle_of_trainings_give_the_same_tickets(arguments, whole, tmp_path, monkeypatch, fresh):
    half_done, recorded = 0, [0]
    for _ in range(20):
        looks = []

        def over(self, looks=looks):
            looks.append(1)
            return len(looks) > (21 if fresh else 13)

        with monkeypatch.context() as patch:
            patch.setattr(Sitting, "over", property(over))
            code = main([*arguments, "--out", str(tmp_path)])
        recorded.append(sum(row["tickets"]["rows"] for row in record_of(tmp_path)["rows"].values()))
        half_done += bool(list((tmp_path / "runs" / "paper" / "unfinished").glob("*.checkpoint")))
        if code == 0:
            break
        assert code == 3
        if fresh:
            shutil.rmtree(tmp_path / "runs")
    assert code == 0
    assert len(recorded) > 3
    assert recorded == sorted(recorded)
    assert half_done
    assert_same_tickets(tmp_path, whole)


def test_what_is_recorded_is_not_run_again(arguments, whole, tmp_path, monkeypatch, capsys):
    shutil.copy(whole / "paper.json", tmp_path)
    monkeypatch.setattr("tombola.engine.local.run_stages", None)  # would fail if it were called
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert record_of(tmp_path)["rows"] == record_of(whole)["rows"]
    assert capsys.readouterr().out == ""


def test_tickets_that_no_other_part_stands_on_are_deleted(prepared, whole):
    data, store = stored(prepared), Store(whole / "runs" / "paper")
    plan = plan_study(variants_of(paper_studies("toy"), Part("scores", "resnet20", 0)), lambda _: data)

    def has_ticket(stage):
        return (store.root / stage.key / "ticket.safetensors").is_file()

    found = {(row.labels["curve"], row.labels["level"]): row.stage.parents[0] for row in plan.rows}
    assert not has_ticket(found["ticket (mu)", 1])
    assert not has_ticket(found["ticket (mu)", 1].parents[0])
    assert has_ticket(found["ticket (snr)", 1])  # calibration measures it by batch statistics
    assert has_ticket(found["ticket (snr)", 1].parents[0])  # others shuffle its mask
    assert all(store.done(stage.key) for stage in plan.stages)


def test_the_table_is_that_of_an_ordinary_run_and_claims_read_it(prepared, whole, tmp_path):
    from tombola.claims import judge
    from tombola.claims.paper import CLAIMS

    shutil.copy(whole / "paper.json", tmp_path)
    found = records.read([collect(tmp_path)])
    data, store = stored(prepared), Store(whole / "runs" / "paper")
    plan = plan_study(variants_of(paper_studies("toy"), Part("scores", "resnet20", 0)), lambda _: data)
    expected = records.collect(plan, store)
    here = found[found["study"] == "paper-scores"].reset_index(drop=True)
    assert [*here.columns] == [*expected.columns]
    pd.testing.assert_frame_equal(here, expected, check_dtype=False, check_exact=True)
    judged = judge(found, CLAIMS)
    assert {row.net for row in judged if row.joint is not None} == {"resnet20/toy"}


def test_a_stage_that_fails_is_said_recorded_and_not_tried_again(arguments, tmp_path, monkeypatch, capsys):
    tried = []

    def fails(*_, **__):
        tried.append(1)
        raise RuntimeError("out of luck")

    monkeypatch.setattr("tombola.study.stages.train.train", fails)
    for _ in range(2):
        assert main([*arguments, "--studies", "layers", "--out", str(tmp_path)]) == 1
        assert "failed: paper/layers, resnet20, seed 0: train vi" in capsys.readouterr().out
    assert len(tried) == 2  # the dense network of each chain
    (row,) = record_of(tmp_path)["rows"].values()
    assert all("RuntimeError: out of luck" in sentence for sentence in row["failed"])


def test_without_time_nothing_is_begun_and_without_studies_it_is_said(arguments, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path), "--minutes", "0"]) == 3
    assert not (tmp_path / "paper.json").exists()
    assert main(["paper", "--device", "cpu", "--toy", "--out", str(tmp_path)]) == 2
    assert "give --data" in capsys.readouterr().err
    assert main(["collect", "--out", str(tmp_path / "none")]) == 2


def test_another_machine_goes_on_with_a_record_but_not_with_other_studies(tmp_path):
    Sitting("x", tmp_path, {"studies": "a"}, 1, torch.device("cpu"), same=("setup",)).write()
    record = json.loads((tmp_path / "x.json").read_text())
    record["hardware"]["cpu"] = "another"
    (tmp_path / "x.json").write_text(json.dumps(record))
    sitting = Sitting("x", tmp_path, {"studies": "a"}, 1, torch.device("cpu"), same=("setup",))
    assert sitting.record["sittings"][1]["hardware"]["cpu"] != "another"
    assert "versions" not in sitting.record["sittings"][1]
    with pytest.raises(TombolaError, match="give another --out"):
        Sitting("x", tmp_path, {"studies": "b"}, 1, torch.device("cpu"), same=("setup",))


def test_minutes_are_steps_at_the_pace_of_their_kind_and_a_share_of_the_rest(prepared):
    data, now = noise(toy=True), [0.0]
    plan = plan_study(variants_of(paper_studies("toy"), Part("layers", "resnet20", 0)), lambda _: data)
    trainings = [stage for stage in plan.stages if isinstance(stage, Train)]
    bayesian, point = ([s for s in trainings if s.settings.method == method] for method in ("vi", "map"))
    pace = Pace(data, clock=lambda: now[0])
    assert pace.minutes([]) == 0
    assert pace.minutes(bayesian) is None
    assert pace.learn(bayesian[0], 60.0)
    assert not pace.learn(bayesian[1], 120.0)
    assert pace.minutes(bayesian) == pytest.approx(1.5 * len(bayesian))
    assert pace.minutes(point) == pytest.approx(1.5 * len(point))  # of the same net, until one was trained
    now[0] = 90.0
    pace.ended(bayesian[0], 60.0)  # 30 seconds beside it
    assert pace.minutes(bayesian) == pytest.approx(2.0 * len(bayesian))
    assert pace.learn(point[0], 30.0)
    assert pace.minutes(point) == pytest.approx(1.0 * len(point))


values = st.one_of(st.integers(-3, 3), st.floats(allow_infinity=False), st.sampled_from(["", "a"]))


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), max_size=5))
def test_packed_rows_come_back_with_nan_where_one_has_nothing(rows):
    back = unpack(json.loads(json.dumps(pack(rows), allow_nan=False)))
    names = {name for row in rows for name in row}
    assert len(back) == len(rows)
    for row, found in zip(rows, back, strict=True):
        assert found.keys() == names
        for name in names:
            expected = row.get(name, math.nan)
            assert found[name] == expected or (expected != expected and found[name] != found[name])
