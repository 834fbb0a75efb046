"""Training stages that are run together: equal but for seed, start and mask."""

import json
from collections.abc import Sequence

from tombola.pruning.ticket import Ticket
from tombola.study.stages import Outcome, RunContext, Stage, Train
from tombola.training.together import train_together


def kind_of(stage: Train) -> str:
    """Equal for trainings that may be run together."""
    return json.dumps({name: value for name, value in stage.describe().items() if name != "seed"}, sort_keys=True)


def run_stages(stages: Sequence[Stage], tickets: Sequence[list[Ticket]], context: RunContext) -> list[Outcome]:
    """The outcome of one stage, or of several trainings of one kind, which are run together, without a checkpoint."""
    trainings = [stage for stage in stages if isinstance(stage, Train)]
    if len(stages) == 1 or not trainings:
        return [stage.run(those, context) for stage, those in zip(stages, tickets, strict=True)]
    first, parents = trainings[0], [parent for (parent,) in tickets]
    batches = [stage.batches(context) for stage in trainings]
    done = train_together(
        first.net.build("skeleton").to(context.device),
        [s.start_state(parent).to(context.device) for s, parent in zip(trainings, parents, strict=True)],
        batches,
        first.settings,
        words=[stage.words for stage in trainings],
        **first.course(batches[0].steps, context),
    )
    return [
        stage.outcome(parent, trained, batches[0], context)
        for stage, parent, trained in zip(trainings, parents, done, strict=True)
    ]
