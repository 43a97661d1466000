"""Pretrain the model: python -m jobs.pretrain base --data.root /path/to/datasets --name my-run"""

from jobs.command import parse, run


def main() -> None:
    config, options = parse(__doc__)
    if options.dry_run:
        from raysys.train.forecast import pretraining_forecast

        return print(pretraining_forecast(config))
    from raysys.train.driver import pretrain

    pretrain(config)


if __name__ == "__main__":
    run(main, goes_on=True)
