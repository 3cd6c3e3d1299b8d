"""EDM's DDPM++ network a second time: float64 numpy, channels first, straight from a state_dict in PyTorch layouts.

Written from the table of details in the reference, with loops where the library has array operations: resampling is by
strided assignment, the 1x1 skip convolution runs after it, attention goes image by image and splits q, k, v out of
interleaved channels.
"""

import numpy as np


def edm_shapes(net):
    """Every parameter's name and shape for EDM's constructor arguments ``net``, without the ``model.`` prefix."""
    base, image, channels = net["model_channels"], net["img_resolution"], net["img_channels"]
    emb = base * net["channel_mult_emb"]
    shapes = {"map_layer0.weight": (emb, base), "map_layer0.bias": (emb,)}
    shapes |= {"map_layer1.weight": (emb, emb), "map_layer1.bias": (emb,)}
    if net["label_dim"]:
        shapes |= {"map_label.weight": (base, net["label_dim"]), "map_label.bias": (base,)}
    if net["augment_dim"]:
        shapes["map_augment.weight"] = (base, net["augment_dim"])

    def conv(name, cin, cout, k):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (cout, cin, k, k), (cout,)

    def norm(name, c):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (c,), (c,)

    def block(name, cin, cout, attention=False, resample=False):
        norm(f"{name}.norm0", cin)
        conv(f"{name}.conv0", cin, cout, 3)
        shapes[f"{name}.affine.weight"], shapes[f"{name}.affine.bias"] = (cout, emb), (cout,)
        norm(f"{name}.norm1", cout)
        conv(f"{name}.conv1", cout, cout, 3)
        if cin != cout or resample:
            conv(f"{name}.skip", cin, cout, 1)
        if attention:
            norm(f"{name}.norm2", cout)
            conv(f"{name}.qkv", cout, 3 * cout, 1)
            conv(f"{name}.proj", cout, cout, 1)

    mults, attn = net["channel_mult"], net["attn_resolutions"]
    conv(f"enc.{image}x{image}_conv", channels, base, 3)
    width, skips = base, [base]
    for level, mult in enumerate(mults):
        res = image // 2**level
        if level > 0:
            block(f"enc.{res}x{res}_down", width, width, resample=True)
            skips.append(width)
        for i in range(net["num_blocks"]):
            block(f"enc.{res}x{res}_block{i}", width, base * mult, attention=res in attn)
            width = base * mult
            skips.append(width)
    for level in reversed(range(len(mults))):
        res = image // 2**level
        if level == len(mults) - 1:
            block(f"dec.{res}x{res}_in0", width, width, attention=True)
            block(f"dec.{res}x{res}_in1", width, width)
        else:
            block(f"dec.{res}x{res}_up", width, width, resample=True)
        for i in range(net["num_blocks"] + 1):
            last = i == net["num_blocks"]
            block(f"dec.{res}x{res}_block{i}", width + skips.pop(), base * mults[level], attention=last and res in attn)
            width = base * mults[level]
    norm(f"dec.{image}x{image}_aux_norm", width)
    conv(f"dec.{image}x{image}_aux_conv", width, channels, 3)
    return shapes


