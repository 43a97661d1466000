"""Fine-tune a picker: python -m jobs.finetune base --init results/my-run --data.root /path/to/datasets --label-fraction 0.1"""

from jobs.command import RunOptions, parse, run
from raysys.location import Location
from raysys.record import set_aside


def main() -> None:
    config, options = parse(__doc__, RunOptions, task="pick")
    if options.dry_run:
        from raysys.train.forecast import run_forecast

        return print(run_forecast(config))
    from raysys.train.driver import train_run

    if options.fresh:
        set_aside(Location(config.storage) / config.name)
    train_run(config)


if __name__ == "__main__":
    run(main, goes_on=True)
