"""Cost of `Predictive` on one image beside the bare network, and risks of its abstention beside the promised ones.

    python -m benchmarks.predictive [--only overhead|abstention] [--seeds N]

Overhead: the mean weights on one image, with all checks, normalisation, probabilities and entropies, less the bare forward
pass; interleaved in one process, one thread, medians. Target: at most 1 ms.

Abstention: N digits tickets (a LeNet with a tenth of its weights left, each of its own seed and split: 599 images to train
on, 599 to choose the threshold, 599 to test). Coverages are chosen on the held-out part; the promised risk is the one
measured there, the other is that of the test part at the same threshold. Target: the mean over seeds within 1 point. Beside
it risks that are bounded: the share of tickets whose test risk is above the promised one should be at most a tenth.

Exit code 1 when a target is missed.
"""

import argparse
from collections.abc import Sequence
from statistics import mean, stdev

import torch
from torch import Tensor

import tombola
from benchmarks.timing import interleaved
from tombola import models, streams
from tombola.data import Normalise, digits
from tombola.data.dataset import Split
from tombola.predict import Predictive, describe

_TRAIN = tombola.TrainSettings(epochs=12, batch_size=32, lr=0.005, heat=0.1)
_PRUNE = tombola.PruneSettings(fraction=0.68, levels=2)  # 0.32^2: a tenth
_COVERAGES, _RISKS = (0.7, 0.8, 0.9, 0.95, 1.0), (0.03, 0.05, 0.1)
_MOST_MILLISECONDS, _MOST_POINTS = 1.0, 1.0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", choices=["overhead", "abstention"], help="one of both")
    arguments.add_argument("--seeds", type=int, default=5, help="tickets of the abstention (5)")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    held = [_overhead()] if args.only != "abstention" else []
    held += [_abstention(args.seeds)] if args.only != "overhead" else []
    return 0 if all(held) else 1


def _overhead() -> bool:
    print("one image, one thread, median ms: bare forward, Predictive(method='mean'), overhead")
    most = 0.0
    for name, shape in (("lenet", (1, 8, 8)), ("mlp", (1, 28, 28)), ("resnet20", (3, 32, 32))):
        net = models.build(name, {}, shape, 10, ("benchmark",)).eval()
        centre = Normalise((0.5,) * shape[0], (0.25,) * shape[0], 255.0)
        signature = tombola.Signature(shape, "uint8", tuple("abcdefghij"), centre)
        ticket = describe(tombola.Bayesian(net).ticket(), signature)
        with_statistics = ticket.with_statistics(net, torch.randn(64, *shape))
        predictive = Predictive(with_statistics, net, method="mean")
        image = torch.randint(0, 256, (1, *shape), dtype=torch.uint8)
        ready = centre(image)

        def bare(net: torch.nn.Module = net, ready: Tensor = ready) -> Tensor:
            with torch.inference_mode():
                return net(ready)

        def ours(predictive: Predictive = predictive, image: Tensor = image) -> list[str]:
            return predictive(image).names

        times = interleaved({"bare": bare, "ours": ours}, 300)
        plain, whole = 1e3 * times["bare"], 1e3 * times["ours"]
        most = max(most, whole - plain)
        print(f"  {name:10s} {plain:8.3f} {whole:8.3f} {whole - plain:8.3f}")
    return _judged("overhead", most, _MOST_MILLISECONDS, "ms")


def _abstention(seeds: int) -> bool:
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        train, chosen, test = _split(seed)
        net = models.build("lenet", {}, (1, 8, 8), 10, ("benchmark", seed))
        ticket = tombola.find_tickets(net, train, train=_TRAIN, prune=_PRUNE, seed=seed, progress=False)[-1]
        predictive = Predictive(ticket, net)
        for target in [{"coverage": c} for c in _COVERAGES] + [{"risk": r} for r in _RISKS]:
            (name, value) = next(iter(target.items()))
            try:
                choosy = predictive.abstaining(*chosen, **target)
            except tombola.TombolaError as error:  # too few held-out examples for this risk
                print(f"  seed {seed}: {error}")
                continue
            prediction = choosy(test[0])
            accepted = ~prediction.abstained
            risk = (prediction.labels != test[1])[accepted].double().mean().item()
            promised = choosy.abstention.risk if name == "coverage" else value
            found.setdefault(f"{name}={value}", []).append((accepted.double().mean().item(), promised, risk))
    print(
        f"abstention, {seeds} tickets, mean over seeds: test coverage, promised risk, test risk, test less promised (s.d.)"
    )
    most = 0.0
    for name, rows in found.items():
        coverage, promised, risk = (mean(part) for part in zip(*rows, strict=True))
        gaps = [100 * (r - p) for _, p, r in rows]
        spread = stdev(gaps) if len(gaps) > 1 else 0.0
        over = f", {sum(gap > 0 for gap in gaps)} of {len(gaps)} above" if name.startswith("risk") else ""
        print(f"  {name:14s} {coverage:7.1%} {promised:8.2%} {risk:8.2%}  {mean(gaps):+.2f} ({spread:.2f}) points{over}")
        most = max(most, abs(mean(gaps))) if name.startswith("coverage") else most
    return _judged("largest gap of a coverage", most, _MOST_POINTS, "points")


def _split(seed: int) -> tuple[Split, Split, Split]:
    """Return three thirds of the digits, drawn by the seed."""
    data = digits()
    inputs, targets = (torch.cat([part[i] for part in (data.train, data.validation, data.test)]) for i in range(2))
    order = torch.randperm(len(inputs), generator=streams.generator("thirds", seed))
    first, second, third = ((inputs[rows], targets[rows]) for rows in order.tensor_split(3))
    return first, second, third


def _judged(what: str, found: float, most: float, unit: str) -> bool:
    print(f"{what}: {found:.3f} {unit}, target {most:g}: {'held' if found <= most else 'MISSED'}")
    return found <= most


if __name__ == "__main__":
    raise SystemExit(main())
