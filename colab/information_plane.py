# %% [markdown]
# # The information plane, and what it depends on
#
# Shwartz-Ziv and Tishby (2017) followed the layers T of a small network through the plane of I(X; T) and I(T; Y) and
# saw two phases: the layers first learn about the label, then forget about the input, "compress". Saxe et al. (2018)
# answered that the second phase belongs to tanh, which saturates, and to the way of measuring. This notebook trains
# the network with tanh and with ReLU and measures it in three ways:
#
# 1. bins on [-1, 1], as in the first paper;
# 2. bins between the smallest and the largest value of the layer;
# 3. T + noise, bounded from the distances of all pairs of inputs, as in the second.
#
# The layers are functions of the input, and all inputs are different. So I(X; T) itself is log2 4096 = 12 bits for
# every layer that keeps inputs apart; each number below is that of a coarser variable, which the bins or the noise
# make.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from jaxdiv.information import (
    binned_mutual_information,
    discrete_mutual_information,
    information_bottleneck_curve,
    kolchinsky_tracey_bounds,
)

BITS = 1 / np.log(2)

# %% [markdown]
# ## The task
#
# All patterns of twelve bits. The bits lie on the vertices of an icosahedron, and the label is 1 where neighbouring
# pairs of ones outnumber opposite ones by 6: no rotation changes it, and 1998 of 4096 labels are 1. As it is a function
# of the pattern, I(X; Y) = H(Y), and no T can have more than I(T; Y) = min(I(X; T), H(Y)).

# %%
golden = (1 + 5**0.5) / 2
corners = [np.roll((0, a, b), shift) for a in (-1, 1) for b in (-golden, golden) for shift in range(3)]
cosines = np.array(corners) @ np.array(corners).T / (1 + golden**2)
patterns = (np.arange(4096)[:, None] >> np.arange(12)) & 1


def pairs_of_ones(cosine):
    return (patterns @ (np.abs(cosines - cosine) < 1e-6) * patterns).sum(1) // 2


margin = pairs_of_ones(5**-0.5) - pairs_of_ones(-1)
labels = (margin >= 6).astype(np.int32)
x, y = jnp.asarray(patterns, jnp.float32), jnp.asarray(labels)

table = np.zeros((4096, 2), np.float32)
table[np.arange(4096), labels] = 1
entropy_y = float(discrete_mutual_information(table)) * BITS
groups = np.unique(np.stack([margin, labels], 1), axis=0, return_counts=True)  # the bottleneck sees no more than these
small = np.zeros((len(groups[0]), 2), np.float32)
small[np.arange(len(small)), groups[0][:, 1]] = groups[1]
corner = information_bottleneck_curve(small, tishby_betas=[20.0])
print(
    f"I(X; Y) = H(Y) = {entropy_y:.4f} bits; the bottleneck's corner is at {float(corner.information_x[0]) * BITS:.4f}"
)

# %% [markdown]
# ## The networks
#
# 12-10-7-5-4-3-2 with Adam. Four networks of each kind side by side, of which the picture shows the first.

# %%
WIDTHS = (12, 10, 7, 5, 4, 3, 2)
EPOCHS = (0, 6, 15, 40, 150, 700)
NUM_TRAIN, BATCH = 3276, 468


def init(key):
    keys = jax.random.split(key, len(WIDTHS) - 1)
    shapes = zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    return [(jax.random.truncated_normal(k, -2, 2, (n, m)) / n**0.5, jnp.zeros(m)) for k, n, m in shapes]


def layers_of(params, x, activation):
    layers = []
    for kernel, bias in params[:-1]:
        x = activation(x @ kernel + bias)
        layers.append(x)
    logits = x @ params[-1][0] + params[-1][1]
    return logits, [*layers, jax.nn.softmax(logits)]


