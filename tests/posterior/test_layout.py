"""The flat order of a module's parameters and the role of each, on modules whose answer can be read off."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from tombola import Bayesian, Layout, TombolaError, from_torch_prune
from tombola.posterior.layout import Segment
from tombola.posterior.state import initial_state
from tombola.settings import PosteriorSettings


class Conv1D(nn.Module):
    """As Hugging Face's GPT-2 has it: the weight is stored input first, and used by `addmm`."""

    def __init__(self, outputs: int, inputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Zoo(nn.Module):
    """A parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.embedding = nn.Embedding(11, 8)
        self.conv = nn.Conv2d(3, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.linear = nn.Linear(8, 8)
        self.gpt = Conv1D(6, 8)
        self.batch_norm, self.layer_norm, self.group_norm = nn.BatchNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8)
        self.rms_norm = nn.RMSNorm(8)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(8, 4)


def names(layout: Layout, role: str) -> set[str]:
    return {s.name for s in layout.segments if getattr(s, role)}


def matching(module: nn.Module, *parts: str) -> set[str]:
    return {name for name, _ in module.named_parameters() if name.startswith(parts)}


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))


def test_linear_conv_attention_and_embedding_are_random_and_nothing_else():
    zoo = Zoo()
    assert names(Layout.of(zoo), "random") == matching(zoo, "embedding", "conv", "attention", "linear", "gpt", "head")


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d, nn.LayerNorm, nn.RMSNorm])
def test_norm_layers_are_deterministic(norm: type[nn.Module]):
    module = nn.Sequential(nn.Linear(3, 5), norm(5, affine=True) if norm is nn.InstanceNorm1d else norm(5))
    assert names(Layout.of(module), "random") == {"0.weight", "0.bias"}


def test_frozen_parameters_are_never_random_nor_decayed_even_where_a_pattern_says_so():
    zoo = Zoo()
    layout = Layout.of(zoo, random=["*"], decayed=["*"])
    every = {name for name, _ in zoo.named_parameters()}
    assert names(layout, "random") == names(layout, "decayed") == every - matching(zoo, "frozen")
    assert names(Layout.of(zoo, random=lambda *_: True), "random") == every - matching(zoo, "frozen")


def test_patterns_and_predicates_choose_what_is_random():
    zoo = Zoo()
    assert names(Layout.of(zoo, random=["token", "*.bias"]), "random") == {
        "token",
        *(name for name in matching(zoo, "") if name.endswith(".bias") and not name.startswith("frozen")),
    }
    of_linears = Layout.of(zoo, random=lambda name, owner, p: type(owner) is nn.Linear and p.ndim == 2)
    assert names(of_linears, "random") == {"linear.weight", "head.weight"}


def test_prunable_by_default_are_weights_without_biases_embedding_and_final_classifier():
    assert names(Layout.of(Zoo()), "prunable") == {
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "linear.weight",
        "gpt.weight",
    }


def test_the_final_classifier_is_prunable_when_asked_for():
    assert names(Layout.of(net()), "prunable") == {"0.weight", "3.weight"}
    assert names(Layout.of(net(), classifier=True), "prunable") == {"0.weight", "3.weight", "5.weight"}


def test_patterns_add_to_and_take_from_what_is_prunable():
    layout = Layout.of(net(), include=["*.bias", "5.*"], exclude=["0.*", "1.*"])
    assert names(layout, "prunable") == {"3.weight", "3.bias", "5.weight", "5.bias"}


def test_by_default_tensors_of_two_or_more_dimensions_decay():
    layout = Layout.of(net())
    assert names(layout, "decayed") == {"0.weight", "3.weight", "5.weight"}
    assert names(Layout.of(net(), decayed=["1.*"]), "decayed") == {"1.weight", "1.bias"}


@pytest.mark.parametrize("role", ["random", "decayed", "include", "exclude"])
def test_a_pattern_that_matches_nothing_is_named(role: str):
    with pytest.raises(TombolaError, match=r"'7\.weigth' matches no parameter.*0\.weight, 0\.bias"):
        Layout.of(net(), **{role: ["*.bias", "7.weigth"]})


def test_tied_parameters_appear_once_under_their_first_name():
    module = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 3), nn.Linear(3, 7))
    module[2].weight = module[0].weight
    layout = Layout.of(module)
    assert sorted(s.name for s in layout.segments) == ["0.weight", "1.bias", "1.weight", "2.bias"]
    assert layout.numel == sum(p.numel() for p in module.parameters())
    layout.check(module)


def test_a_classifier_tied_to_an_embedding_is_still_the_final_one():
    module = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 7))
    module[3].weight = module[0].weight
    assert names(Layout.of(module), "prunable") == {"1.weight", "2.weight"}


@pytest.mark.parametrize("role", ["random", "decayed", "include", "exclude"])
@pytest.mark.parametrize("pattern", ["2.weight", "2.w*", "[2].weight"])
def test_a_tied_parameter_is_matched_by_its_later_names(role: str, pattern: str):
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    module[2].weight = module[0].weight
    by_later, by_first = (Layout.of(module, **{role: [name]}) for name in (pattern, "0.weight"))
    assert by_later == by_first
    assert (by_later != Layout.of(module)) == (role in ("random", "decayed", "exclude"))


def test_masks_go_by_the_later_names_of_tied_parameters():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    module[2].weight = module[0].weight
    kept = torch.eye(3)
    first, later, both = {"0.weight": kept}, {"2.weight": kept}, {"0.weight": kept, "2.weight": kept}
    masks = [Bayesian(module, mask=mask).ticket().mask for mask in (first, later, both)]
    assert (~masks[0]).sum() == 6
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    with pytest.raises(TombolaError, match=r"'0.weight' and '2.weight' are one parameter with two masks"):
        Bayesian(module, mask=first | {"2.weight": torch.ones(3, 3)})


@pytest.mark.parametrize("pruned", [[0], [2], [0, 2]])
def test_a_tied_parameter_that_torch_has_pruned_in_two_ways_is_refused(pruned: list[int]):
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    module[2].weight = module[0].weight
    for place in pruned:
        torch_prune.custom_from_mask(module[place], "weight", torch.eye(3) + place)  # of which the second prunes nothing
    with pytest.raises(TombolaError, match=r"'0.weight' and '2.weight' are one parameter, which .* pruned differently"):
        from_torch_prune(module)
    if len(pruned) == 2:
        module[2].weight_mask.copy_(module[0].weight_mask)
        plain, masks = from_torch_prune(module)
        x = torch.randn(4, 3)
        torch.testing.assert_close(plain(x), module(x))
        assert (~Bayesian(plain, mask=masks).ticket().mask).sum() == 6


def test_a_module_used_twice_appears_once():
    shared = nn.Linear(3, 3)
    layout = Layout.of(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2)))
    assert sorted(s.name for s in layout.segments) == ["0.bias", "0.weight", "3.bias", "3.weight"]


@given(
    st.lists(st.sampled_from(["linear", "no bias", "norm", "embedding", "frozen", "bare"]), min_size=1, max_size=6),
    st.sampled_from([None, ["*"], ["0.*"], lambda name, owner, p: len(name) % 2 == 0]),
    st.sampled_from([None, ["*"], ["*bias*"], ["*weight*", "*bias*"]]),
)
@settings(deadline=None, max_examples=60)
def test_every_parameter_lies_once_in_order_and_optimiser_groups_are_contiguous(layers: list[str], random, decayed):
    make = {
        "linear": lambda: nn.Linear(2, 3),
        "no bias": lambda: nn.Linear(3, 2, bias=False),
        "norm": lambda: nn.LayerNorm(2),
        "embedding": lambda: nn.Embedding(4, 2),
        "frozen": lambda: nn.Linear(2, 2).requires_grad_(False),
        "bare": lambda: nn.ParameterList([torch.zeros(2, 2), torch.zeros(3)]),
    }
    module = nn.Sequential(*(make[layer]() for layer in layers), nn.Linear(1, 1))
    layout = Layout.of(module, random=random, decayed=decayed)
    assert {s.name: s.shape for s in layout.segments} == {n: tuple(p.shape) for n, p in module.named_parameters()}
    assert [s.start for s in layout.segments] == [
        sum(s.numel for s in layout.segments[:i]) for i in range(len(layout.segments))
    ]
    assert layout.numel == sum(p.numel() for p in module.parameters())
    roles = [s.random for s in layout.segments]
    assert roles == sorted(roles, reverse=True)  # random ones first
    assert layout.random_numel == int(layout.is_random.sum())
    assert bool(layout.is_random[: layout.random_numel].all())

    groups = layout.decay_groups()
    assert len(groups) <= 3
    covered = [i for where, _ in groups for i in range(where.start, where.stop)]
    assert covered == list(range(layout.numel))
    for where, decays in groups:
        assert all(s.decayed == decays for s in layout.segments if where.start <= s.start < where.stop)


def test_views_and_flatten_are_inverse():
    module = net()
    layout = Layout.of(module)
    flat = layout.flatten(dict(module.named_parameters()))
    for name, p in module.named_parameters():
        assert torch.equal(layout.views(flat)[name], p)
    noise = torch.randn(layout.numel)
    assert torch.equal(layout.flatten(layout.views(noise)), noise)
    layout.views(noise)["3.bias"].zero_()  # views: what is written into them lands in the flat tensor
    assert int((noise == 0).sum()) == 4


def test_flatten_names_a_missing_tensor_and_one_of_another_shape():
    layout = Layout.of(net())
    tensors = layout.views(torch.zeros(layout.numel))
    with pytest.raises(TombolaError, match=r"'5\.bias' has shape \(3,\), the layout says \(2,\)"):
        layout.flatten({**tensors, "5.bias": torch.zeros(3)})
    with pytest.raises(TombolaError, match=r"'5\.bias' is missing"):
        layout.flatten({k: v for k, v in tensors.items() if k != "5.bias"})


@pytest.mark.parametrize(
    ("other", "culprit"),
    [
        (nn.Sequential(*list(net())[:-1]), r"has no parameter '5\.weight'"),
        (nn.Sequential(*list(net())[:-1], nn.Linear(4, 3)), r"'5\.weight' of Sequential has shape \(3, 4\), not \(2, 4\)"),
        (nn.Sequential(*net(), nn.LayerNorm(2)), r"has a parameter '6\.bias' that the layout lacks"),
    ],
)
def test_check_names_the_first_difference(other: nn.Module, culprit: str):
    Layout.of(net()).check(net())
    with pytest.raises(TombolaError, match=culprit):
        Layout.of(net()).check(other)


def test_the_summary_lists_every_tensor_with_its_roles_and_the_counts():
    layout = Layout.of(net())
    *rows, total = layout.summary().splitlines()[1:]
    assert [row.split()[0] for row in rows] == [s.name for s in layout.segments]
    by_name = {row.split()[0]: row for row in rows}
    assert "5x3" in by_name["0.weight"]
    assert "random decayed prunable" in by_name["0.weight"]
    assert "final classifier is not pruned" in by_name["5.weight"]
    assert "norm layers stay deterministic" in by_name["1.weight"]
    # 3*5+5, 2*5, 5*4+4, 4*2+2 parameters; the norm layer's 10 are not random; 15+20 prunable
    assert total == "64 parameters, 54 random, 35 prunable"


def test_json_round_trip():
    layout = Layout.of(Zoo())
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)])
def test_the_kaiming_scale_is_the_bound_of_torchs_own_initialisation(layer: nn.Module):
    layout = Layout.of(layer)
    (scale,) = layout.kaiming_scale.unique()
    for p in layer.parameters():  # uniform in +-bound: many values come close to it, none over it
        assert p.abs().max() <= scale
    assert layer.weight.abs().max() > 0.7 * scale


def test_fan_in_of_a_layer_stored_input_first_is_its_first_dimension():
    layout = Layout.of(nn.Sequential(Conv1D(6, 8)))
    assert [s.fan_in for s in layout.segments] == [8, 8]
    assert layout.kaiming_scale[0].item() == pytest.approx(1 / math.sqrt(8))


class Wrapped(nn.Module):
    def __init__(self, value: torch.Tensor):
        super().__init__()
        self.value = nn.Parameter(value, requires_grad=False)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (nn.ReLU(), "has no parameters"),
        (nn.Sequential(nn.LazyLinear(3)), r"'0\.weight' of LazyLinear has no shape yet; run the module once on a batch"),
        (Wrapped(torch.ones(3, dtype=torch.int8)), "'value' of Wrapped has dtype torch.int8"),
        (Wrapped(torch.ones(3, dtype=torch.complex64)), "'value' of Wrapped has dtype torch.complex64"),
    ],
)
def test_modules_without_real_parameters_are_refused(module: nn.Module, sentence: str):
    with pytest.raises(TombolaError, match=sentence):
        Layout.of(module)


def test_a_lazy_module_has_a_layout_once_it_was_run():
    module = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    module(torch.ones(2, 5))
    assert Layout.of(module).numel == 15 + 3 + 3 + 3


def test_the_flat_order_is_in_the_widest_dtype():
    narrow = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).half())
    layout = Layout.of(narrow)
    assert layout.flatten(dict(narrow.named_parameters())).dtype == torch.float32
    assert layout.flatten(dict(narrow.bfloat16().named_parameters())).dtype == torch.float32
    narrow[1].double()
    assert layout.flatten(dict(narrow.named_parameters())).dtype == torch.float64


shapes = st.lists(st.integers(0, 3), max_size=5).map(tuple)
leaves = st.sampled_from(["weight", "bias", "kernel"])


@given(parts=st.lists(st.tuples(leaves, shapes), min_size=1, max_size=5))
def test_flat_order_and_names_are_inverses_and_files_are_row_major(parts: list[tuple[str, tuple[int, ...]]]):
    segments, start = [], 0
    roles = {"random": True, "decayed": True, "prunable": True, "fan_in": 1, "why": ""}
    for i, (leaf, shape) in enumerate(parts):
        segments.append(Segment(name=f"{i}.{leaf}", shape=shape, start=start, **roles))
        start += segments[-1].numel
    layout = Layout(tuple(segments))
    flat = torch.randn(start, 3, generator=torch.Generator().manual_seed(0))
    views = layout.views(flat[:, 0].contiguous())
    assert all(view.shape == shape for view, (_, shape) in zip(views.values(), parts, strict=True))
    assert torch.equal(layout.flatten(views), flat[:, 0])
    row_major = torch.cat([view.contiguous().view(-1) for view in views.values()])
    assert torch.equal(layout.row_major(flat[:, 0]), row_major)
    assert torch.equal(layout.of_row_major(row_major), flat[:, 0])
    assert torch.equal(flat[layout.rows(), 0], row_major)
    for values in (flat, flat.t()):
        assert torch.equal(layout.of_row_major(layout.row_major(values)), values)


def test_weights_of_convolutions_are_views_with_the_strides_of_torchs_channels_last_weights():
    module = nn.Sequential(nn.Conv2d(3, 5, (2, 3)), nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 4, 1), nn.Conv3d(2, 3, 2))
    layout = Layout.of(module)
    views = layout.views(torch.zeros(layout.numel))
    assert [s.name for s in layout.segments if s.channels_last] == ["0.weight", "1.weight", "2.weight"]
    for i in (0, 1):
        assert views[f"{i}.weight"].stride() == module[i].weight.to(memory_format=torch.channels_last).stride()
    point = views["2.weight"]  # a 1x1 kernel is in both orders
    assert point.is_contiguous()
    assert point.is_contiguous(memory_format=torch.channels_last)


def test_initial_draws_do_not_depend_on_the_flat_order(monkeypatch: pytest.MonkeyPatch):
    module = nn.Sequential(nn.Conv2d(3, 5, (2, 3)), nn.Linear(5, 2))

    def start() -> dict[str, Tensor]:
        settings = PosteriorSettings(mean="kaiming_uniform", std_jitter=0.3)
        q, views = initial_state(module, Layout.of(module), settings, 0).posterior, Layout.of(module).views
        return {f"{name} {kind}": v for kind in ("mean", "std") for name, v in views(getattr(q, kind)).items()}

    found = start()
    monkeypatch.setattr(Segment, "channels_last", False)
    for name, value in start().items():
        assert torch.equal(found[name], value), name
