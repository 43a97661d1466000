"""Several jobs in one process, as a script of a user's: python tests/jobs_in_a_row.py "prepare smoke ..." "pretrain ..."."""

import os
import runpy
import shlex
import sys


def main() -> None:
    sys.path.insert(0, os.getcwd())  # the code of the submission
    for line in sys.argv[1:]:
        job, *sys.argv[1:] = shlex.split(line)
        print(f"## {line}", flush=True)
        try:
            runpy.run_module(f"jobs.{job}", run_name="__main__")
        except SystemExit as end:  # a dry run, and the doctor with its exit code
            if end.code:
                raise


if __name__ == "__main__":
    main()
