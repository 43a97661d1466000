"""Teach a small picker by a large one: python -m jobs.distill small --teacher results/my-picker --data.root /path/to/datasets"""

from jobs.command import RunOptions, parse, run
from jobs.training import train


def main() -> None:
    config, options = parse(__doc__, RunOptions, preset="small", task="pick")
    if not config.finetune.teacher:
        raise SystemExit("error: nobody teaches: give --teacher RUN, a fine-tuned picker")
    train(config, options)


if __name__ == "__main__":
    run(main, goes_on=True)
