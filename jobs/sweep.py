"""Search hyperparameters: python -m jobs.sweep base --data.root /path/to/datasets --name my-sweep"""

from jobs.command import RunOptions, parse, run
from raysys.location import Location
from raysys.record import set_aside


def main() -> None:
    config, options = parse(__doc__, RunOptions)
    if options.dry_run:
        from raysys.tune.forecast import sweep_forecast

        return print(sweep_forecast(config))
    from raysys.tune.sweep import sweep

    if options.fresh:
        set_aside(Location(config.storage) / config.name)
    sweep(config)


if __name__ == "__main__":
    run(main, goes_on=True)
