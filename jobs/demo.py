"""The whole system in a few minutes on two CPU cores: python -m jobs.demo --storage results/demo"""

from jobs.command import parse, run

_GENERATED = "miniatures"
_DEFAULTS = {"data.root": _GENERATED, "storage": "results/demo"}


def main() -> None:
    config, options = parse(__doc__, preset="demo", defaults=_DEFAULTS)
    if options.dry_run:
        from raysys.train.describe import describe

        return print(describe(config))
    from raysys.demo import run_demo

    run_demo(config, generate=config.data.root == _GENERATED)


if __name__ == "__main__":
    run(main, goes_on=True)
