"""Pretrain the model: python -m jobs.pretrain base --data.root /path/to/datasets --name my-run"""

from jobs.command import parse, run


def main() -> None:
    config, _ = parse(__doc__)
    from raysys.train.driver import pretrain

    pretrain(config)


if __name__ == "__main__":
    run(main)
