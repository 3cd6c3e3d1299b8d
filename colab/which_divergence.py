# %% [markdown]
# # Which divergence?
#
# A model that cannot represent its target has to give something up, and the divergence says what. Here a target `p`
# with two modes is fitted by a model `q` with one, under each divergence, by gradient descent:
#
# 1. densities on a line, `D_f(p || q)` as a sum over a grid;
# 2. categorical distributions given by logits, with and without classes that are masked by `-inf`.
#
# `kl()` is `KL(p || q)` and `reverse_kl()` is `KL(q || p)`, with `p` the target and `q` the model throughout.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxdiv.divergences import (
    alpha,
    f_divergence,
    jeffreys,
    jensen_shannon,
    kl,
    le_cam,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    skew_kl,
    softened_reverse_kl,
    squared_hellinger,
    total_variation,
)

NUM_STEPS = 800 if "CI" in os.environ else 1200  # fewer steps; the assertions at the end are the same
DIVERGENCES = (
    pearson_chi2(),
    kl(),
    jeffreys(),
    skew_kl(0.1),
    squared_hellinger(),
    jensen_shannon(),
    le_cam(),
    total_variation(),
    alpha(0.2),
    softened_reverse_kl(),
    reverse_kl(),
    neyman_chi2(),
)

# %% [markdown]
# ## 1. One Gaussian for two modes
#
# `D_f(p || q) = E_q[f(r)]` with `r = p/q`. On a grid this is a sum of `q f(p/q)`. Where `p` is far above `q` the ratio
# overflows long before the product does, and there `q f(p/q) = p f^(q/p)` with the reversed record `f^` is the same
# number without the overflow.

# %%
WEIGHTS, MEANS, STDS = np.array([0.35, 0.65]), np.array([-2.0, 2.0]), np.array([0.5, 0.7])
GRID = jnp.linspace(-8.0, 8.0, 401)
STEP = GRID[1] - GRID[0]


def log_normal(x, mean, std):
    return -0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)


LOG_P = jax.nn.logsumexp(jnp.log(WEIGHTS)[:, None] + log_normal(GRID, MEANS[:, None], STDS[:, None]), axis=0)


def on_the_grid(divergence, params):
    """D_f(p || q) of the target and the Gaussian ``(mean, log std)``."""
    log_q = log_normal(GRID, params[0], jnp.exp(params[1]))
    rho = LOG_P - log_q
    below = jnp.exp(log_q) * divergence.value(jnp.minimum(rho, 0.0))
    above = jnp.exp(LOG_P) * divergence.reversed().value(jnp.minimum(-rho, 0.0))
    return STEP * jnp.sum(jnp.where(rho <= 0, below, above))


def descend(loss_fn, start, rate=0.03):
    """Parameters, values and lengths of the gradient along Adam's steps down ``loss_fn``, from ``start`` to the end.

    Pearson's first gradients are huge, hence the clipping.
    """
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, NUM_STEPS)))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss_fn)(params)
        changes, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, changes), state), (params, value, jnp.linalg.norm(gradient))

    return jax.lax.scan(step, (start, optimizer.init(start)), length=NUM_STEPS + 1)[1]


# %% [markdown]
# Every fit is made twice, from the left and from the right: a divergence that seeks a mode takes the near one.

# %%
STARTS = jnp.array([[-1.0, np.log(0.6)], [1.0, np.log(0.6)]])


def fit_both(divergence):
    params, values, _ = jax.vmap(lambda start: descend(lambda params: on_the_grid(divergence, params), start))(STARTS)
    return params[:, -1], values[:, -1]


fits = {}
for d in DIVERGENCES:
    ends, values = jax.jit(fit_both, static_argnums=0)(d)
    fits[d.name] = np.asarray(ends[:, 0]), np.exp(ends[:, 1]), np.asarray(values)

figure, axes = plt.subplots(3, 4, figsize=(13, 8), sharex=True, sharey=True, layout="constrained")
for ax, (name, (means, stds, _)) in zip(axes.flat, fits.items(), strict=True):
    ax.fill_between(GRID, np.exp(LOG_P), color="C0", alpha=0.3)
    for mean, std, style in zip(means, stds, ("C1--", "C3"), strict=True):
        ax.plot(GRID, np.exp(log_normal(GRID, mean, std)), style)
    ax.set(title=name, xlim=(-5, 5), ylim=(0, 0.9))
plt.show()

