"""The folded section of learning curves."""

import pandas as pd
import pytest
import yaml

from support.running import TINY, command_line, leave_out_figures
from tombola.engine.folder import StudyFolder
from tombola.engine.records import histories
from tombola.report.learning import _points


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a tiny study with held-out examples."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        root = tmp_path_factory.mktemp("learning")
        raw = TINY | {"seeds": [0, 1], "data": {"name": "digits", "args": {"validation": 100, "test": 1500}}}
        raw |= {"evaluate": {"samples": 2, "split": "validation"}}
        (root / "tiny.yaml").write_text(yaml.safe_dump(raw))
        done = command_line("run", root / "tiny.yaml", "--out", root / "out", "--device", "cpu")
        assert done.exit_code == 0, done.output
        yield StudyFolder.open(root / "out")


def test_every_epoch_of_every_training_is_kept(folder):
    found = histories(folder.outline, folder.store)
    assert found.groupby(["curve", "seed", "level"])["epoch"].apply(list).map(lambda epochs: epochs == [1, 2]).all()
    assert set(found["level"]) == {0, 1}
    assert set(found["seed"]) == {0, 1}
    assert found[["loss", "nll", "accuracy"]].notna().all(axis=None)


def test_the_page_has_them_folded_with_their_numbers(folder):
    page = (folder.path / "report.html").read_text()
    assert '<summary><h2>Learning curves</h2></summary>' in page  # fmt: skip
    drawn = pd.read_csv(folder.path / "figures" / "1-learning.csv")
    shown = ("training loss (nats)", "held-out NLL (nats)", "held-out accuracy (%)")
    assert set(drawn["quantity"]) == {f"{name}, {level}" for name in shown for level in ("dense", "level 1")}
    history = histories(folder.outline, folder.store)
    mean = history[(history["level"] == 1) & (history["epoch"] == 2)]["loss"].mean()
    row = drawn[(drawn["panel"] == "training loss (nats), level 1") & (drawn["x"] == 2)]
    assert row["mean"].item() == pytest.approx(mean)


def test_points_are_means_and_ranges_over_seeds():
    rows = pd.DataFrame({"curve": "a", "epoch": [1, 1], "accuracy": [0.5, 0.7]})
    (point,) = _points(rows, "accuracy").to_dict("records")
    assert point == pytest.approx({"curve": "a", "x": 1, "mean": 60, "low": 50, "high": 70, "seeds": 2})
