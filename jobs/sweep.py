"""Search hyperparameters: python -m jobs.sweep base --data.root /path/to/datasets --name my-sweep"""

from jobs.command import parse, run


def main() -> None:
    config, options = parse(__doc__)
    if options.dry_run:
        from raysys.tune.forecast import sweep_forecast

        return print(sweep_forecast(config))
    from raysys.tune.sweep import sweep

    sweep(config)


if __name__ == "__main__":
    run(main, goes_on=True)
