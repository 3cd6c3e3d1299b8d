"""A writer of CIFAR-10's published binary form, for tests."""

import numpy as np


def write_binary_cifar10(directory, train, test):
    """``train`` and ``test``: (images uint8 [N, 32, 32, 3], labels); the training images are dealt to five files."""
    parts = zip(np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)
    files = {f"data_batch_{i}.bin": part for i, part in enumerate(parts, 1)} | {"test_batch.bin": test}
    for name, (images, labels) in files.items():
        records = bytearray()
        for image, label in zip(images, labels, strict=True):
            records.append(int(label))
            for channel in range(3):
                records += image[:, :, channel].tobytes()
        (directory / name).write_bytes(bytes(records))
