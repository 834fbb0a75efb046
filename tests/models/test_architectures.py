"""ResNet, VGG, SimpleViT and the fast net: sizes, parts against independent ones, and a ticket's whole life."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import tombola
from tombola.errors import TombolaError
from tombola.models import MODELS, build
from tombola.models.resnet import Block
from tombola.models.vit import Attention, patches, sin_cos_positions
from tombola.models.vit import Block as ViTBlock
from tombola.posterior.batch_norm import has_batch_norm
from tombola.streams import generator

CIFAR = (3, 32, 32)
TABLE = (Path(__file__).parents[2] / "docs" / "models.md").read_text().partition("## Batch norm")[0]
ROWS = re.findall(r"^\| `(\w+)` \| `(\{.*?\})` \|.*\| ([\d,]+) \|$", TABLE, re.M)


def made(name, input_shape=CIFAR, outputs=10, **args):
    return build(name, args, input_shape, outputs, ("here",))


def size(name, **args):
    with torch.device("meta"):  # shapes alone: nothing is drawn
        module = made(name, (16,), 3, **args) if name == "text" else made(name, **args)
        return sum(p.numel() for p in module.parameters())


def images(*shape):
    return torch.randn(shape, generator=generator("images"))


# sizes, by arithmetic from the definitions


def residual_size(width, blocks):
    total, inputs = 27 * width + 2 * width, width
    for segment, count in enumerate(blocks):
        out = width * 2**segment
        first = 9 * inputs * out + 2 * out + 9 * out * out + 2 * out
        shortcut = inputs * out + 2 * out if segment else 0
        total += first + shortcut + (count - 1) * (18 * out * out + 4 * out)
        inputs = out
    return total + inputs * 10 + 10


def vgg_size(channels):
    convs = sum(9 * a * b + b + 2 * b for a, b in zip([3, *channels], channels, strict=False))
    return convs + channels[-1] * 10 + 10


def vit_size(dim, heads, depth, patch, patch_norm=False):
    pixels, inner, hidden = 3 * patch**2, 64 * heads, 4 * dim
    embed = (pixels + 1) * dim + patch_norm * 2 * (pixels + dim)
    attention = 2 * dim + dim * 3 * inner + inner * dim
    mlp = 2 * dim + (dim + 1) * hidden + (hidden + 1) * dim
    return embed + depth * (attention + mlp) + 2 * dim + (dim + 1) * 10


def fast_size(width):
    channels = [24, width, width, *[4 * width] * 4]
    convs = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(channels))
    return 24 * 12 + 24 + convs + 4 * width * 10


def text_size(dim, depth):
    block = 2 * dim + 4 * dim * dim + 2 * dim + (dim + 1) * 2 * dim + (2 * dim + 1) * dim
    return (256 + 16) * dim + depth * block + 2 * dim + (dim + 1) * 3


VGG = {
    11: [64, 128, 256, 256, 512, 512, 512, 512],
    13: [64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
    16: [64, 64, 128, 128] + [256] * 3 + [512] * 6,
    19: [64, 64, 128, 128] + [256] * 4 + [512] * 8,
}


@pytest.mark.parametrize(
    ("name", "args", "expected", "stated"),
    [
        ("resnet20", {}, residual_size(16, [3] * 3), 272_474),
        ("resnet20", {"width": 5}, residual_size(5, [3] * 3), None),
        ("resnet32", {}, residual_size(16, [5] * 3), None),
        ("resnet44", {}, residual_size(16, [7] * 3), None),
        ("resnet56", {}, residual_size(16, [9] * 3), None),
        ("resnet110", {}, residual_size(16, [18] * 3), 1.73e6),
        ("resnet", {"depth": 14, "width": 3}, residual_size(3, [2] * 3), None),
        ("resnet18", {}, residual_size(64, [2] * 4), 11_173_962),
        ("vgg11", {}, vgg_size(VGG[11]), 9_231_114),
        ("vgg13", {}, vgg_size(VGG[13]), None),
        ("vgg16", {}, vgg_size(VGG[16]), None),
        ("vgg19", {}, vgg_size(VGG[19]), 20.0e6),
        ("vgg", {"depth": 11, "width": 8}, vgg_size([c // 8 for c in VGG[11]]), None),
        ("vit_tiny", {}, vit_size(192, 3, 6, 4), 2.68e6),
        ("vit_tiny", {"patch": 2, "depth": 12}, vit_size(192, 3, 12, 2), 5.33e6),
        ("vit_tiny", {"patch_norm": True}, vit_size(192, 3, 6, 4, True), 2.68e6),
        ("vit_tiny", {"patch": 2, "depth": 12, "patch_norm": True}, vit_size(192, 3, 12, 2, True), 5.33e6),
        ("vit_small", {}, vit_size(384, 6, 12, 4), None),
        ("vit_base", {}, vit_size(768, 3, 12, 4), None),
        ("fast", {}, fast_size(64), 1_972_792),
        ("fast", {"width": 8}, fast_size(8), None),
        ("text", {}, text_size(48, 2), None),
    ],
)
def test_sizes_are_those_of_the_definitions_and_of_the_paper(name, args, expected, stated):
    assert size(name, **args) == expected
    if isinstance(stated, int):
        assert expected == stated
    elif stated:  # printed to three digits
        assert float(f"{expected:.3g}") == pytest.approx(stated)


def test_the_table_in_the_docs_has_every_model_and_its_size():
    assert {name for name, _, _ in ROWS} == set(MODELS)
    assert len(ROWS) == TABLE.count("\n| `")
    for name, args, count in ROWS:
        assert size(name, **yaml.safe_load(args)) == int(count.replace(",", "")), (name, args)


# parts


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg11", "vit_tiny"])
def test_all_weights_are_prunable_but_the_classifiers_and_norm_layers_are_deterministic(name):
    module = made(name, **({"depth": 1} if "vit" in name else {"width": 2}))
    kinds = {f"{n}.{p}": type(m) for n, m in module.named_modules() for p, _ in m.named_parameters(recurse=False)}
    segments = tombola.Layout.of(module).segments
    assert {s.name for s in segments} == kinds.keys()
    for s in segments:
        linear = kinds[s.name] in (nn.Conv2d, nn.Linear)
        assert s.random == linear
        assert s.prunable == (linear and s.name.endswith("weight") and s.name != "classifier.weight")


def sizes_after(module, names, inputs):
    seen = []
    for name in names:
        module.get_submodule(name).register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[1:])))
    module(inputs)
    return seen


def test_each_segment_of_a_resnet_halves_the_resolution_and_doubles_the_channels():
    three = sizes_after(made("resnet", depth=8, width=3), ["stem", "segment1", "segment2", "segment3"], images(2, *CIFAR))
    assert three == [(3, 32, 32), (3, 32, 32), (6, 16, 16), (12, 8, 8)]
    four = sizes_after(made("resnet18", width=2), ["stem", *(f"segment{i}" for i in range(1, 5))], images(2, *CIFAR))
    assert four == [(2, 32, 32), (2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]


def test_a_vgg_pools_four_times_and_averages_what_is_left():
    module = made("vgg19", width=2)
    seen = sizes_after(module, [f"segment{i}" for i in range(1, 6)], images(2, *CIFAR))
    assert seen == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (16, 2, 2)]
    left = images(2, 16, 2, 2)
    torch.testing.assert_close(module.pool(left), F.avg_pool2d(left, 2))
    assert [len([m for m in s if isinstance(m, nn.Conv2d)]) for n, s in module.named_children() if "segment" in n] == [
        *(2, 2, 4, 4, 4)
    ]


def test_a_residual_block_adds_its_input_or_a_normalised_1x1_convolution_of_it():
    x = images(3, 4, 6, 6)
    same, other = Block(4, 4, 1), Block(4, 8, 2)
    for block in (same, other):
        nn.init.zeros_(block.norm2.weight)  # the convolutions add nothing
    torch.testing.assert_close(same(x), x.relu())
    y = torch.einsum("oc,bchw->bohw", other.shortcut.conv.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    variance, mean = torch.var_mean(y, dim=(0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(other(x), ((y - mean) / (variance + 1e-5).sqrt()).relu())


def test_attention_is_that_of_torch():
    ours, theirs = Attention(12, 3, 4).double(), nn.MultiheadAttention(12, 3, bias=False, batch_first=True).double()
    theirs.in_proj_weight, theirs.out_proj.weight = ours.qkv.weight, ours.out.weight
    x = images(2, 5, 12).double()
    normed = ours.norm(x)
    torch.testing.assert_close(ours(x), theirs(normed, normed, normed)[0])


def test_a_block_is_torchs_encoder_layer_with_the_norm_first():
    ours = ViTBlock(12, 3, 4, 20).double()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True).double()
    nn.init.zeros_(theirs.self_attn.in_proj_bias)
    nn.init.zeros_(theirs.self_attn.out_proj.bias)
    theirs.self_attn.in_proj_weight, theirs.self_attn.out_proj.weight = ours.attention.qkv.weight, ours.attention.out.weight
    theirs.linear1, theirs.linear2 = ours.mlp.up, ours.mlp.down
    x = images(2, 5, 12).double()
    torch.testing.assert_close(ours(x), theirs(x))


def test_patches_are_those_of_unfold():
    x = images(2, 3, 8, 12)
    columns = F.unfold(x, 4, stride=4)  # (B, C * 4 * 4, N), channels first
    expected = columns.view(2, 3, 4, 4, 6).permute(0, 4, 2, 3, 1).flatten(2)
    assert torch.equal(patches(x, 4), expected)
    assert torch.equal(patches(x.contiguous(memory_format=torch.channels_last), 4), expected)


def test_positions_are_sines_and_cosines_of_column_and_row():
    found = sin_cos_positions(3, 5, 12)
    assert found.shape == (15, 12)
    for row in range(3):
        for column in range(5):
            angles = [[place / 10_000 ** (k / 2) for k in range(3)] for place in (column, row)]
            expected = [wave(a) for line in angles for wave in (math.sin, math.cos) for a in line]
            torch.testing.assert_close(found[row * 5 + column], torch.tensor(expected))


@pytest.mark.parametrize("patch_norm", [False, True])
def test_a_vit_whose_blocks_add_nothing_is_the_mean_of_its_normed_embedded_patches(patch_norm):
    net = made("vit", (2, 8, 4), 3, dim=8, heads=2, depth=2, patch=2, patch_norm=patch_norm)
    for block in net.blocks:
        nn.init.zeros_(block.attention.out.weight)
        nn.init.zeros_(block.mlp.down.weight)
        nn.init.zeros_(block.mlp.down.bias)
    x = images(2, 2, 8, 4)
    norm = (lambda t: F.layer_norm(t, (8,))) if patch_norm else (lambda t: t)
    tokens = norm(norm(patches(x, 2)) @ net.embed.weight.T + net.embed.bias) + sin_cos_positions(4, 2, 8)
    expected = F.layer_norm(tokens, (8,)).mean(1) @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(net(x), expected)
    assert "positions" not in net.state_dict()
    assert dict(net.to(torch.float64).named_buffers())["positions"].dtype == torch.float64


def test_convolutional_weights_start_he_normal_and_their_biases_at_zero():
    for name in ("vgg11", "resnet18"):
        module = made(name, width=16)
        layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert all(m.bias is None or not m.bias.any() for m in layers)
        scaled = [(m.weight * (m.weight[0].numel() / 2) ** 0.5).flatten() for m in layers]
        for w in (w for w in scaled if len(w) > 10_000):
            assert abs(w.square().mean().item() - 1) < 5 * (2 / len(w)) ** 0.5  # five standard errors
        together = torch.cat(scaled)
        assert abs(together.pow(4).mean().item() - 3) < 5 * (96 / len(together)) ** 0.5  # a normal's, no uniform's 1.8


def test_vit_weights_start_kaiming_uniform():
    for layer in (m for m in made("vit_tiny", depth=1).modules() if isinstance(m, nn.Linear)):
        unit = torch.cat([p.flatten() for p in layer.parameters()]) * layer.in_features**0.5
        assert unit.abs().max() <= 1
        assert abs(unit.square().mean().item() - 1 / 3) < 5 * (4 / 45 / len(unit)) ** 0.5


# what is refused


@pytest.mark.parametrize(
    ("name", "shape", "args", "said"),
    [
        ("resnet", CIFAR, {"depth": 18}, "depth of resnet is 18; it must be 6n + 2"),
        ("resnet", CIFAR, {"depth": 2}, "depth of resnet is 2; it must be 6n + 2"),
        ("resnet20", CIFAR, {"width": 0}, "width of resnet20 is 0; it must be at least 1"),
        ("resnet20", CIFAR, {"depth": 32}, "model resnet20 does not fit args {'depth': 32}"),
        ("resnet18", (64,), {}, "resnet18 takes images [C, H, W] of at least 4x4; the data has inputs of shape [64]"),
        ("vgg", CIFAR, {"depth": 12}, "depth of vgg is 12; it must be one of 11, 13, 16, 19"),
        ("vgg16", CIFAR, {"width": -1}, "width of vgg16 is -1; it must be at least 1"),
        ("vgg11", (1, 8, 8), {}, "vgg11 takes images [C, H, W] of at least 16x16; the data has inputs of shape [1, 8, 8]"),
        ("vit_tiny", CIFAR, {"patch": 5}, "patch of vit is 5; it must divide the image's height 32 and width 32"),
        ("vit_tiny", (3, 32, 30), {}, "patch of vit is 4; it must divide the image's height 32 and width 30"),
        ("vit_tiny", CIFAR, {"depth": 0}, "depth of vit is 0; it must be at least 1"),
        ("vit_tiny", CIFAR, {"dim": 8}, "model vit_tiny does not fit args {'dim': 8}"),
        ("vit", CIFAR, {"dim": 10, "heads": 1}, "dim of vit is 10; it must be a multiple of 4 and at least 8"),
        ("vit", CIFAR, {"dim": 4, "heads": 1}, "dim of vit is 4; it must be a multiple of 4 and at least 8"),
        ("vit", (10,), {"dim": 8, "heads": 1}, "vit takes images [C, H, W]"),
        ("fast", CIFAR, {"width": 0}, "width of fast is 0; it must be at least 1"),
        ("fast", (3, 3, 8), {}, "fast takes images [C, H, W] of at least 4x4"),
    ],
)
def test_shapes_and_arguments_that_do_not_fit_are_refused(name, shape, args, said):
    with pytest.raises(TombolaError) as caught:
        made(name, shape, **args)
    assert str(caught.value).startswith(said)


# a ticket's life

TINY = {
    "resnet20": ((3, 8, 8), {"width": 2}),
    "vgg11": ((3, 16, 16), {"width": 2}),
    "vit": ((3, 8, 8), {"dim": 16, "heads": 2, "head": 8, "depth": 2}),
    "fast": ((3, 8, 8), {"width": 2}),
}
STEPS = 6  # of a level


def tickets_of(name, fraction=0.8, precision="fp32", rewind="init", watch=None):
    shape, args = TINY[name]
    module = made(name, shape, **args)
    if watch:
        module.register_forward_pre_hook(watch)
    inputs, targets = images(48, *shape), torch.arange(48) % 10
    train = tombola.TrainSettings(
        epochs=2, batch_size=16, lr=0.01, precision=precision, channels_last=precision == "bf16", weight_decay=0.1
    )
    prune = tombola.PruneSettings(fraction=fraction, levels=1, rewind=rewind)
    posterior = tombola.PosteriorSettings(
        std=0.05, std_scale="kaiming"
    )  # with an absolute one snr empties a layer of the ViT
    tickets = tombola.find_tickets(module, (inputs, targets), train=train, prune=prune, posterior=posterior, progress=False)
    return module, inputs, tickets


@pytest.mark.thinned(2)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", TINY)
def test_train_prune_rewind_train_save_load_predict(name, precision, tmp_path):
    seen = []

    def watch(module, inputs):
        if not module.training:  # to measure batch-norm statistics
            return
        flat = torch.cat([p.detach().flatten() for _, p in sorted(module.named_parameters())])
        seen.append(flat.clone())

    module, inputs, (dense, sparse) = tickets_of(name, precision=precision, watch=watch)
    kept = sparse.layout.views(sparse.mask)
    pruned = ~torch.cat([kept[n].flatten() for n, _ in sorted(module.named_parameters())])
    if has_batch_norm(module):
        del seen[0]  # to find biases that it takes out
    assert len(seen) == 2 * STEPS
    assert all(bool((w[pruned] != 0).all()) for w in seen[:STEPS])
    assert all(not w[pruned].any() for w in seen[STEPS:])  # in every pass of the second level
    assert sparse.density == pytest.approx(0.2, abs=1 / int(sparse.layout.prunable.sum()))
    start, q = sparse.rewind.posterior, sparse.posterior
    assert torch.equal(start.mean[sparse.mask], dense.rewind.posterior.mean[sparse.mask])
    for state in (start, q):
        assert not state.mean[~sparse.mask].any()
        assert not state.std[~sparse.mask].any()
    learned = sparse.layout.mask_of({n: torch.full_like(p, p.requires_grad) for n, p in module.named_parameters()})
    assert (q.mean != start.mean)[sparse.mask & learned].double().mean() > 0.9
    assert torch.equal(q.mean[~learned], start.mean[~learned])

    sparse.save(tmp_path / "ticket.safetensors")
    again = tombola.load(tmp_path / "ticket.safetensors", made(name, TINY[name][0], **TINY[name][1]))
    found = sparse.predict(module, inputs, samples=3).probs_SBC
    assert found.shape == (3, 48, 10)
    assert torch.equal(again.predict(module, inputs, samples=3).probs_SBC, found)
    assert not any("positions" in n for n in again.rewind.tensors())


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", TINY)
def test_the_same_training_twice_gives_the_same_bits(name):
    (_, _, first), (_, _, second) = tickets_of(name), tickets_of(name)
    for a, b in zip(first, second, strict=True):
        for key, value in a.trained.tensors().items():
            assert torch.equal(value, b.trained.tensors()[key]), key


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", ["resnet20", "vgg11", "fast"])
@pytest.mark.parametrize(
    ("rewind", "steps"), [("init", 0), ("step:2", 2), ("epoch:1", STEPS // 2), ("learning_rate", STEPS)]
)
def test_rewinding_takes_batch_norm_statistics_back_to_where_survivors_restart(name, rewind, steps):
    _, _, (dense, sparse) = tickets_of(name, fraction=0.2, rewind=rewind)
    start = sparse.rewind.buffers
    assert all(int(v) == steps for n, v in start.items() if n.endswith("num_batches_tracked"))
    means = torch.cat([v for n, v in start.items() if n.endswith("running_mean")])
    variances = torch.cat([v for n, v in start.items() if n.endswith("running_var")])
    if rewind == "init":
        assert not means.any()
        assert bool((variances == 1).all())
    else:
        assert bool(means.any())
    same = [torch.equal(v, dense.trained.buffers[n]) for n, v in start.items() if n.endswith("running_mean")]
    assert all(same) if rewind == "learning_rate" else not any(same)
    trained = {int(v) for n, v in sparse.trained.buffers.items() if n.endswith("num_batches_tracked")}
    assert trained == {STEPS + (STEPS if rewind == "learning_rate" else 0)}


@pytest.mark.parametrize("name", TINY)
def test_channels_last_and_bf16_change_a_prediction_by_rounding_only(name):
    shape, args = TINY[name]
    module, x = made(name, shape, **args), images(8, *shape)
    with torch.no_grad():
        plain = module.train()(x)
        laid_out = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(module(laid_out), plain, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = module(laid_out)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - plain).norm() < 0.1 * plain.norm()
