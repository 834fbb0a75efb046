"""Predictive: equal to the ticket's own outputs, its parts by closed forms, batch by batch; bad input is refused."""

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tombola
from benchmarks import shipped as shipped_ticket
from tombola import Predictive, Signature, TombolaError, describe
from tombola.data import Normalise, digits
from tombola.models import lenet
from tombola.predict.predictions import of_classes, of_reals
from tombola.predict.shipped import PICTURES, SHIPPED


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def shipped():
    return tombola.load(SHIPPED["digits"])


@pytest.fixture
def net():
    return lenet((1, 8, 8), 10)


def test_the_shipped_ticket_is_small_sparse_and_good(shipped, net, data):
    assert SHIPPED["digits"].stat().st_size <= 100_000
    assert shipped.density < 0.1
    for method in ("samples", "mean"):
        prediction = Predictive(shipped, net, method=method)(data.test[0])
        assert (prediction.labels == data.test[1]).double().mean() >= 0.975, method
    assert len(list(PICTURES["digits"].glob("*/*.png"))) == 10
    assert shipped.info["data"]["fingerprint"] == data.fingerprint


def test_samples_are_those_of_the_ticket_and_the_parts_add_up(shipped, net, data):
    before = copy.deepcopy(net.state_dict())
    inputs = data.test[0][:50]
    found = Predictive(shipped, net, samples=8, seed=3, batch=20)(inputs)
    expected = shipped.predict(net, inputs, samples=8, seed=3)
    torch.testing.assert_close(found.probs, expected.probs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.epistemic, expected.mutual_information, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.epistemic + found.aleatoric, expected.entropy, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    mean = Predictive(shipped, net, method="mean")(inputs)
    logits = shipped.write_mean(net).eval()(inputs).detach()
    torch.testing.assert_close(mean.probs, logits.double().softmax(-1))
    assert mean.epistemic.isnan().all()


def test_moments_are_as_close_to_many_samples_as_sixteen_samples_are(shipped, net, data):
    inputs = data.test[0]
    many = Predictive(shipped, net, samples=400, seed=7)(inputs)

    def distance(prediction):
        return ((prediction.probs - many.probs).abs().sum(1).mean() / 2).item()

    def ranks(prediction):
        return stats.spearmanr(prediction.epistemic, many.epistemic).statistic

    moments = Predictive(shipped, net, method="moments")(inputs)
    assert (moments.labels == data.test[1]).double().mean() >= 0.975
    few, sixteen = (Predictive(shipped, net, samples=samples)(inputs) for samples in (4, 16))
    assert distance(moments) <= distance(sixteen)
    assert ranks(few) < ranks(moments)
    assert abs(ranks(moments) - ranks(sixteen)) < 0.05


def test_parts_of_two_samples_by_hand():
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), 0.0]]])  # probabilities (1/2, 1/2) and (3/4, 1/4)
    found = of_classes(logits, ("no", "yes"), None, False)

    def entropy(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert found.probs[0].tolist() == pytest.approx([5 / 8, 3 / 8])
    assert found.aleatoric.item() == pytest.approx((entropy(1 / 2) + entropy(3 / 4)) / 2)
    assert found.epistemic.item() == pytest.approx(entropy(5 / 8) - (entropy(1 / 2) + entropy(3 / 4)) / 2)
    assert found.names == ["no"]


def test_intervals_are_quantiles_of_the_mixture():
    one = of_reals(torch.tensor([[[2.0]]]), 3.0, True)
    assert (one.low.item(), one.high.item()) == pytest.approx(stats.norm(2, 3).interval(0.9))
    means = torch.tensor([-5.0, 0.0, 20.0], dtype=torch.float64)
    found = of_reals(means.view(3, 1), 2.0, False)
    for q, end in ((0.05, found.low), (0.95, found.high)):
        assert stats.norm(means.numpy(), 2).cdf(end.item()).mean() == pytest.approx(q, abs=1e-12)
    assert found.std.item() == pytest.approx(math.sqrt(means.var(correction=0) + 4))
    assert found.mean.item() == pytest.approx(5)


def test_batches_of_every_kind_are_those_of_one_call(shipped, net, data):
    inputs, targets = (part[:30] for part in data.test)
    predictive = Predictive(shipped, net)
    whole = predictive(inputs).probs
    assert torch.equal(predictive(inputs.numpy()).probs, whole)
    for loader in (
        DataLoader(TensorDataset(inputs, targets), batch_size=30),
        DataLoader(TensorDataset(inputs), batch_size=30),
        [inputs.numpy()],
    ):
        assert torch.equal(torch.cat([found.probs for found in predictive.batches(loader)]), whole)
    pieces = torch.cat([found.probs for found in predictive.batches(inputs.split(7))])
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-5)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, a, b):
        return self.layer(torch.cat([a, b], 1))


