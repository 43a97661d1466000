"""The doctor's lines: green where things are right, red with a remedy where they are not."""

import http.server
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch

from model.ops import agreement
from model.ops.mlstm_cell import mlstm_cell
from model.pretrain import PretrainModel
from raysys.doctor import Check, doctor, fail, failed, guarded, kernels, machine, ok, places, render, warn
from raysys.doctor.places import _lock, _room, check_cluster, check_data, check_storage
from raysys.presets import smoke as smoke_preset
from tests.data.conftest import write_set

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config(tmp_path):
    """Returns a function (overrides) -> the smallest configuration on a folder that holds STEAD alone."""
    waves = [np.random.default_rng(i).standard_normal((3, 900)).astype(np.float32) for i in range(5)]
    write_set(tmp_path / "sets" / "stead", waves, columns={"split": ["train", "train", "train", "dev", "test"]})
    paths = {"data.root": tmp_path / "sets", "data.cache": tmp_path / "cache", "storage": tmp_path / "runs"}

    def build(**changes):
        return smoke_preset().override({k: str(v) for k, v in paths.items()} | {"data.datasets": ["STEAD"]} | changes)

    return build


def only(checks, status: str) -> list[Check]:
    return [check for check in checks if check.status == status]


def test_a_data_set_is_counted_and_read(config):
    root, stead = guarded("data", check_data(config()), "-")
    assert root.status == stead.status == "OK"
    assert "1 of the eight" in root.found
    assert "5 traces (train 3, dev 1, test 1; P 0, S 0)" in stead.found
    assert "no trace has an onset of P or S" in stead.found


def test_a_column_of_picks_that_is_not_understood_is_a_warning(config, tmp_path):
    columns = {"split": ["train"] * 4 + ["dev"], "my_p_pick": [100] * 5, "trace_S_arrival_sample": [300] * 5}
    write_set(tmp_path / "sets" / "mine", [np.ones((3, 900), np.float32)] * 5, columns=columns)
    [_, line] = check_data(config(**{"data.datasets": ["mine"]}))
    assert line.status == "WARN"
    assert "no trace has an onset of P; not used: column my_p_pick, which looks like a pick" in line.found
    assert "trace_<phase>_arrival_sample" in line.remedy


def test_a_missing_root_is_one_red_line(config):
    [line] = check_data(config(**{"data.root": "/no/such/folder", "data.datasets": ["all8"]}))
    assert line.status == "FAIL"
    assert "/no/such/folder" in line.found
    assert "--data.root" in line.remedy


def test_each_missing_data_set_comes_with_the_command_that_fetches_it(config):
    red = only(check_data(config(**{"data.datasets": ["all8"]})), "FAIL")
    assert len(red) == 7  # STEAD is there
    pnw = next(line for line in red if "PNW" in line.name)
    assert "63 GB" in pnw.found
    assert "jobs.prepare" in pnw.remedy
    assert "--data.datasets PNW" in pnw.remedy
    assert "--data.datasets all" in pnw.remedy, "what is there may be all that somebody has"


def test_an_unknown_data_set_is_red_with_the_nearest_name(config):
    [line] = only(check_data(config(**{"data.datasets": ["STAED"]})), "FAIL")
    assert "did you mean 'STEAD'" in line.found


def test_a_truncated_file_is_red_and_named(config, tmp_path):
    file = tmp_path / "sets" / "stead" / "waveforms.hdf5"
    file.write_bytes(file.read_bytes()[:1000])
    [line] = only(check_data(config()), "FAIL")
    assert "waveforms.hdf5" in line.found
    assert line.remedy


def test_an_empty_training_split_is_a_warning(config, tmp_path):
    write_set(tmp_path / "sets" / "mine", [np.ones((3, 900), np.float32)], columns={"split": ["test"]})
    [line] = only(check_data(config(**{"data.datasets": ["mine"]})), "WARN")
    assert "training split" in line.found


@pytest.mark.parametrize("storage", ["{tmp}/deep/down", "file://{tmp}/deep", "memory://runs"])
def test_good_storage_is_green_and_left_as_it_was(config, tmp_path, storage):
    before = sorted(tmp_path.iterdir())
    [line] = check_storage(config(storage=storage.format(tmp=tmp_path)))
    assert line.status == "OK", line
    assert sorted(tmp_path.iterdir()) == before