def random_state_dict(net, seed):
    """Random weights that keep activations near one, as EDM stores them: with the prefix and the filter buffers."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in edm_shapes(net).items():
        value = rng.normal(size=shape) * (0.3 if name.endswith("bias") else 1 / np.sqrt(np.prod(shape[1:])))
        state[f"model.{name}"] = (value + (".norm" in name or "aux_norm" in name)).astype(np.float32)
        if name.endswith(("_down.skip.weight", "_up.skip.weight")):
            for conv in ("conv0", "skip"):
                buffer = name.replace("skip.weight", f"{conv}.resample_filter")
                state[f"model.{buffer}"] = np.full((1, 1, 2, 2), 0.25, np.float32)
    return state


def silu(x):
    return x / (1 + np.exp(-x))


def conv2d(x, weight, bias):
    k, (_, _, h, w) = weight.shape[-1], x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((x.shape[0], weight.shape[0], h, w))
    for i in range(k):
        for j in range(k):
            out += np.einsum("oc,bchw->bohw", weight[:, :, i, j], padded[:, :, i : i + h, j : j + w])
    return out + bias[None, :, None, None]


def up(x):
    out = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    for i in range(2):
        for j in range(2):
            out[:, :, i::2, j::2] = x
    return out


def down(x):
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def group_norm(x, weight, bias):
    out = np.empty_like(x)
    size = x.shape[1] // min(32, x.shape[1] // 4)
    for b in range(x.shape[0]):
        for start in range(0, x.shape[1], size):
            group = x[b, start : start + size]
            out[b, start : start + size] = (group - group.mean()) / np.sqrt(group.var() + 1e-6)
    return out * weight[None, :, None, None] + bias[None, :, None, None]


def attend(x, weight, bias):
    qkv = conv2d(x, weight, bias)
    out = np.empty_like(x)
    for b in range(x.shape[0]):
        q, k, v = (qkv[b, part::3].reshape(x.shape[1], -1) for part in range(3))
        logits = q.T @ (k / np.sqrt(x.shape[1]))
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        out[b] = (v @ weights.T).reshape(x.shape[1:])
    return out


def edm_forward(net, state, x, c_noise, class_labels=None, augment_labels=None):
    """F for x [B, C, H, W], c_noise [B], one-hot class_labels [B, label_dim], augment_labels [B, augment_dim]."""
    p = {name.removeprefix("model."): np.asarray(value, np.float64) for name, value in state.items()}
    image = net["img_resolution"]

    def linear(name, value):
        return value @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    def conv(name, value):
        return conv2d(value, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm(name, value):
        return group_norm(value, p[f"{name}.weight"], p[f"{name}.bias"])

    half = net["model_channels"] // 2
    angles = np.outer(c_noise, [10000.0 ** (-i / (half - 1)) for i in range(half)])
    cosines_then_sines = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    emb = np.concatenate([cosines_then_sines[:, half:], cosines_then_sines[:, :half]], axis=1)
    if class_labels is not None:
        emb = emb + linear("map_label", class_labels * np.sqrt(net["label_dim"]))
    if augment_labels is not None:
        emb = emb + linear("map_augment", augment_labels)
    emb = silu(linear("map_layer1", silu(linear("map_layer0", emb))))

    def block(name, value):
        resample = down if name.endswith("_down") else up if name.endswith("_up") else lambda image: image
        y = conv(f"{name}.conv0", resample(silu(norm(f"{name}.norm0", value))))
        y = y + linear(f"{name}.affine", emb)[:, :, None, None]
        y = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", y)))
        skip = resample(value)
        if f"{name}.skip.weight" in p:
            skip = conv(f"{name}.skip", skip)
        y = (skip + y) * np.sqrt(0.5)
        if f"{name}.qkv.weight" in p:
            attended = attend(norm(f"{name}.norm2", y), p[f"{name}.qkv.weight"], p[f"{name}.qkv.bias"])
            y = (conv(f"{name}.proj", attended) + y) * np.sqrt(0.5)
        return y

    h = conv(f"enc.{image}x{image}_conv", x)
    skips = [h]
    blocks = net["num_blocks"]
    for level in range(len(net["channel_mult"])):
        res = image >> level
        for name in ([f"{res}x{res}_down"] if level else []) + [f"{res}x{res}_block{i}" for i in range(blocks)]:
            h = block(f"enc.{name}", h)
            skips.append(h)
    for level in range(len(net["channel_mult"]) - 1, -1, -1):
        res = image >> level
        lowest = level == len(net["channel_mult"]) - 1
        for name in ("in0", "in1") if lowest else ("up",):
            h = block(f"dec.{res}x{res}_{name}", h)
        for i in range(blocks + 1):
            h = block(f"dec.{res}x{res}_block{i}", np.concatenate([h, skips.pop()], axis=1))
    return conv(f"dec.{image}x{image}_aux_conv", silu(norm(f"dec.{image}x{image}_aux_norm", h)))


def edm_denoise(net, state, x, sigma, sigma_data=0.5):
    """D for one noise level (arXiv 2206.00364, table 1)."""
    total = sigma**2 + sigma_data**2
    raw = edm_forward(net, state, x / np.sqrt(total), np.full(len(x), np.log(sigma) / 4))
    return sigma_data**2 / total * x + sigma * sigma_data / np.sqrt(total) * raw
