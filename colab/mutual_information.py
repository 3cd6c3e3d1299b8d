# %% [markdown]
# # Mutual information, and what an estimate of it says
#
# Every estimator of `jaxdiv.information` returns an `Estimate` in nats, never clipped, that says what it is: a lower
# bound, an upper bound, a plug-in value, or not mutual information at all; and above which value no data can bring it.
# Four parts:
#
# 1. nearest neighbours against the truth, and where they fail;
# 2. is there any dependence? A permutation null; how far off is the number? An interval from subsets;
# 3. bounds have ceilings;
# 4. measures of dependence that are no mutual information.

# %%
import functools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from jaxdiv.information import (
    TASKS,
    cs_qmi,
    gaussian_mutual_information,
    info_nce,
    kolchinsky_tracey_bounds,
    ksg,
    permutation_null,
    subsampling_interval,
)

# %% [markdown]
# ## 1. Nearest neighbours against the truth
#
# `TASKS` holds forty laws of pairs whose mutual information is known. Here are some with one and with many dimensions,
# a thousand samples each, five data sets. The Gaussian estimator takes every law for a normal one.

# %%
NAMES = [name for name, task in TASKS.items() if max(task.dims) <= 5]
SHOWN = [NAMES[i] for i in np.linspace(0, len(NAMES) - 1, 8).astype(int)]
KEYS = jax.random.split(jax.random.key(0), 5)
DIMS = (1, 2, 4, 8, 16)
ksg_fn, gaussian_fn = jax.jit(ksg), jax.jit(gaussian_mutual_information)


def filled(z):
    """Columns of 0 change neither estimator, so that one compilation serves all dimensions."""
    return jnp.pad(z, ((0, 0), (0, max(DIMS) - z.shape[1])))


def over_data_sets(task, *estimator_fns, num_samples=1000):
    """The estimates from each data set, a list for each estimator."""
    sample = jax.jit(task.sample, static_argnums=1)
    data = [[filled(z) for z in sample(key, num_samples)] for key in KEYS]
    return [[float(estimator_fn(x, y)) for x, y in data] for estimator_fn in estimator_fns]


table = {name: over_data_sets(TASKS[name], ksg_fn, gaussian_fn) for name in SHOWN}
print(f"{'task':44}{'true':>8}{'ksg':>18}{'gaussian':>18}")
for name, columns in table.items():
    cells = "".join(f"{np.mean(v):10.3f} ± {np.std(v, ddof=1):.3f}" for v in columns)
    print(f"{name:44}{TASKS[name].mutual_information:8.3f}{cells}")

# %% [markdown]
# In few dimensions the neighbours are right whatever the law, and the Gaussian estimator is right where the law is
# normal. The neighbours' weakness is dependence that is strong or spread over many dimensions: a sphere that holds five
# of a thousand points is then wide, and the density far from constant in it. The number comes out too small, and more
# samples help slowly. Below, d pairs of normal variables of correlation 0.5.


# %%
@functools.partial(jax.jit, static_argnums=(1, 2))
def correlated(key, dim, num_samples, rho=0.5):
    x, noise = jax.random.normal(key, (2, num_samples, dim))
    return x, rho * x + jnp.sqrt(1 - rho**2) * noise


truth = [-dim / 2 * math.log(1 - 0.5**2) for dim in DIMS]
by_size = {}
for n in (1000, 3000):
    data = [map(filled, correlated(jax.random.key(1), dim, n)) for dim in DIMS]
    by_size[n] = [float(ksg_fn(x, y)) for x, y in data]
figure, ax = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
ax.plot(DIMS, truth, "k--", label="true")
for n, values in by_size.items():
    ax.plot(DIMS, values, "o-", label=f"ksg, N = {n}")
ax.set(xlabel="dimensions of x and of y", ylabel="mutual information in nats", xscale="log", xticks=DIMS)
ax.set_xticks(DIMS, [str(dim) for dim in DIMS])
ax.legend()
plt.show()