def train(activation, seeds):
    """For each of EPOCHS: the layers of all networks, each filled up with columns of 0 to ten, and the accuracies."""
    optimizer = optax.adam(1e-3)

    def loss_fn(params, rows):
        logits, _ = layers_of(params, x[rows], activation)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def epoch(number, state):
        key, split, params, moments = state
        order = jax.random.permutation(jax.random.fold_in(key, number), split[:NUM_TRAIN])

        def step(carry, rows):
            params, moments = carry
            updates, moments = optimizer.update(jax.grad(loss_fn)(params, rows), moments)
            return (optax.apply_updates(params, updates), moments), None

        (params, moments), _ = jax.lax.scan(step, (params, moments), order.reshape(-1, BATCH))
        return key, split, params, moments

    def start(seed):
        key, split_key, order_key = jax.random.split(jax.random.key(seed), 3)
        params = init(key)
        return order_key, jax.random.permutation(split_key, 4096), params, optimizer.init(params)

    def look(state):
        logits, layers = layers_of(state[2], x, activation)
        right = (logits.argmax(1) == y)[state[1]]
        padded = [jnp.pad(t, ((0, 0), (0, 10 - t.shape[1]))) for t in layers]
        return jnp.stack(padded), right[:NUM_TRAIN].mean(), right[NUM_TRAIN:].mean()

    state = jax.jit(jax.vmap(start))(seeds)
    advance = jax.jit(jax.vmap(lambda s, a, b: jax.lax.fori_loop(a, b, epoch, s), in_axes=(0, None, None)))
    look_at_all = jax.jit(jax.vmap(look))
    looks, reached = [], 0
    for stop in EPOCHS:
        state, reached = advance(state, reached, stop), stop
        looks.append(look_at_all(state))
    return looks


runs = {name: train(fn, jnp.arange(4)) for name, fn in {"tanh": jnp.tanh, "ReLU": jax.nn.relu}.items()}
for name, looks in runs.items():
    print(f"{name}: trained on {np.round(looks[-1][1], 3)}, held out {np.round(looks[-1][2], 3)}")

# %% [markdown]
# ## Three ways to measure
#
# Bins: the pattern of a layer's bins is a symbol, and I(X; bin T) is its entropy, because the inputs are all different.
# What lies above 1 goes into one bin more: for tanh nothing does, for ReLU most of what it has learned.
#
# Noise of variance 0.1 is added by the analyst and is not in the network. `kolchinsky_tracey_bounds` gives a lower and
# an upper bound on I(X; T + noise). Its bounds on I(T + noise; Y) are wide; what is drawn in the literature, and here,
# is the difference of two upper bounds, `info["same_bound"]`, and bounds nothing.


# %%
def in_bins(t, edges):
    estimate = binned_mutual_information(t, y, bins=edges)
    return jnp.stack([estimate.info["entropy_x"], estimate.value])


@jax.jit
def bins_of(layers):
    """[-1, 1], then the layer's own range: [6, 2, 2] with I(X; T) and I(T; Y)."""

    def one(layer):
        t, width = layer
        real = jnp.arange(10) < width
        low, high = jnp.min(jnp.where(real, t, jnp.inf)), jnp.max(jnp.where(real, t, -jnp.inf))
        own = low + (jnp.maximum(high, low + 1e-6) - low) * jnp.linspace(0, 1, 31)
        return jnp.stack([in_bins(t, jnp.linspace(-1, 1, 31)), in_bins(t, own)])

    return BITS * jax.lax.map(one, (layers, jnp.array(WIDTHS[1:])))


@jax.jit
def noisy(layers):
    """Lower bound on I(X; T + noise), the upper one, and the number for I(T + noise; Y): [6, 3]."""

    def one(t):
        lower, upper = kolchinsky_tracey_bounds(t, variance=0.1, labels=y)
        plain = [e.value for e in kolchinsky_tracey_bounds(t, variance=0.1)]
        return jnp.stack([*plain, upper.info["same_bound"]])

    return BITS * jax.lax.map(one, layers)


