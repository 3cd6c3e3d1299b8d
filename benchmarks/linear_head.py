"""Teacher-student divergence at a vocabulary head on one GPU: time, memory and gradient error, beside the peers.

    python -m benchmarks.linear_head --out linear_head.json

The problem is a language-model head: 8,192 tokens, vocabulary 128,256, student width 2,048, teacher width 4,096,
bfloat16; value and the gradients of the student's hidden states and head. Peers, in the same process: plain jitted JAX
(logits through autodiff), torch.compile of the same, and Liger's fused linear JSD where liger-kernel is installed.
Memory is what a call needs above its inputs and outputs. Gradient errors are against float64 on fewer tokens, for a
smaller head on a CPU: --parts errors --tokens 4096 --vocab 8192 --widths 256 512.
"""

import argparse
import json
import os
import statistics
import time
from functools import partial

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the card

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.divergences import alpha, jensen_shannon, kl, reverse_kl
from jaxdiv.divergences.linear_head import linear_head_divergence

RECORDS = {
    "kl": kl(),
    "reverse_kl": reverse_kl(),
    "js(0.5)": jensen_shannon(),
    "js(0.1)": jensen_shannon(0.1),
    "alpha(0.3)": alpha(0.3),
}
NAMES = ("q_hidden", "q_head", "p_hidden", "p_head")


def make_arrays(tokens, vocab, q_width, p_width, seed=0):
    """bfloat16 hidden states and heads whose logits have a standard deviation of 3."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = ((tokens, q_width), (vocab, q_width), (tokens, p_width), (vocab, p_width))
    scales = (1.0, 3 / q_width**0.5, 1.0, 3 / p_width**0.5)
    make = jax.jit(lambda k, shape, s: (s * jax.random.normal(k, shape)).astype(jnp.bfloat16), static_argnums=1)
    return dict(zip(NAMES, (make(k, s, c) for k, s, c in zip(keys, shapes, scales, strict=True)), strict=True))


def model_flops(arrays):
    """Four products: both logits and the two gradients of the student."""
    tokens, q_width = arrays["q_hidden"].shape
    vocab, p_width = arrays["p_head"].shape
    return 2 * tokens * vocab * (3 * q_width + p_width)


def ours(record, **options):
    def loss(q_hidden, q_head, p_hidden, p_head):
        return linear_head_divergence(
            record, p_hidden=p_hidden, p_head=p_head, q_hidden=q_hidden, q_head=q_head, **options
        )

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def dense_loss(record_name, log_p, log_q, xp):
    """The textbook formulas of the peers, per token; ``xp`` is jax.numpy or torch."""
    if record_name == "kl":
        return (xp.exp(log_p) * (log_p - log_q)).sum(-1)
    if record_name == "reverse_kl":
        return (xp.exp(log_q) * (log_q - log_p)).sum(-1)
    if record_name.startswith("js"):
        pi = float(record_name[3:-1])
        log_m = xp.logaddexp(log_p + float(np.log(pi)), log_q + float(np.log(1 - pi)))
        return pi * (xp.exp(log_p) * (log_p - log_m)).sum(-1) + (1 - pi) * (xp.exp(log_q) * (log_q - log_m)).sum(-1)
    a = float(record_name[6:-1])
    return (xp.exp(a * log_p + (1 - a) * log_q).sum(-1) - 1) / (a * (a - 1))


@jax.custom_vjp
def float32_logits(hidden, head):
    """Products of 16-bit arrays kept in float32, whose gradients are rounded to 16 bits before the products with them.

    Autodiff of the product would leave them in float32, and XLA would multiply at half of the speed or less.
    """
    return jnp.matmul(hidden, head, preferred_element_type=jnp.float32)


def _float32_logits_bwd(arrays, gradient):
    hidden, head = arrays
    gradient = gradient.astype(hidden.dtype)
    return jnp.matmul(gradient, head.T), jnp.matmul(hidden.T, gradient)


float32_logits.defvjp(lambda *arrays: (float32_logits(*arrays), arrays), _float32_logits_bwd)


def plain_jax(record_name, dtype=jnp.float32, matmul=jnp.matmul):
    """Logits in the arrays' dtype, cast to ``dtype``, or whatever ``matmul`` gives."""

    def loss(q_hidden, q_head, p_hidden, p_head):
        log_p = jax.nn.log_softmax(matmul(p_hidden, p_head.T).astype(dtype))
        log_q = jax.nn.log_softmax(matmul(q_hidden, q_head.T).astype(dtype))
        return dense_loss(record_name, log_p, log_q, jnp).mean()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


