"""Search hyperparameters: python -m jobs.sweep base --data.root /path/to/datasets --name my-sweep"""

import shlex
import sys

from jobs.command import parse, run


def main() -> None:
    config, _ = parse(__doc__)
    from raysys.tune.sweep import sweep

    try:
        sweep(config)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "jobs.sweep", *sys.argv[1:]])
        print(f"interrupted; nothing finished is lost. Go on with:\n{again}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    run(main)