binned = {name: np.array([[bins_of(network) for network in look[0]] for look in looks]) for name, looks in runs.items()}
pairwise = {name: np.array([noisy(look[0][0]) for look in looks]) for name, looks in runs.items()}
planes = {
    "30 bins on [-1, 1]": {name: v[:, 0, :, 0] for name, v in binned.items()},
    "30 bins on its range": {name: v[:, 0, :, 1] for name, v in binned.items()},
    "noise of variance 0.1, upper bounds": {name: v[:, :, 1:] for name, v in pairwise.items()},
}

# %% [markdown]
# ## The critique in one figure
#
# Each path is a layer, from its circle before training to its square at the end; dashed, the bound of any T. By bins,
# the late layers of both networks move to the left. With noise of a fixed size those of tanh do so a little, and those
# of ReLU only ever move to the right: their weights grow, their values drift apart, and the noise hides less of them.
# The same networks, the same activations: compression is in what one chose to measure.

# %%
figure, axes = plt.subplots(3, 2, figsize=(9, 9), sharex="row", sharey="row", layout="constrained")
for row, (title, by_name) in zip(axes, planes.items(), strict=True):
    for ax, (name, values) in zip(row, by_name.items(), strict=True):
        for layer in range(6):
            path = values[:, layer]
            ax.plot(*path.T, ".-", color=f"C{layer}", label=f"{layer + 1}: {WIDTHS[layer + 1]} units")
            ax.plot(*path[0], "o", color=f"C{layer}", fillstyle="none", markersize=8)
            ax.plot(*path[-1], "s", color=f"C{layer}", markersize=7)
        line = np.linspace(0, values[..., 0].max(), 100)
        ax.plot(line, np.minimum(line, entropy_y), "k--", linewidth=0.8)
        ax.set_title(f"{name}: {title}", fontsize=10)
axes[0, 0].legend(fontsize=7)
figure.supxlabel("I(X; T), bits")
figure.supylabel("I(T; Y), bits")
plt.show()

# %% [markdown]
# ## What cannot be true
#
# Layers form a chain X, T1, T2, ..., so a later layer cannot know more of Y than an earlier one. Bins are put on each
# layer by itself, and a layer's bins are no function of the bins before: nothing keeps their numbers in order. Bins on
# [-1, 1] throw away what is above 1, and for ReLU the order then breaks. Bins over the layer's own range do not mend
# this: a few large values make the bins wide for all others.

# %%
gain = {name: np.diff(v[..., 1], axis=2) for name, v in binned.items()}  # [epochs, networks, 5, kinds of bins]
for name, rises in gain.items():
    for kind, title in enumerate(list(planes)[:2]):
        worst = rises[..., kind].max(axis=(0, 2))
        print(f"{name}, {title}: largest I(T_next; Y) - I(T; Y) of each network in bits {np.round(worst, 3)}")

lost = {title: {name: v[..., 0].max(0) - v[-1, :, 0] for name, v in by.items()} for title, by in planes.items()}
for title, by_name in lost.items():
    for name, values in by_name.items():
        print(f"{name}, {title}: what layers 1 to 6 lose of their largest I(X; T), bits {np.round(values, 2)}")

# %%
assert labels.sum() == 1998 and abs(float(corner.information_x[0]) * BITS - entropy_y) < 1e-2
for name in runs:
    assert binned[name][..., 0].max() < 12 + 1e-3 and binned[name][..., 1].max() < entropy_y + 1e-3
    assert (pairwise[name][..., 0] <= pairwise[name][..., 1] + 1e-3).all()
    assert np.max(runs[name][-1][1]) > 0.9
assert gain["ReLU"][..., 0].max() > 0.02 > gain["tanh"][..., 0].max()
assert (binned["tanh"][..., 4, 0, 0].max(0) - binned["tanh"][-1, :, 4, 0, 0]).min() > 1
assert lost["noise of variance 0.1, upper bounds"]["ReLU"][:5].max() < 0.3
