"""The paper's studies without YAML: as `prepare` wrote them, read back, and in which order their parts are run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.nets import SECTIONS, settings_of
from tombola.errors import TombolaError
from tombola.settings import ModelSettings
from tombola.study.spec import Arm, Study, Variant

SUFFIX = ".studies.json"
"""Of the file beside the data."""

RELATIVES = {"resnet110": "resnet20", "resnet18": "resnet20", "vgg19": "vgg11", "vit_base": "vit_tiny"}
"""Nets that are run where the net of `--nets` is: larger ones of the study of size."""

_TELLING = ("scores", "randomise", "rewind")
ORDER: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (_TELLING, ("resnet20",)),
    (_TELLING, ("vgg11",)),
    (("transplant",), ("resnet20", "vgg11")),
    ((*_TELLING, "transplant"), ("vit_tiny",)),
    (("layers", "calibration", "rate", "size"), ("resnet20", "vgg11", "vit_tiny", "resnet110", "vgg19", "vit_base")),
)
"""(studies, nets), the most telling first. All of it for the first seed, then for the next one."""

STUDIES = tuple(dict.fromkeys(study for studies, _ in ORDER for study in studies))


@dataclass(frozen=True)
class Part:
    """A study of one net and one seed: what is run in one go, and recorded whole."""

    study: str
    net: str
    seed: int

    def __str__(self) -> str:
        return f"paper/{self.study}, {self.net}, seed {self.seed}"


Studies = Mapping[str, Sequence[Variant]]
"""Name without "paper/" -> its variants, of all nets and seeds."""


def parts(studies: Studies, nets: Sequence[str], chosen: Sequence[str], seeds: int) -> list[Part]:
    """What is to be run, in order: of the chosen studies, with the first `seeds` of their seeds."""
    return [
        Part(study, net, seed)
        for at in range(seeds)
        for names, members in ORDER
        for study in names
        if study in chosen
        for net in members
        if RELATIVES.get(net, net) in nets
        for seed in _seeds(studies.get(study, ()), net)[at : at + 1]
    ]


def variants_of(studies: Studies, part: Part) -> list[Variant]:
    """The variants of a part, without views."""
    own = [variant for variant in studies[part.study] if variant.study.nets == [part.net]]
    return [replace(one, study=replace(one.study, seeds=[part.seed], views=[])) for one in own]


def _seeds(variants: Sequence[Variant], net: str) -> list[int]:
    return next((variant.study.seeds for variant in variants if variant.study.nets == [net]), [])


def as_json(variant: Variant) -> dict[str, Any]:
    """What `variant_of` reads, every default filled in."""
    return dataclasses.asdict(variant)


def variant_of(raw: Mapping[str, Any]) -> Variant:
    """The variant, without pydantic. Raises TombolaError naming a field that this version of tombola does not have."""
    study = dict(raw["study"])
    made = {name: settings_of(kind, study.pop(name), name) for name, kind in (SECTIONS | {"model": ModelSettings}).items()}
    arms = [settings_of(Arm, arm, "arms") for arm in study.pop("arms")]
    return Variant(settings_of(Study, {**study, **made, "arms": arms}, "study"), raw["axes"])


def stored_studies(path: Path) -> Studies:
    """The studies that `prepare` wrote. Raises TombolaError where there are none."""
    if not path.is_file():
        raise TombolaError(f"there is no {path}; write it with `python -m benchmarks.gpu prepare`")
    raw = json.loads(path.read_text())
    return {name: [variant_of(one) for one in variants] for name, variants in raw.items()}


def digest(studies: Studies) -> str:
    """Of all that numbers depend on: records of other settings are not put together."""
    words = {"description": "", "views": [], "seeds": []}
    plain = {
        name: [as_json(replace(one, study=replace(one.study, **words))) for one in variants]
        for name, variants in studies.items()
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
