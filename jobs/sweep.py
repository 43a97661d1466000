"""Search hyperparameters: python -m jobs.sweep base --data.root /path/to/datasets --name my-sweep"""

from jobs.command import parse, run
from raysys.train.describe import describe
from raysys.tune.sweep import sweep


def main() -> None:
    config, options = parse(__doc__)
    print(describe(config)) if options.dry_run else sweep(config)


if __name__ == "__main__":
    run(main)
