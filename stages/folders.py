"""DVC stage folders: hash each folder of images, so that a change of one is seen at once."""

from argparse import Namespace

from protodl.core.config import load_params
from protodl.core.files import hash_folder, write_json
from protodl.core.machine import own_folder
from protodl.core.process import run_script
from protodl.core.stage import Stage


def look(options: Namespace) -> None:
    """Write the hash of each folder; null for a data set of torchvision."""
    hashes: dict[str, str | None] = {}
    for name, config in load_params(options.params).datasets.items():
        folder = own_folder(config)
        # Without its folder a data set stops its own download stage, not those of the others.
        missing = folder is not None and not folder.is_dir()
        hashes[name] = "missing" if missing else hash_folder(folder) if folder else None
    write_json(hashes, options.output)


OPTIONS = {
    "--params": "params.yaml",
    "--output": "JSON of the hashes",
}
main = Stage(look, OPTIONS)

if __name__ == "__main__":
    run_script(main)
