"""Pretrain the model: python -m jobs.pretrain base --data.root /path/to/datasets --name my-run"""

from jobs.command import RunOptions, parse, run
from jobs.training import train


def main() -> None:
    train(*parse(__doc__, RunOptions))


if __name__ == "__main__":
    run(main, goes_on=True)