def test_networks_of_several_inputs_are_called_by_tuple_or_name():
    net = TwoInputs()
    predictive = Predictive(tombola.Bayesian(net).ticket(), net)
    a, b = torch.randn(5, 2), torch.randn(5, 4)
    probs = predictive((a, b)).probs
    assert torch.equal(predictive({"a": a, "b": b}).probs, probs)
    loader = [{"a": a, "b": b, "labels": torch.zeros(5)}]
    assert torch.equal(next(predictive.batches(loader)).probs, probs)
    with pytest.raises(TombolaError, match=r"lengths \[4, 5\]"):
        predictive((a, b[:4]))


def test_uint8_pixels_are_normalised_as_the_signature_says(net):
    ticket = tombola.Bayesian(net).ticket()
    signature = Signature((1, 8, 8), "uint8", tuple("abcdefghij"), Normalise((0.3,), (0.2,), 255.0))
    described = describe(ticket, signature, model="lenet")
    pixels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    found = Predictive(described, net)(pixels)
    torch.testing.assert_close(found.probs, Predictive(ticket, net)((pixels / 255 - 0.3) / 0.2).probs, atol=1e-5, rtol=1e-5)
    assert set(found.names) <= set("abcdefghij")
    assert Signature.of_json(described.info["inputs"]) == signature
    with pytest.raises(TombolaError, match="the ticket takes pixels from 0 to 255"):
        Predictive(described, net)(pixels.float())


def test_a_saved_description_is_read_again(net, data, tmp_path):
    ticket = describe(tombola.Bayesian(net).ticket(), data.signature, model="lenet")
    ticket.save(tmp_path / "it.safetensors")
    again = tombola.load(tmp_path / "it.safetensors")
    assert Predictive(again, net).signature == data.signature
    assert again.info["model"] == {"name": "lenet", "args": {}, "input_shape": [1, 8, 8], "outputs": 10}
    assert pickle.loads(pickle.dumps(data.signature)) == data.signature
    broken = replace(ticket, info=ticket.info | {"inputs": {"form": 3}})
    with pytest.raises(TombolaError, match=r"info.inputs is no signature"):
        Predictive(broken, net)


def test_a_regression_has_an_interval_and_no_abstention():
    net = nn.Linear(2, 1)
    x = torch.randn(50, 2)
    model = tombola.Bayesian(net, likelihood=tombola.GaussianNoise(noise_std=0.5))
    predictive = Predictive(model.ticket(), net, samples=32)
    found = predictive(x)
    means = model.ticket().outputs(net, x, samples=32)[..., 0].double()
    torch.testing.assert_close(found.mean[:, 0], means.mean(0))
    torch.testing.assert_close(found.std[:, 0], (means.var(0, correction=0) + 0.25).sqrt())
    assert (found.low < found.mean).all()
    assert (found.mean < found.high).all()
    with pytest.raises(TombolaError, match="is a regression"):
        predictive.abstaining(x, torch.zeros(50), coverage=0.5)


class Logarithm(nn.Linear):
    """One output without a dimension of its own, NaN for negative values."""

    def forward(self, x):
        return super().forward(x)[:, 0].log()


def test_the_input_whose_output_is_not_finite_is_named_for_outputs_of_any_shape():
    net = Logarithm(1, 1)
    ticket = tombola.Bayesian(net, likelihood=tombola.GaussianNoise(noise_std=0.5)).ticket()
    with torch.no_grad():
        ticket.write_mean(net)
        sign = net.weight.sign().item()
    with pytest.raises(TombolaError, match="the outputs of Logarithm for input 2 are NaN or infinite"):
        Predictive(ticket, net, method="mean")(sign * torch.tensor([[9.0], [8.0], [-9.0], [-9.0]]))


