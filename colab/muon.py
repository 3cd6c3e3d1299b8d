# %% [markdown]
# # Muon
#
# Muon steps along the polar factor `U V^T` of each matrix's momentum `U diag(sigma) V^T`: every direction of the update
# gets the same length. Here that is looked at in three parts:
#
# 1. the polar factor itself, by a few products of matrices instead of a decomposition;
# 2. the spectra of updates: a gradient, AdamW's step and Muon's step for the same matrices;
# 3. a small decoder trained on bytes of Python's standard library by both optimizers.

# %%
import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from jaxdiv.networks import Decoder, DecoderConfig, count_parameters, functional, generate
from jaxdiv.optimizers import (
    SCHEDULES,
    STACKED_RULES,
    effective_rank,
    format_routes,
    muon,
    orthogonalize,
    route_parameters,
    singular_value_report,
    stable_rank,
)
from jaxdiv.training import create_state, make_train_step

NUM_STEPS = 160 if "CI" in os.environ else 240  # fewer steps; the assertions at the end are the same
# Half precision runs on an accelerator's matrix units; a CPU emulates it.
DTYPE = "float32" if jax.default_backend() == "cpu" else "bfloat16"

# %% [markdown]
# ## 1. The polar factor by Newton-Schulz steps
#
# One step is `X <- a X + (b A + c A^2) X` with `A = X X^T`. It leaves the singular vectors alone and moves every
# singular value by the same odd polynomial, `sigma <- a sigma + b sigma^3 + c sigma^5`. A schedule is a table of
# coefficients, one row for each step, chosen so that the steps together bring much of `[0, 1]` close to 1. Before the
# first step `X` is divided by its Frobenius norm. Here is what the steps do to a square Gaussian matrix, whose singular
# values reach down to almost 0:

# %%
SQUARE = jax.random.normal(jax.random.key(0), (128, 128))
WIDE = jax.random.normal(jax.random.key(1), (128, 512))


def singular_values(x):
    return np.linalg.svd(np.asarray(x, np.float64), compute_uv=False)


def after_steps(x, schedule, count):
    """The singular values after the first steps of a schedule."""
    if count == 0:
        return singular_values(x) / np.linalg.norm(x)
    part = dataclasses.replace(schedule, coefficients=schedule.coefficients[:count])
    return singular_values(orthogonalize(x, schedule=part, dtype="float32"))


figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), sharey=True, layout="constrained")
for ax, name in zip(axes, ("jordan", "you", "polar_express", "polar_express_8"), strict=True):
    schedule = SCHEDULES[name]
    colors = plt.cm.viridis(np.linspace(0.0, 0.9, len(schedule.coefficients) + 1))
    for count, color in enumerate(colors):
        label = "start" if count == 0 else f"{count}" if count in (1, len(colors) - 1) else None
        ax.semilogy(after_steps(SQUARE, schedule, count), color=color, label=label)
    ax.set(title=name, xlabel="singular value, by size", ylim=(2e-4, 2))
    ax.legend(title="after step", loc="lower left", fontsize=8)
axes[0].set(ylabel="size")
plt.show()

# %% [markdown]
# The steps together are one scalar map. On the left is where it sends every `sigma` of the scaled matrix, on the right
# the same near 1 for the four above. Jordan's five equal steps do not converge, they scatter over about 0.7 to 1.2, and
# that is enough to train with; the others buy accuracy with steps that differ. (`aol` also rescales the rows first,
# which is not seen here.) Below the maps is what became of two matrices. The steeper a map, the more of the rounding it
# amplifies: in bfloat16 `cans` sends singular values far above 1.


# %%
def scalar_map(schedule, sigma):
    sigma = sigma / schedule.safety
    for a, b, c in schedule.coefficients:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return sigma


sigma = np.geomspace(1e-4, 1.0, 2000)
figure, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
for i, (name, schedule) in enumerate(SCHEDULES.items()):
    for ax in axes if name in ("jordan", "you", "polar_express", "polar_express_8") else axes[:1]:
        ax.semilogx(sigma, scalar_map(schedule, sigma), color=f"C{i}", linewidth=1.2, label=name)
