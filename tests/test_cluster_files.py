"""cluster.yaml and deploy/: valid, of one Ray version, locked, and their commands parse."""

import copy
import re
import runpy
import shlex
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from jobs.command import parse
from raysys.config import RunConfig
from tests.train.metadata import Metadata

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
VERSION = "2.60.0"

NODE_KEYS = {
    "InstanceType": str,
    "ImageId": str,
    "IamInstanceProfile": {"Name": str},
    "InstanceMarketOptions": {"MarketType": str},
    "MetadataOptions": {"HttpTokens": str},
    "BlockDeviceMappings": [
        {"DeviceName": str, "Ebs": {"VolumeSize": int, "VolumeType": str, "Iops": int, "Throughput": int}}
    ],
}
"""What of EC2's RunInstances the file uses; Ray passes it on unchecked."""


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture(scope="module")
def rayjob() -> dict:
    return yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())


def validate(cluster: dict) -> None:
    """What `ray up` checks before it asks AWS for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(cluster)))


def misfits(value, shape, where="") -> list[str]:
    """The places where a nested value has other keys or types than its shape."""
    if isinstance(shape, dict):
        unknown = [f"{where}.{key}" for key in value if key not in shape]
        return unknown + [m for key in value if key in shape for m in misfits(value[key], shape[key], f"{where}.{key}")]
    if isinstance(shape, list):
        return [m for i, item in enumerate(value) for m in misfits(item, shape[0], f"{where}[{i}]")]
    return [] if isinstance(value, shape) else [where]


def test_ray_accepts_the_cluster_file(cluster):
    validate(cluster)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(idle_timeout_minuts=3),
        lambda c: c["docker"].pop("image"),
        lambda c: c.update(head_node_type="nobody"),
        lambda c: c["available_node_types"]["gpu_spot"].update(resources={"GPU": "1"}),
    ],
)
def test_ray_refuses_a_spoilt_cluster_file(cluster, spoil):
    spoil(cluster)
    with pytest.raises(Exception):  # noqa: B017 - of several kinds, none of them public
        validate(cluster)


def test_node_types_have_known_keys_and_bounds(cluster):
    for name, node in cluster["available_node_types"].items():
        assert misfits(node["node_config"], NODE_KEYS) == [], name
        assert node.get("min_workers", 0) <= node.get("max_workers", 0) <= cluster["max_workers"]
    assert misfits({"InstanceTyp": "x", "MetadataOptions": {"HttpTokens": 1}}, NODE_KEYS) == [
        ".InstanceTyp",
        ".MetadataOptions.HttpTokens",
    ]


def test_the_head_stays_and_the_workers_are_spot(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert all(node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for node in types.values())
    assert all(node["min_workers"] == 0 for node in types.values())  # an idle cluster costs its head alone
    assert cluster["provider"]["cache_stopped_nodes"] is False
    assert any("deploy/spot_watch.py aws" in command for command in cluster["worker_start_ray_commands"])


def test_the_cluster_is_locked(cluster):
    head, worker = (" ".join(cluster[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in (ROOT / "cluster.yaml").read_text()
    assert "--disable-usage-stats" in head
    assert "--disable-usage-stats" in worker
    assert "--ray-client-server-port" not in head
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert any(remote.endswith(".ray/auth_token") for remote in cluster["file_mounts"])
    assert (
        "IpPermissions" not in cluster["provider"]["security_group"]
    )  # SSH and the nodes among themselves, by default
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_what_is_mounted_exists_and_setup_installs_it(cluster):
    sources = [source for source in cluster["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    installs = [command for command in cluster["setup_commands"] if "pip install" in command]
    assert ["-c constraints.txt -e ." in command for command in installs] == [True, False]


def test_the_s3_driver_has_the_version_of_fsspec():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    s3 = dict(line.split("==") for line in (DEPLOY / "aws" / "requirements.txt").read_text().split() if "==" in line)
    assert s3["s3fs"] == pins["fsspec"]


def test_every_file_pins_the_same_ray(cluster, rayjob):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    assert wanted.specifier.contains(VERSION)
    assert f"ray=={VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert cluster["docker"]["image"] == f"rayproject/ray:{VERSION}-py311-gpu"
    assert re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.M) == [cluster["docker"]["image"]]
    ray_cluster = rayjob["spec"]["rayClusterSpec"]
    assert ray_cluster["rayVersion"] == VERSION
    assert {c["image"].split("-ray")[-1] for pod in pods(rayjob) for c in pod["containers"]} == {VERSION}


def pods(rayjob: dict) -> list[dict]:
    spec = rayjob["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_the_kubernetes_job_is_complete_and_locked(rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9-]+", rayjob["metadata"]["name"])
    spec = rayjob["spec"]["rayClusterSpec"]
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["enableIngress"] is False
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] > 30
        assert pod["volumes"][0]["emptyDir"]["medium"] == "Memory"
        assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/dev/shm"
    for pod in pods(rayjob):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize("script", ["slurm/pretrain.sbatch", "aws/roles.sh"])
def test_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", str(DEPLOY / script)], check=True)


def test_the_slurm_job_is_locked():
    text = (DEPLOY / "slurm" / "pretrain.sbatch").read_text()
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN " in text
    assert "--exclusive" in text
    assert "0.0.0.0" not in text


def commands(text: str) -> list[list[str]]:
    """The arguments of every `python -m jobs.X` whose options are a RunConfig's."""
    text = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(
        r"(?:python -m jobs\.(?:pretrain|sweep|doctor)|sbatch deploy/slurm/pretrain\.sbatch) ([^\n`|&#]*)", text
    )
    return [shlex.split(line.replace('"$@"', "base").replace('"$workers"', "8")) for line in lines]


def test_the_commands_in_the_files_parse(rayjob):
    documents = [DEPLOY / "slurm" / "pretrain.sbatch", ROOT / "docs" / "cluster.md"]
    found = [argv for document in documents for argv in commands(document.read_text())]
    found += commands(rayjob["spec"]["entrypoint"])
    assert len(found) > 8
    for argv in found:
        config, _ = parse("", argv=argv)
        assert isinstance(config, RunConfig)


@pytest.mark.parametrize(("cloud", "left_s", "requests"), [("aws", 120, 2), ("azure", 120, 4), ("google", 30, 2)])
def test_the_spot_watcher_knows_when_the_machine_is_taken_away(monkeypatch, cloud, left_s, requests):
    """tests/train/lost_nodes.py has it drain a node."""
    with Metadata() as metadata:
        monkeypatch.setenv("METADATA_URL", metadata.url)
        notice = runpy.run_path(str(DEPLOY / "spot_watch.py"))["NOTICES"][cloud]
        assert notice() is None
        metadata.end = time.time() + 120
        assert notice() == pytest.approx(left_s, abs=5)
    assert len(metadata.asked) == requests
    assert notice() is None, "a service that does not answer is asked again"
