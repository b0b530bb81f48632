"""From a run's config to a plan, and the plan on the terminal: `retro plan` and `retro pretrain --dry-run`."""

from __future__ import annotations

import os

from retro.common.errors import ConfigError
from retro.common.precision import choose
from retro.common.terminal import output
from retro.model.config import ModelShape
from retro.model.sizes import find_size
from retro.planning import show
from retro.planning.gpus import find_gpu
from retro.planning.plan import UTILIZATION, Plan, make_plan
from retro.planning.propose import fewest_gpus, propose
from retro.planning.published import published_batch
from retro.run.config import RunConfig
from retro.training.layout import require_processes


def show_dry_run(config: RunConfig) -> None:
    """Print layers, parameters and memory of a run as it is set, on as many processes as were started."""
    shape = shape_of(config)
    world = int(os.environ.get("WORLD_SIZE", str(config.parallel.model_ranks)))
    require_processes(config.parallel, world)
    # What it would compute in here: a dry run is of this machine.
    train = config.train.model_copy(update={"precision": choose(config.train.precision).precision})
    plan = make_plan(shape, train, config.parallel, gpus=world)
    output.say(*show.header(plan, find_size(config.model.size).source))
    output.say(*show.layer_lines(shape))
    output.table(show.parts(plan), show.memory(plan))


def show_plan(
    config: RunConfig,
    *,
    gpus: int,
    gpu: str,
    tokens: str,
    utilization: float = UTILIZATION,
    vocabulary: int | None = None,
    as_json: bool = False,
) -> None:
    """Print a whole plan.

    Args:
        config: The run. Without `parallel` settings a layout is proposed, without `train.recompute` that too.
        gpus: How many; 0 takes as few as hold one copy of the model.
        gpu: A name of the GPU table.
        tokens: The budget, as 100b.
        utilization: Share of the peak that is reached while a GPU works.
        vocabulary: Tokens of the tokenizer; None takes the size's own.
        as_json: For machines.
    """
    shape, budget = shape_of(config, vocabulary), token_budget(tokens)
    kind = find_gpu(gpu)
    options: list[Plan] = []
    if "parallel" in config.model_fields_set:
        count = gpus or config.parallel.model_ranks
        plan = make_plan(shape, config.train, config.parallel, gpus=count, gpu=kind, utilization=utilization)
    else:
        given = {"modes": (config.train.recompute,)} if "recompute" in config.train.model_fields_set else {}
        count = gpus or fewest_gpus(shape, config.train, gpu=kind, **given)
        options = propose(shape, config.train, gpus=count, gpu=kind, utilization=utilization, **given)
        plan = options[0]
    if as_json:
        output.json(show.as_json(plan, budget, options))
        return
    show.show(plan, budget, options, find_size(config.model.size).source)


def overrides_of_size(size: str) -> list[str]:
    """The settings under which `--size` is planned: as the published runs of that size were."""
    batch = published_batch(size)
    return [f"model.size={size}", "train.precision=bfloat16", "train.micro_batch=1", f"train.global_batch={batch}"]


def shape_of(config: RunConfig, vocabulary: int | None = None) -> ModelShape:
    """The model of a run that may not have a corpus yet; the vocabulary is then the size's own.

    Raises:
        ConfigError: The vocabulary given has no tokens.
    """
    if vocabulary is not None and vocabulary < 1:
        raise ConfigError("--vocabulary", vocabulary, "needs a positive number of tokens")
    tokens = find_size(config.model.size).vocabulary if vocabulary is None else vocabulary
    return ModelShape(model=config.model, vocabulary=tokens, chunk_length=config.db.chunk_length)


def token_budget(text: str, option: str = "--tokens") -> float:
    """A number of tokens, as 100b, 1.2t, 500m or 1e9.

    Raises:
        ConfigError: It is none.
    """
    units = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
    unit = units.get(text[-1:].lower(), 1.0)
    try:
        number = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        what = "tokens" if option.endswith("tokens") else "vectors"
        raise ConfigError(option, text, f"needs a number of {what}, as 100b, 1.2t or 500m")
    return number
