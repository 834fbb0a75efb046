"""Print docs/performance.md from the records in results/, by `python docs/make_performance.py > docs/performance.md`."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"

HEAD = """# Performance

<!-- Made by `python docs/make_performance.py > docs/performance.md` from the records in results/. Do not edit. -->

What things cost, as ratios within one run: all configurations in turn in one process, medians, divided by the fastest plain
torch loop (or forward pass) of the same network, batch, precision and threads. Before anything is timed, it is shown to be
correct: gradients by weight samples against autograd's (the other estimators' are in the tests), a loss that decreases,
predictions against the network at the same weights, other libraries' networks against ours where no weight
varies. In brackets: the target; missed targets are marked. Measure your own machine by the commands that are
named; they exit with 1 where a target is missed.
"""

SECTIONS = {
    "training": """## A training step

The whole step, gradients and optimiser, over the fastest of the rows called deterministic: plain torch loops with fused
Adam, with images contiguous or channels-last (or compiled), as far as a record has them. Of tombola and of each other
library the faster layout is timed. `map` is tombola's own deterministic training, `vi` variational inference by weight
samples, `ivon` the method of that name; the others are [estimators and objectives](estimators.md). Here tombola's
methods renew a sixteenth of their weight noise for a sample (`noise_refresh: 0.0625`), where other libraries draw all of it,
as tombola does by default and the rows *all noise new* do;
[whether that costs accuracy](recipes.md#what-is-faster-and-is-it-as-good). With 10% left the
mask is random. Memory that was freed is kept by the process, as `tombola run` does, but for a record whose command says
`--return-memory`: glibc otherwise gives large blocks back and fetches them again page by page, which is what such a step
takes in a program of one's own where nothing is done about it (`MALLOC_TRIM_THRESHOLD_`, or another allocator, does
something). Peak memory is a process's highest resident memory in two steps over what it had after imports and data:
weights, optimiser, gradients, activations, workspaces.""",
    "predict": """## A prediction

The average over 16 weight samples (`tombola.posterior.predictive.outputs`, as evaluations do) over one plain fp32 forward
pass of the same 128 images. bf16 and channels-last are the settings `evaluate.precision` and `evaluate.channels_last`.""",
    "deploy": """## A compiled ticket

Dense is the fastest fp32 forward pass (contiguous or channels-last), in milliseconds as timed beside the first mask; each
mask is over the pass timed beside it: how many times as fast the mean weights are that [`tombola.compile`](deploy.md) has
compiled, on random masks. In brackets the targets of VGG-11; elsewhere the target is not to be slower than dense by more
than 5%. *Layers of a ticket* has the shares that the layers of real tickets with 1.26% of the weights had. In one thread
times are of the processor; rows with moments were measured on a busy machine, whose caches sparse kernels miss more than
dense ones do.
Tickets of a chain that the benchmark trains: memory is what a
predictor holds, and by how much a call raises it; the file is the dense network's `state_dict`, or the ticket's
[compact file](export.md#a-compact-file) with mean and standard deviation.""",
    "budget": """## Pruning by cost

Share of the dense network's operations (multiply-adds) and milliseconds (`tombola.compile`, batch 16; sparse kernels over
dense ones) that a ticket needs for 1 point of accuracy less than the best level of the rule that is blind to cost. Both
rules are snr, and every level keeps 60% of the operations of the one before; [by cost](cost-aware.md) ranks by
snr / cost^exponent. The exponent is chosen on validation images, the numbers are of test images: means over seeds, and the
95% interval of the ratio over all bootstrap samples of the seeds.""",
    "gpu": """## Networks side by side on a GPU

Images a second in training of 1, 2 and 4 Bayesian networks as branches of one CUDA graph, bf16, channels-last, with the
making of their batches. In these records the branches after the first one waited for it, so the numbers of several are
too low; [eight trainings of the net fast](gpu.md#what-was-seen) together were measured after that was put right.""",
    "study": """## A study

A small study of the built-in digits (tickets, deterministic tickets, re-initialisations) and the demo, each by `tombola run`
from the start of Python to the report. Plain steps are a torch loop's (deterministic) over the same batches, bare steps
tombola's own (of the study's methods), both times the number of steps in the study's plan; what is more is measuring,
pruning, storing and the report. Resume is the same command once more when all is done.""",
    "scale": """## Commands, and ten thousand stages

Processor seconds from the start of Python, the median of five runs, and the peak of resident memory: of commands on the demo
(189 records) and on a study of ten thousand stages, and of the claims of a hundred thousand records. The demo itself is by
the clock, on as many processes as its thread and the cores allow. `status`, `report`, `compare` and `clean` read the plan
that the run wrote, so they need neither torch nor data; `run` plans anew, because code and data may have changed. Resume is
the same command once more when all is done.""",
    "data": """## An epoch of images

Images of 3x32x32 gathered in shuffled order, mirrored, cropped and normalised. Resident is from memory, streamed from a
memory map that is read batch by batch.""",
}