class Named(nn.Module):
    """A layer without a rule for moments."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.cumsum(self.layer(x), 1)


class Huge(Named):
    """A layer whose outputs overflow for large inputs."""

    def forward(self, x):
        return self.layer(x).square().exp()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "guess"}, "method is 'guess'; it must be samples, moments or mean"),
        ({"samples": 0}, "samples is 0"),
        ({"compiled": True}, "give method='mean'"),
    ],
)
def test_arguments_out_of_bounds_are_refused(shipped, net, arguments, sentence):
    with pytest.raises(TombolaError, match=sentence):
        Predictive(shipped, net, **arguments)


def test_tickets_that_cannot_predict_are_refused(shipped, net):
    with pytest.raises(TombolaError, match="no trained state"):
        Predictive(replace(shipped, trained=None), net)
    with pytest.raises(TombolaError):
        Predictive(shipped, nn.Linear(3, 2))
    q = shipped.posterior
    mean = q.mean.clone()
    mean[int(q.mask.nonzero()[0])] = math.nan
    broken = replace(shipped, trained=replace(shipped.trained, posterior=replace(q, mean=mean)))
    with pytest.raises(TombolaError, match="are NaN or infinite: it has diverged"):
        Predictive(broken, net)
    odd = Named()
    with pytest.raises(TombolaError, match="no rule for the operation cumsum"):
        Predictive(tombola.Bayesian(odd).ticket(), odd, method="moments")(torch.randn(2, 4))
    with pytest.raises(TombolaError, match="for input 1 are NaN or infinite"):
        Predictive(tombola.Bayesian(net := Huge()).ticket(), net)(torch.tensor([[0.0] * 4, [1e6] * 4]))
    lonely = nn.Linear(3, 1)
    with pytest.raises(TombolaError, match="class probabilities need"):
        Predictive(tombola.Bayesian(lonely).ticket(), lonely)(torch.randn(2, 3))


def test_inputs_that_do_not_fit_are_refused(shipped, net, data):
    predictive, inputs = Predictive(shipped, net, batch=4), data.test[0][:10].clone()
    with pytest.raises(TombolaError, match=r"shape \[2, 1, 9, 9\]; the ticket takes \[B, 1, 8, 8\]"):
        predictive(torch.zeros(2, 1, 9, 9))
    with pytest.raises(TombolaError, match=r"inputs are torch\.complex64; the ticket takes real numbers"):
        predictive(np.zeros((2, 1, 8, 8), complex))
    for wrong, said in (
        (np.array(["a"]), "<U1"),
        (torch.tensor(1.0), "float32"),
    ):
        with pytest.raises(TombolaError, match=f"inputs are no batch of numbers .*{said}.; give a tensor or an array"):
            predictive(wrong)
    with pytest.raises(TombolaError, match="there is no class 11 among the targets' 10"):
        predictive.abstaining(data.test[0][:2], torch.tensor([1, 11]), coverage=0.5)
    named = predictive.abstaining(data.test[0], np.array([str(int(y)) for y in data.test[1]]), coverage=0.5)
    assert named.abstention == predictive.abstaining(*data.test, coverage=0.5).abstention
    with pytest.raises(TombolaError, match="at least one example"):
        predictive(inputs[:0])
    inputs[6, 0, 2, 2] = math.inf
    with pytest.raises(TombolaError, match="input 6 has a value that is NaN or infinite"):
        predictive(inputs)
    bare = Predictive(replace(shipped, info={}), net)
    with pytest.raises(TombolaError, match=r"LeNet|Sequential|does not take inputs of shape \[2, 3\]"):
        bare(np.zeros((2, 3)))
    with pytest.raises(TombolaError, match="there is no class 'cat'; the ticket's classes are 0, 1"):
        predictive.abstaining(data.test[0][:2], ["1", "cat"], coverage=0.5)
    with pytest.raises(TombolaError, match="for 3 inputs"):
        predictive.abstaining(data.test[0][:3], data.test[1][:2], coverage=0.5)


def test_trainings_of_a_study_say_what_their_inputs_are(tiny, plan_of, run_plan):
    plan = plan_of(tiny | {"arms": ["ticket"], "prune": {"levels": 0}})
    store, _, _ = run_plan(plan)
    ticket = store.ticket(plan.rows[0].stage.parents[0].key)
    assert Signature.of_json(ticket.info["inputs"]) == digits(0, 1500).signature
    assert ticket.info["inputs"]["classes"] == list("0123456789")


@pytest.mark.slow
def test_the_shipped_ticket_is_made_anew(tmp_path, shipped, net, data):
    """On the machine and torch that made it the files are equal; on others rounding differs."""
    assert shipped_ticket.main(["--out", str(tmp_path)]) == 0
    again = tombola.load(tmp_path / "digits.safetensors")
    assert again.density == shipped.density
    prediction = Predictive(again, net)(data.test[0])
    assert (prediction.labels == data.test[1]).double().mean() >= 0.97
    for path in PICTURES["digits"].rglob("*.png"):
        other = tmp_path / "digits" / path.relative_to(PICTURES["digits"])
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(other)))
