"""Write a data set's tensorflow-datasets directory: ``python -m jaxdiv.data.prepare NAME --from DIR --data-dir DIR``.

* ``digits``: needs no ``--from``, and is prepared on first use anyway.
* ``mnist``, ``fashion_mnist``: a folder with the four idx files.
* ``cifar10``: a folder in one of the two forms that ``jaxdiv.data.formats`` describes: the published binary files, or
  xz shards, of which ``--shards train0 test`` takes some.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from jaxdiv.checks import fail
from jaxdiv.data import formats, sources


def prepare_dataset(
    name: str,
    *,
    source_dir: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    shards: Sequence[str] | None = None,
) -> Path:
    """Write ``data_dir/name/version`` in array_record form, for ``load_split`` to open.

    Args:
      name: one of ``DATASETS``.
      source_dir: the folder of the original files; not used for the digits.
      data_dir: the folder of all data sets; None is ``default_data_dir()``.
      shards: for cifar10, the shards to take; None is all of them.

    Returns:
      The new directory.

    Raises:
      ValueError: an argument does not fit, a file is damaged, or the directory is there already.
      FileNotFoundError: an original file is missing.
    """
    info = sources.dataset_info(name)
    data_dir = sources.default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if shards is not None and name != "cifar10":
        raise fail("prepare_dataset", "shards", f"is {list(shards)} for {name}", "None: only cifar10 comes in shards")
    if (data_dir / name / info.version).exists():
        raise ValueError(f"prepare_dataset: {data_dir / name / info.version} exists; remove it to prepare {name} again")
    if name == "digits":
        from jaxdiv.data import digits

        return digits.prepare_digits(data_dir)
    if source_dir is None:
        raise fail("prepare_dataset", "source_dir", "is None", f"the folder of {name}'s original files (--from)")
    source_dir = Path(source_dir).expanduser()
    if name == "cifar10":
        splits = formats.read_cifar10(source_dir, shards=shards)
    else:
        splits = formats.read_idx_dataset(source_dir)
    for split, (images, labels) in splits.items():
        if images.shape[1:] != info.image_shape or (len(labels) and labels.max() >= info.num_classes):
            expected = f"images of shape {info.image_shape} and labels below {info.num_classes}"
            raise fail("prepare_dataset", f"{split} of {source_dir}", "is another data set", expected)

    from jaxdiv.data import builders

    description = f"{name} from files on disk, prepared by jaxdiv."
    return builders.publish(
        lambda folder: builders.ArrayBuilder(
            name=name,
            version=info.version,
            splits=splits,
            label_names=info.label_names,
            description=description,
            data_dir=folder,
        ),
        data_dir,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; a wrong argument or a damaged file ends it with one line and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m jaxdiv.data.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # keeps the list above a list
    parser.add_argument("name", choices=list(sources.DATASETS), help="the data set")
    parser.add_argument("--from", dest="source_dir", help="folder of the original files")
    parser.add_argument("--data-dir", help=f"folder of all data sets (default: {sources.default_data_dir()})")
    parser.add_argument("--shards", nargs="+", help="cifar10: the shards to take (default: all)")
    args = parser.parse_args(argv)
    try:
        directory = prepare_dataset(args.name, source_dir=args.source_dir, data_dir=args.data_dir, shards=args.shards)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(f"{args.name} is in {directory}")


if __name__ == "__main__":
    main()