axes[0].set(title="where the steps send a singular value", xlabel="sigma over the norm", ylim=(0, 1.4))
axes[1].set(title="the same near 1", xlabel="sigma over the norm", xlim=(3e-3, 1), ylim=(0.65, 1.35))
axes[0].legend(fontsize=8)
plt.show()

print(f"{'':18}{'':6}{'128 x 128, float32':>26}{'128 x 512, float32':>26}{'128 x 512, bfloat16':>26}")
print(f"{'':18}{'steps':>6}" + f"{'least':>10}{'most':>8}{'error':>8}" * 3)
reports = {}
for name, schedule in SCHEDULES.items():
    row = ""
    for x, dtype in ((SQUARE, "float32"), (WIDE, "float32"), (WIDE, "bfloat16")):
        report = singular_value_report(orthogonalize(x, schedule=name, dtype=dtype))
        reports[name, x.shape, dtype] = report
        row += f"{report.smallest:10.3f}{report.largest:8.3f}{report.polar_error:8.3f}"
    print(f"{name:18}{len(schedule.coefficients):6}{row}")

# %% [markdown]
# Two properties that an optimizer leans on. The result does not depend on the size of the matrix, which shrinks and
# grows by orders of magnitude in a training; and zero stays zero. And for a matrix with one long side there is a
# cheaper form, which iterates on the Gram matrix of the short side and touches the long one only three times. It
# loses small singular values to rounding sooner than the standard form does, and where it would lose too many, it is
# refused.

# %%
reference = orthogonalize(WIDE, dtype="float32")
scales = (1e-12, 1e-6, 1e6, 1e12)
scale_error = max(float(jnp.abs(orthogonalize(s * WIDE, dtype="float32") - reference).max()) for s in scales)
gram_error = float(jnp.abs(orthogonalize(WIDE, dtype="float32", method="gram") - reference).max())
n, m, steps = 128, 512, 5
standard_flop, gram_flop = steps * (4 * n * n * m + 2 * n**3), 8 * n * n * m + 28 * n**3
print(f"scaled by 1e-12 to 1e12, the result changes by at most {scale_error:.1e}")
print(f"Gram form and standard form differ by at most          {gram_error:.1e} (entries are about 0.04)")
print(f"operations of the Gram form over the standard one      {gram_flop / standard_flop:.2f}")
refused = ""
try:
    orthogonalize(WIDE, dtype="bfloat16", method="gram")
except ValueError as error:
    refused = str(error)
print(refused)

# %% [markdown]
# ## 2. Spectra of updates
#
# A decoder of bytes, its layers stacked along a leading axis by a scan. Muon is for the matrices inside the layers;
# embedding, output head and norms go to AdamW. Which is which is decided by rules on the path of each parameter, and
# `format_routes` prints what they decided. The stacked kernels need rules that know of the layer axis:

# %%
CONFIG = DecoderConfig(width=96, num_layers=3, num_heads=4, hidden=256, max_length=256)
apply_fn, params = functional(Decoder(CONFIG, rngs=nnx.Rngs(0)))
ROUTES = functools.partial(route_parameters, rules=STACKED_RULES)
print(f"{count_parameters(CONFIG):,} parameters\n")
print(format_routes(params, ROUTES))

# %% [markdown]
# The text: the modules at the top of Python's standard library, a tenth of them held out. A batch is a function of the
# step's number.

# %%
LENGTH, BATCH_SIZE, STEPS_PER_CALL = 64, 16, 20
modules = sorted(Path(os.__file__).parent.glob("*.py"))
texts = [np.frombuffer(path.read_bytes(), np.uint8) for path in modules]
TRAIN = np.concatenate([text for i, text in enumerate(texts) if i % 10])
VALIDATION = np.concatenate(texts[::10])


def windows(text, seed, count):
    """Random windows of LENGTH + 1 bytes: what is seen, and the same shifted by one."""
    starts = np.random.default_rng(seed).integers(0, len(text) - LENGTH, count)
    return text[starts[:, None] + np.arange(LENGTH + 1)].astype(np.int32)


