"""PyTorch's side on a GPU: the same UNet, sampling step and training step.

python3 unet_gpu.py <kind> <batch> <variant> <seconds> <folder>; variant is 'eager-fp32', 'eager-bf16' or 'compiled-bf16'
(torch.compile with mode max-autotune, which makes CUDA graphs), bf16 with channels_last. Its last line is JSON.
"""

import json
import pathlib
import statistics
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "peers"))

import torch
from torch.nn import functional
from unet_torch import UNet, read_safetensors


def measure(run, seconds):
    """Milliseconds of each call after three that warm up (and compile), at least three."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - before))
    return times


def write(path, tensor):
    values = tensor.detach().float().cpu().flatten().tolist()
    with open(path, "wb") as file:
        file.write(struct.pack(f"<{len(values)}f", *values))


def sampling(unet, inputs, config, variant, seconds, path):
    """x_t to x_{t-1}: kernels/ops.h PosteriorStep, clipped. Returns milliseconds of each step."""
    n = inputs["x"].shape[0]
    dtype = torch.float32 if variant == "eager-fp32" else torch.bfloat16
    unet.eval().to(dtype)
    table = inputs["posterior"]

    def step(x, t, noise):
        out = unet(x.to(dtype), t).float()
        row = table[t][:, :, None, None, None].unbind(1)
        start = (row[0] * x + row[1] * out).clamp(-1, 1)
        return row[2] * start + row[3] * x + row[4] * out + row[5] * noise

    if variant == "compiled-bf16":
        step = torch.compile(step, mode="max-autotune", fullgraph=True)
    steps = 50 if n <= 16 else 20
    with torch.inference_mode():
        write(path, step(inputs["x"], inputs["t"], inputs["noise"])[: config["comparedSamples"]])

        def run():
            x = inputs["x"]
            t = torch.full((n,), 500, dtype=torch.int64, device="cuda")
            for _ in range(steps):
                x = step(x, t, torch.randn_like(x)).clone()
            return x.cpu()  # as ddpm.sample() does

        return [ms / steps for ms in measure(run, seconds)]


def training(unet, inputs, config, variant, seconds, path):
    """q_sample, UNet, loss, gradients and AdamW. Returns milliseconds of each step."""
    x, noise, t = inputs["x"], inputs["noise"], inputs["t"]
    optimizer = torch.optim.AdamW(unet.parameters(), lr=config["learningRate"], fused=True)
    signal, spread = (
        inputs[name][t].reshape(-1, 1, 1, 1) for name in ("sqrtAlphasCumprod", "sqrtOneMinusAlphasCumprod")
    )
    network = torch.compile(unet, mode="max-autotune") if variant == "compiled-bf16" else unet
    losses = []

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=variant != "eager-fp32"):
            loss = functional.mse_loss(network(signal * x + spread * noise, t).float(), noise)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().clone().reshape(1))

    times = measure(step, seconds)
    write(path, torch.cat(losses[: config["comparedSteps"]]))
    return times


def main(kind, batch, variant, seconds, folder):
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    stored, metadata = read_safetensors(f"{folder}/inputs.safetensors")
    config = json.loads(metadata["config"])
    n = int(batch)
    inputs = {name: (v[:n] if name in ("x", "noise", "t") else v).cuda() for name, v in stored.items()}
    unet = UNet(config)
    weights, _ = read_safetensors(f"{folder}/weights.safetensors")
    unet.load_state_dict(weights, strict=True)
    unet = unet.cuda()
    if variant != "eager-fp32":
        unet = unet.to(memory_format=torch.channels_last)
        for name in ("x", "noise"):
            inputs[name] = inputs[name].contiguous(memory_format=torch.channels_last)
    path = f"{folder}/pytorch-{variant}-{kind}-{batch}.f32"
    times = {"sampling": sampling, "training": training}[kind](unet, inputs, config, variant, float(seconds), path)
    measured = {
        "version": f"{torch.__version__} (CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()})",
        "medianMs": statistics.median(times),
        "minMs": min(times),
        "samples": len(times),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
