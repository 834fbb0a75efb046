"""Print docs/recipes.md from the recipe and the records in results/, by `python docs/make_recipes.py > docs/recipes.md`."""

import json
from pathlib import Path
from textwrap import fill
from typing import Any

from tombola.models import build
from tombola.study.recipes import cifar10
from tombola.study.spec import unfold

RESULTS = Path(__file__).parents[1] / "results"

HEAD = """# Recipes

<!-- Made by `python docs/make_recipes.py > docs/recipes.md` from the recipe and the records in results/. Do not edit. -->

The settings of a study of CIFAR-10 come from `src/tombola/study/recipes/cifar10.yaml`. A study names a size and nets:

```
name: scores
size: cpu
nets: [resnet20, vgg11, vit_tiny]
seeds: [0, 1, 2]
prune: {score: [snr, mu]}
arms: [ticket, deterministic]
```

Each net gets its own settings, and the study runs for each of them. Of a setting, later ones count: what all sizes share,
what the size's nets share, the net's, the study's own, and last `--set`. So `--set size=gpu` runs the same question at
another size, and `--set train.epochs=8` changes one thing for all nets.

```sh
tombola run scores.yaml --set data.args.path=data/cifar10              # files on this machine
tombola run scores.yaml --set size=gpu --set 'nets=[resnet20]' --dry-run
```

The data is `uoft-cs/cifar10` from the Hugging Face hub, or files of it that `data.args.path` names. A study that names other
data (`data.name`) gets none of the recipe's `data.args`, which is how to try one without a download:

```yaml
name: digits-in-place
size: cpu
nets: [resnet20]
data: {name: digits, args: {validation: 0, test: 360}}
prune: {levels: 2}
```

## Sizes

| Size | What it is |
| --- | --- |
| `full` | the settings of arXiv 2602.18825 as far as it states them: 160 epochs, ten samples a step, 20 levels of 20% |
| `gpu` | the same nets and `fast`, 30 epochs (`fast`: 14), every second level (36%), one sample a step, bf16, CUDA graphs |
| `cpu` | small relatives of the nets, a subset of 16x16 pixels, four levels of 66.5%: seconds a training |
| `toy` | nets that are far too small on scikit-learn's digits, a second or two a training: is a study in order? |

What `full` had to decide: batch 128 (ViT: 1024) is the default of the paper's code. Weight decay is per example, so equally
strong in both kinds of training, as the text says (`train.loss_scale: sum` is the code's). All weights and biases are random
but those of norm layers and of convolutions before one, which batch norm takes out ([why](models.md#batch-norm)); only
weights are pruned, not the final classifier's. VGGs are measured by batch statistics, which its Bayesian nets use.

**`gpu` was not tuned on a GPU**: its schedule, rates and regularisation are carried over, not measured.

The paper calls its ResNet "ResNet18", but its sizes are those of the ResNet-20 for CIFAR, so the studies name `resnet20`;
`--set 'nets=[resnet18]'` runs them with the wide ImageNet kind. At `gpu` a study of all its nets and five seeds takes hours
by forecast (`tombola studies`), one net and seed minutes to an hour.

In the records, the column `model` says `resnet20` where a net is the one of that name, and `resnet20/cpu` where it is its
small relative:
"""

KEPT = (
    "What the recipe keeps is the best value, with three exceptions where the difference is noise: batch 64 for "
    "`resnet20`, which is a fifth faster; running statistics; and for all nets fewer images four times rather than twice "
    "as many twice, since two epochs leave little to rewind to. They were tuned with 3,000 images; the recipe has 2,500, "
    "so that all studies of the paper take less than an hour. Augmentation of `vgg11` was carried over from the other "
    "two, as were all settings of the nets that are not in the table, each from its relative. Label smoothing stays off "
    "and heat at 0.1 at every size: calibration and the posterior are what the studies ask about."
)

