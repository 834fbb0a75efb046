"""The fast net: whitening by oracle, a start near the identity, frozen parameters, and its life in a study."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F

import tombola
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.models import FitsFirstLayer, build
from tombola.models.fast import near_identity, patch_moments
from tombola.streams import generator
from tombola.study.recipes import cifar10
from tombola.study.spec import unfold

CIFAR = (3, 32, 32)


def made(input_shape=CIFAR, outputs=10, **args):
    return build("fast", args, input_shape, outputs, ("here",))


def smooth(n=40, channels=3, size=12):
    """Images whose neighbouring pixels and channels are correlated, with a mean that is not 0."""
    noise = torch.randn(n, channels, size + 2, size + 2, generator=generator("smooth"), dtype=torch.float64)
    blurred = F.avg_pool2d(noise, 3, stride=1)
    return blurred + 0.5 * blurred.mean(1, keepdim=True) + torch.arange(1.0, channels + 1).view(1, -1, 1, 1)


def patches_by_hand(images):
    """Every 2x2 patch, one by one, [n, 4 C]: channel, row, column."""
    _, _, height, width = images.shape
    found = [images[:, :, y : y + 2, x : x + 2].flatten(1) for y in range(height - 1) for x in range(width - 1)]
    return torch.cat(found)


def test_patch_moments_are_those_of_the_patches_one_by_one():
    images = smooth(300)  # more than are looked at together
    mean, covariance = patch_moments(images)
    patches = patches_by_hand(images)
    torch.testing.assert_close(mean, patches.mean(0))
    torch.testing.assert_close(covariance, torch.cov(patches.T, correction=0))


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_mean_0_and_covariance_identity_and_come_with_their_negatives(channels):
    images = smooth(channels=channels)
    net = made((channels, 12, 12), width=2).double()
    net.fit_first_layer(images)
    out = net.whiten(images).detach().transpose(0, 1).flatten(1)
    half = 4 * channels
    torch.testing.assert_close(out[half:], -out[:half])
    torch.testing.assert_close(torch.cov(out[:half], correction=0), torch.eye(half).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.mean(1), torch.zeros(2 * half).double(), rtol=0, atol=1e-6)
    # nothing but a rotation is free: the squared length is Mahalanobis's
    patches = patches_by_hand(images)
    centred = patches - patches.mean(0)
    inverse = torch.linalg.inv(torch.cov(patches.T, correction=0))
    lengths = torch.einsum("ni,ij,nj->n", centred, inverse, centred)
    ours = F.conv2d(images, net.whiten.weight, net.whiten.bias)[:, :half].square().sum(1)
    torch.testing.assert_close(ours.sum(), lengths.sum())
    torch.testing.assert_close(ours[:, 3, 5], lengths.view(11, 11, 40)[3, 5])


def test_a_direction_without_variance_is_not_blown_up_and_equal_patches_are_refused():
    images = smooth()
    images[:, 2] = images[:, 1] + 1e-6 * torch.randn(40, 12, 12, generator=generator("rounding"), dtype=torch.float64)
    net = made((3, 12, 12), width=2).double()
    net.fit_first_layer(images)
    out = net.whiten(images).detach().transpose(0, 1).flatten(1)
    spread = out[:12].var(1, correction=0)
    torch.testing.assert_close(spread[:8], torch.ones(8).double())
    assert spread[8:].max() < 1e-6
    with pytest.raises(TombolaError, match="2x2 patches are all equal"):
        net.fit_first_layer(torch.full((5, 3, 12, 12), 0.7))


def test_before_it_is_fitted_the_first_layer_gives_pixels_and_their_negatives():
    x = smooth().float()
    out = made((3, 12, 12), width=2).whiten(x)
    pixels = F.unfold(x, 2).view(40, 12, 11, 11)
    torch.testing.assert_close(out, torch.cat([pixels, -pixels], 1))


def test_a_start_without_noise_is_the_identity():
    net, x = made(width=6, noise=0), torch.randn(2, 24, 5, 5, generator=generator("x"))
    for group in net.groups:
        channels = group.conv2.in_channels
        inputs = x[:, :1].expand(-1, channels, -1, -1) * torch.arange(channels).view(-1, 1, 1)
        torch.testing.assert_close(group.conv2(inputs), inputs)
    torch.testing.assert_close(net.groups[2].conv1(x), x)
    first = made(width=26, noise=0).groups[0].conv1  # 24 channels in, 26 out: two filters are free
    torch.testing.assert_close(first(x)[:, :24], x)
    assert bool(first(x)[:, 24:].any())


def test_noise_is_a_share_of_torchs_own_draw():
    drawn = torch.randn(6, 4, 3, 3, generator=generator("w"))
    weight = drawn.clone()
    near_identity(weight, 0.25)
    identity = torch.zeros(4, 4, 3, 3)
    identity[range(4), range(4), 1, 1] = 1
    torch.testing.assert_close(weight[:4], identity + 0.25 * drawn[:4])
    assert torch.equal(weight[4:], drawn[4:])
    with pytest.raises(TombolaError, match="noise of fast is -1; it must be at least 0"):
        made(noise=-1)


@pytest.mark.parametrize(
    ("shape", "sides"), [(CIFAR, [15, 7, 3]), ((3, 16, 16), [7, 3, 1]), ((1, 8, 8), [3, 1, 1]), ((1, 4, 4), [1, 1, 1])]
)
def test_groups_pool_while_there_is_something_to_pool(shape, sides):
    net, seen = made(shape, 7, width=2), []
    for group in net.groups:
        group.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[1:])))
    x = torch.randn(3, *shape, generator=generator("x"))
    assert net(x).shape == (3, 7)
    assert seen == [(channels, side, side) for channels, side in zip((2, 8, 8), sides, strict=True)]
    features = net.pool(net.groups(F.gelu(net.whiten(x)))).flatten(1)
    assert features.shape == (3, 8)


def test_logits_are_a_ninth_of_the_linear_map_of_the_largest_features():
    net = made(width=2).eval()
    x = torch.randn(3, *CIFAR, generator=generator("x"))
    features = net.groups(F.gelu(net.whiten(x))).amax((2, 3))
    torch.testing.assert_close(net(x), features @ net.classifier.weight.T / 9)


def test_the_first_layers_weight_and_the_norms_scales_are_frozen_and_all_else_learns():
    net = made(width=2)
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"whiten.weight", *(f"groups.{i}.norm{j}.weight" for i in range(3) for j in (1, 2))}
    layout = tombola.Layout.of(net)
    convolutions = {f"groups.{i}.conv{j}.weight" for i in range(3) for j in (1, 2)}
    assert {s.name for s in layout.segments if s.random} == {"whiten.bias", "classifier.weight", *convolutions}
    assert {s.name for s in layout.segments if s.prunable} == convolutions
    assert not {s.name for s in layout.segments if s.decayed} & frozen
    net(torch.randn(4, *CIFAR, generator=generator("x"))).square().sum().backward()
    assert {n for n, p in net.named_parameters() if p.grad is None} == frozen
    assert all(bool(p.grad.any()) for p in net.parameters() if p.requires_grad)


def test_nothing_in_a_pass_looks_at_values():
    """On the meta device there are none to look at; a CUDA graph needs the same."""
    net = made(width=2).to("meta")
    loss = net(torch.empty(4, *CIFAR, device="meta")).logsumexp(1).sum()
    loss.backward()
    assert net.groups[0].conv1.weight.grad.is_meta


def study(**changes):
    return {
        "name": "it",
        "size": "toy",
        "nets": ["fast"],
        "arms": ["ticket", "deterministic", "reinit"],
        "seeds": [0, 1],
        "prune": {"fraction": 0.5, "levels": 1},
    } | changes


@pytest.mark.usefixtures("brief_toys")
def test_a_study_fits_the_first_layer_once_and_every_ticket_keeps_it(plan_of, tmp_path):
    plan, store = plan_of(study()), Store(tmp_path / "stages")
    engine = LocalEngine(store, torch.device("cpu"), Mock())
    engine.run(plan)
    assert engine.failures == {}
    assert collect(plan, store)["accuracy"].notna().all()
    data = dataset(plan.rows[0].stage.source.settings)
    net = made(data.input_shape, data.outputs, width=4)
    net.fit_first_layer(data.prepare(data.train[0]))  # fewer than 2,000: all
    tickets = [store.ticket(stage.key) for stage in plan.stages if stage.kind in ("init", "train", "prune", "redraw")]
    assert len(tickets) > 12
    for ticket in tickets:
        for state in (ticket.rewind, ticket.end):
            parts = ticket.layout.views(state.posterior.mean)
            assert torch.equal(parts["whiten.weight"], net.whiten.weight)
            assert bool((parts["groups.1.norm1.weight"] == 1).all())
            if state.posterior.std is not None:
                assert not ticket.layout.views(state.posterior.std)["whiten.weight"].any()
        assert bool(ticket.layout.views(ticket.mask)["whiten.weight"].all())
    learned = tickets[-1].layout.views(tickets[-1].end.posterior.mean)["whiten.bias"]
    assert not torch.equal(learned, net.whiten.bias)


def test_the_start_depends_on_the_data_only_where_the_first_layer_is_fitted(plan_of):
    data = {"name": "digits", "args": {"validation": 100, "test": 1300}}
    for net, fitted in (("fast", True), ("resnet20", False)):
        one, other = (plan_of(study(nets=[net], **change)).stages[0] for change in ({}, {"data": data}))
        assert (one.kind, other.kind) == ("init", "init")
        assert (one.source is not None) == isinstance(one.net.build("check"), FitsFirstLayer) == fitted
        assert (one.key != other.key) == fitted
        assert ("data" in one.describe()) == fitted
        assert replace(one, source=None).key != one.key or not fitted


@pytest.mark.usefixtures("brief_toys")
def test_given_weights_are_not_fitted_again(plan_of, tmp_path):
    from safetensors.torch import save_file

    net = made((1, 8, 8), width=4)
    net.fit_first_layer(smooth(channels=1))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = {"weights": str(tmp_path / "net.safetensors")}
    plan, store = plan_of(study(model=given, arms=["ticket"], prune={"levels": 0})), Store(tmp_path / "stages")
    LocalEngine(store, torch.device("cpu"), Mock()).run(plan)
    ticket = store.ticket(plan.stages[0].key)
    assert torch.equal(ticket.layout.views(ticket.end.posterior.mean)["whiten.weight"], net.whiten.weight)


@pytest.mark.parametrize("size", ["gpu", "full"])
def test_no_step_of_an_epoch_is_smaller_than_the_others(size):
    (one,) = unfold({"name": "it", "size": size, "nets": ["fast"]})
    assert 50_000 % one.study.train.batch_size == 45_000 % one.study.train.batch_size == 0


def test_every_size_starts_from_the_modules_own_near_identities():
    for size in cifar10()["sizes"]:
        (one,) = unfold({"name": "it", "size": size, "nets": ["fast"]})
        assert one.study.posterior.mean == "module"
