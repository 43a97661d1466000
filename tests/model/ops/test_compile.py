"""Every launch that a preset makes compiles for GPUs that are not there, and fits into what these have."""

import re
import subprocess

import pytest
import torch

pytest.importorskip("triton")
import triton
from launches import SCENES, SHARED_MEMORY, all_kernels, launches, most_shared, optimise, pretrain, recorded

from model.ops.gumbel_codes import sample_codes
from model.ops.mlstm_cell.fused import ROOMY

ELSEWHERE = {"mlstm_cell/carry_states_kernel", "mlstm_cell/carry_grads_kernel", "gumbel_codes/gumbel_noise_kernel"}
"""Kernels that a training step of `base` has no use for: its batch fills a GPU without segments, and noise is made where it is added."""


def assert_compile_and_fit(found, capability):
    assert found
    for launch in found:
        used = launch.compile(capability).metadata.shared
        assert used <= most_shared(capability), f"{launch.name} wants {used} bytes of shared memory: {launch.key}"


def with_products(found):
    """The launches that tensor cores have a part in."""
    return [launch for launch in found if "tt.dot" in launch.compile().asm["ttir"]]


def spilled(compiled, path):
    """Bytes of the stack that a thread uses: what does not fit into its registers."""
    path.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(x) for x in re.findall(r"(?:STACK|LOCAL):(\d+)", found))


def test_the_scenes_launch_every_kernel():
    launched = {scene: {launch.name for launch in launches(scene)} for scene in SCENES}
    assert set().union(*launched.values()) == set(all_kernels())
    assert set(all_kernels()) - launched["base"] == ELSEWHERE


@pytest.mark.parametrize("kernel", sorted(set(all_kernels()) - ELSEWHERE))
def test_a_step_of_base_compiles(kernel):
    assert_compile_and_fit([launch for launch in launches("base") if launch.name == kernel], 90)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene != "single precision"])
def test_every_scene_compiles(scene):
    assert_compile_and_fit(launches(scene), 90)


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["base", "large"])
def test_products_compile_for_blackwell(scene):
    assert_compile_and_fit(with_products(launches(scene)), 100)


@pytest.mark.slow
@pytest.mark.parametrize("scene", ["base", "large"])
def test_products_fit_small_gpus(scene):
    assert_compile_and_fit(with_products(launches(scene, SHARED_MEMORY)), 80)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel",
    [
        "feed_forward/feed_forward",
        "feed_forward/feed_forward_grad",
        "feed_forward/weights_grad",
        "mlstm_mixer/hidden_norm_gate",
        "mlstm_cell/grad",
    ],
)
def test_the_widest_level_in_fp32_fits_small_gpus(kernel):
    """Products of fp32 are unrolled: those of wide heads would take minutes to compile."""
    found = [x for x in launches("single precision", SHARED_MEMORY) if x.name == f"{kernel}_kernel"]
    assert_compile_and_fit([x for x in found if x.settings.get("E", 64) == 64], 80)


@pytest.mark.slow
def test_the_gradient_of_wide_heads_has_room_on_large_gpus():
    launch = next(x for x in launches("large") if x.name == "mlstm_cell/grad_kernel" and x.settings["E"] == 128)
    used = [launch.compile(capability).metadata.shared for capability in (80, 90, 100)]
    assert SHARED_MEMORY < max(used) <= ROOMY


@pytest.mark.slow
def test_the_layers_of_a_stage_launch_the_same():
    with recorded() as found:
        pretrain("base", num_layers=3)
        optimise("base")
    assert {launch.key for launch in found} == {launch.key for launch in launches("base")}


def test_the_optimiser_loads_four_elements_at_once():
    found = [launch for launch in launches("base") if launch.name.startswith("adamw/")]
    assert len(found) == 2
    assert all("ld.global.v4.b32" in launch.compile().asm["ptx"] for launch in found)


CAPABILITIES = [90, *(pytest.param(capability, marks=pytest.mark.slow) for capability in (80, 100))]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_samples_stay_in_registers(capability, tmp_path):
    found = [launch for launch in launches("base") if launch.name.startswith("gumbel_codes/")]
    assert len(found) == 4
    for launch in found:
        # Blackwell's product in bfloat16 leaves a thread 96 registers, and ptxas spills 60 bytes.
        most = 64 if capability == 100 and "codebook" in launch.name else 0
        assert spilled(launch.compile(capability), tmp_path / "kernel.cubin") <= most, launch.name


@pytest.mark.slow
@pytest.mark.parametrize("codes", [5, 100])
def test_samples_of_fewer_codes_stay_in_registers(codes, tmp_path):
    with recorded() as found:
        logits = torch.empty(1000, 2, codes, dtype=torch.bfloat16, requires_grad=True)
        codebook, seed = torch.empty(2, codes, 128, requires_grad=True), torch.empty(1, dtype=torch.int64)
        q, _, mean = sample_codes(logits, codebook, torch.empty(()), torch.empty(1000), seed, backend="triton")
        (q.sum() + mean.sum()).backward()
    for launch in found:
        compiled = launch.compile(80 if codes == 100 else 90)
        assert compiled.metadata.shared <= SHARED_MEMORY
        assert spilled(compiled, tmp_path / "kernel.cubin") == 0, launch.name
