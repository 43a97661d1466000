"""What the tests share: miniatures of the eight data sets, the real sets where they are there, and one Ray."""

import os
import secrets
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")

import pytest
import torch

torch.set_num_threads(1)
TESTS = Path(__file__).parent
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """With several processes, tests that share a Ray run in one of them, and so do those of a file with its fixtures.

    The tests of the kernels share nothing.
    """
    kernels = (TESTS / "model" / "ops", TESTS / "gpu")
    for item in items:
        if "ray_cluster" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not any(item.path.is_relative_to(folder) for folder in kernels):
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(TESTS))))


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory) -> Path:
    """A folder with small twins of the eight data sets."""
    from raysys.miniature import write_miniatures

    root = tmp_path_factory.mktemp("miniatures")
    write_miniatures(root, traces=40)
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets."""
    if not REAL.is_dir():
        pytest.skip("no real data sets beside the checkout (../shared/data)")
    return REAL


@pytest.fixture(scope="session")
def smoke(miniatures, tmp_path_factory):
    """The smallest configuration, on the miniatures, inside one process."""
    from raysys.presets import PRESETS

    return PRESETS["smoke"]().override(
        {
            "data.root": str(miniatures),
            "data.datasets": ["all"],
            "data.cache": str(tmp_path_factory.mktemp("cache")),
            "data.reader": "process",
            "storage": str(tmp_path_factory.mktemp("storage")),
        }
    )


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory):
    """One Ray on this machine, with the dashboard that Train inside Tune asks."""
    from raysys.cluster import connect

    connect(num_cpus=2)
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def own_ray():
    """Environment of a process whose Ray knows nothing of the others on this machine."""
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # short, for sockets
        mine = {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        yield {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | mine
