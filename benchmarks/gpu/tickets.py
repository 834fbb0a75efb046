"""Chains of tickets on the device, training by training, each a row: the fast recipe's accuracy, and a whole study."""

import statistics
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.gpu.nets import Job, Recipe
from benchmarks.gpu.sitting import Row, Sitting
from benchmarks.gpu.steps import fastest_of
from tombola import streams
from tombola.data import training_batches
from tombola.errors import TombolaError
from tombola.posterior.predictive import outputs
from tombola.pruning.iterate import prune_ticket
from tombola.pruning.ticket import Ticket, load, ticket_of
from tombola.settings import canonical
from tombola.training.loop import train

WITHIN = 0.005
"""The recipe's accuracy may be so much below that of 160 epochs."""

_SPARSE = 5  # prunings to 5% left


@dataclass
class Chain:
    """The tickets of one net and seed."""

    job: Job
    sitting: Sitting
    steps: dict[str, Row]
    """Rows of the piece `steps`: they say which configuration is fastest."""
    net: str
    seed: int

    def start(self, recipe: Recipe) -> Ticket:
        module = self.job.module(self.net, self.seed)
        return ticket_of(self.job.state(module, recipe, self.seed), {"seed": self.seed, "model": self.net})

    def trained(self, name: str, ticket: Ticket, recipe: Recipe) -> tuple[Row, Ticket]:
        """The ticket trained by the recipe, and its row; from its file where that was done before."""
        path = self.sitting.file(f"{name}-{self.seed}", "ticket")
        row = self.sitting.row(name, lambda: self._train(name, ticket, recipe, path))
        return row, load(path)

    def _train(self, name: str, ticket: Ticket, recipe: Recipe, path: Any) -> Row:
        job, data = self.job, self.job.data
        settings = replace(recipe.train, **self._fast(recipe))
        batches = training_batches(data, recipe.data, settings.batch_size, self.seed, job.device)
        checkpoint = self.sitting.checkpoint(f"{name}-{self.seed}")
        test = data.test[0].to(job.device), data.test[1].to(job.device)
        module = job.module(self.net, self.seed)
        done = train(
            *(module, ticket.rewind.to(job.device), batches, settings),
            words=(self.seed, "benchmark", name),
            validation=test,
            prepare=data.prepare,
            checkpoint=checkpoint,
        )
        logits = outputs(
            *(module, done.state, test[0]),
            samples=recipe.evaluate.samples,
            words=(self.seed, "benchmark", name),
            batch=recipe.evaluate.batch_size,
            batch_norm=recipe.evaluate.batch_norm,
            prepare=data.prepare,
        )
        log_p = logits.double().log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits)), dtype=torch.float64).log()
        replace(ticket, trained=done.state.to("cpu"), info=ticket.info | {"history": done.history}).save(path)
        checkpoint.path.unlink(missing_ok=True)
        return {
            "net": self.net,
            "seed": self.seed,
            "data": data.name,
            "density": ticket.density,
            "density_all": ticket.density_all,
            "accuracy": (log_p.argmax(-1) == test[1]).double().mean().item(),
            "nll": -log_p.gather(1, test[1][:, None]).mean().item(),
            "samples": len(logits),
            "final": done.history[-1],
            "minutes": done.seconds / 60,
            "train": canonical(settings),
        }

    def _fast(self, recipe: Recipe) -> dict[str, Any]:
        """The fastest configuration, where the recipe leaves it open."""
        found = fastest_of(self.steps, self.net, "vi")
        return {name: value for name, value in found.items() if name not in canonical(recipe.train)}

    def pruned(self, ticket: Ticket, start: Ticket, recipe: Recipe, fraction: float, level: int) -> Ticket:
        rule = replace(recipe.prune, fraction=fraction)
        return prune_ticket(ticket, start.rewind, rule, streams.generator("score", self.seed, level))


def recipe(job: Job, sitting: Sitting, steps: dict[str, Row]) -> bool:
    """Test accuracy of the recipe against 160 epochs, dense and at 5% left, over seeds; whether the recipe falls short.

    Both train the same tickets, found by the recipe; 160 epochs have the paper's training with one weight sample a step.
    """
    missed = False
    fraction = 1 - 0.05 ** (1 / _SPARSE)
    for net in job.nets:
        fast = _of(job, "gpu", net)
        full = replace(fast, train=replace(_of(job, "full", net).train, samples=1))
        found: dict[str, list[float]] = {}
        for seed in range(job.seeds):
            chain = Chain(job, sitting, steps, net, seed)
            start = ticket = chain.start(fast)
            for level in range(_SPARSE + 1):
                row, trained = chain.trained(f"{net}, recipe, level {level}, seed {seed}", ticket, fast)
                place = {0: "dense", _SPARSE: "5% left"}.get(level)
                if place:
                    slow, _ = chain.trained(f"{net}, 160 epochs, level {level}, seed {seed}", ticket, full)
                    found.setdefault(place, []).append(row["accuracy"] - slow["accuracy"])
                    sitting.say(f"{net}, seed {seed}, {place}: {row['accuracy']:.4f}, 160 epochs {slow['accuracy']:.4f}")
                if level < _SPARSE:
                    ticket = chain.pruned(trained, start, fast, fraction, level)
        for place, differences in found.items():
            mean = statistics.mean(differences)
            missed |= mean < -WITHIN
            spread = f" (sd {100 * statistics.stdev(differences):.2f})" if len(differences) > 1 else ""
            sitting.say(
                f"{net}, {place}: recipe - 160 epochs = {100 * mean:+.2f} points{spread} over {len(differences)} seeds"
                f"{job.verdict(f'>= {-100 * WITHIN:.1f}', mean >= -WITHIN)}"
            )
    return missed


def study(job: Job, sitting: Sitting, steps: dict[str, Row]) -> bool:
    """A chain of 20 levels of 20% by snr with the recipe, ResNet-20, for each seed. There is no target."""
    net, levels = "resnet20", 2 if job.toy else 20
    settings = _of(job, "gpu", net)
    for seed in range(job.seeds):
        chain, minutes = Chain(job, sitting, steps, net, seed), 0.0
        start = ticket = chain.start(settings)
        for level in range(levels + 1):
            row, trained = chain.trained(f"{net}, level {level}, seed {seed}", ticket, settings)
            minutes += row["minutes"]
            sitting.say(
                f"seed {seed}, level {level}: {100 * row['density']:.2f}% left, accuracy {row['accuracy']:.4f}, "
                f"nll {row['nll']:.4f}, {row['minutes']:.2f} min"
            )
            if level < levels:
                ticket = chain.pruned(trained, start, settings, 0.2, level)
        sitting.say(f"seed {seed}: {minutes:.1f} min of training in all")
    return False


def _of(job: Job, size: str, net: str) -> Recipe:
    try:
        return job.recipes[size][net]
    except KeyError:
        raise TombolaError(
            f"there are no settings of {net} at size {size}; write data and settings with "
            "`python -m benchmarks.gpu prepare` and give --data"
        ) from None