def test_storage_that_is_a_file_is_red(config, tmp_path):
    (tmp_path / "file").write_text("")
    [line] = check_storage(config(storage=str(tmp_path / "file" / "runs")))
    assert line.status == "FAIL"
    assert f"{tmp_path}/file is a file" in line.found
    assert "--storage" in line.remedy


def test_a_url_of_unknown_kind_is_red(config):
    [line] = check_storage(config(storage="gopher://host/runs"))
    assert line.status == "FAIL"
    assert "gopher" in line.found


def test_this_environment_is_in_range():
    assert not only([*machine.check_python(), *machine.check_packages(), *machine.check_imports()], "FAIL")


def test_packages_out_of_range_and_missing_ones_are_red(monkeypatch, capsys):
    monkeypatch.setattr(machine, "_metadata", lambda: (">=3.99", ["torch<1", "no-such-package>=2", "numpy"]))
    [python] = machine.check_python()
    torch, missing, rest = machine.check_packages()
    assert python.status == torch.status == missing.status == "FAIL"
    assert "<1" in torch.found
    assert "pip install" in missing.remedy
    assert rest.found.startswith("numpy")
    with pytest.raises(SystemExit):
        machine.require_packages()
    assert "no-such-package" in capsys.readouterr().out


def test_the_kernels_are_compared_with_the_reference(config, monkeypatch):
    assert not only(kernels.check_kernels(config()), "FAIL")
    monkeypatch.setitem(kernels._TOLERANCE, "torch", 1e-12)
    assert only(kernels.check_kernels(config()), "FAIL")


def test_every_operator_of_every_level_is_compared_on_a_gpu(config, monkeypatch):
    """The GPU is the CPU here, the kernels plain PyTorch, right and then wrong by a hundredth in one gradient."""
    on_cpu, wrong = kernels.kernel_problems(config(), "cpu"), []

    def errors(problem):
        right = agreement.errors(problem, backend="torch", ceiling=1.0)
        return {name: (error + 1e-2 * (name in wrong), most) for name, (error, most) in right.items()}

    monkeypatch.setattr(kernels, "errors", errors)
    monkeypatch.setattr(kernels, "kernel_problems", lambda config, device: on_cpu)
    monkeypatch.setattr(kernels.torch.cuda, "is_available", lambda: True)
    assert [line.name for line in only(kernels.check_gradients(config()), "OK")] == [
        f"kernels of {name}"
        for name in (
            "mlstm_cell",
            "conv_qkv_gates",
            "head_norm_gate",
            "mlstm_mixer",
            "feed_forward",
            "add_norm",
            "norm_gelu",
            "contrast",
        )
    ]
    assert {
        name: len(problems) for name, problems in on_cpu.items() if name not in ("norm_gelu", "contrast")
    } == dict.fromkeys(("mlstm_cell", "conv_qkv_gates", "head_norm_gate", "mlstm_mixer", "feed_forward", "add_norm"), 3)
    wrong.append("dv_weight")
    [line] = only(kernels.check_gradients(config()), "FAIL")
    assert line.name == "kernels of conv_qkv_gates"
    assert "dv_weight at 128 x 32" in line.found
    assert "--model.backbone.kernel torch" in line.remedy
    assert not list(kernels.check_gradients(config(**{"model.backbone.kernel": "torch"})))


def test_kernels_are_compared_at_the_sizes_of_every_level(config):
    places = {name: [place for place, _ in found] for name, found in kernels.kernel_problems(config(), "cpu").items()}
    inner, outer = ["128 x 32", "32 x 64", "8 x 128"], ["128 x 16", "32 x 32", "8 x 64"]
    assert {
        name: places[name] for name in ("mlstm_cell", "conv_qkv_gates", "mlstm_mixer", "head_norm_gate")
    } == dict.fromkeys(("mlstm_cell", "conv_qkv_gates", "mlstm_mixer", "head_norm_gate"), inner)
    assert (places["feed_forward"], places["add_norm"]) == (outer, outer)
    assert places["contrast"] == ["83 x 16"], "0.65 of 128 frames"


