"""The mLSTM operator against NX-AI's kernels on one GPU, both directions, forward and backward.

Command: python -m benchmarks.kernels. Checks results against fp64 first; the last line is one JSON object.
"""

import json

import torch

from model.ops.conv_qkv_gates import conv_qkv_gates
from model.ops.head_norm_gate import head_norm_gate
from model.ops.mlstm_cell import mlstm_cell

SHAPES = ((64, 4, 1024, 64), (64, 4, 256, 128), (64, 4, 64, 256))
"""Batch, heads, frames and head channels of the backbone's three levels."""
CALLS = 10
"""Of a function in one CUDA graph: to start a graph takes as long as a small kernel, and a step of training is one graph."""


def inputs(batch, heads, length, dim, dtype=torch.bfloat16, device="cuda", seed=0):
    """q, k (2, B, S, H, E), v (1, B, S, H, E), gates (2, B, S, H) like those of a layer at the start of training."""
    gen = torch.Generator(device).manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=gen, device=device)

    q, k = (normal(2, batch, length, heads, dim).to(dtype) for _ in range(2))
    v = normal(1, batch, length, heads, dim).to(dtype)
    igate = normal(2, batch, length, heads)
    fgate = normal(2, batch, length, heads) + torch.linspace(3, 6, heads, device=device)
    return [x.requires_grad_() for x in (q, k, v, igate, fgate)]


def value_and_gradients(backend, tensors, dh):
    """Hidden states and the gradients of all inputs."""
    h = mlstm_cell(*tensors, backend=backend)
    return h, *torch.autograd.grad(h, tensors, dh.to(h.dtype))


def errors(backend, tensors, dh, exact):
    """Relative errors of h and the five gradients against fp64."""
    found = value_and_gradients(backend, tensors, dh)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]


def check(heads, length, dim, batch=4):
    """Errors of triton and torch in bfloat16; raises if ours is more than twice torch's."""
    tensors = inputs(batch, heads, length, dim)
    dh = torch.randn_like(tensors[0])
    exact = value_and_gradients("torch", [x.detach().double().requires_grad_() for x in tensors], dh)
    found = {backend: errors(backend, tensors, dh, exact) for backend in ("triton", "torch", "xlstm")}
    for name, error, native in zip(("h", "q", "k", "v", "i", "f"), found["triton"], found["torch"], strict=True):
        if not error <= 2 * native:
            raise AssertionError(f"S={length} E={dim}: error of {name} is {error:.2e}, torch has {native:.2e}")
    return found


def milliseconds(function, repeats=50):
    """The 20th, 50th and 80th percentile of the time on the device of one call."""
    for _ in range(5):
        function()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        function()
        end.record()
    torch.cuda.synchronize()
    times = torch.tensor([begin.elapsed_time(end) for begin, end in events])
    return [round(x, 4) for x in times.quantile(torch.tensor([0.2, 0.5, 0.8])).tolist()]


def ours(tensors, dh):
    """A function that runs both directions forward and backward once."""
    return lambda: torch.autograd.grad(mlstm_cell(*tensors, backend="triton"), tensors, dh)


def theirs(tensors, dh):
    """The same by two calls of NX-AI's kernels, on inputs laid out for them beforehand and without any flip."""
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

    q, k, v, igate, fgate = tensors
    calls = []
    for r in range(2):
        inputs = [
            x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q[r], k[r], v[0], igate[r], fgate[r])
        ]
        calls.append((inputs, dh[r].transpose(1, 2).contiguous()))
    chunk = min(128, q.shape[2])

    def run():
        for inputs, grad in calls:
            torch.autograd.grad(mlstm_chunkwise__xl_chunk(*inputs, chunk_size=chunk), inputs, grad)

    return run


