"""Pretrain the model: python -m jobs.pretrain base --data.root /path/to/datasets --name my-run"""

from jobs.command import RunOptions, parse, run
from raysys.location import Location
from raysys.record import set_aside


def main() -> None:
    config, options = parse(__doc__, RunOptions)
    if options.dry_run:
        from raysys.train.forecast import run_forecast

        return print(run_forecast(config))
    from raysys.train.driver import train_run

    if options.fresh:
        set_aside(Location(config.storage) / config.name)
    train_run(config)


if __name__ == "__main__":
    run(main, goes_on=True)
