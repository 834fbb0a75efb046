"""Linear connectivity: the barrier on the line between two trained tickets. Frankle et al. 2020; Paul et al. 2023.

The two are trainings of one ticket whose data order and noise differ (instability), successive levels of a chain, or a
ticket and its sibling that was rewound in the learning rate alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, ClassVar

from torch import Tensor

from tombola import metrics
from tombola.posterior.batch_norm import EXAMPLES
from tombola.posterior.point import Point
from tombola.posterior.predictive import outputs, sample_statistics
from tombola.posterior.state import State, interpolated
from tombola.pruning.ticket import Ticket
from tombola.settings.keys import canonical
from tombola.training.reference import stored_reference
from tombola.training.scored import labels_of, probs_of, scored_reals

from ..graph import AnalysisRow, Row, analysis_row
from ..stages import Measurement, Outcome, RunContext, Stage
from .chains import ends_and_middle, grouped, own_masks

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Points on the line; barriers are mostly widest in the middle."""
SAMPLES = 4
"""Weight samples at a point, at most: the same noise at all points."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Connectivity(Measurement):
    """Loss and error on the line between its two parents, of the mean weights and of weight samples, and their barriers."""

    kind: ClassVar[str] = "connectivity"

    def work(self, one_pass: float) -> float:
        """Count at each point the mean weights and the samples, each with batch-norm statistics of its own."""
        passes = 1 + self.samples if self.is_random else 1
        return len(ALPHAS) * passes * (one_pass + self.net.norm.measures * self.one_measure)

    @property
    def samples(self) -> int:
        """Return the number of weight samples at a point."""
        return min(self.settings.samples, SAMPLES)

    def describe(self) -> dict[str, Any]:
        own = {"samples": self.samples, "alphas": list(ALPHAS), "examples": EXAMPLES, "seed": self.seed}
        by_batch = ("batch_norm", "batch_size") if self.settings.batch_norm == "batch" else ()
        how = {name: v for name, v in canonical(self.settings).items() if name in ("split", "channels_last", *by_batch)}
        return self.net.describe() | self.source.describe() | own | how

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        a, b = tickets
        assert a.trained is not None
        assert b.trained is not None
        found: dict[str, list[float]] = {}
        for alpha in ALPHAS:
            state = interpolated(a.trained, b.trained, alpha).to(context.device)
            for name, value in self._measured(state, context).items():
                found.setdefault(name, []).append(value)
        rows: list[dict[str, Any]] = []
        for name, values in found.items():
            row = {"a": 0, "b": 1, "density": a.density, "quantity": name}
            rows += [row | {"x": alpha, "value": value} for alpha, value in zip(ALPHAS, values, strict=True)]
            rows.append(row | {"quantity": f"barrier_{name}", "value": metrics.barrier(ALPHAS, values)})
        return Outcome(None, {"rows": rows})

    def _measured(self, state: State, context: RunContext) -> dict[str, float]:
        """Return loss and error by name: of the mean weights, and of the samples' averaged prediction if there are any."""
        found = _named("mean", self._metrics(state.as_family(Point.family), 1, context))
        if state.posterior.std is not None:
            found |= _named("samples", self._metrics(state, self.samples, context))
        return found

    def _metrics(self, state: State, samples: int, context: RunContext) -> dict[str, float]:
        data, module = context.data(self.source.settings), self.net.build("skeleton").to(context.device)
        stream = ("connectivity", self.seed)  # not its key, so that all lines of a seed have the same noise
        passes: dict[str, Any] = {"samples": samples, "stream": stream, "channels_last": self.settings.channels_last}
        by_batch = self.settings.batch_norm == "batch"
        reference = [] if by_batch else stored_reference(data.train[0], data.prepare, context.device)
        # of a point too: running ones on the line are no average of the ends'
        statistics = {} if by_batch else sample_statistics(module, state, reference, **passes)
        inputs, targets = data.held_out(self.settings.split)
        out = outputs(
            module,
            state,
            inputs,
            batch=self.settings.batch_size,
            batch_norm="batch" if by_batch else "samples",
            statistics=statistics,
            prepare=data.prepare,
            **passes,
        )
        return self._of_outputs(out.cpu(), targets, state)

    def _of_outputs(self, out: Tensor, targets: Tensor, state: State) -> dict[str, float]:
        if (probs_SBC := probs_of(out, self.train)) is None:
            return scored_reals(out, targets, self.train, state)
        probs, labels = probs_SBC.mean(0), labels_of(targets)
        return {"nll": metrics.nll(probs, labels), "error": 1 - metrics.accuracy(probs, labels)}


def connectivity(rows: list[Row]) -> Iterator[AnalysisRow]:
    """Yield lines between levels and between rewinds at the first, middle and last level, and lines between trainings."""
    own = own_masks(rows)
    for chain in grouped(own, "curve", "seed"):
        at = {row.labels["level"]: row for row in chain}
        levels = sorted(at)
        for level in sorted({levels[0], levels[-1]}):
            trained = at[level].trained
            yield _line("noise", at[level], at[level], (trained, replace(trained, replica=1)))
        for level in ends_and_middle([k for k in levels if k - 1 in at]):
            yield _line("levels", at[level], at[level - 1], (at[level].trained, at[level - 1].trained))
    pairs = [pair for alike in grouped(own, "arm", "score", "sigma", "seed", "level") for pair in _siblings(alike)]
    shown = ends_and_middle(sorted({first.labels["level"] for first, _ in pairs}))
    for first, second in pairs:
        if first.labels["level"] in shown:
            yield _line("rewinds", first, second, (first.trained, second.trained))


def _siblings(rows: list[Row]) -> Iterator[tuple[Row, Row]]:
    """Yield each pruned ticket that restarted at the initial weights with the one that kept its trained weights."""
    for first, second in permutations(rows, 2):
        rewinds = (first.labels["rewind"], second.labels["rewind"])
        same_training = first.trained.settings == second.trained.settings
        if rewinds == ("init", "learning_rate") and same_training and first.labels["level"]:
            yield first, second


def _line(between: str, a: Row, b: Row, ends: tuple[Stage, Stage]) -> AnalysisRow:
    stage = Connectivity(
        parents=ends,
        net=a.stage.net,
        source=a.stage.source,
        settings=a.stage.settings,
        train=a.stage.train,
        seed=a.stage.seed,
    )
    return analysis_row("connectivity", between, stage, (a, b))


def _named(what: str, found: dict[str, float]) -> dict[str, float]:
    return {f"{name}_{what}": value for name, value in found.items()}
