"""Check this machine, the data and Ray: python -m jobs.doctor base --data.root /path/to/datasets --storage results"""

from raysys.doctor.machine import require_packages


def main() -> None:
    require_packages()
    from jobs.command import parse  # only now: it imports those packages

    config, _ = parse(__doc__)
    from raysys.doctor import doctor

    raise SystemExit(doctor(config))


if __name__ == "__main__":
    main()
