"""The shipped ticket and its pictures, made anew: the same bits on the same machine and torch.

    python -m benchmarks.shipped [--out DIR]

By default they are written into the package, src/tombola/predict/shipped_tickets.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import tombola
from tombola import models
from tombola.data import digits
from tombola.predict import Predictive, describe

_FOLDER = Path(__file__).parents[1] / "src" / "tombola" / "predict" / "shipped_tickets"
_TRAIN = tombola.TrainSettings(epochs=60, batch_size=32, lr=0.003, schedule="cosine", heat=0.1)
_PRUNE = tombola.PruneSettings(fraction=0.44, levels=4)  # 0.56^4: a tenth


def main(argv: Sequence[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=_FOLDER, help="output folder")
    out = arguments.parse_args(argv).out
    torch.set_num_threads(1)  # sums fall in one order
    ticket = make()
    out.mkdir(parents=True, exist_ok=True)
    ticket.save(out / "digits.safetensors")
    _pictures(out / "digits")
    print(f"{out}: {ticket}, {(out / 'digits.safetensors').stat().st_size / 1000:.1f} kB")
    return 0


def make() -> tombola.Ticket:
    """Return the trained ticket, which says what its inputs, its data and its model are; its history is left out."""
    data = digits()
    net = models.build("lenet", {}, data.input_shape, data.outputs, ("shipped",))
    ticket = tombola.find_tickets(net, data.train, train=_TRAIN, prune=_PRUNE, progress=False)[-1]
    named = {"name": "digits", "args": {}, "fingerprint": data.fingerprint}
    info = {name: value for name, value in ticket.info.items() if name != "history"} | {"data": named}
    ticket = describe(replace(ticket, info=info), data.signature, model="lenet")
    prediction = Predictive(ticket, net)(data.test[0])
    print(f"accuracy on the test split: {(prediction.labels == data.test[1]).double().mean():.2%}")
    return ticket


def _pictures(folder: Path) -> None:
    """Write the first test example of each class as FOLDER/CLASS/digit.png."""
    images, labels = digits().test
    for number in range(10):
        pixels = images[labels == number][0, 0].mul(255).round().to(torch.uint8)
        (folder / str(number)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / str(number) / "digit.png")


if __name__ == "__main__":
    raise SystemExit(main())
