"""Make data/sample/ from a full mirror: the same classes in equal numbers, drawn with a seed.

    python data/make_sample.py --mirror /path/to/mirror --output data/sample

The mirror is laid out like torchvision's own folders (MNIST/raw/*.gz, FashionMNIST/raw/*.gz,
cifar-10-batches-py/*) and is checked against torchvision's checksums. So is the sample, which
torchvision's data sets read as they read the originals. The same mirror, counts and seed give the
same bytes.
"""

import argparse
import gzip
import hashlib
import json
import pickle
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from protodl.core.dataset_config import PUBLISHED
from protodl.data.datasets import DATASETS, Split
from protodl.data.download import CHECKSUMS_FILE, parse
from protodl.data.torchvision_sets import published_checksums

COUNTS: Mapping[str, tuple[int, int]] = {  # training and test images
    "mnist": (2000, 500),
    "fashion-mnist": (2000, 500),
    "cifar10": (1200, 400),
}
CIFAR_BATCHES = 5


def make_sample(
    mirror: Path,
    output: Path,
    counts: Mapping[str, tuple[int, int]] = COUNTS,
    checksums: Mapping[str, str] | None = None,
    seed: int = 0,
) -> int:
    """Write the sample and its checksums.json; return the bytes written.

    `checksums` are those of the mirror's files, torchvision's when it is None.
    """
    files: dict[str, bytes] = {}
    for dataset, sizes in counts.items():
        published = published_checksums(PUBLISHED[dataset])
        folder = Path(next(iter(published))).parent.as_posix()
        expected = checksums or published
        expected = {p: md5 for p, md5 in expected.items() if p.startswith(f"{folder}/")}
        splits = parse(dataset, PUBLISHED[dataset], mirror, expected)
        drawn = {
            name: draw(splits[name], size, seed)
            for name, size in zip(("train", "test"), sizes, strict=True)
        }
        if DATASETS[dataset].channels == 1:
            contents = _idx_files(drawn)
        else:
            meta = (mirror / folder / "batches.meta").read_bytes()
            contents = {**_cifar_files(drawn), "batches.meta": meta}
        files |= {f"{folder}/{name}": content for name, content in contents.items()}
    md5s = {
        path: hashlib.md5(content, usedforsecurity=False).hexdigest()
        for path, content in sorted(files.items())
    }
    files[CHECKSUMS_FILE] = (json.dumps(md5s, indent=2) + "\n").encode()
    for path, content in files.items():
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (output / path).write_bytes(content)
    return sum(map(len, files.values()))


def draw(split: Split, size: int, seed: int) -> Split:
    """Draw the same number of images of each class, without repetition, in random order."""
    classes = int(split.labels.max()) + 1
    if size % classes:
        raise ValueError(f"{size} images cannot be shared equally among {classes} classes")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)
    labels = split.labels[order]
    by_class = [order[labels == label][: size // classes] for label in range(classes)]
    # Each ten images hold every class once, so that any stretch, such as a batch, is balanced.
    groups = torch.stack(by_class, dim=1)
    shuffle = torch.rand(groups.shape, generator=generator).argsort(dim=1)
    return split.select(groups.gather(1, shuffle).flatten())


def _idx_files(splits: Mapping[str, Split]) -> dict[str, bytes]:
    """The four gzip files of MNIST's format: magic number, sizes (big-endian), bytes."""
    files = {}
    for name, stem in (("train", "train"), ("test", "t10k")):
        images, labels = splits[name].images, splits[name].labels.to(torch.uint8)
        n, _, height, width = images.shape
        image_bytes = struct.pack(">4i", 0x803, n, height, width) + images.numpy().tobytes()
        label_bytes = struct.pack(">2i", 0x801, n) + labels.numpy().tobytes()
        files[f"{stem}-images-idx3-ubyte.gz"] = gzip.compress(image_bytes, 9, mtime=0)
        files[f"{stem}-labels-idx1-ubyte.gz"] = gzip.compress(label_bytes, 9, mtime=0)
    return files


def _cifar_files(splits: Mapping[str, Split]) -> dict[str, bytes]:
    """The pickled batches of CIFAR-10's Python format: data uint8 (N, 3072), list of labels."""
    train, test = splits["train"], splits["test"]
    files = {"test_batch": _cifar_batch(test, "testing batch 1 of 1")}
    chunks = zip(train.images.chunk(CIFAR_BATCHES), train.labels.chunk(CIFAR_BATCHES), strict=True)
    for number, (images, labels) in enumerate(chunks, 1):
        title = f"training batch {number} of {CIFAR_BATCHES}"
        files[f"data_batch_{number}"] = _cifar_batch(Split(images, labels), title)
    return files


def _cifar_batch(split: Split, title: str) -> bytes:
    data = np.ascontiguousarray(split.images.flatten(1).numpy())
    batch = {"batch_label": title, "labels": split.labels.tolist(), "data": data}
    # Protocol 2, the original's, would store bytes above 127 twice as long.
    return pickle.dumps(batch, protocol=4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sample from the command line's mirror."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mirror", type=Path, required=True, help="folder with the full data")
    parser.add_argument("--output", type=Path, default=Path("data/sample"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    size = make_sample(options.mirror, options.output, seed=options.seed)
    print(f"{options.output}: {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
