"""Fine-tune a picker: python -m jobs.finetune base --init results/my-run --data.root /path/to/datasets --label-fraction 0.1"""

from jobs.command import RunOptions, parse, run
from jobs.training import train


def main() -> None:
    train(*parse(__doc__, RunOptions, task="pick"))


if __name__ == "__main__":
    run(main, goes_on=True)
