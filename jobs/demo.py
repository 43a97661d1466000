"""The whole system in a few minutes on two CPU cores: python -m jobs.demo --out results/demo"""

from dataclasses import dataclass

from jobs.command import Options, parse, run


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    data: str | None = None
    """Folder with data sets in SeisBench's format; without it miniatures are generated."""
    out: str = "results/demo"


def main() -> None:
    config, options = parse(__doc__, DemoOptions, preset="demo")
    from raysys.demo import run_demo

    run_demo(config, options.data, options.out)


if __name__ == "__main__":
    run(main)
