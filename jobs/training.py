"""One training run, as the commands of pretraining, fine-tuning and distillation begin it."""

from jobs.command import RunOptions
from raysys.config import RunConfig
from raysys.location import Location
from raysys.record import set_aside


def train(config: RunConfig, options: RunOptions) -> None:
    """Does what a command asks for, or says what it would do."""
    if options.dry_run:
        from raysys.train.forecast import run_forecast

        return print(run_forecast(config))
    from raysys.train.driver import train_run

    if options.fresh:
        set_aside(Location(config.storage) / config.name)
    train_run(config)