target_mean = WEIGHTS @ MEANS
target_std = np.sqrt(WEIGHTS @ (STDS**2 + MEANS**2) - target_mean**2)
print(f"the target: mean {target_mean:.3f}, standard deviation {target_std:.3f}\n")
print(f"{'':20}{'from the left':>24}{'from the right':>24}{'cost of a miss':>16}{'of an extra':>13}")
print(f"{'':20}{'mean':>8}{'std':>8}{'value':>8}{'mean':>8}{'std':>8}{'value':>8}{'f^(0)':>16}{'f(0)':>13}")
for d in DIVERGENCES:
    row = "".join(f"{x:8.3f}" for x in np.stack(fits[d.name], axis=1).ravel())
    print(f"{d.name:20}{row}{d.dual_at_zero:16.3f}{d.at_zero:13.3f}")

# %% [markdown]
# The last two columns are what the record says of mass without a counterpart. `f^(0)`, the field `dual_at_zero`, is the
# price per unit of `p` where `q` has nothing: infinite, and the model must *cover*. `f(0)`, the field `at_zero`, is
# the price per unit of `q` where `p` has nothing: infinite, and the model may not leave a mode, it *seeks*. KL covers
# so exactly that the fit is the target's mean and variance. Where both are finite, so is the divergence, at most
# `f(0) + f^(0)`, and there is no wall on either side. Where both are infinite, Jeffreys, covering wins here. Three
# members have a dial: `alpha(a)` goes from reverse KL at 0 to KL at 1, `skew_kl(pi)` is KL that stays below `-log pi`,
# and `jensen_shannon(pi)`, normalised, goes from KL at 0 to reverse KL at 1.
#
# ## 2. The same with logits
#
# Now 40 ordered classes. The teacher has two humps; the student's logits are a parabola, so it has one. Below, the
# teacher may also be masked: 16 classes, between and beside the humps, have a logit of `-inf`, as after top-k
# filtering or under a grammar.

# %%
CLASSES = jnp.arange(40.0)
TEACHER = jnp.logaddexp(
    jnp.log(0.35) + log_normal(CLASSES, 10.0, 2.0),
    jnp.log(0.65) + log_normal(CLASSES, 28.0, 2.5),
)
ALLOWED = ((CLASSES >= 5) & (CLASSES < 15)) | ((CLASSES >= 21) & (CLASSES < 35))
MASKED = jnp.where(ALLOWED, TEACHER, -jnp.inf)
START = jnp.array([2.3, np.log(3.0)])  # the mean in units of ten classes, so that both parameters move alike


def student(params):
    return -0.5 * jnp.square((CLASSES - 10.0 * params[0]) / jnp.exp(params[1]))


SETTINGS = {  # the teacher's logits, and which classes take part
    "full teacher": (TEACHER, jnp.ones(40, bool)),
    "masked teacher": (MASKED, jnp.ones(40, bool)),
    "mask on both sides": (MASKED, ALLOWED),
}


def fit_logits(divergence, p_logits, where):
    def loss(params):
        return f_divergence(divergence, p_logits=p_logits, q_logits=student(params), where=where)

    params, values, slopes = descend(loss, START)
    return values[0], slopes[0], params[-1], values[-1]


logit_fits = {}
for d in DIVERGENCES:
    teachers, masks = map(jnp.stack, zip(*SETTINGS.values(), strict=True))
    found = jax.jit(jax.vmap(lambda p, where, d=d: fit_logits(d, p, where)))(teachers, masks)
    for i, setting in enumerate(SETTINGS):
        logit_fits[setting, d.name] = [np.asarray(part[i]) for part in found]

figure, axes = plt.subplots(3, 4, figsize=(13, 8), sharex=True, sharey=True, layout="constrained")
for ax, d in zip(axes.flat, DIVERGENCES, strict=True):
    ax.bar(CLASSES, jax.nn.softmax(MASKED), 1.0, color="C0", alpha=0.3)
    for setting, style in zip(list(SETTINGS)[1:], ("C1--", "C3"), strict=True):
        logits = student(logit_fits[setting, d.name][2])
        ax.plot(CLASSES, jax.nn.softmax(jnp.where(SETTINGS[setting][1], logits, -jnp.inf)), style)
    ax.set(title=d.name, ylim=(0, 0.25))
figure.legend(axes[0, 0].lines, ["masked teacher", "mask on both sides"], loc="outside lower center", ncols=2)
plt.show()

