"""The source files that a script runs, found by following its imports.

`python -m protodl.core.sources` names the pipelines (dvc.yaml) whose `deps:` are not the files
that their stages run; with `--write` it mends them.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from protodl.core.files import write_text

ROOT = Path(__file__).parents[2]
OBSERVERS = ("protodl/tracking/",)  # MLflow shows what was computed and cannot change an output


def closure(script: str, root: Path = ROOT) -> list[str]:
    """A script and all files of the project that it imports, directly or not, sorted.

    Names are relative to `root`, such as `protodl/core/files.py`. Imports inside functions count;
    imports for type checking, protodl/tracking and the __init__.py of packages do not.
    """
    found: set[str] = set()
    todo = [script]
    while todo:
        name = todo.pop()
        if name not in found and not name.startswith(OBSERVERS):
            found.add(name)
            todo += _imports(root / name, root)
    return sorted(found)


def _imports(path: Path, root: Path) -> Iterator[str]:
    for module in _modules(ast.parse(path.read_text(encoding="utf-8"))):
        name = module.replace(".", "/") + ".py"
        if (root / name).is_file():
            yield name


def _modules(node: ast.AST) -> Iterator[str]:
    """Names that may be modules: of `from a import b` both a and a.b."""
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        children = list(node.orelse)
    for child in children:
        yield from _modules(child)


def pipelines(root: Path = ROOT) -> list[Path]:
    """Every dvc.yaml of the project: its own and those of the studies."""
    return [root / "dvc.yaml", *sorted(root.glob("studies/*/dvc.yaml"))]


def with_sources(pipeline: str, root: Path = ROOT) -> str:
    """The text of a dvc.yaml with the sources of each stage in its `deps:`, its script first.

    Other dependencies (data, models) and all other lines stay as they are.
    """
    script = ""

    def mended(found: re.Match[str]) -> str:
        nonlocal script
        if found["module"]:
            script = found["module"].replace(".", "/") + ".py"
            return found[0]
        return "".join(_deps(found[0].splitlines(keepends=True), script, root))

    command = r"python -m (?P<module>(?:stages|studies)\.[\w.]+)"
    return re.sub(rf"{command}|(?<= deps:\n)(?: +- .*\n)+", mended, pipeline)


def _deps(block: list[str], script: str, root: Path) -> list[str]:
    """The entries of a `deps:` with the sources where the first of them stood."""
    ours = [bool(re.match(r" +- (protodl|stages|studies)/\S+\.py$", line)) for line in block]
    indent = block[0].partition("-")[0]
    names = [script, *(name for name in closure(script, root) if name != script)]
    sources = [f"{indent}- {name}\n" for name in names]
    place = ours.index(True) if True in ours else len(block)
    others = [line for line, own in zip(block, ours, strict=True) if not own]
    return [*others[:place], *sources, *others[place:]]


def main() -> int:
    """Compare or, with --write, mend; the exit status is 1 where something differs."""
    parser = argparse.ArgumentParser(prog="python -m protodl.core.sources", description=__doc__)
    parser.add_argument("--write", action="store_true", help="mend the files")
    write = parser.parse_args().write
    status = 0
    for path in pipelines():
        text = path.read_text(encoding="utf-8")
        wanted = with_sources(text)
        if wanted == text:
            continue
        if write:
            write_text(wanted, path)
        else:
            status = 1
        print(f"{path.relative_to(ROOT)}: {'mended' if write else 'deps differ; add --write'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