TAIL = """
## Tune your own

`evaluate.split: validation` measures examples that `data.args.validation` holds out of the training data, at every epoch's
end too. In the records the data is then called `cifar10 (validation split)`, so that such numbers are never taken for test
results. A dense net trains to the same bits as when the test split is measured.

```sh
tombola run scores.yaml --set evaluate.split=validation --set 'train.lr=[0.003,0.01,0.03]' --set 'seeds=[0,1,2]'
python -m benchmarks.recipes --size gpu --path data/cifar10    # what was done here, at another size
```

A recipe of your own needs no file of ours: put the settings into the study.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *_nets(), "\n## What they reach\n", *_reach(), "\n## How they were tuned\n", *_tuning()]
    lines = "\n".join([*parts, "\n## What is faster, and is it as good?\n", *_questions()]).splitlines()
    return (
        "\n".join(
            fill(line, 125, break_on_hyphens=False, break_long_words=False) if line[:1] not in ("|", "<") else line
            for line in lines
        )
        + "\n"
        + TAIL
    )


def _nets() -> list[str]:
    lines = ["| Net | `full`, `gpu` | Parameters | `cpu` | Parameters |", "| --- | --- | --- | --- | --- |"]
    for net in cifar10()["sizes"]["full"]["nets"]:
        cells = []
        for size, side in (("gpu", 32), ("cpu", 16)):
            (variant,) = unfold({"name": "net", "size": size, "nets": [net]})
            model = variant.study.model
            made = build(model.name, model.args, (3, side, side), 10, ("recipes",))
            cells += [f"`{model.name}` {json.dumps(model.args) if model.args else ''}".strip()]
            cells += [f"{sum(p.numel() for p in made.parameters()):,}"]
        lines.append(f"| `{net}` | " + " | ".join(cells) + " |")
    return lines


def _reach() -> list[str]:
    record = _record("recipes-cpu-reach")
    rows = record["rows"]
    arms = [("map", True), ("map", False), ("vi", True), ("vi", False)]
    lines = [
        "At the size `cpu`, on `cifar10-jpeg75` (CIFAR-10 as JPEGs of quality 75): test accuracy "
        f"({_seeds(rows[0]['n'])}), and processor seconds of a training with its "
        "evaluation (a dash where trainings were there already). "
        f"{_made(record)} With so little training accuracies are far below what the nets can reach: the size is for trying "
        "a question out.",
        "",
        "| Net | deterministic, dense | 5% left | Bayesian, dense | 5% left | log sigma moved by | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {(row["method"], row["density"] > 0.5): row for row in rows if row["model"] == model}
        cells = [f"{own[arm]['accuracy']:.1%}{_spread(own[arm]['accuracy_sd'])}" for arm in arms]
        drift = own["vi", True]
        cells += [
            f"{drift['drift_mean']:+.2f}, rank correlation {drift['drift_rank']:.2f}",
            f"{drift['seconds']:.1f}" if drift["seconds"] else "-",
        ]
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return lines


def _spread(sd: float | None) -> str:
    return "" if sd is None else f" ± {sd:.1%}"


def _tuning() -> list[str]:
    record = _record("recipes-cpu")
    seeds = _seeds(record["seeds"])
    lines = [
        "The three nets of the size `cpu`, on validation examples of `cifar10-jpeg75`; one setting after another, in this "
        "order, each from what "
        "was best so far. The number is the mean accuracy over Bayesian and deterministic networks, dense and with 5% of "
        f"the weights left, of {seeds}; bold is what was kept. Differences of a point or two are noise. {_made(record)}",
        "",
        "| Net | Setting | Values |",
        "| --- | --- | --- |",
    ]
    for net, setting in dict.fromkeys((row["net"], row["setting"]) for row in record["rows"]):
        own = [row for row in record["rows"] if (row["net"], row["setting"]) == (net, setting)]
        shown = [f"{_value(row['value'])}: {row['accuracy']:.1%}" for row in own]
        if "measured only" in setting:  # of what sigma does
            ranks = [f"rank correlation of sigma with its start {row['drift']['rank']:.2f}" for row in own]
            shown = [f"{text} ({rank})" for text, rank in zip(shown, ranks, strict=True)]
        values = "; ".join(f"**{text}**" if row["chosen"] else text for row, text in zip(own, shown, strict=True))
        lines.append(f"| `{net}` | {setting} | {values} |")
    return [*lines, "", KEPT]


QUESTIONS = {
    "samples-cpu": "One weight sample a step (first) against ten (second)",
    "samples-cpu-rate-0.01": "The same at rate 0.01, batch 128 and 5,000 images. At 5% left the answer turns round, so it "
    "depends on the rate",
    "objective-cpu": "log E_q[p], the objective of the paper's code (first), against E_q[log p], two samples each, at the "
    "four levels of the size; every net finds its own masks; 2,000 test images",
    "noise-cpu": "Noise of which a step renews a sixteenth (as size cpu does) against noise that is all new",
    "precision-cpu": "Training in bf16 against fp32",
}
"""Record -> its question."""


def _questions() -> list[str]:
    lines = [
        "`resnet20/cpu` trained both ways at equal epochs (the studies `checks/samples`, `checks/objective`, "
        "`checks/noise`, `checks/precision`). Two one-sided t tests, paired over seeds: *equivalent* where the 90% "
        "interval of the difference is within the margin, *different* where it lies wholly beyond it, else "
        "*inconclusive*. 5,000 test images of `cifar10-jpeg75`, measured in fp32. A sparse network has the mask that "
        "its own dense one gave.",
    ]
    for name, question in QUESTIONS.items():
        record = _record(name)
        lines += [
            "",
            f"**{question}.** {_made(record)} {record.get('note', '')}".rstrip(),
            "",
            "| Curve | Left | Metric | first | second | difference, 90% interval | margin | seeds | verdict |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in record["rows"]:
            is_accuracy = row["metric"] == "accuracy"
            k, digits, unit = (100, 2, "points") if is_accuracy else (1, 3, "nats")
            one, other, mean, low, high = (k * row[name] for name in ("first_mean", "second_mean", "mean", "low", "high"))
            gap = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {unit}"
            numbers = f"{one:.{digits}f} | {other:.{digits}f} | {gap} | {k * row['margin']:g}"
            where = f"{row['curve']} | {row['density']:.0%} | {row['metric']}"
            lines.append(f"| {where} | {numbers} | {row['n']} | {row['verdict']} |")
    return lines


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _value(patch: dict[str, Any]) -> str:
    """Return {"train": {"lr": 0.01}} as `lr 0.01`."""
    found = []
    for name, value in patch.items():
        found += [_value(value)] if isinstance(value, dict) else [f"{name} {value}"]
    return ", ".join(found)


def _made(record: dict[str, Any]) -> str:
    threads = f"{record['threads']} thread" + ("s" if record["threads"] > 1 else "")
    where = f"{record['hardware']['cpu']}, {threads}, torch {record['versions']['torch']}"
    return f"`{record['command']}`, {record['date']}, {where}."


def _record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


if __name__ == "__main__":
    print(page(), end="")