# The first rounds once, its result; the second rounds the logits' gradients as well, as ours does.
FLOAT32 = {
    "float32 logits": partial(jnp.matmul, preferred_element_type=jnp.float32),
    "float32 logits, 16-bit gradients": float32_logits,
}


def time_calls(call, repeats):
    """Median, least and most milliseconds of ``repeats`` calls after two."""
    call(), call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": statistics.median(times), "ms_min": min(times), "ms_max": max(times)}


def measure_jax(step, arrays, repeats):
    args = [arrays[name] for name in NAMES]
    start = time.perf_counter()
    compiled = step.lower(*args).compile()
    row = {"compile_s": round(time.perf_counter() - start, 1)}
    row |= time_calls(lambda: jax.block_until_ready(compiled(*args)), repeats)
    return row | {
        "extra_gb": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "tflops": model_flops(arrays) / row["ms"] / 1e9,
    }


def to_torch(arrays):
    import torch

    return [torch.from_dlpack(arrays[name]).clone() for name in NAMES]


def torch_steps():
    """Name -> function of (q_hidden, q_head, p_hidden, p_head) that returns the value and fills two gradients."""
    import torch

    def dense(record_name):
        def loss(q_hidden, q_head, p_hidden, p_head):
            log_p = torch.log_softmax((p_hidden @ p_head.T).float(), -1)
            log_q = torch.log_softmax((q_hidden @ q_head.T).float(), -1)
            return dense_loss(record_name, log_p, log_q, torch).mean()

        return torch.compile(loss)

    steps = {f"torch.compile {name}": dense(name) for name in RECORDS}
    try:
        from liger_kernel.transformers import LigerFusedLinearJSD

        fused = LigerFusedLinearJSD(jsd_beta=0.5)
        steps["liger fused_linear_jsd js(0.5)"] = lambda qh, qw, ph, pw: fused(qh, qw, ph, pw, None)
    except Exception as error:  # a peer that does not import is a row that says so
        print(f"liger-kernel is not usable here: {error!r}")
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        chunked = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.5)

        def chunked_loss(qh, qw, ph, pw):
            target = torch.zeros(qh.shape[0], dtype=torch.long, device=qh.device)
            return chunked(qh, qw, ph, pw, target)

        steps["liger chunked js(0.5)"] = chunked_loss
    except Exception as error:
        print(f"liger's chunked loss is not usable here: {error!r}")
    return steps


def measure_torch(loss, arrays, repeats):
    import torch

    tensors = to_torch(arrays)
    outputs = sum(t.numel() * t.element_size() for t in tensors[:2])
    for tensor in tensors[:2]:
        tensor.requires_grad_(True)

    def call():
        tensors[0].grad = tensors[1].grad = None
        loss(*tensors).backward()
        torch.cuda.synchronize()

    call()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() - outputs
    call()
    extra = torch.cuda.max_memory_allocated() - before - outputs
    row = time_calls(call, repeats)
    return row | {"extra_gb": extra / 1e9, "tflops": model_flops(arrays) / row["ms"] / 1e9}


