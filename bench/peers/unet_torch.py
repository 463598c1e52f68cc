"""PyTorch's side: the UNet of Ho et al. 2020 with the parameter names of openaimodel.UNetModel, by the architecture.

python3 unet_torch.py <kind> <batch> <seconds> <threads> <folder> prints a line of JSON, as one.ts does.
"""

import json
import math
import statistics
import struct
import sys
import time

import torch
from torch import nn
from torch.nn import functional


def read_safetensors(path):
    """All tensors of a file, and its metadata."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    dtypes = {"F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = dtypes[entry["dtype"]]
        count = (end - begin) // torch.empty((), dtype=dtype).element_size()
        flat = torch.frombuffer(data, dtype=dtype, count=count, offset=begin)
        tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors, metadata


def group_norm(channels):
    return nn.GroupNorm(32, channels)


class ResBlock(nn.Module):
    def __init__(self, ins, outs, embedding):
        super().__init__()
        self.in_layers = nn.Sequential(group_norm(ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outs))
        # The place of the dropout, which is not used here.
        self.out_layers = nn.Sequential(group_norm(outs), nn.SiLU(), nn.Identity(), nn.Conv2d(outs, outs, 3, padding=1))
        self.skip_connection = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x, embedding):
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Over the pixels, one head."""

    def __init__(self, channels):
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, embedding):
        n, c, height, width = x.shape
        flat = x.reshape(n, c, height * width)
        q, k, v = self.qkv(self.norm(flat)).chunk(3, dim=1)
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) / math.sqrt(c), dim=-1)
        y = torch.bmm(v, weights.transpose(1, 2))
        return (flat + self.proj_out(y)).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, embedding):
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, embedding):
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class ConvIn(nn.Conv2d):
    def forward(self, x, embedding):
        return super().forward(x)


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        base, blocks = config["modelChannels"], config["numResBlocks"]
        widths = [base * mult for mult in config["channelMult"]]
        attended = [2**level in config["attentionResolutions"] for level in range(len(widths))]
        embedding = 4 * base
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        down, skips, channels = [[ConvIn(3, base, 3, padding=1)]], [base], base
        for level, width in enumerate(widths):
            for _ in range(blocks):
                down.append([ResBlock(channels, width, embedding)] + ([Attention(width)] if attended[level] else []))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                down.append([Downsample(channels)])
                skips.append(channels)
        middle = [ResBlock(channels, channels, embedding), Attention(channels), ResBlock(channels, channels, embedding)]
        up = []
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks + 1):
                block = [ResBlock(channels + skips.pop(), width, embedding)]
                channels = width
                if attended[level]:
                    block.append(Attention(channels))
                if level > 0 and i == blocks:
                    block.append(Upsample(channels))
                up.append(block)
        self.input_blocks = nn.ModuleList(nn.ModuleList(block) for block in down)
        self.middle_block = nn.ModuleList(middle)
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in up)
        self.out = nn.Sequential(group_norm(base), nn.SiLU(), nn.Conv2d(base, 3, 3, padding=1))

    def forward(self, x, t):
        half = self.base // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = t[:, None].float() * frequencies
        embedding = self.time_embed(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1).to(self.out[0].weight.dtype))

        def run(block, h):
            for layer in block:
                h = layer(h, embedding)
            return h

        skips = []
        for block in self.input_blocks:
            x = run(block, x)
            skips.append(x)
        x = run(self.middle_block, x)
        for block in self.output_blocks:
            x = run(block, torch.cat([x, skips.pop()], dim=1))
        return self.out(x)


def measure(run, seconds):
    """Milliseconds of each run after a first one, at least three."""
    run()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - before))
    return times


def memory():
    """Bytes that this process takes and has taken at most: VmRSS and VmHWM."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))


def main(kind, batch, seconds, threads, folder):
    torch.set_num_threads(int(threads))
    n = int(batch)
    inputs, metadata = read_safetensors(f"{folder}/inputs.safetensors")
    config = json.loads(metadata["config"])
    unet = UNet(config)
    weights, _ = read_safetensors(f"{folder}/weights.safetensors")
    unet.load_state_dict(weights, strict=True)
    del weights
    x, noise, t = (inputs[name][:n] for name in ("x", "noise", "t"))
    results = []

    def forward():
        with torch.inference_mode():
            results[:] = [unet(x, t)]

    if kind == "training":
        optimizer = torch.optim.AdamW(unet.parameters(), lr=config["learningRate"])
        signal, spread = (
            inputs[name][t].reshape(n, 1, 1, 1) for name in ("sqrtAlphasCumprod", "sqrtOneMinusAlphasCumprod")
        )

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = functional.mse_loss(unet(signal * x + spread * noise, t), noise)
            loss.backward()
            optimizer.step()
            results.append(loss.detach().reshape(1))

        times = measure(step, float(seconds))
        result = torch.cat(results[: config["comparedSteps"]])
    else:
        unet.eval()
        times = measure(forward, float(seconds))
        result = results[0]
    resident, peak = memory()
    with open(f"{folder}/pytorch-{kind}-{batch}.f32", "wb") as file:
        values = result.flatten().tolist()
        file.write(struct.pack(f"<{len(values)}f", *values))
    measured = {
        "version": torch.__version__,
        "medianMs": statistics.median(times),
        "minMs": min(times),
        "samples": len(times),
        "residentBytes": resident,
        "peakRssBytes": peak,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(*sys.argv[1:])