def page() -> str:
    """Return the whole page."""
    records = [json.loads(path.read_text()) for path in sorted([*RESULTS.glob("*.json"), *RESULTS.glob("gpu/*.json")])]
    blocks = [HEAD.rstrip("\n")]
    for benchmark, words in SECTIONS.items():
        found = [record for record in records if record.get("benchmark") == benchmark]
        if found:
            blocks.append(words)
        for record in found:
            blocks += [_where(record), *TABLES[benchmark](record["rows"]), *_even(record), *_trained(record)]
    return "\n\n".join(blocks) + "\n"


def _ratios(rows: Sequence[dict], fastest: str) -> list[str]:
    """Return a table of ratios for each number of threads and precision; the first row is the divisor."""
    tables = []
    for threads, precision in dict.fromkeys((row["threads"], row.get("precision")) for row in rows):
        some = [row for row in rows if (row["threads"], row.get("precision")) == (threads, precision)]
        lines = [[fastest, *(f"{row['milliseconds'][row['fastest']]:.0f} ms" for row in some)]]
        lines += [[what, *(_cell(row, what, row["ratio"].get(what)) for row in some)] for what in _labels(some, "ratio")]
        lines += _comparisons(some, "time of ")
        heads = [", ".join(filter(None, [_threads(threads), precision])), *map(_net, some)]
        tables.append(_table(heads, lines))
    return tables


def _memory(rows: Sequence[dict]) -> list[str]:
    some = list({(row["net"], row["precision"]): row for row in rows if row["peak_megabytes"]}.values())
    if not some:
        return []
    peaks = [_deterministic_once(row["peak_megabytes"]) for row in some]
    labels = dict.fromkeys(label for peak in peaks for label in peak)
    lines = [[label, *(f"{peak[label]:.0f} MB" if label in peak else "" for peak in peaks)] for label in labels]
    lines += _comparisons(some, "peak memory of ")
    return [_table(["peak memory", *map(_net, some)], lines)]


def _deterministic_once(peaks: dict[str, float]) -> dict[str, float]:
    """Return the peaks with the fastest deterministic one, which names its layout, as `deterministic`."""
    return {"deterministic" if label.startswith("deterministic") else label: peak for label, peak in peaks.items()}


def _comparisons(rows: Sequence[dict], prefix: str) -> list[list[str]]:
    """Return rows of verdicts on two configurations, which are no entry of the ratios."""
    named = dict.fromkeys(v["what"] for row in rows for v in row["verdicts"] if v["what"].startswith(prefix))
    lines = []
    for what in named:
        found = [next((v["found"] for v in row["verdicts"] if v["what"] == what), None) for row in rows]
        lines.append([what, *(_cell(row, what, value) for row, value in zip(rows, found, strict=True))])
    return lines


def _studies(rows: Sequence[dict]) -> list[str]:
    lines = [[f"{what}, seconds", *(f"{row['seconds'][what]:.1f}" for row in rows)] for what in _labels(rows, "seconds")]
    lines += [[what, *(_cell(row, what, row["ratio"].get(what)) for row in rows)] for what in _labels(rows, "ratio")]
    return [_table(["", *(_threads(row["threads"]) + ", reduced" * row["quick"] for row in rows)], lines)]


def _commands(rows: Sequence[dict]) -> list[str]:
    """Return seconds and megabytes of each command."""
    (row,) = rows
    lines = [
        [what, _cell(row, what, seconds, " s"), _cell(row, f"{what}, megabytes", row["megabytes"][what], " MB")]
        for what, seconds in row["seconds"].items()
    ]
    return [_table(["", "seconds", "memory"], lines)]


