"""Two processes at one training make the steps of one process on the same batches and weight samples."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from support.ranks import by_processes, train
from tombola.errors import TombolaError
from tombola.training.ranks import Ranks

# not imported here: that takes four seconds, and these processes of tests do not need it
pytestmark = pytest.mark.skipif(find_spec("lightning_fabric") is None, reason="lightning_fabric is not installed")

RIGL = {"method": "map", "sparse": {"way": "rigl", "density": 0.3, "every": 3}}
CASES = {
    "survivors of vi": {"norm": False, "density": 0.5},
    "vi with batch norm": {"norm": True, "density": 0.5},
    "two samples, log of the expectation": {
        "norm": True, "density": 1.0, "train": {"samples": 2, "objective": "log_expected", "loss_scale": "sum"}
    },
    "map with batch norm": {"norm": True, "density": 0.5, "train": {"method": "map", "clip_norm": 1.0}},
    "antithetic": {"norm": False, "density": 0.7, "train": {"estimator": "antithetic", "samples": 2}},
    "rigl": {"norm": False, "density": 1.0, "train": RIGL},
    "ivon": {"norm": False, "density": 0.7, "train": {"method": "ivon"}},
}  # fmt: skip
MEAN = "posterior.gaussian.mean"
OWN = {"norm": True, "density": 0.5, "same_sample": False}
DROPOUT = {"norm": False, "density": 1.0, "dropout": 0.5, "train": RIGL}
ONE_STEP = {"norm": False, "density": 0.5, "same_sample": False, "stop": 1, "train": {"optimiser": "sgd", "heat": 50.0}}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return the results of two processes by case, one start for all."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {**CASES, "own": OWN, "one step": ONE_STEP, "dropout": DROPOUT}
    first = CASES["vi with batch norm"]
    train(first | {"stop": 13}, checkpoint=folder / "of-one")
    cases["resumed from one"] = first | {"checkpoint": str(folder / "of-one")}
    cases["stopped"] = first | {"stop": 13, "checkpoint": str(folder / "of-two")}
    results = dict(zip(cases, by_processes(list(cases.values()), folder), strict=True))
    results["resumed from two"] = train(first, checkpoint=folder / "of-two")
    return results


@pytest.mark.parametrize("name", CASES)
def test_they_learn_what_one_process_learns(found, name):
    assert_close(found[name], train(CASES[name]))


@pytest.mark.parametrize("name", ["resumed from one", "resumed from two"])
def test_checkpoints_of_one_and_of_two_are_the_same(found, name):
    assert_close(found[name], train(CASES["vi with batch norm"]))


def test_own_samples_are_others(found):
    alone = train(OWN)
    assert not torch.allclose(found["own"][MEAN], alone[MEAN], atol=1e-4)
    assert found["own"]["losses"][-1] < found["own"]["losses"][0]


def test_a_step_of_own_samples_is_the_average_of_steps_of_one_process_each(found):
    """By plain gradient descent, from one start, on each half of the batch; with a KL term of some size."""
    halves = [train(ONE_STEP | {"half": half}) for half in range(2)]
    for name in (MEAN, "posterior.gaussian.log_std"):
        torch.testing.assert_close(found["one step"][name], (halves[0][name] + halves[1][name]) / 2, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(halves[0][MEAN], halves[1][MEAN], atol=1e-5)


def test_processes_that_drop_other_inputs_grow_the_same_weights(found):
    """They compare their weights themselves at the end of each epoch. The convolution's 36 weights are prunable."""
    assert int((found["dropout"][MEAN.replace("gaussian", "point")] == 0).sum()) == round(0.7 * 36)


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-7, atol=1e-8)


class Two:
    """A fabric of two processes of which this is the first."""

    world_size, global_rank, device = 2, 0, torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "norm", "said"),
    [
        ({"method": "sgld"}, False, "method sgld makes more of its steps than averaged gradients"),
        ({"estimator": "flipout"}, False, "estimator flipout draws noise for each example"),
        ({"accumulate": 2}, True, "which train.accumulate: 2 cannot have"),
    ],
)
def test_what_cannot_be_shared_is_refused(settings, norm, said):
    with pytest.raises(TombolaError, match=said):
        train({"norm": norm, "density": 0.5, "train": settings}, Two())


def test_more_processes_than_parts_of_a_batch():
    ranks = Ranks(Two())
    ranks.fabric.global_rank = 1
    (inputs, _) = ranks._share((torch.randn(3, 2), torch.zeros(3)))
    assert (len(inputs), ranks.weight) == (3, 0.0)


def test_equal_weights_are_looked_at_on_their_device():
    """By tensors without memory, as of a GPU: sums on the CPU would not meet those of the device."""

    def sent(ends, reduce_op):
        assert ends.device == fabric.device
        raise InterruptedError

    fabric = SimpleNamespace(device=torch.device("cuda", 0), all_reduce=sent)
    with FakeTensorMode():
        tensors = {"mean": torch.zeros(5, device="cuda"), "scale": torch.zeros((), device="cuda")}
        with pytest.raises(InterruptedError):
            Ranks(fabric).check_equal(SimpleNamespace(tensors=lambda: tensors))