def test_a_kernel_that_this_machine_cannot_run_is_a_warning(config):
    assert kernels._TOLERANCE == {"torch": 1e-5, "triton": 1e-5, "xlstm": 2e-2}
    assert 0 < kernels.mlstm_error("torch", "cpu") < 1e-5
    for kernel in ("triton", "xlstm"):
        [line] = only(kernels.check_kernels(config(**{"model.backbone.kernel": kernel})), "WARN")
        assert f"'{kernel}' does not run on this machine" in line.found
    assert not only(kernels.check_kernels(config(**{"model.backbone.kernel": "reference"})), "WARN")


def test_the_error_of_a_kernel_is_relative_to_the_reference(monkeypatch):
    def off(*tensors, backend):
        return mlstm_cell(*tensors, backend="reference") * (1.0 if backend == "reference" else 0.99)

    monkeypatch.setattr(kernels, "mlstm_cell", off)
    assert kernels.mlstm_error("torch", "cpu") == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("soft", "status"), [(4096, "OK"), (4095, "WARN"), (resource.RLIM_INFINITY, "OK")])
def test_ray_needs_four_thousand_open_files(monkeypatch, soft, status):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert [line.status for line in machine.check_open_files()] == [status]


@pytest.fixture
def disk(monkeypatch):
    """Returns a function (total, free) that sets the size of every disk; the folders that were looked at."""
    looked_at = []

    def sized(total, free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: looked_at.append(str(path)) or Usage(total, free))
        return looked_at

    Usage = namedtuple("Usage", "total free")
    return sized


@pytest.mark.parametrize(("total", "status"), [(1 << 30, "OK"), ((1 << 30) - 1, "WARN")])
def test_shared_memory_has_a_gib_for_the_object_store(disk, total, status):
    looked_at = disk(total, total)
    assert [line.status for line in machine.check_shared_memory()] == [status]
    assert looked_at == ["/dev/shm"]


@pytest.mark.parametrize(("free", "status"), [(51, "OK"), (50, "FAIL")])
def test_a_twentieth_of_the_scratch_disk_is_free(disk, monkeypatch, free, status):
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    looked_at = disk(1000, free)
    assert [line.status for line in machine.check_scratch()] == [status]
    assert looked_at == ["/scratch"]


def test_storage_has_room_for_the_checkpoints_of_a_run_and_one_more(config, disk):
    """Three numbers of four bytes a parameter: the weight and its two moments."""
    run = config(**{"train.keep_checkpoints": 4})
    model = PretrainModel(run.model, run.mask, run.loss)
    needed = 5 * 12 * sum(parameter.numel() for parameter in model.parameters())
    for free, status in ((needed + 1, "OK"), (needed, "FAIL")):
        disk(1 << 40, free)
        [line] = check_storage(run)
        assert (line.status, f"take {needed / 1e6:.0f} MB" in line.found) == (status, True)


@pytest.mark.parametrize(
    ("major", "free", "status", "says"),
    [(8, 50, "OK", ", bf16"), (7, 100, "WARN", "no bf16"), (9, 49, "WARN", "49 of 100 GiB free")],
)
def test_a_gpu_is_new_enough_and_free(monkeypatch, major, free, status, says):
    properties = SimpleNamespace(name="GPU", major=major, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free << 30, 100 << 30))
    line = machine._gpu(1, "590")
    assert (line.status, line.name) == (status, "cuda:1")
    assert says in line.found


@pytest.mark.parametrize(
    ("cluster", "gpu", "status"),
    [
        ({"CPU": 1.5}, False, "OK"),
        ({"CPU": 1.4}, False, "WARN"),
        ({"CPU": 1.5, "GPU": 3.0}, True, "OK"),
        ({"CPU": 1.5, "GPU": 2.0}, True, "WARN"),
        ({"GPU": 8.0}, True, "WARN"),
    ],
)
def test_the_workers_of_a_run_fit_when_every_resource_suffices(config, monkeypatch, cluster, gpu, status):
    monkeypatch.setattr(ray, "cluster_resources", lambda: cluster)
    values = {"train.num_workers": 3, "train.cpus_per_worker": 0.5, "train.device": "cuda" if gpu else "cpu"}
    [line] = _room(config(**values, **{"data.reader": "process"}))
    assert line.status == status
    assert f"3 workers want 1.5 CPUs and {3 if gpu else 0} GPUs" in line.found


