"""FID's Inception blocks a second time: float64 numpy, channels first, in PyTorch's layouts, norms not folded.

Each block is written out by its branches. Widths come from the state_dict, so that a narrow network is one too.
"""

import numpy as np

BLOCK_SHAPES = {
    "A": {
        "branch1x1": ("x", 1, 1),
        "branch5x5_1": ("x", 1, 1),
        "branch5x5_2": ("branch5x5_1", 5, 5),
        "branch3x3dbl_1": ("x", 1, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 3, 3),
        "branch3x3dbl_3": ("branch3x3dbl_2", 3, 3),
        "branch_pool": ("x", 1, 1),
    },
    "B": {
        "branch3x3": ("x", 3, 3),
        "branch3x3dbl_1": ("x", 1, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 3, 3),
        "branch3x3dbl_3": ("branch3x3dbl_2", 3, 3),
    },
    "C": {
        "branch1x1": ("x", 1, 1),
        "branch7x7_1": ("x", 1, 1),
        "branch7x7_2": ("branch7x7_1", 1, 7),
        "branch7x7_3": ("branch7x7_2", 7, 1),
        "branch7x7dbl_1": ("x", 1, 1),
        "branch7x7dbl_2": ("branch7x7dbl_1", 7, 1),
        "branch7x7dbl_3": ("branch7x7dbl_2", 1, 7),
        "branch7x7dbl_4": ("branch7x7dbl_3", 7, 1),
        "branch7x7dbl_5": ("branch7x7dbl_4", 1, 7),
        "branch_pool": ("x", 1, 1),
    },
    "D": {
        "branch3x3_1": ("x", 1, 1),
        "branch3x3_2": ("branch3x3_1", 3, 3),
        "branch7x7x3_1": ("x", 1, 1),
        "branch7x7x3_2": ("branch7x7x3_1", 1, 7),
        "branch7x7x3_3": ("branch7x7x3_2", 7, 1),
        "branch7x7x3_4": ("branch7x7x3_3", 3, 3),
    },
    "E": {
        "branch1x1": ("x", 1, 1),
        "branch3x3_1": ("x", 1, 1),
        "branch3x3_2a": ("branch3x3_1", 1, 3),
        "branch3x3_2b": ("branch3x3_1", 3, 1),
        "branch3x3dbl_1": ("x", 1, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 3, 3),
        "branch3x3dbl_3a": ("branch3x3dbl_2", 1, 3),
        "branch3x3dbl_3b": ("branch3x3dbl_2", 3, 1),
        "branch_pool": ("x", 1, 1),
    },
}
"""Of each convolution of a block: where its input comes from, height, width."""


def random_layer(rng, num_in, num_out, height, width):
    """A convolution and the norm after it, as PyTorch stores them; ReLU keeps about half."""
    return {
        "conv.weight": rng.normal(size=(num_out, num_in, height, width)) * np.sqrt(2 / (num_in * height * width)),
        "bn.weight": rng.normal(1.0, 0.2, num_out),
        "bn.bias": rng.normal(0.0, 0.3, num_out),
        "bn.running_mean": rng.normal(0.0, 0.3, num_out),
        "bn.running_var": rng.uniform(0.5, 1.5, num_out),
    }


def random_block(kind, num_in, seed):
    """State of one block under ``block.``, with a different small width for every convolution."""
    rng, state, widths = np.random.default_rng(seed), {}, {"x": num_in}
    for i, (name, (source, height, width)) in enumerate(BLOCK_SHAPES[kind].items()):
        widths[name] = 2 + i % 3
        layer = random_layer(rng, widths[source], widths[name], height, width)
        state |= {f"block.{name}.{part}": value for part, value in layer.items()}
    return state


def random_network(shapes, seed):
    """State of the whole network from the shapes of its convolutions."""
    rng, state = np.random.default_rng(seed), {}
    for name, (num_out, num_in, height, width) in shapes.items():
        for part, value in random_layer(rng, num_in, num_out, height, width).items():
            state[f"{name}.{part}"] = value.astype(np.float32)
    state["fc.weight"] = np.zeros((1008, 2048), np.float32)
    return state | {"fc.bias": np.zeros(1008, np.float32)}


