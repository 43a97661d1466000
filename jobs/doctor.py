"""Check this machine, the data and Ray: python -m jobs.doctor base --data.root /path/to/datasets --storage results"""

from raysys.doctor.software import require_packages


def main() -> None:
    require_packages()
    from jobs.command import parse  # only now: it imports those packages

    config, _ = parse(__doc__)
    from raysys.doctor.diagnose import doctor

    raise SystemExit(doctor(config))


if __name__ == "__main__":
    main()