print(f"{'':20}" + "".join(f"{setting:>32}" for setting in SETTINGS))
print(f"{'':20}" + f"{'at start':>9}{'gradient':>9}{'mean':>7}{'std':>7}" * 3)
for d in DIVERGENCES:
    row = ""
    for setting in SETTINGS:
        value, slope, end, _ = logit_fits[setting, d.name]
        row += f"{value:9.3g}{slope:9.3g}{10 * end[0]:7.2f}{np.exp(end[1]):7.2f}"
    print(f"{d.name:20}{row}")

# %% [markdown]
# An unmasked student puts mass on classes that the teacher excludes. Reverse KL, softened or not, Neyman and Jeffreys
# price it at infinity: the value is `inf`, which is the truth, and the gradient is 0, not NaN. So nothing moves, and
# one such row cannot spoil a batch's parameters. It has to be seen in the value. Three ways out:
#
# - give the mask to both sides with `where`, if the student is masked when it is used;
# - take a divergence whose `f(0)` is finite: KL, Pearson, or a bounded one;
# - keep the teacher's logits as they were before the mask.
#
# The mirror image, a *student* that lacks classes of the teacher, costs infinity under KL and Pearson instead. And
# written out by hand, a class that the teacher lacks is `0 * -inf`:

# %%
start_logits = student(START)
p, log_p, log_q = jax.nn.softmax(MASKED), jax.nn.log_softmax(MASKED), jax.nn.log_softmax(start_logits)
by_hand = jnp.sum(p * (log_p - log_q))
print("KL(teacher || student) by hand:", by_hand, " f_divergence:", f_divergence(kl(), p_logits=MASKED, q_logits=log_q))

mirror = {
    d.name: f_divergence(d, p_logits=TEACHER, q_logits=jnp.where(ALLOWED, start_logits, -jnp.inf)) for d in DIVERGENCES
}
masked = {d.name: logit_fits["masked teacher", d.name][0] for d in DIVERGENCES}
print(f"\n{'':20}{'teacher lacks classes':>24}{'student lacks classes':>24}{'at most':>12}")
for d in DIVERGENCES:
    print(f"{d.name:20}{masked[d.name]:24.4g}{mirror[d.name]:24.4g}{d.at_zero + d.dual_at_zero:12.4g}")

# %% [markdown]
# ## What must hold
#
# If one of these fails, the library is wrong, not the picture.

# %%
for part in fits["kl"][0], fits["kl"][1]:
    assert np.ptp(part) < 1e-2, "KL has one optimum"
np.testing.assert_allclose(fits["kl"][0], target_mean, atol=0.02)
np.testing.assert_allclose(fits["kl"][1], target_std, atol=0.02)
for seeker in ("reverse_kl", "neyman_chi2"):
    np.testing.assert_allclose(fits[seeker][0], MEANS, atol=0.1, err_msg=f"{seeker} sits on the near mode")
    np.testing.assert_allclose(fits[seeker][1], STDS, atol=0.1)
# The mode of weight w, fitted by its own Gaussian, leaves KL(q || p) = -log w, up to the overlap of the modes.
np.testing.assert_allclose(fits["reverse_kl"][2], -np.log(WEIGHTS), atol=0.01)
assert fits["pearson_chi2"][1].min() > fits["kl"][1].max(), "Pearson covers a little wider still"

for d in DIVERGENCES:
    for setting in SETTINGS:
        value, slope, end, end_value = logit_fits[setting, d.name]
        assert not np.isnan([value, slope, *end, end_value]).any(), (d.name, setting)
        wall = setting == "masked teacher" and np.isinf(d.at_zero)
        assert np.isinf(value) == wall, (d.name, setting)
        assert (slope == 0) == wall, (d.name, setting)
        assert np.array_equal(end, START) if wall else end_value < value, (d.name, setting)
    assert np.isinf(mirror[d.name]) == np.isinf(d.dual_at_zero), d.name
    assert mirror[d.name] <= d.at_zero + d.dual_at_zero

p64, q64 = (np.exp(np.float64(x) - np.float64(x).max()) for x in (MASKED, start_logits))
p64, q64 = p64 / p64.sum(), q64 / q64.sum()
has = p64 > 0
np.testing.assert_allclose(masked["kl"], np.sum(p64[has] * np.log(p64[has] / q64[has])), rtol=1e-5)
np.testing.assert_allclose(masked["total_variation"], 0.5 * np.abs(p64 - q64).sum(), rtol=1e-5)
np.testing.assert_allclose(masked["squared_hellinger"], np.sum((np.sqrt(p64) - np.sqrt(q64)) ** 2), rtol=1e-5)
assert np.isnan(by_hand)
