"""Pretrain the model: python -m jobs.pretrain base --data.root /path/to/datasets --name my-run"""

from jobs.command import parse, run
from raysys.train.describe import describe
from raysys.train.driver import pretrain


def main() -> None:
    config, options = parse(__doc__)
    print(describe(config)) if options.dry_run else pretrain(config)


if __name__ == "__main__":
    run(main)
