"""Convert data sets to shards: python -m jobs.prepare base --data.root /path/to/datasets --out /path/to/shards"""

from dataclasses import dataclass

from jobs.command import Options, parse, run
from raysys.cluster import connect
from raysys.data.shards import prepare


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(Options):
    out: str = "shards"
    """Folder or URL that receives one folder of shards for each data set."""


def main() -> None:
    config, options = parse(__doc__, PrepareOptions)
    connect()
    prepare(config, options.out)


if __name__ == "__main__":
    run(main)
