"""Convert data sets to shards: python -m jobs.prepare base --data.root /path/to/datasets --out /path/to/shards"""

from dataclasses import dataclass

from jobs.command import Options, parse, run


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    out: str = "shards"
    """Folder or URL that receives one folder of shards for each data set."""
    download: bool = False
    """First fetch to `data.root`, from SeisBench's repository, what is missing of the eight."""


def main() -> None:
    config, options = parse(__doc__, PrepareOptions)
    if options.dry_run:
        from raysys.data.forecast import shards_forecast

        return print(shards_forecast(config.data, options.out))
    from raysys.cluster import connect
    from raysys.data.shards import prepare

    connect()
    prepare(config, options.out, fetch=options.download)


if __name__ == "__main__":
    run(main, goes_on=True)
