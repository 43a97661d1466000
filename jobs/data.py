"""Show what data sets hold: python -m jobs.data base --data.root /path/to/datasets --data.datasets all"""

from jobs.command import parse, run


def main() -> None:
    config, _ = parse(__doc__)
    from raysys.data.overview import overview

    print(overview(config.data))


if __name__ == "__main__":
    run(main)
