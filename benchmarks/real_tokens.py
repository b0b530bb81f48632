"""A training step of a Retro on neighbors that are partly padding: CPU seconds with the padding computed, and without.

Measures: CPU seconds of a forward and backward pass in one process, by the share of neighbor tokens that are real. Some
neighbors lack their continuation, as at the end of a document; the others are whole. Both ways take turns in `--rounds`
on the same model and batch, since CPU seconds too depend on what else the machine does.

Run:    OMP_NUM_THREADS=1 python -m benchmarks.real_tokens
        ... --real 0.63 1.0 --rounds 5
Writes: docs/results/real_tokens.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.results import machine, median, write
from retro.mcore import parallel
from retro.model.attention import ChunkedCrossAttention
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import RetroModel

BATCH, CHUNK, VOCABULARY = 2, 64, 30_522
SHAPE: dict[str, Any] = {
    "layers": 12, "hidden_size": 512, "heads": 8, "query_groups": 8, "ffn_hidden_size": 2048, "sequence_length": 512,
    "first_cross_attention": 6, "cross_attention_every": 3, "activation": "gelu", "normalization": "LayerNorm",
    "encoder_layers": 2,
}  # fmt: skip
WAYS = {"padding computed": False, "real tokens only": True}


def batch(shape: ModelShape, real: float) -> tuple[dict[str, torch.Tensor], float]:
    """Arguments of the model, and the share that came of `real`: whole neighbors, and such of half their width."""
    model, generator = shape.model, torch.Generator().manual_seed(0)
    sizes = (BATCH, model.sequence_length // CHUNK, model.neighbors, shape.retrieved_length)
    mask = torch.ones(sizes, dtype=torch.bool)
    neighbors = mask.view(-1, sizes[-1])
    neighbors[round(len(neighbors) * (2 * real - 1)) :, sizes[-1] // 2 :] = False
    tokens, labels = (
        torch.randint(0, VOCABULARY, (BATCH, model.sequence_length), generator=generator) for _ in range(2)
    )
    given = {
        "tokens_BS": tokens, "neighbors_BLKR": torch.randint(0, VOCABULARY, sizes, generator=generator),
        "neighbor_mask_BLKR": mask, "labels_BS": labels,
    }  # fmt: skip
    return given, mask.float().mean().item()


def compute(model: RetroModel, given: dict[str, torch.Tensor], *, real_tokens_only: bool) -> float:
    """CPU seconds of a step without its optimizer."""
    model._real_tokens_only = real_tokens_only
    for module in model.modules():
        if isinstance(module, ChunkedCrossAttention):
            module.real_tokens_only = real_tokens_only
    model.zero_grad()
    started = time.process_time()
    model(**given).mean().backward()
    return time.process_time() - started


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each share."""
    parallel.start()
    parallel.seed(1)
    shape = ModelShape(model=ModelConfig(**SHAPE), vocabulary=VOCABULARY, chunk_length=CHUNK)
    model = RetroModel(shape).train()
    rows = []
    for real in options.real:
        given, share = batch(shape, real)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        for round_ in range(options.rounds + 1):
            for name, only in list(WAYS.items())[:: -1 if round_ % 2 else 1]:
                spent = compute(model, given, real_tokens_only=only)
                if round_:  # the first warms up
                    seconds[name].append(spent)
        before, after = (median(seconds[name]) for name in WAYS)
        ratio = median([one / other for one, other in zip(*seconds.values(), strict=True)])
        rows.append({"real": share, "padding_computed_s": before, "real_only_s": after, "median_ratio": ratio})
    return rows


def page(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Real tokens of neighbors only",
        "",
        f"Machine: {machine('cpu')}.",
        "",
        f"A Retro of 12 layers of width 512 with an encoder of 2, float32; {BATCH} sequences of 512 tokens, chunks of",
        f"{CHUNK}, 2 neighbors of 128 tokens each. CPU seconds of a forward and a backward pass, median of",
        f"{options.rounds} rounds in which both ways take turns; ratio: the median of the rounds' ratios. Made by",
        f"`OMP_NUM_THREADS=1 python -m benchmarks.real_tokens --rounds {options.rounds}`.",
        "",
        "| real neighbor tokens | padding computed, CPU s | real tokens only, CPU s | ratio |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds = f"{row['padding_computed_s']:.2f} | {row['real_only_s']:.2f}"
        lines.append(f"| {row['real']:.1%} | {seconds} | {row['median_ratio']:.2f} |")
    lines += [
        "",
        "Padding is left out of embeddings, norms and linear layers of the encoder, and of the keys and values of",
        "cross-attention; attention itself sees neighbors side by side, padding masked. Pipeline stages and sequence",
        "parallelism, which must know beforehand how many tokens travel, compute the padding.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", type=float, nargs="+", default=[0.63, 1.0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    rows = measure(options)
    text = page(options, rows)
    print(text)
    if not options.dry:
        write("real_tokens", text, {"machine": machine("cpu"), "rows": rows})


if __name__ == "__main__":
    main()
