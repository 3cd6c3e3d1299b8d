"""The pretrained networks once more in NumPy float64, from their descriptions, and random weights for small ones."""

import numpy as np

HALVING = {1, 3, 6, 13}


def conv(x, kernel, stride, pad):
    """[N, H, W, C] by [kh, kw, C, D]; ``pad`` is (before, after) on both sides."""
    height, width = kernel.shape[:2]
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows[:, ::stride, ::stride], kernel, optimize=True)


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def random_resnet(rng, *, blocks=1, width=4, classes=10):
    """PyTorch names -> arrays of a CIFAR ResNet of depth 6 blocks + 2; statistics far from trivial."""
    arrays = {}

    def layer(conv_name, norm, c_in, c_out):
        arrays[f"{conv_name}.weight"] = rng.normal(0, np.sqrt(2 / (9 * c_in)), (c_out, c_in, 3, 3))
        arrays[f"{norm}.weight"] = rng.uniform(0.5, 1.5, c_out)
        arrays[f"{norm}.bias"] = rng.normal(0, 0.3, c_out)
        arrays[f"{norm}.running_mean"] = rng.normal(0, 0.3, c_out)
        arrays[f"{norm}.running_var"] = rng.uniform(0.5, 2.0, c_out)

    layer("conv1", "bn1", 3, width)
    c_in = width
    for stage in range(3):
        for block in range(blocks):
            name, c_out = f"layer{stage + 1}.{block}", width * 2**stage
            layer(f"{name}.conv1", f"{name}.bn1", c_in, c_out)
            layer(f"{name}.conv2", f"{name}.bn2", c_out, c_out)
            c_in = c_out
    arrays["linear.weight"] = rng.normal(0, 0.5, (classes, c_in))
    arrays["linear.bias"] = rng.normal(0, 0.5, classes)
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def resnet(arrays, images, *, blocks=1):
    a = {name: value.astype(np.float64) for name, value in arrays.items()}

    def normalised(x, name):
        x = (x - a[f"{name}.running_mean"]) / np.sqrt(a[f"{name}.running_var"] + 1e-5)
        return x * a[f"{name}.weight"] + a[f"{name}.bias"]

    def layer(x, conv_name, norm, stride=1):
        return normalised(conv(x, a[f"{conv_name}.weight"].transpose(2, 3, 1, 0), stride, (1, 1)), norm)

    x = (images.astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = relu(layer(x, "conv1", "bn1"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = layer(relu(layer(x, f"{name}.conv1", f"{name}.bn1", stride)), f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                short = np.zeros_like(out)
                quarter = out.shape[-1] // 4
                short[..., quarter : quarter + x.shape[-1]] = x[:, ::2, ::2]
                x = short
            x = relu(out + x)
    features = x.mean((1, 2))
    return features, features @ a["linear.weight"].T + a["linear.bias"]


def random_mobilenet(rng, *, widths=(2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8), factor=2, last=12, classes=9):
    """Names -> arrays of a narrow MobileNetV2 with its 17 blocks."""
    arrays = {}

    def layer(name, *shape):
        fan_in = shape[0] * shape[1] * (1 if shape[3] == 1 else shape[2])
        arrays[f"{name}.kernel"] = rng.normal(0, np.sqrt(2 / fan_in), shape)
        arrays[f"{name}.bias"] = rng.normal(0, 0.3, shape[2] if shape[3] == 1 else shape[3])

    layer("Conv", 3, 3, 3, 4)
    c_in = 4
    for index, c_out in enumerate(widths):
        name = f"expanded_conv_{index}" if index else "expanded_conv"
        inner = factor * c_in if index else c_in
        if index:
            layer(f"{name}.expand", 1, 1, c_in, inner)
        layer(f"{name}.depthwise", 3, 3, inner, 1)
        layer(f"{name}.project", 1, 1, inner, c_out)
        c_in = c_out
    layer("Conv_1", 1, 1, c_in, last)
    layer("Logits.Conv2d_1c_1x1", 1, 1, last, classes)
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def enlarge(images, side):
    """Bilinear with half-pixel centres and held edges: one output row and column after another."""

    def along(x, axis):
        size = x.shape[axis]
        center = (np.arange(side) + 0.5) * size / side - 0.5
        low = np.floor(center).astype(int)
        share = (center - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        below, above = (np.take(x, np.clip(low + k, 0, size - 1), axis) for k in (0, 1))
        return below * (1 - share) + above * share

    return along(along(images.astype(np.float64), 1), 2)


def mobilenet(arrays, images):
    a = {name: value.astype(np.float64) for name, value in arrays.items()}

    def layer(x, name, stride=1, pad=(0, 0)):
        return conv(x, a[f"{name}.kernel"], stride, pad) + a[f"{name}.bias"]

    def depthwise(x, name, stride):
        # Each channel is a convolution of its own. On an even side TensorFlow pads a stride of 2 at the end only.
        pad = (1, 1) if stride == 1 or x.shape[1] % 2 else (0, 1)
        kernel = a[f"{name}.kernel"]
        channels = [conv(x[..., c : c + 1], kernel[:, :, c : c + 1], stride, pad) for c in range(x.shape[-1])]
        return np.concatenate(channels, -1) + a[f"{name}.bias"]

    x = relu6(layer(enlarge(images, 224) / 128 - 1, "Conv", 2, (0, 1)))
    for index in range(17):
        name = f"expanded_conv_{index}" if index else "expanded_conv"
        inner = relu6(layer(x, f"{name}.expand")) if index else x
        stride = 2 if index in HALVING else 1
        out = layer(relu6(depthwise(inner, f"{name}.depthwise", stride)), f"{name}.project")
        x = x + out if stride == 1 and x.shape[-1] == out.shape[-1] else out
    features = relu6(layer(x, "Conv_1")).mean((1, 2))
    return features, features @ a["Logits.Conv2d_1c_1x1.kernel"][0, 0] + a["Logits.Conv2d_1c_1x1.bias"]
