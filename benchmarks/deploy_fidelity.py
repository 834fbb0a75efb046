"""Distance of moments to many weight samples, beside that of 16 samples: total variation on trained tickets.

    python -m benchmarks.deploy_fidelity [--nets lenet ...] [--samples 2000] [--path FILES]

Small networks are trained on the built-in digits, those of `IMAGES` on 2,500 images of `--path` at 16x16 pixels, dense and
with a tenth of the weights. Distances are of class probabilities, averaged over 64 test images, those of 16 samples over all
sixteens; samples have their own batch-norm statistics. Beside them the rank correlation of the mutual information with that
of all samples, and its ratio. Targets: half of 16 samples' distance without batch norm, no larger with it. Exit
code 1 where one is missed.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import tombola
from benchmarks.record import Row, finish, judged, parser
from tombola.data import Dataset, digits, load_data
from tombola.deploy import compile_moments
from tombola.models import FitsFirstLayer, build
from tombola.posterior.batch_norm import has_batch_norm
from tombola.posterior.predictive import Prediction, classes_of

NETS: dict[str, tuple[str, dict[str, object], int]] = {
    "mlp": ("mlp", {}, 8),
    "lenet": ("lenet", {}, 20),
    "vit": ("vit", {"dim": 32, "heads": 2, "depth": 2, "head": 16}, 6),
    "conv, batch norm": ("conv", {"batch_norm": True}, 4),
    "resnet8": ("resnet", {"depth": 8}, 3),
    "fast": ("fast", {"width": 16}, 3),
    "vgg11, width 8": ("vgg11", {"width": 8}, 4),
    "resnet20, width 8": ("resnet", {"depth": 20, "width": 8}, 4),
}
"""Name -> shipped model, its arguments, epochs."""
IMAGES = ("vgg11, width 8", "resnet20, width 8")
_TESTED, _DRAWN = 64, 16
_LEVELS = (0, 2)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("deploy_fidelity", __doc__, timed=False)
    arguments.add_argument("--nets", nargs="+", choices=NETS, help="which networks (all; without --path those of digits)")
    arguments.add_argument("--samples", type=int, default=2000, help="weight samples that are the truth (2000)")
    arguments.add_argument("--path", help="CIFAR-10: files on this machine, or its name on the hub")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name in args.nets or [name for name in NETS if args.path or name not in IMAGES]:
        rows += measured(name, args.samples, args.path)
    return finish("deploy_fidelity", rows, args.out, argv)


def measured(name: str, samples: int, path: str | None) -> list[Row]:
    """Return a row for the dense and for the sparse ticket of a network."""
    model, args, epochs = NETS[name]
    data = _data(path) if name in IMAGES else digits()
    training = data.prepare(data.train[0])
    module = build(model, args, tuple(training.shape[1:]), data.outputs, ("benchmark",))
    if isinstance(module, FitsFirstLayer):
        module.fit_first_layer(training)
    train = tombola.TrainSettings(epochs=epochs, batch_size=32, lr=0.005, heat=0.1)
    prune = tombola.PruneSettings(fraction=0.684, levels=max(_LEVELS))  # 0.316^2: a tenth
    tickets = tombola.find_tickets(module, (training, data.train[1]), train=train, prune=prune, progress=False)
    tested, targets = data.prepare(data.test[0][:_TESTED]), data.test[1][:_TESTED]
    rows = []
    for level in _LEVELS:
        ticket = tickets[level]
        own = ticket.with_statistics(module, training[:256], samples=samples)
        truth = own.outputs(module, tested, samples=samples)
        moments = compile_moments(ticket, module, tested, kernels="dense", training=training[:256])
        found = classes_of(moments.outputs(tested))
        right = (classes_of(truth).probs.argmax(1) == targets).double().mean().item()
        row = {"net": name, "data": data.name, "samples": samples, "density": ticket.density, "accuracy": right}
        row |= compared(found, truth)
        shown = ", ".join(f"{what} {value:.4f}" for what, value in row.items() if isinstance(value, float))
        print(f"{name}: {shown}")
        share = 1.0 if has_batch_norm(module) else 0.5
        rows.append(judged(row, {"moments": row["moments"]}, {"moments": share * row["16 samples"]}))
    return rows


def compared(found: Prediction, truth: Tensor) -> Row:
    """Return distances to the average over all samples, and how the mutual information of moments compares.

    truth: logits [S, B, C].
    """
    every = classes_of(truth)
    some = [classes_of(part).probs for part in truth.split(_DRAWN) if len(part) == _DRAWN]
    information = torch.stack([found.mutual_information, every.mutual_information])
    return {
        "16 samples": sum(_distance(probs, every.probs) for probs in some) / len(some),
        "moments": _distance(found.probs, every.probs),
        "information, rank correlation": torch.corrcoef(information.argsort(1).argsort(1).double())[0, 1].item(),
        "information, ratio": (information[0].mean() / information[1].mean()).item(),
    }


def _distance(one: Tensor, other: Tensor) -> float:
    return 0.5 * (one - other).abs().sum(1).mean().item()


def _data(path: str | None) -> Dataset:
    if path is None:
        raise tombola.TombolaError(f"{', '.join(IMAGES)} are trained on CIFAR-10: name its files with --path")
    return load_data("huggingface", {"path": path, "subset": 2500, "subset_test": 2000, "pool": 2})


if __name__ == "__main__":
    sys.exit(main())
