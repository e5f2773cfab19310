"""The same training step in open_clip (PyPI `open-clip-torch`), float32 on CPU. A process of its own, asked by lines.

Its own CLIP module with towers of the sizes given, its own ClipLoss, AdamW with its parameter groups (in torch's fused
form, the fastest on CPU), no dropout, no gradient clipping, no checkpointing. Images are given as float32, already
normalised. It differs from ours in details: LayerNorm and biases, a class token beside the patches, causal text read at
its end.

    OMP_NUM_THREADS=2 python benchmarks/step_open_clip.py '{"width": 384, "depth": 6, ...}' eager|compiled
"""

from __future__ import annotations

import json
import math
import sys
import time

from measuring import SIZES, Clock, best_rate
from step_ours import Shape


def main() -> int:
    shape, way = Shape(**json.loads(sys.argv[1])), sys.argv[2]
    import torch
    from open_clip import ClipLoss
    from open_clip.model import CLIP
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(shape.threads)  # without OMP_NUM_THREADS beside it, it has been seen to use one core
    torch.manual_seed(0)
    vision = {
        "layers": shape.depth,
        "width": shape.width,
        "head_width": 32,
        "mlp_ratio": 4.0,
        "patch_size": shape.patch,
        "image_size": shape.side,
        "pool_type": "avg",
    }
    text = {
        "context_length": shape.text,
        "vocab_size": shape.vocabulary,
        "width": shape.width,
        "heads": shape.width // 32,
        "layers": shape.depth,
        "mlp_ratio": 4.0,
    }
    model = CLIP(embed_dim=shape.embedding, vision_cfg=vision, text_cfg=text)
    model.train()
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name]
    kept = {id(p) for p in plain}
    groups = [
        {"params": plain, "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if id(p) not in kept], "weight_decay": 0.01},
    ]
    optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), fused=True)
    encode = torch.compile(model) if way == "compiled" else model
    loss_of = ClipLoss()
    images = torch.randn(shape.batch, 3, shape.side, shape.side)
    tokens = torch.randint(1, shape.vocabulary - 1, (shape.batch, shape.text))
    tokens[:, -1] = shape.vocabulary - 1  # the end of a text has the largest id

    def step(encode: torch.nn.Module = encode) -> float:
        optimiser.zero_grad()
        loss = loss_of(*encode(images, tokens))
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.item()

    def peak(seconds: float = 0.4) -> float:
        squares = {n: torch.ones(n, n) for n in SIZES}
        return best_rate({2 * n**3: lambda a=a: a @ a for n, a in squares.items()}, seconds)

    with FlopCounterMode(display=False) as counter:
        step(model)
    began = time.perf_counter()
    first = step()
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "flops": counter.get_total_flops()}
    print(json.dumps(facts | {"compile_seconds": time.perf_counter() - began, "first_loss": first}), flush=True)
    for line in sys.stdin:
        before, seconds, loss = peak(), [], math.nan
        with Clock() as clock:
            for _ in range(int(line)):
                began = time.perf_counter()
                loss = step()
                seconds.append(time.perf_counter() - began)
        measured = {"seconds": seconds, "cpu": clock.cpu / clock.seconds, "others": clock.others}
        print(json.dumps(measured | {"peak": max(before, peak()), "loss": loss}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
