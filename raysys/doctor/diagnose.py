"""All checks, in the order in which one thing rests on another."""

from raysys.config import RunConfig
from raysys.doctor.check import Check, failed, guarded, render
from raysys.doctor.cluster import check_cluster
from raysys.doctor.kernels import check_gradients, check_kernels
from raysys.doctor.machine import check_devices, check_open_files, check_scratch, check_shared_memory
from raysys.doctor.places import check_data, check_storage
from raysys.doctor.software import check_imports, check_packages, check_python

__all__ = ["Check", "diagnose", "doctor", "render"]

_INSTALL = "pip install -c constraints.txt -e ."
_DATA = "--data.root FOLDER, where the data sets are; a URL needs its package (s3:// s3fs, gs:// gcsfs) and credentials"
_STORAGE = "check the address, the credentials and the rights of this machine, or --storage FOLDER"
_RAY = (
    "check RAY_ADDRESS, the token (RAY_AUTH_TOKEN_PATH) and that both sides have the same ray and Python, "
    "or unset RAY_ADDRESS to start Ray on this machine"
)


def doctor(config: RunConfig) -> int:
    """Prints every check and returns the exit code: 1 if any of them failed, else 0."""
    checks = diagnose(config)
    print(render(checks))
    return failed(checks)


def diagnose(config: RunConfig) -> list[Check]:
    """Returns every check of this machine, the data, the storage and the cluster that a run with `config` would use.

    Never raises: a check that ends in an exception is a FAIL with the exception's text. Starts Ray on this machine
    where there is none to join, and stops it again; writes nothing but the cached indices of the data sets.
    """
    groups = (
        ("python", check_python(), _INSTALL),
        ("packages", check_packages(), _INSTALL),
        ("imports", check_imports(), _INSTALL),
        ("device", check_devices(config), "nvidia-smi shows whether driver and GPU work"),
        ("mlstm", check_kernels(config), "--model.backbone.kernel torch, or reference"),
        ("kernels", check_gradients(config), "--model.backbone.kernel torch"),
        ("data", check_data(config), _DATA),
        ("storage", check_storage(config), _STORAGE),
        ("/dev/shm", check_shared_memory(), "mount a tmpfs there"),
        ("open files", check_open_files(), "ulimit -n 65536"),
        ("scratch", check_scratch(), "set RAY_TMPDIR to a folder that exists"),
        ("ray", check_cluster(config), _RAY),
    )
    return [line for name, checks, remedy in groups for line in guarded(name, checks, remedy)]
