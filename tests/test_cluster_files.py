"""cluster.yaml and deploy/: valid, of one Ray version, locked, and their commands parse."""

import copy
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

from jobs.command import parse
from raysys.config import RunConfig
from raysys.train.driver import scaling
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

INSTANCES = {"m6i.2xlarge": (8, None), "m6i.8xlarge": (32, None), "g6.8xlarge": (32, "L4")}
"""vCPUs and the GPU of EC2's instance types (https://aws.amazon.com/ec2/instance-types)."""


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
    assert sum(node["max_workers"] for node in types.values()) == cluster["max_workers"]


def offers(kind: str, cluster: dict, rayjob: dict, monkeypatch) -> list[tuple[str, dict, int]]:
    """Name, what Ray takes its resources for, and largest number, of every type of worker node."""
    if kind == "aws":
        workers = {name: node for name, node in looked_up(cluster, monkeypatch).items() if name != "head"}
        return [(name, node["resources"], node["max_workers"]) for name, node in workers.items()]
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    has = [{"CPU": int(limit["cpu"]), "GPU": int(limit.get("nvidia.com/gpu", 0))} for limit in limits]
    return [(group["groupName"], one, group["maxReplicas"]) for group, one in zip(groups, has, strict=True)]


def looked_up(cluster: dict, monkeypatch) -> dict:
    """The node types with the resources that Ray finds for their instance types at AWS."""
    from ray.autoscaler._private.aws import node_provider

    found = [
        {"InstanceType": name, "VCpuInfo": {"DefaultVCpus": cpus}, "MemoryInfo": {"SizeInMiB": 4096 * cpus}}
        | ({"GpuInfo": {"Gpus": [{"Name": gpu, "Manufacturer": "NVIDIA", "Count": 1}]}} if gpu else {})
        for name, (cpus, gpu) in INSTANCES.items()
    ]
    monkeypatch.setattr(node_provider, "list_ec2_instances", lambda region, credentials: found)
    filled = node_provider.AWSNodeProvider.fillout_available_node_types_resources(cluster)
    return filled["available_node_types"]


def jobs_of(kind: str, rayjob: dict) -> list[RunConfig]:
    """The runs that the files start, or that the text tells to start, on a cluster."""
    text = rayjob["spec"]["entrypoint"]
    if kind == "aws":
        (text,) = re.findall(r"## AWS.*?\n## ", (ROOT / "docs" / "cluster.md").read_text(), re.S)
    return [parse("", argv=argv)[0] for argv in commands(text)]


