# What jobs ask a scheduler for. docs/cluster.md
from functools import cache

from fdm.evaluation.demand import BASE_MB, demand_of


@cache
def demand(step, name, shards, prepared):
    """What a job of a step asks a scheduler for; training images count once their data are prepared."""
    experiment = SUITE.experiments[name]
    try:
        data = open_store(Path("data", experiment.dataset.name)).manifest if prepared else None
    except UserError:
        data = None
    images = data["splits"]["train"]["count"] if data else 0
    return demand_of(step, experiment, images, config["threads"], config["gpus"], shards)


def asked(step, what):
    """Resource of a job by the estimated cost of its step: `minutes` or `memory_mb`, more with every attempt.

    The shards of several runs may become one job array, which has one request: that of the most expensive experiment.
    """

    def function(wildcards, attempt):
        if workflow.local_exec or not workflow.is_main_process:
            return BASE_MB if what == "memory_mb" else 60  # counting takes a second, and no scheduler reads it
        shards = int(wildcards.get("shards", 1))
        names = [wildcards.experiment] if shards == 1 else SUITE.experiments
        prepared = {
            name: Path("data", SUITE.experiments[name].dataset.name, "manifest.json").exists() for name in names
        }
        amount = attempt * max(getattr(demand(step, name, shards, prepared[name]), what) for name in names)
        return min(amount, 60 * config["max_hours"]) if what == "minutes" else amount

    return function


def gpus(_):
    """Resource of a job that computes: cards."""
    return config["gpus"]