def batches(step, count):
    """The batches of ``count`` steps, stacked."""
    return np.stack([windows(TRAIN, step + i, BATCH_SIZE) for i in range(count)])


def loss_fn(params, batch, key):
    del key
    logits = apply_fn(params, batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean(), {}


print(f"training on {len(TRAIN):,} bytes, validation on {len(VALIDATION):,} of other files")

# %% [markdown]
# Both optimizers now see the same 30 gradients, along a path that AdamW takes. At its end, the update that each would
# make (without weight decay) is compared with the gradient. *Effective rank* is the exponential of the entropy of the
# normalised singular values; *stable rank* is the squared Frobenius norm over the squared largest singular value. Both
# are at most the shorter side, 96.

# %%
adamw_30 = optax.adamw(6e-3, b1=0.9, b2=0.95, weight_decay=0.0)
muon_30 = muon(6e-3, routes=ROUTES, weight_decay=0.0, dtype=DTYPE)


@jax.jit
def follow(params, data):
    def step(carry, batch):
        params, adamw_state, muon_state, _ = carry
        gradient = jax.grad(lambda p: loss_fn(p, batch, None)[0])(params)
        adamw_update, adamw_state = adamw_30.update(gradient, adamw_state, params)
        muon_update, muon_state = muon_30.update(gradient, muon_state, params)
        params = optax.apply_updates(params, adamw_update)
        return (params, adamw_state, muon_state, (gradient, adamw_update, muon_update)), None

    zero = (jax.tree.map(jnp.zeros_like, params),) * 3
    start = (params, adamw_30.init(params), muon_30.init(params), zero)
    return jax.lax.scan(step, start, data)[0][-1]


def kernels(tree):
    """The stacked kernels ``[layer, in, out]`` of the layers by name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree["layers"])
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {name.removesuffix("/kernel"): leaf for name, leaf in named.items() if name.endswith("/kernel")}


found = dict(zip(("gradient", "AdamW", "Muon"), map(kernels, follow(params, batches(0, 30))), strict=True))
names = list(found["gradient"])
ranks = {
    kind: {name: (effective_rank(x).mean(), stable_rank(x).mean()) for name, x in matrices.items()}
    for kind, matrices in found.items()
}
print(f"{'mean over the layers':26}" + "".join(f"{kind + ': effective':>20}{'stable':>8}" for kind in found))
for name in names:
    row = "".join(f"{ranks[kind][name][0]:20.1f}{ranks[kind][name][1]:8.1f}" for kind in found)
    print(f"{name:26}{row}")

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), sharey=True, layout="constrained")
for ax, name in zip(axes, ("attention/query", "attention/output", "feed_forward/swiglu/up"), strict=True):
    for kind, matrices in found.items():
        values = singular_values(matrices[name][1])
        ax.semilogy(values / values[0], label=kind)
    ax.set(title=f"{name}, layer 1", xlabel="singular value, by size", ylim=(1e-4, 2))
axes[0].set(ylabel="over the largest")
axes[0].legend()
plt.show()

# %% [markdown]
# A gradient lives in a few directions. AdamW divides entry by entry, which evens out entries and only partly
# directions; Muon evens out directions.
#
# ## 3. Training with both
#
# Same start, same batches, warm-up and linear decay. With the default scale, Muon's updates have the root mean square
# of AdamW's, so that their learning rates are of one order. Each rate here is the best of a grid of factors of two,
# from 3e-3 to 4.8e-2, for these sizes and 240 steps (one seed); with the other's rate, either does worse.

# %%
RATES = {"AdamW": 6e-3, "Muon": 2.4e-2}


def warmup_decay(peak):
    rising = optax.linear_schedule(0.0, peak, NUM_STEPS // 10)
    return optax.join_schedules(
        [rising, optax.linear_schedule(peak, 0.0, NUM_STEPS - NUM_STEPS // 10)], [NUM_STEPS // 10]
    )


def hidden_matrices(params):
    """What decays under both optimizers: the leaves that Muon takes."""
    return jax.tree.map(lambda _, route: route != "adamw", params, ROUTES(params))


OPTIMIZERS = {
    "AdamW": optax.adamw(warmup_decay(RATES["AdamW"]), b1=0.9, b2=0.95, weight_decay=0.1, mask=hidden_matrices),
    "Muon": muon(warmup_decay(RATES["Muon"]), routes=ROUTES, weight_decay=0.1, dtype=DTYPE),
}
held_out = windows(VALIDATION, 0, 64)
evaluate = jax.jit(lambda params: loss_fn(params, held_out, None)[0])
curves, trained = {}, {}
for name, optimizer in OPTIMIZERS.items():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    train_step = make_train_step(loss_fn, optimizer, steps_per_call=STEPS_PER_CALL)
    state = create_state(params, optimizer, jax.random.key(0))
    losses, validation = [], [float(evaluate(params))]
    for step in range(0, NUM_STEPS, STEPS_PER_CALL):
        state, metrics = train_step(state, batches(step, STEPS_PER_CALL))
        losses.extend(np.asarray(metrics["loss"]))
        validation.append(float(evaluate(state.params)))
    assert int(state.skipped) == 0
    curves[name], trained[name] = (losses, validation), state.params
    print(
        f"{name:6} rate {RATES[name]:.1e}: validation {validation[-1]:.3f} nats, {validation[-1] / np.log(2):.2f} bits"
    )

figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for (name, (losses, validation)), color in zip(curves.items(), ("C1", "C2"), strict=True):
    ax.plot(losses, color=color, alpha=0.3)
    ax.plot(np.arange(len(validation)) * STEPS_PER_CALL, validation, color=color, marker="o", label=name)
ax.set(xlabel="step", ylabel="nats per byte", ylim=(1.5, 4.5), title="training (faint) and validation")
ax.legend()
plt.show()

# %% [markdown]
# How many of its steps Muon needs for the loss that AdamW ends with is a lower bound of the advantage: AdamW had its
# decay by then, Muon not.

# %%
target = curves["AdamW"][1][-1]
reached = np.flatnonzero(np.array(curves["Muon"][1]) <= target) * STEPS_PER_CALL
print("AdamW's last loss is reached by Muon at step", reached[0] if reached.size else "-", "of", NUM_STEPS)

# %%
PROMPT = b"import os\n\ndef "
prompt = jnp.frombuffer(PROMPT, jnp.uint8)[None].astype(jnp.int32)
write = jax.jit(
    lambda params: generate(
        apply_fn, params, prompt, config=CONFIG, num_tokens=200, key=jax.random.key(0), temperature=0.7
    )
)
for name, values in trained.items():
    print(f"--- {name} ---\n{bytes(np.asarray(write(values)[0], np.uint8)).decode(errors='replace')}\n")

# %% [markdown]
# A model of this size has learned indentation and a few words. For longer trainings, several seeds and tuned rates,
# see `python -m experiments.language_model.run` in the repository.
#
# ## What must hold
#
# If one of these fails, the library is wrong, not the picture.

# %%
for (name, _, dtype), report in reports.items():
    if dtype == "float32":
        assert report.largest < 1.31, f"{name} overshoots"
wide = reports["you", WIDE.shape, "float32"]
assert wide.smallest > 0.97 and wide.largest < 1.04
assert reports["polar_express_8", WIDE.shape, "float32"].polar_error < 1e-3
exact = singular_values(WIDE @ orthogonalize(WIDE, schedule="polar_express_8", dtype="float32").T).sum()
np.testing.assert_allclose(exact, singular_values(WIDE).sum(), rtol=1e-3, err_msg="U V^T pairs to the nuclear norm")
assert scale_error < 1e-5 and gram_error < 1e-3
assert not orthogonalize(jnp.zeros((4, 8))).any(), "zero stays zero"
assert "gram" in refused and "bfloat16" in refused
for name in names:
    for rank in (0, 1):
        assert ranks["Muon"][name][rank] > ranks["AdamW"][name][rank], f"{name}: Muon's updates have the higher rank"
for name, (_, validation) in curves.items():
    assert validation[0] > 5.0 and validation[-1] < 2.4, f"{name} learned too little"
print("all of it holds")