# %% [markdown]
# ## 2. Is it there, and how far off?
#
# An estimate of 0.02 nats may be dependence or nothing. `permutation_null` computes the estimate again with y in other
# orders, all in one compiled call: the p-value is exact at every sample size. `subsampling_interval` gives the spread
# of the estimator from disjoint subsets, not from a bootstrap, whose repeated rows would be neighbours at distance 0.

# %%
weak = correlated(jax.random.key(2), 1, 1000, rho=0.25)
alone = correlated(jax.random.key(3), 1, 1000, rho=0.0)
null_fn = jax.jit(lambda x, y: permutation_null(ksg, x, y, key=jax.random.key(4), num_permutations=49))
nulls = {}
for name, data in {"rho = 0.25": weak, "rho = 0": alone}.items():
    nulls[name] = null_fn(*data)
    print(f"{name}: {nulls[name].value:.4f} nats, p = {nulls[name].p_value:.2f}")

interval = jax.jit(lambda x, y: subsampling_interval(ksg, x, y, key=jax.random.key(5)))(*weak)
true_weak = -0.5 * math.log(1 - 0.25**2)
print(f"interval {interval.lower:.4f} to {interval.upper:.4f}, true {true_weak:.4f}")

# %% [markdown]
# ## 3. Bounds have ceilings
#
# InfoNCE with B pairs cannot exceed log B. Here its critic is the exact log-ratio, the best there is, and the mutual
# information grows past the ceiling. The estimate carries it.

# %%
BATCH = 128


def exact_scores(x, y, rho):
    """log p(y | x) - log p(y) of all pairs, summed over the dimensions."""
    x, y = x[:, None, :], y[None, :, :]
    return jnp.sum((2 * rho * x * y - rho**2 * (x**2 + y**2)) / (2 * (1 - rho**2)) - 0.5 * jnp.log1p(-(rho**2)), -1)


rates = []
for dim in (1, 4, 16, 64):
    x, y = correlated(jax.random.key(6), dim, BATCH, rho=0.6)
    estimate = jax.jit(lambda x, y: info_nce(exact_scores(x, y, 0.6)))(x, y)
    rates.append((-dim / 2 * math.log(1 - 0.6**2), float(estimate), float(estimate.ceiling)))
    print(f"true {rates[-1][0]:7.3f}   InfoNCE {rates[-1][1]:6.3f}   ceiling {rates[-1][2]:.3f}   ({estimate.kind})")

x = jax.random.normal(jax.random.key(7), (1500, 1))
lower, upper = jax.jit(lambda x: kolchinsky_tracey_bounds(x, variance=0.1))(x)
true_noisy = 0.5 * math.log(11)
print(f"\nof x and x + noise: {float(lower):.3f} <= {true_noisy:.3f} <= {float(upper):.3f}")

# %% [markdown]
# ## 4. Not mutual information
#
# The Cauchy-Schwarz measure of a density estimate measures the smoothed law, so it moves with the kernel's width; its
# `kind` says so. A value without its sigma means nothing, and none of these is the 0.413 nats of this law.

# %%
x, y = correlated(jax.random.key(8), 1, 3000, rho=0.75)
widths = (0.25, 0.5, 1.0, 2.0)
measured = [jax.jit(lambda x, y, sigma=sigma: cs_qmi(x, y, sigma=sigma))(x, y) for sigma in widths]
for sigma, estimate in zip(widths, measured, strict=True):
    print(f"sigma {sigma:4.2f}: {float(estimate):.4f} ({estimate.kind})")

# %%
normal = float(np.mean(table[SHOWN[0]][0]))
assert abs(normal - TASKS[SHOWN[0]].mutual_information) < 0.05
assert by_size[3000][-1] < 0.6 * truth[-1] and abs(by_size[3000][0] - truth[0]) < 0.05
assert nulls["rho = 0.25"].p_value <= 0.05 < nulls["rho = 0"].p_value
assert interval.lower < true_weak < interval.upper
assert rates[-1][0] > rates[-1][2] >= rates[-1][1] and abs(rates[0][1] - rates[0][0]) < 0.15
assert float(lower) < true_noisy < float(upper)
assert float(measured[0]) > 2 * float(measured[2]) and all(e.kind == "not MI" for e in measured)
