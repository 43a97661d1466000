"""Check this machine, the data and Ray: python -m jobs.doctor base --data.root /path/to/datasets --storage results"""

from raysys.doctor.machine import require_packages


def main() -> None:
    from jobs.command import parse

    config, options = parse(__doc__)
    if options.dry_run:
        from raysys.train.describe import describe

        return print(describe(config))
    from raysys.doctor import doctor

    raise SystemExit(doctor(config))


if __name__ == "__main__":
    require_packages()
    from jobs.command import run  # only now: it imports those packages

    run(main)
