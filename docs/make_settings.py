"""Print docs/settings.md from the settings themselves, by `python docs/make_settings.py > docs/settings.md`."""

import dataclasses
import json
import types
import typing

from tombola.data import DATA
from tombola.inference import METHODS, OBJECTIVES
from tombola.inference.estimators import ESTIMATORS
from tombola.models import MODELS
from tombola.pruning.scores import SCORES
from tombola.settings import SparseSettings, TrainSettings
from tombola.settings.fields import BAYESIAN, WHOLE, marked
from tombola.study.analyses import ANALYSES
from tombola.study.spec import Arm, Study
from tombola.training.optim import SCHEDULES

HEAD = """# Settings

<!-- Made by `python docs/make_settings.py > docs/settings.md`. Do not edit: edit the sentences in the code. -->

A study is a YAML file of the sections below. Every setting has a default; that of `name` is the file's name. Types are
strict, and an unknown key is an error that names the nearest known one. YAML reads `1e-3` as text: write `1.0e-3` or
`0.001`.

```yaml
name: example
seeds: [0, 1, 2]
data: {name: digits}
model: {name: mlp, args: {hidden: [300, 100]}}
posterior: {std: 0.02}
train: {epochs: 10, batch_size: 64, lr: [0.001, 0.003]}
prune: {score: [snr, mu], fraction: 0.36, levels: 4}
evaluate: {samples: 16}
arms:
  - ticket
  - {arm: [reinit, shuffle_layerwise], score: snr, levels: [2, 4]}
  - {arm: ticket, rewind: learning_rate, train: {epochs: 5}}
```

The same settings in Python are the frozen dataclasses `tombola.PosteriorSettings`, `tombola.TrainSettings` and
`tombola.PruneSettings`; [find_tickets](python.md) takes them.

## Lists fan out

A list where one value is expected stands for a choice: the study runs for each of its values, and for every combination of
several lists. The example has two learning rates and two scores. In the records, the columns `model`, `data`, `score` and
`rewind` name these choices, `variant` all others (`train.lr=0.001`). What two variants have in common is run once.

- Fields that hold a list themselves do not fan out: {own}. A list of lists does: `train.milestones: [[0.5, 0.75], [0.9]]`.
- Lists within `data.args` and `model.args` belong to the function that gets them. A list *of* args fans out:
  `args: [{hidden: [100]}, {hidden: [300, 100]}]`.
- A whole section may be a list: `model: [{name: mlp}, {name: conv}]`.
- {whole} are of the whole study: a list there is an error.
- Within an arm, lists fan out into several curves, `train` of the arm included.

## Changes on the command line

`tombola run STUDY --set PATH=VALUE` changes a setting before anything is checked; the value is read as YAML. It may be given
several times. In a shell, quote brackets and braces.

```sh
tombola run demo --set train.epochs=20 --set 'seeds=[0,1,2,3,4]' --out runs/demo-long
tombola run demo --set 'train.lr=[0.001,0.01]' --set 'arms=[ticket,reinit]' --out runs/demo-rates
```

A path has names only: an entry of `arms` cannot be changed by itself, the list can.

## Arms

`arms` is a list; without it a study has the one arm `ticket`. An entry is an arm's name, or a mapping with the fields of
[arms](#arms-1). [What each arm trains](concepts.md#arms).
"""

TAIL = """
## Names

| Kind | Names |
| --- | --- |
| scores | {scores} |
| models | {models} |
| data | {data} |
| methods | {methods} |
| estimators | {estimators} |
| objectives | {objectives} |
| schedules | {schedules} |
| analyses | {analyses} |

Any of them may be an import path of your own, `module:function`: [a score](add-a-score.md), [a model](add-a-model.md),
[data](add-data.md), [a method, a schedule](add-a-method.md),
[an estimator](estimators.md#add-an-estimator),
[an analysis](analyses.md#add-an-analysis). What each score is: [scores](concepts.md#scores).
"""


def page() -> str:
    """Return the whole page."""
    sections = {f.name: _hint(Study, f.name) for f in dataclasses.fields(Study)}
    kinds = {name: kind for name, kind in sections.items() if dataclasses.is_dataclass(kind)} | {"arms": Arm}
    own = [f"`{f.name}`" for f in dataclasses.fields(Study) if f.name != "arms" and _holds_list(Study, f.name)]
    own += [f"`{s}.{f.name}`" for s, kind in kinds.items() for f in dataclasses.fields(kind) if _holds_list(kind, f.name)]
    whole = ", ".join(f"`{f.name}`" for f in dataclasses.fields(Study) if f.name in marked(Study, WHOLE))
    parts = [HEAD.replace("{own}", ", ".join(own)).replace("{whole}", whole), "## The study\n", _table(Study)]
    for name, kind in kinds.items():
        parts += [f"\n## {name}\n", f"{kind.__doc__}\n", _table(kind)]
        if kind is TrainSettings:
            parts += ["\n### train.sparse\n", f"{SparseSettings.__doc__}\n", _table(SparseSettings)]
    names = {"scores": SCORES, "models": MODELS, "data": DATA, "methods": METHODS, "schedules": SCHEDULES}
    names |= {"estimators": ESTIMATORS, "objectives": OBJECTIVES, "analyses": ANALYSES}
    return "\n".join(parts) + "\n" + TAIL.format(**{k: ", ".join(f"`{n}`" for n in v) for k, v in names.items()})


def _table(kind: type) -> str:
    lines = ["| Setting | Type | Default | Bounds | Meaning |", "| --- | --- | --- | --- | --- |"]
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(_hint(kind, f.name)):
            lines.append(f"| `{f.name}` | section | | | see [{f.name}](#{f.name}) |")
            continue
        default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
        meaning = f.metadata["help"] + (" Bayesian training only." if BAYESIAN in f.metadata["marks"] else "")
        cells = [_type(_hint(kind, f.name)), f"`{json.dumps(default)}`", _bounds(f.metadata), meaning]
        lines.append(f"| `{f.name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _hint(kind: type, name: str) -> typing.Any:
    return typing.get_type_hints(kind)[name]


def _holds_list(kind: type, name: str) -> bool:
    hint = _hint(kind, name)
    return any(typing.get_origin(h) is list for h in (hint, *typing.get_args(hint)))


def _type(hint: typing.Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if h is type(None) else _type(h) for h in inner)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", Arm: "arm"}[hint]


def _bounds(bounds: typing.Mapping[str, typing.Any]) -> str:
    words = {"above": "above", "least": "at least", "below": "below", "most": "at most"}
    return ", ".join(f"{word} {bounds[name]:g}" for name, word in words.items() if bounds[name] is not None)


if __name__ == "__main__":
    print(page(), end="")