def _beside(rows: Sequence[dict]) -> list[str]:
    """Return images a second by the number of networks, of the piece `beside`."""
    rows = [row for row in rows if "images_per_s" in row]
    counts = list(dict.fromkeys(row["networks"] for row in rows))
    lines: dict[str, list[str]] = {}
    for row in rows:
        label = f"{row['net']}, batch {row['batch']}{', compiled' if row['compile'] else ''}"
        lines.setdefault(label, []).append(f"{row['images_per_s']:,.0f}")
    return [_table(["", *(f"{count} at once" for count in counts)], [[label, *cells] for label, cells in lines.items()])]


def _epochs(rows: Sequence[dict]) -> list[str]:
    threads = list(dict.fromkeys(row["threads"] for row in rows))
    lines: dict[str, list[str]] = {}
    for row in rows:
        label = f"{row['data']}, {row['images']:,} images, {row['how']}, batches of {row['batch']}"
        lines.setdefault(label, []).append(_cell(row, row["how"], row["seconds"], " s"))
    return [_table(["an epoch", *map(_threads, threads)], [[label, *cells] for label, cells in lines.items()])]


def _speedups(rows: Sequence[dict]) -> list[str]:
    """Return a table for each network: how many times as fast as dense, by batch and mask."""
    tables = []
    for net, threads in dict.fromkeys((row["net"], row["threads"]) for row in rows):
        some = [row for row in rows if (row["net"], row["threads"]) == (net, threads)]
        masks, batches = (list(dict.fromkeys(row[name] for row in some)) for name in ("mask", "batch"))
        lines = []
        for batch in sorted(batches):
            of_batch = {row["mask"]: row for row in some if row["batch"] == batch}
            first = next(iter(of_batch.values()))
            dense = f"{first['milliseconds'][first['fastest']]:.1f} ms"
            lines.append([f"batch {batch}", dense, *(_speedup(of_batch.get(mask)) for mask in masks)])
        zeros = [mask if mask.startswith("layers") else f"{mask} zeros" for mask in masks]
        tables.append(_table([f"{net}, {_threads(threads)}", "dense", *zeros], lines))
    return tables


_BESIDE = ("dense, torch compiled", "dense, ONNX Runtime", "dense, OpenVINO", "dense, bf16, channels_last")


def _uncertain(rows: Sequence[dict]) -> list[str]:
    """Return a table of the time of other runtimes, moments and samples over the fastest dense fp32 pass of torch."""
    rows = [row for row in rows if "moments" in row["ratio"]]
    lines = []
    for row in rows:
        ratio = row["ratio"]
        others = [_cell(row, what, ratio.get(what)) for what in (*_BESIDE, "moments", "16 samples")]
        others.insert(len(_BESIDE), f"{ratio['compiled ticket']:.2f}")
        lines.append([f"{_net(row)}, {row['mask']}, {_threads(row['threads'])}", *others])
    heads = ["time over dense fp32", *(label.removeprefix("dense, ") for label in _BESIDE)]
    return [_table([*heads, "compiled ticket", "moments", "16 samples"], lines)] if lines else []


def _even(record: dict) -> list[str]:
    """Return a line for each network whose break-even density was measured."""
    lines = []
    for row in record.get("break_even", []):
        share = f"{row['break_even']:.0%} of the weights" if row["break_even"] else "no share that was measured"
        lines.append(f"- Sparse kernels throughout break even in {_net(row)}, {_threads(row['threads'])}, at {share}.")
    return ["\n".join(lines)] if lines else []


def _trained(record: dict) -> list[str]:
    """Return a table, and the figure where it was drawn, of the tickets of a chain as predictors."""
    lines, rows = [], record.get("tickets", [])
    for row in rows:
        quality = [f"{100 * row['accuracy']:.1f}%", f"{row['nll']:.3f}", f"{row['ece']:.3f}"]
        name = row["how"] if row["how"].startswith("dense") else f"{row['how']}, {row['density']:.1%} of the weights"
        lines.append(
            [name, f"{row['milliseconds']:.2f} ms", *quality, f"{row['megabytes']:.1f} MB", _size(row["file_bytes"])]
        )
    if not rows:
        return []
    net = f"tickets of {_net(rows[0])}, trained on {rows[0]['data']}"
    table = _table([net, "time", "accuracy", "NLL", "ECE", "memory", "file"], lines)
    drawn = (Path(__file__).parent / "deploy-tickets.png").is_file()
    return [table, *["![Accuracy and NLL of trained tickets over milliseconds](deploy-tickets.png)"] * drawn]


