"""Muon in numpy and float64, one matrix at a time, written from the formulas and not from the library."""

import numpy as np

YOU = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
SCALE = {
    "match_rms": lambda i, o: 0.2 * np.sqrt(max(i, o)),
    "spectral": lambda i, o: np.sqrt(o / i),
    "original": lambda i, o: np.sqrt(max(1, o / i)),
}


def polar(x):
    """Newton-Schulz on the singular values themselves."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    s = s / max(np.linalg.norm(s), 1e-300)
    for a, b, c in YOU:
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vt


def numpy_tree():
    """A mixed tree, with what each leaf's matrices are: (read, write) between the leaf and a list of [in, out]."""
    rng = np.random.default_rng(3)
    params = {
        "embedding": rng.standard_normal((10, 6)),
        "dense": {"kernel": rng.standard_normal((6, 9)), "bias": rng.standard_normal(9)},
        "torch_like": rng.standard_normal((5, 7)),
        "conv": rng.standard_normal((2, 3, 4, 5)),
        "fused": rng.standard_normal((6, 14)),
        "heads": rng.standard_normal((6, 12)),
        "stacked": rng.standard_normal((3, 9, 6)),
    }
    return params


def split(name, x):
    if name == "torch_like":
        return [x.T]
    if name == "conv":
        return [x.reshape(24, 5)]
    if name == "fused":
        return [x[:, :6], x[:, 6:10], x[:, 10:]]
    if name == "heads":
        return [x[:, 4 * i : 4 * i + 4] for i in range(3)]
    return list(x) if name == "stacked" else [x]


def join(name, parts, shape):
    if name == "torch_like":
        return parts[0].T
    if name == "stacked":
        return np.stack(parts)
    return np.concatenate(parts, axis=1).reshape(shape)


class Muon:
    """One leaf's Muon; step t = 0, 1, ..."""

    def __init__(self, name, param, *, momentum=lambda t: 0.95, nesterov=True, scale="match_rms", decay=0.1,
                 cautious=False, normuon=None, hyperball=False):  # fmt: skip
        self.name, self.m, self.v = name, np.zeros_like(param), None
        self.momentum, self.nesterov, self.scale, self.decay = momentum, nesterov, SCALE[scale], decay
        self.cautious, self.normuon, self.hyperball = cautious, normuon, hyperball

    def neurons(self, index, x):
        if self.normuon is None:
            return x
        self.v = self.v or {}
        v = self.normuon * self.v.get(index, 0.0) + (1 - self.normuon) * np.mean(x**2, axis=0)
        self.v[index] = v
        y = x / np.sqrt(np.maximum(v, 1e-10))
        return y * np.linalg.norm(x) / np.linalg.norm(y)

    def step(self, t, param, gradient, rate):
        b = self.momentum(t)
        self.m = b * self.m + (1 - b) * gradient
        u = b * self.m + (1 - b) * gradient if self.nesterov else self.m
        new = []
        for index, (p, x) in enumerate(zip(split(self.name, param), split(self.name, u), strict=True)):
            x = self.neurons(index, polar(x)) * self.scale(*x.shape)
            if self.hyperball:
                moved = p - rate * x * np.linalg.norm(p) / np.linalg.norm(x)
                new.append(moved * np.linalg.norm(p) / np.linalg.norm(moved))
                continue
            decay = self.decay * p * (x * p >= 0) if self.cautious else self.decay * p
            new.append(p - rate * (x + decay))
        return join(self.name, new, param.shape)


class AdamW:
    """Loshchilov and Hutter's, with the decays and eps that the rest of the tree gets."""

    def __init__(self, param, *, decay=0.0):
        self.m, self.v, self.decay = np.zeros_like(param), np.zeros_like(param), decay

    def step(self, t, param, gradient, rate):
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.95 * self.v + 0.05 * gradient**2
        m, v = self.m / (1 - 0.9 ** (t + 1)), self.v / (1 - 0.95 ** (t + 1))
        return param - rate * (m / (np.sqrt(v) + 1e-8) + self.decay * param)
