"""The pictures of a training: kept in files until MLflow has taken them."""

import re
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote
from uuid import NAMESPACE_URL, uuid5

from protodl.core.files import replacing
from protodl.core.machine import project_root
from protodl.core.training_log import SeedFacts
from protodl.tracking.runs import list_files
from protodl.tracking.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FULL, SMALL = ".png", "+compressed.webp"  # what MLflow shows of a picture: opened, in its card


def _folder(facts: SeedFacts) -> Path:
    return project_root() / ".protodl" / "pictures" / facts.fingerprint


def keep_picture(facts: SeedFacts, name: str, image: "npt.NDArray[np.uint8]", step: int) -> Path:
    """Write a picture, uint8 (H, W) or (H, W, 3), into a file that stays until it is recorded."""
    from PIL import Image

    path = _folder(facts) / f"{step}-{quote(name, safe='')}.png"
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")
    return path


def kept_pictures(facts: SeedFacts) -> list[Path]:
    """The pictures of a seed that MLflow lacks, by step."""
    return sorted(_folder(facts).glob("*.png"), key=lambda path: int(path.name.partition("-")[0]))


def recorded_pictures(store: Store, run_id: str) -> dict[tuple[str, int], str]:
    """Name and step of the pictures that a run has as a whole or in part, with their file names.

    MLflow writes what it shows with a slider as two files: <name>+step+<n>+timestamp+<ms>+<uuid>
    and one of the endings FULL and SMALL.
    """
    found: dict[tuple[str, int], str] = {}
    for path in list_files(store, run_id, "images"):
        stem = Path(path).name.removesuffix(FULL).removesuffix(SMALL)
        if parts := re.match(r"(.+)[+%]step[+%](\d+)[+%]", stem):
            found[re.sub("[~#]", "/", parts[1]), int(parts[2])] = stem
    return found


def log_kept(store: Store, run_id: str, path: Path, recorded: dict[tuple[str, int], str]) -> None:
    """Record a kept picture with a step slider, as MlflowClient.log_image does, and remove it.

    That gives each call another name; here a picture whose recording was cut off, or whose answer
    was lost, keeps its name. A store that takes no files leaves it kept.
    """
    if not store.keeps_files:
        return
    try:
        content, written = path.read_bytes(), path.stat().st_mtime
    except FileNotFoundError:
        return  # another process has recorded it: `protodl sync` beside a training
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    step, _, quoted = path.stem.partition("-")
    name, timestamp = unquote(quoted), int(written * 1000)
    own = f"{name.replace('/', '~')}+step+{step}+timestamp+{timestamp}"
    stem = recorded.get((name, int(step)), f"{own}+{uuid5(NAMESPACE_URL, own)}")
    with TemporaryDirectory() as folder, Image.open(BytesIO(content)) as picture:
        Path(folder, f"{stem}{FULL}").write_bytes(content)
        compress_image_size(picture).save(f"{folder}/{stem}{SMALL}")
        for ending in (FULL, SMALL):
            store.client.log_artifact(run_id, f"{folder}/{stem}{ending}", "images")
    store.client.set_tag(run_id, "mlflow.loggedImages", "True")
    recorded[name, int(step)] = stem
    path.unlink(missing_ok=True)