def gradient_errors(tokens, vocab, q_width, p_width, with_torch):
    """Relative L2 errors of both student gradients against float64 on the same bfloat16 arrays."""
    arrays = make_arrays(tokens, vocab, q_width, p_width, seed=1)
    args = [arrays[name] for name in NAMES]
    rows, peers = [], torch_steps() if with_torch else {}
    for name in RECORDS:
        with jax.enable_x64(True):
            exact = plain_jax(name, jnp.float64)(*(x.astype(jnp.float64) for x in args))
        steps = {"ours": ours(RECORDS[name], token_block=tokens // 4), "plain jax": plain_jax(name)}
        steps |= {f"plain jax, {title},": plain_jax(name, matmul=matmul) for title, matmul in FLOAT32.items()}
        for peer, step in steps.items():
            grads = step(*args)[1]
            rows.append({"error of": f"{peer} {name}", **_errors(grads, exact[1])})
        for peer, loss in peers.items():
            if peer.endswith(f" {name}"):
                tensors = to_torch(arrays)
                for tensor in tensors[:2]:
                    tensor.requires_grad_(True)
                loss(*tensors).backward()
                grads = [jnp.from_dlpack(t.grad.detach()) for t in tensors[:2]]
                rows.append({"error of": peer, **_errors(grads, exact[1])})
    return rows


def _errors(grads, exact):
    errors = {}
    for name, got, wanted in zip(("hidden", "head"), grads, exact, strict=True):
        difference = np.asarray(got, np.float64) - np.asarray(wanted)
        errors[name] = float(np.linalg.norm(difference) / np.linalg.norm(wanted))
    return errors


def curve(repeats):
    """Time and memory of each block choice over tokens and vocabulary, at widths 2,048 and 4,096."""
    for tokens, vocab in ((512, 128_256), (2048, 128_256), (8192, 32_000), (8192, 128_256), (16384, 128_256)):
        arrays = make_arrays(tokens, vocab, 2048, 4096)
        choices = {"default": {}, "whole": {"token_block": tokens}, "vocab 8192": {"vocab_block": 8192}}
        choices |= {f"tokens {b}": {"token_block": b} for b in (256, 512, 1024, 2048, 4096) if b < tokens}
        for choice, options in choices.items():
            row = measure_jax(ours(kl(), **options), arrays, repeats)
            yield {"curve": f"{tokens} x {vocab}", "choice": choice, **row}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--vocab", type=int, default=128_256)
    parser.add_argument("--widths", type=int, nargs=2, default=(2048, 4096), metavar=("STUDENT", "TEACHER"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--parts", nargs="+", default=["ours", "jax", "torch", "errors", "curve"])
    parser.add_argument("--out", help="JSON lines, written as they come")
    args = parser.parse_args()
    rows = []

    def report(**row):
        rows.append(row)
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(json.dumps(row) + "\n")

    device = jax.devices()[0]
    report(device=device.device_kind, jax=jax.__version__, **vars(args))
    arrays = make_arrays(args.tokens, args.vocab, *args.widths)
    if "ours" in args.parts:
        for name, record in RECORDS.items():
            report(what=f"ours {name}", **measure_jax(ours(record), arrays, args.repeats))
        report(
            what="ours, xla alone, js(0.5)",
            **measure_jax(ours(jensen_shannon(), implementation="xla"), arrays, args.repeats),
        )
    if "jax" in args.parts:
        for name in RECORDS:
            report(what=f"plain jax {name}", **measure_jax(plain_jax(name), arrays, args.repeats))
        for title, matmul in FLOAT32.items():
            for name in ("kl", "js(0.5)"):
                row = measure_jax(plain_jax(name, matmul=matmul), arrays, args.repeats)
                report(what=f"plain jax, {title}, {name}", **row)
    if "torch" in args.parts:
        for name, loss in torch_steps().items():
            try:
                report(what=name, **measure_torch(loss, arrays, args.repeats))
            except Exception as error:  # a peer that does not run is a row that says so
                report(what=name, failed=repr(error)[:200])
    if "errors" in args.parts:
        for row in gradient_errors(max(args.tokens // 16, 4), args.vocab, *args.widths, "torch" in args.parts):
            report(**row)
    if "curve" in args.parts:
        del arrays
        for row in curve(max(args.repeats // 2, 3)):
            report(**row)


if __name__ == "__main__":
    main()
