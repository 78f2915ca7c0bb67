"""Mutated data files and pictures, read one after the other; figures of that as a line of JSON.

python -m tests.data.mutations KIND COUNT
"""

import gzip
import hashlib
import io
import json
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from protodl.core.dataset_config import PUBLISHED
from protodl.core.errors import ProtodlError
from protodl.data.datasets import DATASETS, DatasetInfo
from protodl.data.download import parse
from protodl.data.pictures import Preparation, as_input
from protodl.data.torchvision_sets import published_checksums, read_files

COUNT = 12  # images of a file
EXTREME = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(whole: bytes, chance: random.Random) -> bytes:
    """Some bits, bytes or blocks changed, taken out or added."""
    content = bytearray(whole)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        if not content:
            break
        # Half of the changes are where the headers are.
        place = chance.randrange(min(len(content), chance.choice((64, len(content)))))
        how = chance.randrange(6)
        if how == 0:
            content[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            size = chance.choice((1, 2, 4, 8))
            content[place : place + size] = bytes([chance.choice(EXTREME)]) * size
        elif how == 2:
            content[place : place + 16] = chance.randbytes(16)
        elif how == 3:
            del content[place : place + chance.choice((1, 4, 100))]
        elif how == 4:
            content[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
        else:
            del content[max(place, 1) :]
    return bytes(content)


def _idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return head + values.tobytes()


def idx_files(folder: Path, chance: random.Random) -> Iterator[Callable[[], object]]:
    """MNIST's files, whose checksums somebody has made anew; one of them is damaged."""
    config = PUBLISHED["mnist"]
    random_bytes = np.frombuffer(chance.randbytes(COUNT * 28 * 28), np.uint8)
    images = _idx(random_bytes.reshape(COUNT, 28, 28))
    labels = _idx(np.arange(COUNT, dtype=np.uint8) % 10)
    whole = {path: images if "images" in path else labels for path in published_checksums(config)}
    files = {path: folder / path for path in whole}
    for path, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(whole[path]))
    while True:
        damaged = chance.choice(list(files))
        content = whole[damaged]
        packed = gzip.compress(content)
        unpacked = folder / Path(damaged).stem
        if chance.random() < 0.3:
            files[damaged].write_bytes(mutated(packed, chance))
        elif chance.random() < 0.5:
            files[damaged].write_bytes(gzip.compress(mutated(content, chance)))
        else:
            unpacked.write_bytes(mutated(content, chance))
        found = {**files, damaged: unpacked} if unpacked.exists() else files
        yield partial(read_files, "mnist", config, found)
        files[damaged].write_bytes(packed)
        unpacked.unlink(missing_ok=True)


def batch_files(folder: Path, chance: random.Random) -> Iterator[Callable[[], object]]:
    """CIFAR-10's files, which are not opened before their checksums are right."""
    config = PUBLISHED["cifar10"]
    pixels = np.frombuffer(chance.randbytes(COUNT * 3072), np.uint8).reshape(COUNT, 3072)
    batch = {"data": pixels, "labels": [k % 10 for k in range(COUNT)]}
    whole = {path: pickle.dumps(batch, protocol=2) for path in published_checksums(config)}
    meta = f"{Path(next(iter(whole))).parent}/batches.meta"
    whole[meta] = (Path(__file__).parents[2] / "data" / "sample" / meta).read_bytes()
    sums = {path: hashlib.md5(content).hexdigest() for path, content in whole.items()}
    for path, content in whole.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    while True:
        damaged = chance.choice(list(whole))
        (folder / damaged).write_bytes(mutated(whole[damaged], chance))
        yield partial(parse, "cifar10", config, folder, sums)
        (folder / damaged).write_bytes(whole[damaged])


def _pictures() -> Mapping[str, bytes]:
    """A picture of each kind, 90 x 70, on which a stroke can be found."""
    pixels = np.full((70, 90, 3), 235, np.uint8)
    pixels[15:55, 40:48] = (30, 20, 60)
    pixels[:, :, 1] -= np.arange(90, dtype=np.uint8) // 5
    colour = Image.fromarray(pixels)
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "a.png": (colour, {}),
        "alpha.png": (colour.convert("RGBA"), {}),
        "palette.png": (colour.convert("P"), {}),
        "deep.png": (deep, {}),
        "a.jpg": (colour, {"exif": exif}),
        "progressive.jpg": (grey, {"progressive": True}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "a.gif": (colour.convert("P"), {"save_all": True, "append_images": [grey.convert("P")]}),
        "a.webp": (colour, {"lossless": True}),
        "lossy.webp": (colour, {}),
        "a.bmp": (colour, {}),
        "a.tiff": (colour, {}),
        "lzw.tiff": (colour, {"compression": "tiff_lzw"}),
        "deflate.tiff": (deep, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tiff": (colour, {"compression": "jpeg"}),
    }
    contents = {}
    for name, (picture, options) in kinds.items():
        file = io.BytesIO()
        picture.save(file, Image.registered_extensions()[Path(name).suffix], **options)
        contents[name] = file.getvalue()
    try:
        import pillow_heif
    except ImportError:  # an extra
        return contents
    file = io.BytesIO()
    pillow_heif.from_pillow(colour).save(file)
    return {**contents, "a.heic": file.getvalue()}


def _other_size(png: bytes, chance: random.Random) -> bytes:
    """A PNG that says another size, with the right checksum."""
    sides = [chance.choice((0, 1, 90, 4000, 5000, 2**16, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    head = b"IHDR" + struct.pack(">II", *sides) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def picture_files(folder: Path, chance: random.Random) -> Iterator[Callable[[], object]]:
    """Pictures of every kind, to be explained."""
    pictures = _pictures()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        name = chance.choice(list(pictures))
        content = pictures[name]
        other = name.endswith("png") and chance.random() < 0.2
        path = folder / name
        path.write_bytes(_other_size(content, chance) if other else mutated(content, chance))
        info = DATASETS[chance.choice(("mnist", "fashion-mnist", "cifar10"))]
        yield partial(_prepare, path, info, "auto" if chance.random() < 0.5 else "as-is")


def _prepare(path: Path, info: DatasetInfo, prepare: Preparation) -> None:
    image = as_input(path, info, prepare).image
    assert image.shape == info.shape
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


KINDS = {"idx": idx_files, "batches": batch_files, "pictures": picture_files}


def run(kind: str, count: int, folder: Path) -> dict[str, float]:
    """Read `count` mutated files of a kind; how it went, and the longest time of one.

    Raises:
        Exception: one was refused otherwise than by an error of ours that names its folder.
    """
    files, longest = KINDS[kind](folder, random.Random(kind)), 0.0
    outcomes = Counter(refused=0, read=0)
    for _ in range(count):
        read, started = next(files), time.monotonic()
        problem = ""
        try:
            read()
        except ProtodlError as error:
            problem = str(error)
        outcomes["refused" if problem else "read"] += 1
        if problem and str(folder) not in problem:
            raise ValueError(f"it is not said which file: {problem}")
        longest = max(longest, time.monotonic() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**outcomes, "longest_seconds": round(longest, 2), "peak_mib": round(peak)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(run(sys.argv[1], int(sys.argv[2]), Path(scratch))))