def conv_norm_relu(state, name, x, stride=1, padded=True):
    weight = state[f"{name}.conv.weight"]
    gamma, beta, mean, var = (state[f"{name}.bn.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
    kh, kw = weight.shape[2:]
    if padded:
        x = np.pad(x, ((0, 0), (0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2)))
    rows, columns = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    out = np.zeros((x.shape[0], len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", patch, weight)
    out = (out - mean[:, None, None]) / np.sqrt(var + 0.001)[:, None, None]
    return np.maximum(out * gamma[:, None, None] + beta[:, None, None], 0)


def pool(x, reduce, stride=1):
    """Over the pixels of each 3x3 window that exist; stride 2 has no window across the edge."""
    around = 1 if stride == 1 else 0
    size = [(n + 2 * around - 3) // stride + 1 for n in x.shape[2:]]
    out = np.zeros((*x.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            top, left = i * stride - around, j * stride - around
            window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
            out[:, :, i, j] = reduce(window, axis=(2, 3))
    return out


def mixed(kind, state, prefix, x, last_pool=np.mean):
    """One block; ``last_pool`` is what the pool branch of E takes."""

    def conv(name, value, **options):
        return conv_norm_relu(state, prefix + name, value, **options)

    def chain(value, *names):
        for name in names:
            value = conv(name, value)
        return value

    halve = {"stride": 2, "padded": False}
    if kind == "A":
        parts = [
            conv("branch1x1", x),
            chain(x, "branch5x5_1", "branch5x5_2"),
            chain(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
            conv("branch_pool", pool(x, np.mean)),
        ]
    elif kind == "B":
        double = conv("branch3x3dbl_3", chain(x, "branch3x3dbl_1", "branch3x3dbl_2"), **halve)
        parts = [conv("branch3x3", x, **halve), double, pool(x, np.max, 2)]
    elif kind == "C":
        parts = [
            conv("branch1x1", x),
            chain(x, "branch7x7_1", "branch7x7_2", "branch7x7_3"),
            chain(x, *(f"branch7x7dbl_{i}" for i in range(1, 6))),
            conv("branch_pool", pool(x, np.mean)),
        ]
    elif kind == "D":
        seven = chain(x, "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3")
        three = conv("branch3x3_2", conv("branch3x3_1", x), **halve)
        parts = [three, conv("branch7x7x3_4", seven, **halve), pool(x, np.max, 2)]
    else:
        three, double = conv("branch3x3_1", x), chain(x, "branch3x3dbl_1", "branch3x3dbl_2")
        parts = [conv("branch1x1", x), conv("branch3x3_2a", three), conv("branch3x3_2b", three)]
        parts += [conv("branch3x3dbl_3a", double), conv("branch3x3dbl_3b", double)]
        parts.append(conv("branch_pool", pool(x, last_pool)))
    return np.concatenate(parts, 1)


def stem(state, x):
    x = conv_norm_relu(state, "Conv2d_1a_3x3", x, stride=2, padded=False)
    x = conv_norm_relu(state, "Conv2d_2a_3x3", x, padded=False)
    x = pool(conv_norm_relu(state, "Conv2d_2b_3x3", x), np.max, 2)
    x = conv_norm_relu(state, "Conv2d_4a_3x3", conv_norm_relu(state, "Conv2d_3b_1x1", x), padded=False)
    return pool(x, np.max, 2)


def features(state, x):
    """All 2048 of images ``[N, 3, H, W]``."""
    x = stem(state, x)
    kinds = {"A": ("5b", "5c", "5d"), "B": ("6a",), "C": ("6b", "6c", "6d", "6e"), "D": ("7a",), "E": ("7b", "7c")}
    for kind, names in kinds.items():
        for name in names:
            x = mixed(kind, state, f"Mixed_{name}.", x, last_pool=np.max if name == "7c" else np.mean)
    return x.mean((2, 3))


def resize(image, height, width):
    """TensorFlow 1's, pixel by pixel; image ``[H, W, C]``."""
    out = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            y, x = i * image.shape[0] / height, j * image.shape[1] / width
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            out[i, j] = upper * (1 - y + top) + lower * (y - top)
    return out