def graphed(run, calls=1):
    """A function that runs so many calls as one CUDA graph, recorded on the current stream, which must not be the default one."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(calls):
            run()
    return graph.replay


def graph_milliseconds(run):
    """As `milliseconds`, for one of the `CALLS` calls of a CUDA graph, so that no launch gap is timed."""
    return [round(ms / CALLS, 4) for ms in milliseconds(graphed(run, CALLS))]


def floor_ms(tensors, bytes_per_s):
    """Time to read every input and gradient once, and to write every output once, forward plus backward."""
    size = [x.numel() * x.element_size() for x in tensors]
    hidden = size[0]
    return 1e3 * (sum(size) + hidden + 2 * sum(size) + hidden) / bytes_per_s


def copy_bandwidth():
    """Bytes a second of a device-to-device copy, read plus written."""
    x = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    y = torch.empty_like(x)
    return 2 * x.numel() / milliseconds(lambda: y.copy_(x), 20)[1] * 1e3


def measure(shape, bytes_per_s):
    """One row: times of both, speed-up, and share of the traffic floor."""
    tensors = inputs(*shape)
    dh = torch.randn_like(tensors[0])
    floor = floor_ms(tensors, bytes_per_s)
    times = {
        f"{name}_{how}_ms": measured(function(tensors, dh))
        for name, function in (("ours", ours), ("nxai", theirs))
        for how, measured in (("graph", graph_milliseconds), ("eager", milliseconds))
    }
    return {
        "shape": list(shape),
        **times,
        "speedup_over_nxai": round(times["nxai_graph_ms"][1] / times["ours_graph_ms"][1], 2),
        "speedup_over_nxai_eager": round(times["nxai_eager_ms"][1] / times["ours_eager_ms"][1], 2),
        "floor_ms": round(floor, 4),
        "times_floor": round(times["ours_graph_ms"][1] / floor, 2),
    }


def neighbour_inputs(batch, heads, length, dim):
    """Arguments of `conv_qkv_gates` and of `head_norm_gate` at one level, activations in bfloat16 and weights in fp32."""
    inner = heads * dim
    weights = ((inner, 4), (inner,), *[(inner // 4, 4, 4)] * 3, (2 * heads, 3 * inner), (2 * heads,))
    activations = ((2, batch, length, heads, dim), (2, batch, length, inner), (batch, length, inner))

    def draw(shapes, dtype):
        return [torch.randn(s, device="cuda", dtype=dtype).requires_grad_() for s in shapes]

    h, conv, z = draw(activations, torch.bfloat16)
    return (z, *draw(weights, torch.float32)), (h, conv, z, *draw(((inner,), (inner,)), torch.float32))


def measure_neighbours(shape):
    """Milliseconds of `conv_qkv_gates` and `head_norm_gate`, forward and backward: the kernels, and plain PyTorch compiled."""
    row = {"shape": list(shape)}
    for operator, tensors in zip((conv_qkv_gates, head_norm_gate), neighbour_inputs(*shape), strict=True):
        for backend in ("triton", "torch"):
            torch.compiler.reset()  # PyTorch compiles a line eight times, and then runs it as it is
            function = torch.compile(lambda *x, op=operator, how=backend: op(*x, backend=how))
            with torch.autocast("cuda", torch.bfloat16):
                out = function(*tensors)
            grads = [torch.randn_like(x) for x in (out if isinstance(out, tuple) else (out,))]

            def run(function=function, tensors=tensors, grads=grads):
                with torch.autocast("cuda", torch.bfloat16):
                    out = function(*tensors)
                torch.autograd.grad(out, tensors, grads if isinstance(out, tuple) else grads[0])

            del out
            row[f"{operator.__name__}_{backend}_ms"] = graph_milliseconds(run)[1]
    return row


def main():
    """Prints errors, then times; the last line is JSON."""
    torch.cuda.set_stream(torch.cuda.Stream())  # CUDA graphs cannot be recorded on the default stream
    for batch, heads, length, dim in SHAPES:
        for backend, values in check(heads, length, dim, min(batch, 4)).items():
            print(f"error S={length:5d} E={dim:3d} {backend:7s}", *(f"{x:.1e}" for x in values), flush=True)
    bandwidth = copy_bandwidth()
    rows = [measure(shape, bandwidth) for shape in SHAPES]
    for row in rows:
        print(row, flush=True)
    neighbours = [measure_neighbours(shape) for shape in SHAPES]
    for row in neighbours:
        print(row, flush=True)
    linear = {}
    for batch, length in ((64, 1024), (16, 4096), (4, 16384)):
        tensors = inputs(batch, 4, length, 64)
        linear[length] = graph_milliseconds(ours(tensors, torch.randn_like(tensors[0])))[1]
    result = {
        "device": torch.cuda.get_device_name(),
        "copy_tb_per_s": round(bandwidth / 1e12, 2),
        **{
            key: {f"{row['shape'][2]}x{row['shape'][3]}": row[key] for row in rows}
            for key in ("speedup_over_nxai", "speedup_over_nxai_eager", "times_floor")
        },
        "ms_at_65536_frames_by_length": linear,
        "neighbours": neighbours,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
