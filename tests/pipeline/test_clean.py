"""`protodl clean`: what goes, what stays, and that it is said."""

from hashlib import md5
from pathlib import Path

import pytest
from filelock import FileLock

from protodl.core.files import write_bytes, write_json
from protodl.pipeline.clean import CHECKPOINTS, PICTURES, clean

MEBIBYTE = bytes(2**20)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a training for each thing that one may still be good for."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n no_scm = true\n")
    for name in ("shown", "old", "unsaved", "unfinished", "used"):
        folder = tmp_path / CHECKPOINTS / name
        write_bytes(MEBIBYTE, folder / "training.pt")
        if name in ("shown", "old", "unsaved"):  # finished
            write_bytes(name.encode(), folder / "network.pt")
            write_json({}, folder / "log.json")
        if name in ("shown", "old"):  # in DVC's cache
            digest = md5(name.encode()).hexdigest()
            write_bytes(b"", tmp_path / ".dvc/cache/files/md5" / digest[:2] / digest[2:])
    for name in ("shown", "old", "unfinished", "used", "elsewhere"):  # the last has no training
        write_bytes(MEBIBYTE, tmp_path / PICTURES / name / "3-prototypes.png")
    write_json({"fingerprint": "shown"}, tmp_path / "results/rows/a/training/seed-0.json")
    write_bytes(MEBIBYTE, tmp_path / "data" / ".raw.gz.99999999.part")
    write_bytes(MEBIBYTE, tmp_path / "models" / "a" / "seed-0.pt")
    return tmp_path


def files(root: Path) -> set[str]:
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in found if path.name != "lock" and path.parts[0] != ".dvc"}


@pytest.mark.faults
def test_only_what_nothing_needs_is_removed(root: Path) -> None:
    before = files(root)
    store = str(CHECKPOINTS)
    with FileLock(root / CHECKPOINTS / "used" / "lock"):
        said = clean(root, everything=False, dry_run=True)
        assert files(root) == before
        assert sum(line.startswith("would be removed") for line in said) == 4
        spent = "checkpoints within trainings that are finished (3)"
        assert f"would be removed: 3.0 MiB, {spent}" in said
        assert "would be removed: 2.0 MiB, pictures of trainings that are no more (2)" in said
        assert any(line.startswith("kept: 3.0 MiB, pictures that MLflow lacks") for line in said)
        assert clean(root, everything=False, dry_run=False) == [
            line.replace("would be ", "") for line in said
        ]
        gone = {f"{store}/{name}/training.pt" for name in ("shown", "old", "unsaved")}
        gone |= {f"{store}/old/network.pt", f"{store}/old/log.json", "data/.raw.gz.99999999.part"}
        gone |= {f"{PICTURES}/{name}/3-prototypes.png" for name in ("old", "elsewhere")}
        assert before - files(root) == gone
        clean(root, everything=True, dry_run=False)
    kept = {f"{store}/used/training.pt", "models/a/seed-0.pt"}
    kept |= {f"{PICTURES}/{name}/3-prototypes.png" for name in ("shown", "used")}
    assert files(root) == kept | {"results/rows/a/training/seed-0.json"}
