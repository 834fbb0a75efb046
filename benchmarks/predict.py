"""The cost of the average over 16 weight samples, over one forward pass.

    python -m benchmarks.predict [--quick] [--threads 1 2]

128 images; every configuration is interleaved in one process; medians. The divisor is the fastest of the plain fp32 forward
passes (`module(inputs)` in evaluation mode, contiguous and channels-last). Ours is the function that evaluations call
(`tombola.posterior.predictive.outputs`), in fp32 and bf16, contiguous and channels-last. Before anything is timed, each of
our samples is compared with the network at a draw of the posterior, bf16 with fp32, and the peers' outputs without variance
with the network's. Exit code 1 when a target is missed.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.nets import NETS, TOY
from benchmarks.record import PEERS, Row, finish, installed, judged, parser
from benchmarks.steps import formats
from benchmarks.timing import compared, show
from tombola import streams
from tombola.posterior.batch import channels_last
from tombola.posterior.layout import Layout
from tombola.posterior.predictive import outputs
from tombola.posterior.state import State, initial_state
from tombola.settings import PosteriorSettings
from tombola.training.out_of_memory import keep_freed_memory

_SAMPLES, _BATCH = 16, 128
_IMAGES = [name for name, net in NETS.items() if net.predict_targets]
_FORWARD = "forward pass"
_WORDS = ("benchmark",)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("predict", __doc__)
    arguments.add_argument("--nets", nargs="+", choices=[*_IMAGES, TOY], default=_IMAGES, help="which networks (all)")
    args = arguments.parse_args(argv)
    keep_freed_memory()
    peers.say_missing()
    rows: list[Row] = []
    for name in args.nets:
        net = NETS[name]
        inputs = net.data(_BATCH)[0]
        _assert_correct(net.make(), inputs[:16])
        for threads in args.threads:
            torch.set_num_threads(threads)
            with torch.no_grad():
                times = compared(_predictions(net.make, inputs, formats(net)), 3 if args.quick else 15, _FORWARD)
            row = {"net": name, "batch": _BATCH, "threads": threads, **times}
            show(row)
            rows.append(judged(row, row["ratio"], net.predict_targets))
    return finish("predict", rows, args.out, argv)


def _predictions(make: Callable[[], nn.Module], inputs: Tensor, layouts: Sequence[str]) -> dict[str, Callable[[], Tensor]]:
    """Return the predictions to time, by label."""
    found: dict[str, Callable[[], Tensor]] = {}
    for layout in layouts:
        last = layout == "channels_last"
        module = make().eval().to(memory_format=torch.channels_last if last else torch.contiguous_format)
        found[f"{_FORWARD}, {layout}"] = partial(module, channels_last(inputs) if last else inputs)
    module = make()
    state = _state(module)
    found["mean only"] = partial(outputs, module, state.as_family("point"), inputs, samples=_SAMPLES, stream=_WORDS)
    ours = partial(outputs, module, state, inputs, samples=_SAMPLES, stream=_WORDS, batch_norm="running")
    for precision in ("fp32", "bf16"):
        for layout in layouts:
            label = f"{_SAMPLES} samples" + ", bf16" * (precision == "bf16") + ", channels_last" * (layout != layouts[0])
            found[label] = partial(ours, precision=precision, channels_last=layout == "channels_last")
    for package, predict in peers.PREDICT.items():
        if installed(package) is not None:
            found[f"{package}, {_SAMPLES} samples"] = predict(make(), inputs, _SAMPLES, peers.STD)
    return found


def _state(module: nn.Module) -> State:
    return initial_state(module, Layout.of(module), PosteriorSettings(std=peers.STD), 0)


def _assert_correct(module: nn.Module, inputs: Tensor) -> None:
    """Assert that samples equal the network at draws of the posterior, and that bf16 and the peers agree with it."""
    state = _state(module)
    found = outputs(module, state, inputs, samples=2, stream=_WORDS, batch_norm="running")
    module.eval()
    with torch.no_grad():
        for s, sample in enumerate(found):
            theta = state.posterior.sample(streams.generator("predict", *_WORDS, s))
            expected = torch.func.functional_call(module, state.posterior.layout.views(theta), (inputs,))
            torch.testing.assert_close(sample, expected)
    low = outputs(
        module, state, inputs, samples=2, stream=_WORDS, batch_norm="running", precision="bf16", channels_last=True
    )
    torch.testing.assert_close(low.softmax(-1), found.softmax(-1), rtol=0.1, atol=0.05)
    for package in PEERS:
        if installed(package) is not None:
            peers.assert_same_outputs(package, module, inputs)


if __name__ == "__main__":
    sys.exit(main())
