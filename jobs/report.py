"""Write one HTML page about runs and sweeps: python -m jobs.report results/my-run results/my-sweep --out report.html"""

import tyro

from raysys.console import configure_logging


def main(directories: tyro.conf.Positional[tuple[str, ...]], out: str | None = None) -> None:
    configure_logging()
    from raysys.report.write import write_report

    print(write_report(directories, out))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
