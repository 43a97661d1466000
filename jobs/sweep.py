"""Search hyperparameters: python -m jobs.sweep base --data.root /path/to/datasets --name my-sweep"""

import shlex
import sys

from jobs.command import parse, run
from raysys.train.describe import describe
from raysys.tune.sweep import sweep


def main() -> None:
    config, options = parse(__doc__)
    try:
        print(describe(config)) if options.dry_run else sweep(config)
    except KeyboardInterrupt:
        again = shlex.join(["python", "-m", "jobs.sweep", *sys.argv[1:]])
        print(f"interrupted; nothing finished is lost. Go on with:\n{again}", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    run(main)