def _size(count: int) -> str:
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _budgets(rows: Sequence[dict]) -> list[str]:
    """Return what each rule needs at the knee, by net and cost, with the ratio and its interval."""
    lines = []
    for row in rows:
        dense = _dense_of(row)
        for what, verdict in zip(row["ratio"], row["verdicts"], strict=True):
            needs = ["" if value is None else f"{100 * value / dense[what]:.1f}%" for value in row["needs"][what]]
            low, high = row["interval"][what]
            ratio = f"{row['ratio'][what]:.2f} ({low:.2f} to {high:.2f})"
            ratio = ratio if verdict["found"] <= verdict["target"] else f"**{ratio}, missed**"
            ratio += f" (≥ {1 / verdict['target']:.1f})"
            lines.append([f"{row['net']}, {what}", *needs, f"{row['chosen']:g}", ratio])
    exponents = sorted(set(rows[0]["curves"]["exponent"]))
    return [_table(["small relative of", *(f"exponent {e:g}" for e in exponents), "chosen", "blind over chosen"], lines)]


def _dense_of(row: dict) -> dict[str, float]:
    """Return the dense network's costs in the units of `needs`."""
    curves = row["curves"]
    dense = [took for took, level in zip(curves["milliseconds"], curves["level"], strict=True) if took and level == 0]
    return {"operations": 1.0, "milliseconds": sum(dense) / len(dense)}


def _speedup(row: dict | None) -> str:
    if row is None:
        return ""
    said = f"{1 / row['ratio']['compiled ticket']:.1f}"
    verdict = next(each for each in row["verdicts"] if each["what"] == "compiled ticket")
    said = said if verdict["found"] <= verdict["target"] else f"**{said}, missed**"
    return said if verdict["target"] > 1 else f"{said} (≥ {1 / verdict['target']:.1f})"


TABLES: dict[str, Callable[[Sequence[dict]], list[str]]] = {
    "training": lambda rows: _ratios(rows, "fastest deterministic step") + _memory(rows),
    "predict": lambda rows: _ratios(rows, "fastest forward pass"),
    "deploy": lambda rows: _speedups(rows) + _uncertain(rows),
    "budget": _budgets,
    "gpu": _beside,
    "study": _studies,
    "scale": _commands,
    "data": _epochs,
}


def _cell(row: dict, what: str, value: float | None, unit: str = "") -> str:
    """Return a value with its target, bold where it is missed; empty where it was not measured."""
    if value is None:
        return ""
    target = next((verdict["target"] for verdict in row["verdicts"] if verdict["what"] == what), None)
    if target is None:
        return f"{value:.2f}{unit}"
    said = f"{value:.2f}{unit}" if value <= target else f"**{value:.2f}{unit}, missed**"
    return f"{said} (≤ {target:.2f}{unit})"


def _labels(rows: Sequence[dict], column: str) -> list[str]:
    return list(dict.fromkeys(label for row in rows for label in row[column]))


def _net(row: dict) -> str:
    return f"{row['net']}, batch {row['batch']}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    ruler = "| --- |" + " ---: |" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", ruler, *("| " + " | ".join(line) + " |" for line in lines)])


def _where(record: dict) -> str:
    hardware, versions = record["hardware"], record["versions"]
    cores = f", {hardware['cores']} cores" if hardware.get("cores") else ""
    gpu = f", {hardware['gpu']}" if hardware.get("gpu") else ""
    with_ = ", ".join(f"{name} {version}" for name, version in versions.items())
    where = f"{hardware['cpu']} with {hardware['capability']}{cores}{gpu}"
    note = f" Note: {record['note']}." if record.get("note") else ""
    return f"`{record['command'].strip()}`, {record['date']}: {where}; {with_}.{note}"


if __name__ == "__main__":
    print(page(), end="")
