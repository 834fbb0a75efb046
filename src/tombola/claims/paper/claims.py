"""The claims of arXiv 2602.18825 by their ids, in the order of its experiments."""

import dataclasses

from tombola.settings import EvaluateSettings

from ..curves import DETERMINISTIC, SNR, SQUARE, SQUARE_CODED
from ..verdict import Claim
from . import experiments as e

RESNET, VGG, VIT, CONVNETS = ("resnet",), ("vgg",), ("vit",), ("resnet", "vgg")
KINDS = {"Bayesian": (SNR,), "deterministic": (DETERMINISTIC,)}
COSTS = {"seconds": ("train_seconds",), "FLOPs": ("train_flops",)}
RATES = ("train.lr", "train.warmup_epochs")
MEASURED = tuple(f"evaluate.{f.name}" for f in dataclasses.fields(EvaluateSettings))
"""Settings that change neither masks nor costs: tickets that are measured in two ways count once."""

_CLAIMS = (
    Claim(
        "1a",
        "Bayesian tickets (snr) match their dense network at 10% left",
        e.matches_dense,
        study="paper/scores",
        cases={"": (e.MEDIUM,)},
    ),
    Claim(
        "1b",
        "the snr and mu curves match the deterministic one at every level from 100% to 10% left",
        e.matches_deterministic_down_to,
        study="paper/scores",
        nets=RESNET,
        cases={"": (e.MEDIUM,)},
    ),
    Claim(
        "1c",
        "below 2% left, square and the deterministic baseline fall below snr and mu",
        e.others_fall_below,
        study="paper/scores",
        nets=RESNET,
    ),
    Claim("1d", "snr, mu and square match one another at every level", e.scores_match, study="paper/scores", nets=VGG),
    Claim(
        "1e",
        "Bayesian tickets are above deterministic ones (area under the curve)",
        e.above_deterministic,
        study="paper/scores",
        nets=VIT,
    ),
    Claim("1f", "snr and mu tickets at 50% left are above dense", e.above_dense_at_half, study="paper/scores", nets=VIT),
    Claim(
        "1g",
        "square falls below snr at every level from 50% left on",
        e.falls_below_snr_early,
        study="paper/scores",
        nets=VIT,
        cases={"square": (SQUARE,), "square as coded": (SQUARE_CODED,)},
    ),
    Claim("1h", "mu alone matches snr (area under the curve)", e.mu_matches_snr, study="paper/scores"),
    Claim(
        "1i",
        "MACE of the last levels (below 2% left) is below dense MACE",
        e.last_levels_below_dense,
        study="paper/scores",
        nets=("resnet", "vit"),
        metric="mace",
    ),
    Claim(
        "1j",
        "MACE of the last levels (below 2% left) matches dense MACE",
        e.last_levels_match_dense,
        study="paper/scores",
        nets=VGG,
        metric="mace",
    ),
    Claim(
        "2a",
        "density falls with depth in Bayesian tickets (rank correlation, 1.2% left)",
        e.density_falls_with_depth,
        study="paper/layers",
        metric="layer_density",
        varied=MEASURED,
    ),
    Claim(
        "2b",
        "density falls with depth more strongly in Bayesian tickets than in deterministic ones",
        e.density_falls_more_than_deterministic,
        study="paper/layers",
        metric="layer_density",
        varied=MEASURED,
    ),
    Claim(
        "3a",
        "the ticket is above re-init and every shuffle at 1.2% left",
        e.ticket_above_controls,
        study="paper/randomise",
        cases=KINDS,
    ),
    Claim(
        "3b",
        "re-init is at or above the layer-wise shuffle at 1.2% left (not below it by the margin)",
        e.reinit_at_or_above_layerwise,
        study="paper/randomise",
        nets=CONVNETS,
        cases=KINDS,
    ),
    Claim(
        "3c",
        "the layer-wise shuffle is above the even and the global one at 1.2% left",
        e.layerwise_above_other_shuffles,
        study="paper/randomise",
        nets=CONVNETS,
        cases=KINDS,
    ),
    Claim(
        "3d",
        "re-init matches the shuffles, all below the ticket, at 1.2% left",
        e.reinit_matches_shuffles_below_ticket,
        study="paper/randomise",
        nets=VIT,
        cases=KINDS,
    ),
    Claim(
        "4a",
        "transplants match Bayesian tickets (area under the curve)",
        e.transplant_matches,
        study="paper/transplant",
        nets=CONVNETS,
        cases={"": (SNR,)},
    ),
    Claim(
        "4b",
        "transplants match deterministic tickets (area under the curve)",
        e.transplant_matches,
        study="paper/transplant",
        nets=CONVNETS,
        cases={"": (DETERMINISTIC,)},
    ),
    Claim(
        "4c",
        "transplants are below deterministic tickets (area under the curve)",
        e.transplant_below_deterministic,
        study="paper/transplant",
        nets=VIT,
    ),
    Claim(
        "4d",
        "MACE of transplants matches that of Bayesian tickets (area under the curve)",
        e.transplant_matches,
        study="paper/transplant",
        metric="mace",
        cases={"": (SNR,)},
    ),
    Claim(
        "4e",
        "one ticket at 1.2% left costs less than half by transplantation",
        e.transplant_costs_under_half,
        study="paper/transplant",
        metric="",
        cases=COSTS,
        varied=MEASURED,
    ),
    Claim(
        "5a",
        "a Bayesian level costs 3 to 7 times a deterministic one",
        e.level_costs_3_to_7_times,
        study="paper/scores",
        metric="",
        cases=COSTS,
        varied=MEASURED,
    ),
    Claim(
        "6a",
        "the larger net of two is more accurate at equal density (area under the curve)",
        e.larger_above_smaller,
        study="paper/size",
    ),
    Claim(
        "6b", "VGG19 matches dense at 1.2% left", e.matches_dense, study="paper/size", nets=("vgg19",), cases={"": (e.HIGH,)}
    ),
    Claim("7a", "the highest learning rate is best at 1.2% left", e.highest_rate_best, study="paper/rate", varied=RATES),
    Claim(
        "7b",
        "warm-up matches the highest learning rate at 10% left",
        e.warmup_matches_highest_rate,
        study="paper/rate",
        varied=RATES,
    ),
    Claim(
        "8a",
        "learning-rate rewinding is above weight rewinding at every level, Bayesian and deterministic",
        e.learning_rate_rewinding_above,
        study="paper/rewind",
        nets=RESNET,
        cases={"": (SNR, DETERMINISTIC)},
    ),
    Claim(
        "8b",
        "learning-rate rewinding is above weight rewinding at every level, deterministic",
        e.learning_rate_rewinding_above,
        study="paper/rewind",
        nets=("vgg", "vit"),
        cases={"": (DETERMINISTIC,)},
    ),
    Claim(
        "8c",
        "learning-rate rewinding is above weight rewinding at 1.2% left and not at 50%, Bayesian",
        e.learning_rate_rewinding_above_only_at_high_sparsity,
        study="paper/rewind",
        nets=("vgg", "vit"),
    ),
)
CLAIMS: dict[str, Claim] = {claim.id: claim for claim in _CLAIMS}
