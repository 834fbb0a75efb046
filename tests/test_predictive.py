"""Predictions of a posterior."""

import torch
from torch import nn

from tombola import Layout, PosteriorSettings, Prediction
from tombola.posterior.predictive import outputs
from tombola.posterior.state import initial_state
from tombola.streams import generator


def setting() -> tuple[nn.Module, Layout, torch.Tensor]:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    return module, Layout.of(module), torch.randn(7, 4, generator=generator("x"))


def test_each_sample_is_the_module_at_a_draw_of_the_posterior():
    module, layout, inputs = setting()
    state = initial_state(module, layout, PosteriorSettings(std=0.3), 0)
    out = outputs(module, state, inputs, samples=3, words=("a",), batch=2)
    module.eval()
    for s in range(3):
        theta = state.posterior.sample(generator("predict", "a", s))
        expected = torch.func.functional_call(module, layout.views(theta), (inputs,))
        torch.testing.assert_close(out[s], expected)


def test_the_same_words_give_the_same_samples_and_a_point_gives_one():
    module, layout, inputs = setting()
    state = initial_state(module, layout, PosteriorSettings(), 0)
    a, b, c = (outputs(module, state, inputs, samples=2, words=(w,)) for w in ("a", "a", "b"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert outputs(module, state.as_point(), inputs, samples=9, words=("a",)).shape == (1, 7, 3)


def test_samples_differ_within_the_callers_autocast_which_has_the_modules_own_weights_after_it():
    # autocast caches bf16 copies of weights by parameter: every sample would see the first one's
    module, layout, inputs = setting()
    module.eval()
    state = initial_state(module, layout, PosteriorSettings(std=0.3), 0)
    plain = outputs(module, state, inputs, samples=3, words=("a",))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = module(inputs)
        out = outputs(module, state, inputs, samples=3, words=("a",))
        assert torch.equal(module(inputs), before)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), plain, rtol=0.05, atol=0.05)


def test_the_states_running_statistics_are_used_and_not_moved():
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    inputs = torch.randn(7, 4, generator=generator("x"))
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    state.buffers["1.running_mean"].fill_(2.0)
    out = outputs(module, state.as_point(), inputs, samples=1, words=())
    torch.testing.assert_close(out[0], (module[0](inputs) - 2) / (1 + 1e-5) ** 0.5)
    assert bool((state.buffers["1.running_mean"] == 2).all())
    assert bool((module[1].running_mean == 0).all())


def test_entropy_and_mutual_information_of_two_samples_that_disagree():
    certain = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)  # each sure, of another class
    prediction = Prediction(certain)
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(prediction.probs[0], half)
    torch.testing.assert_close(prediction.entropy[0], torch.tensor(2.0).double().log())
    torch.testing.assert_close(prediction.mutual_information[0], torch.tensor(2.0).double().log())
