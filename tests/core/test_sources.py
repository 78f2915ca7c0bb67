"""What a script runs, read from its imports, and the `deps:` made of it."""

from pathlib import Path

import pytest

from protodl.core.sources import closure, with_sources

SCRIPT = """
import os
from typing import TYPE_CHECKING
from protodl import direct
from protodl.package import inner
if TYPE_CHECKING:
    from protodl import types_only
def work():
    import protodl.late
    from protodl.tracking import store
"""
PIPELINE = """\
stages:
  one:
    cmd: >-
      env A=1 python -m stages.one --data data/x
    deps:
      - data/x
      - stages/one.py
      - protodl/gone.py
      - models/x
    outs:
      - y
  two:
    cmd: python -m stages.two
    deps:
      - data/y
"""


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    for name in ("direct", "second", "late", "types_only", "tracking/store", "package/inner"):
        path = tmp_path / "protodl" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "protodl" / "package" / "__init__.py").write_text("")
    (tmp_path / "protodl" / "direct.py").write_text("import protodl.second\n")
    (tmp_path / "protodl" / "second.py").write_text("import protodl.direct\n")  # a circle ends
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "one.py").write_text(SCRIPT)
    (tmp_path / "stages" / "two.py").write_text("")
    return tmp_path


def test_a_script_runs_what_it_imports_also_late_but_not_for_types(root: Path) -> None:
    modules = ["direct", "late", "package/inner", "second"]
    expected = [*(f"protodl/{name}.py" for name in modules), "stages/one.py"]
    assert closure("stages/one.py", root) == expected


def test_only_sources_of_a_pipeline_are_rewritten(root: Path) -> None:
    modules = "".join(
        f"      - protodl/{name}.py\n" for name in ("direct", "late", "package/inner", "second")
    )
    wanted = PIPELINE.replace("      - protodl/gone.py\n", modules)
    wanted += "      - stages/two.py\n"
    assert with_sources(PIPELINE, root) == wanted
    assert with_sources(wanted, root) == wanted