def test_a_local_path_is_a_warning_where_several_nodes_live(config, monkeypatch):
    nodes = [{"Alive": True}, {"Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert not list(places._shared_storage(config()))
    nodes.append({"Alive": True})
    [line] = places._shared_storage(config())
    assert "a cluster of 2 nodes" in line.found
    assert not list(places._shared_storage(config(storage="s3://bucket/runs")))


def test_every_check_has_its_remedy_and_a_broken_one_hides_no_other(config, monkeypatch, capsys):
    groups = ("python", "packages", "imports", "device", "mlstm", "kernels", "data", "storage", "/dev/shm")
    groups = (*groups, "open files", "scratch", "ray")
    found = [
        (module, name) for module in (machine, kernels, places) for name in vars(module) if name.startswith("check_")
    ]

    def broken(*_):
        raise OSError("gone")
        yield

    for module, name in found:
        monkeypatch.setattr(module, name, broken)
    assert len(found) == len(groups)
    assert doctor(config()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [re.split("  +", line)[1] for line in lines[:-1]] == list(groups)
    assert lines[-1] == "0 OK, 0 WARN, 12 FAIL"


@pytest.mark.parametrize(("rates", "status"), [([0] + [100] * 10, "OK"), ([0] * 2 + [100] * 9, "WARN")])
def test_more_than_a_tenth_of_the_traces_left_out_is_a_warning(config, tmp_path, rates, status):
    columns = {"split": ["train"] * 10 + ["dev"], "trace_sampling_rate_hz": rates}
    write_set(tmp_path / "sets" / "mine", [np.ones((3, 900), np.float32)] * 11, columns=columns)
    [_, line] = check_data(config(**{"data.datasets": ["mine"]}))
    assert line.status == status, line
    assert "left out: {" in line.found


def test_a_low_limit_of_open_files_is_a_warning():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    try:
        [line] = machine.check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert line.status == "WARN"
    assert "ulimit" in line.remedy


@pytest.mark.parametrize(("code", "status"), [(200, "FAIL"), (401, "OK"), (503, "WARN")])
def test_a_dashboard_that_answers_without_a_token_is_red(code, status):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert _lock(f"127.0.0.1:{server.server_port}").status == status
        server.shutdown()


def test_a_broken_check_is_a_red_line_and_keeps_what_came_before():
    def checks():
        yield ok("first", "fine")
        raise OSError("the disk\nis gone")

    first, second = guarded("second", checks(), "buy a disk")
    assert first.status == "OK"
    assert render([first, second]).splitlines() == [
        "OK    first   fine",
        "FAIL  second  OSError: the disk is gone -> buy a disk",
        "1 OK, 0 WARN, 1 FAIL",
    ]


def test_only_red_lines_decide_the_exit_code():
    assert failed([ok("a", "."), warn("b", ".", "repair it")]) == 0
    assert failed([ok("a", "."), fail("b", ".", "repair it")]) == 1
    with pytest.raises(AssertionError):
        fail("b", "no remedy", "")


def test_ray_is_reached_locked_and_has_room(config, ray_cluster):
    lines = {line.name: line for line in check_cluster(config())}
    assert {line.status for line in lines.values()} == {"OK"}
    assert "imports the project" in lines["ray worker"].found
    assert "only with the token" in lines["ray dashboard"].found
    assert ray.is_initialized()  # a Ray that was running goes on
    [line] = _room(config(**{"train.num_workers": 999, "train.device": "cpu"}))
    assert line.status == "WARN"
    assert "499.75 CPUs" in line.found


def test_the_command_prints_every_check_and_its_exit_code_follows(config, tmp_path, ray_cluster):
    good = config()
    (tmp_path / "file").write_text("")
    overrides = ["--data.root", good.data.root, "--data.datasets", "STEAD", "--storage", str(tmp_path / "file")]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.doctor", "smoke", *overrides, "--data.cache", good.data.cache],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=180,
    )
    red = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == 1, done.stderr
    assert len(red) == 1, done.stdout
    assert "is a file -> --storage" in red[0]
    assert "joined at" in done.stdout
    names = {re.split("  +", line)[1] for line in done.stdout.splitlines()[:-1]}
    assert {
        "python",
        "packages",
        "imports",
        "mlstm torch",
        "data.root",
        "data set STEAD",
        "open files",
        "scratch",
    } <= names
