"""The fixed image measure on real data: what its networks get right, the floors, and the time of each part.

    python -m benchmarks.image_measure --data DIR                                   # an accelerator: everything
    python -m benchmarks.image_measure --data DIR --train 2000 --test 1000          # a CPU: the first of each set
    python -m benchmarks.image_measure --data DIR --without mobilenet --cache DIR   # a CPU, ResNet only: ten minutes

``DIR`` has ``cifar10/`` (either form that ``jaxdiv.data.read_cifar10`` takes) and ``weights/`` with
``cifar10_resnet56.npz``, ``cifar10_resnet20.npz`` and ``mobilenet_v2_imagenet_dequant.npz``. Needs neither
tensorflow-datasets nor grain. The training set, given as samples, is the extreme of copying and the timed evaluation.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from jaxdiv.data import dataset_info, read_cifar10
from jaxdiv.metrics import (
    embed_images,
    find_nearest,
    frechet_distance,
    load_mobilenet_v2,
    load_resnet_cifar,
    make_image_measure,
    mobilenet_v2_features,
    precision_recall,
    resnet_cifar_features,
)

NAMES = dataset_info("cifar10").label_names
# ImageNet's classes (counted from 0, without the background) that show what a CIFAR-10 class shows.
ROAD = (407, 436, 468, 511, 555, 569, 575, 609, 627, 654, 656, 661, 675,
        717, 734, 751, 757, 779, 817, 829, 864, 867)  # fmt: skip
IMAGENET = {
    "airplane": (404, 895),
    "automobile": ROAD,
    "bird": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "cat": tuple(range(281, 286)),
    "deer": (351, 352, 353),
    "dog": tuple(range(151, 269)),
    "frog": (30, 31, 32),
    "horse": (339,),
    "ship": (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 914),
    "truck": ROAD,
}


def timed(name, fn, *args, **keywords):
    """What the function gives; prints the seconds of a first call, which compiles, and of a second."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        out = jax.block_until_ready(fn(*args, **keywords))
        seconds.append(time.perf_counter() - start)
    print(f"{name:44s} first {seconds[0]:8.2f} s   again {seconds[1]:8.2f} s", flush=True)
    return out


def sense(predicted, labels):
    """Per CIFAR class: share of its images, and of all others, that get an ImageNet class of the same meaning."""

    def share(hits):
        return float(hits.mean()) if hits.size else float("nan")

    rows = {}
    for label, name in enumerate(NAMES):
        # Class 0 of the network is background.
        hit = np.isin(predicted - 1, IMAGENET[name])
        inside = labels == label
        others = ~np.isin(labels, [1, 9]) if name in ("automobile", "truck") else ~inside
        rows[name] = (share(hit[inside]), share(hit[others]))
    return rows


def print_accuracies(weights, images, labels, batch):
    """Top-1 of the ResNets on the test set, where their weights are there."""
    for depth in (20, 56):
        path = weights / f"cifar10_resnet{depth}.npz"
        if path.exists():
            params = load_resnet_cifar(path)
            seen = timed(
                f"ResNet{depth}, {len(images)} images",
                embed_images,
                resnet_cifar_features,
                params,
                images,
                batch_size=batch,
            )
            print(f"ResNet{depth} top-1 {100 * (seen.labels == labels).mean():.2f} %", flush=True)


def print_parts(resnet, mobilenet, train, test, counts, batches):
    """Seconds of each part of the measure, one by one; what the MobileNet takes the test images for, or None."""
    predicted = None
    if resnet is not None:
        params = load_resnet_cifar(resnet)
        a = timed(
            f"ResNet features, {len(train)}", embed_images, resnet_cifar_features, params, train, batch_size=batches[0]
        )
        b = embed_images(resnet_cifar_features, params, test, batch_size=batches[0])
        timed("Frechet distance, 64", frechet_distance, a.statistics, b.statistics)
        common = min(counts[0], len(train), len(test))
        timed(f"precision and recall, {common}", precision_recall, b.features[:common], a.features[:common])
        timed(f"nearest of {len(train)}, features", find_nearest, b.features[: counts[1]], a.features)
    if mobilenet is not None:
        params = load_mobilenet_v2(mobilenet)
        keep = {"batch_size": batches[1], "keep_features": False}
        a = timed(f"MobileNet features, {len(train)}", embed_images, mobilenet_v2_features, params, train, **keep)
        b = embed_images(mobilenet_v2_features, params, test, **keep)
        timed("Frechet distance, 1280", frechet_distance, a.statistics, b.statistics)
        predicted = b.labels
    rows, reference = (x.reshape(len(x), -1) for x in (test[: counts[1]], train))
    timed(f"nearest of {len(train)}, pixels", find_nearest, rows, reference)
    return predicted


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and weights/")
    parser.add_argument("--cache", type=Path, help="folder that keeps what the measure knows of the two sets")
    parser.add_argument("--train", type=int, help="only the first so many training images")
    parser.add_argument("--test", type=int, help="only the first so many test images")
    parser.add_argument("--without", choices=["resnet", "mobilenet"], help="leave a network out")
    parser.add_argument("--samples", type=Path, help="also measure uint8 images in this .npy")
    parser.add_argument("--pairs", type=int, default=10_000, help="images for precision, recall and nearest neighbours")
    parser.add_argument("--batches", type=int, nargs=2, help="images at once: ResNet, MobileNet")
    parser.add_argument("--parts", action=argparse.BooleanOptionalAction, default=True, help="time each part by itself")
    args = parser.parse_args(argv)

    device = jax.devices()[0]
    print(f"jax {jax.__version__}, {device.device_kind}", flush=True)
    # Small batches stay in a processor's cache; large ones fill an accelerator.
    batches = args.batches or ((100, 10) if device.platform == "cpu" else (1000, 250))
    start = time.perf_counter()
    data = read_cifar10(args.data / "cifar10")
    print(f"CIFAR-10 decoded in {time.perf_counter() - start:.1f} s", flush=True)
    train, train_labels = data["train"]["image"][: args.train], data["train"]["label"][: args.train]
    test, test_labels = data["test"]["image"][: args.test], data["test"]["label"][: args.test]
    weights = args.data / "weights"
    resnet = None if args.without == "resnet" else weights / "cifar10_resnet56.npz"
    mobilenet = None if args.without == "mobilenet" else weights / "mobilenet_v2_imagenet_dequant.npz"

    if args.parts:
        if resnet is not None:
            print_accuracies(weights, test, test_labels, batches[0])
        predicted = print_parts(resnet, mobilenet, train, test, (args.pairs, args.pairs), batches)
        if predicted is not None:
            print("MobileNet: share of a class (of the rest) that gets an ImageNet class of the same meaning, %")
            for name, (inside, outside) in sense(predicted, test_labels).items():
                print(f"  {name:12s} {100 * inside:5.1f} ({100 * outside:.2f})")

    start = time.perf_counter()
    measure = make_image_measure(
        train,
        train_labels,
        test,
        resnet_path=resnet,
        mobilenet_path=mobilenet,
        cache=args.cache,
        num_precision_recall=args.pairs,
        num_nearest=args.pairs,
        resnet_batch=batches[0],
        mobilenet_batch=batches[1],
    )
    print(f"make_image_measure {time.perf_counter() - start:.1f} s")
    print("floor (test set):", json.dumps(measure.floor))
    sets = {"training set as samples": train}
    if args.samples:
        sets[args.samples.name] = np.load(args.samples, allow_pickle=False)
    for name, samples in sets.items():
        start = time.perf_counter()
        row = measure(samples)
        print(f"{name}: {len(samples)} in {time.perf_counter() - start:.1f} s:", json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