@pytest.mark.parametrize("kind", ["aws", "kubernetes"])
def test_the_nodes_have_the_gpus_that_the_runs_on_them_ask_for(cluster, rayjob, monkeypatch, kind):
    types = offers(kind, cluster, rayjob, monkeypatch)
    gpus = {name: has.get("GPU", 0) for name, has, _ in types}
    assert {name for name, number in gpus.items() if number} == {name for name in gpus if name.startswith("gpu")}
    assert sum(number > 0 for number in gpus.values()) == 1
    runs = jobs_of(kind, rayjob)
    assert max(config.train.num_workers for config in runs) > 1
    for config in runs:
        asked = scaling(config)
        assert (asked.use_gpu, asked.resources_per_worker["GPU"]) == (True, 1), config.train.device
        wants = {"CPU": config.train.cpus_per_worker, "GPU": 1}
        room = [min(has.get(key, 0) // amount for key, amount in wants.items()) * most for _, has, most in types]
        assert sum(room) >= config.train.num_workers, "the largest number of nodes has a GPU for every worker"
        assert config.train.min_workers is None or 1 <= config.train.min_workers < config.train.num_workers


def test_only_pods_that_may_stand_on_gpu_nodes_ask_for_gpus(rayjob):
    for pod in pods(rayjob):
        asks = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
        taints = [one["key"] for one in pod.get("tolerations", ())]
        assert taints == (["nvidia.com/gpu"] if asks else [])


def test_slurm_starts_one_worker_for_each_gpu():
    text = (DEPLOY / "slurm" / "pretrain.sbatch").read_text()
    assert re.search(r"^#SBATCH --gpus-per-node=[1-9]", text, re.M)
    assert '--num-gpus "$SLURM_GPUS_ON_NODE"' in text
    assert "workers=$((SLURM_JOB_NUM_NODES * SLURM_GPUS_ON_NODE))" in text
    assert '--train.num-workers "$workers"' in text


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


@pytest.fixture
def policies(tmp_path, monkeypatch) -> dict[tuple[str, str], dict]:
    """(role, policy) -> what roles.sh gives, as `aws` receives it."""
    fake = tmp_path / "aws"
    fake.write_text(
        "#!/usr/bin/env bash\n"
        'if [ "$1" = sts ]; then echo 123456789012; else printf "%s\\0" "$@" END >> "$CALLS"; fi\n'
        '[ "$2" != create-service-linked-role ]\n'  # it is there already
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    subprocess.run(["bash", str(DEPLOY / "aws" / "roles.sh"), "my-bucket"], check=True, capture_output=True)
    calls = [call.strip("\0").split("\0") for call in (tmp_path / "calls").read_text().split("END\0") if call]
    assert not any("attach-role-policy" in call for call in calls), "no policy of AWS's own, which allow far more"
    found = [dict(zip(call[2::2], call[3::2], strict=True)) for call in calls if call[1] == "put-role-policy"]
    return {(one["--role-name"], one["--policy-name"]): json.loads(one["--policy-document"]) for one in found}


def actions(statement: dict) -> set[str]:
    return {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])


def test_the_head_may_do_on_aws_what_ray_does_and_no_more(policies, cluster):
    """The calls are those in the source of Ray's node provider."""
    from ray.autoscaler._private.aws import node_provider

    source = inspect.getsource(node_provider)
    called = set(re.findall(r"ec2(?:\.meta\.client)?\.([a-z]+_[a-z_]+)\b", source)) - {"ec2_fail_fast"}
    called |= set(re.findall(r"(?:ec2_fail_fast)\.([a-z_]+)\(", source))
    called |= {f"{verb}_instances" for verb in re.findall(r"\bnode\.(terminate|stop|start)\(\)", source)}
    called |= {"describe_instances"} if "ec2.instances.filter" in source else set()
    assert called >= {"create_instances", "create_tags", "terminate_instances", "describe_instance_types"}
    wanted = {"ec2:" + "".join(part.title() for part in name.split("_")) for name in called}
    wanted = {name.replace("CreateInstances", "RunInstances") for name in wanted}
    (statements,) = [
        p["Statement"] for (role, name), p in policies.items() if (role, name) == ("raysys-head", "launch")
    ]
    assert wanted == {a for statement in statements for a in actions(statement) if a.startswith("ec2:")}
    tag = cluster["cluster_name"]
    for statement in statements:
        changes = {a for a in actions(statement) if a.startswith("ec2:") and not a.startswith("ec2:Describe")}
        machines = "instance/*" in str(statement["Resource"]) and changes
        if machines and changes != {"ec2:CreateTags"}:
            [(key, value)] = statement["Condition"]["StringEquals"].items()
            assert key in ("aws:RequestTag/ray-cluster-name", "aws:ResourceTag/ray-cluster-name")
            assert value == tag
        assert "*" not in actions(statement)
        assert statement["Resource"] != "*" or not changes
    others = {a for statement in statements for a in actions(statement) if not a.startswith("ec2:")}
    assert others == {"iam:PassRole", "ssm:GetParameters"}
    assert {name for role, name in policies if role == "raysys-worker"} == {"storage"}


def test_the_slurm_job_is_locked():
    text = (DEPLOY / "slurm" / "pretrain.sbatch").read_text()
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN " in text
    assert "--exclusive" in text
    assert "0.0.0.0" not in text


def commands(text: str) -> list[list[str]]:
    """The arguments of every `python -m jobs.X` whose options are a RunConfig's."""
    text = re.sub(r"\\\n\s*", " ", text)
    lines = re.findall(
        r"(?:python -m jobs\.(?:pretrain|sweep|doctor|data)|sbatch deploy/slurm/pretrain\.sbatch) ([^\n`|&#]*)", text
    )
    return [shlex.split(line.replace('"$@"', "base").replace('"$workers"', "8")) for line in lines]


def test_the_commands_in_the_files_parse(rayjob):
    documents = [DEPLOY / "slurm" / "pretrain.sbatch", ROOT / "README.md", *ROOT.glob("docs/*.md")]
    found = [argv for document in documents for argv in commands(document.read_text())]
    found += commands(rayjob["spec"]["entrypoint"])
    assert len(found) > 20
    for argv in (argv for argv in found if "--from-run" not in argv):
        config, _ = parse("", argv=[word for word in argv if word != "--dry-run"])
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


@pytest.fixture
def watcher(monkeypatch):
    """The watcher's names, with a clock that its pauses move on, and the times at which it drained the node."""
    names = runpy.run_path(str(DEPLOY / "spot_watch.py"))
    clock, drained, names["codes"] = [1000.0], [], iter(())
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))

    def drain(words, **_):
        drained.append((clock[0], words))
        return SimpleNamespace(returncode=next(names["codes"], 1))

    monkeypatch.setattr(subprocess, "run", drain)
    return names, drained


def test_a_node_is_drained_with_the_time_that_is_left(watcher):
    names, drained = watcher
    notices = iter([None, None, 60.0])
    names["NOTICES"]["aws"] = lambda: next(notices)
    names["codes"] = iter([1, 1, 0])
    names["main"]("aws", "--node-id", "abc")
    assert [at for at, _ in drained] == [1010, 1015, 1020], "it looks, and tries again, every 5 s"
    for (_, words), left in zip(drained, ("60", "55", "50"), strict=True):
        assert words[words.index("--deadline-remaining-seconds") + 1] == left
        assert words[words.index("--reason") + 1] == "DRAIN_NODE_REASON_PREEMPTION"
        assert words[-2:] == ["--node-id", "abc"]


def test_a_node_that_cannot_be_drained_in_time_is_an_error(watcher):
    names, drained = watcher
    names["NOTICES"]["google"] = lambda: 12.0
    with pytest.raises(SystemExit, match="could not be drained"):
        names["main"]("google")
    assert [at for at, _ in drained] == [1000, 1005, 1010]
