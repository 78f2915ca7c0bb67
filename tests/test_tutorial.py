"""The tutorial: every command and every line of it is run, in a copy of the project."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.factories import ROOT
from tests.pipeline.project import Project

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def steps() -> Iterator[tuple[str, str, str]]:
    """Kind, words before it and text of each block."""
    end = 0
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        yield found[1], TUTORIAL[end : found.start()], found[2]
        end = found.end()


def test_the_tutorial_ends_where_it_says(tmp_path: Path, migrated_database: Path) -> None:
    project = Project.create(tmp_path / "project")
    (project.folder / "mlflow.db").write_bytes(migrated_database.read_bytes())
    (project.folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    project.commit()
    environment = {**os.environ, "PYTHONPATH": str(project.folder)}
    for kind, before, text in steps():
        if kind == "yaml":
            section = re.findall(r"elow `(\w+:)`", before)[-1]
            params = project.folder / "params.yaml"
            head, line, rest = re.split(
                rf"^({section}.*\n)", params.read_text(), maxsplit=1, flags=re.MULTILINE
            )
            params.write_text(head + line + text + rest)
            continue
        commands = text.replace(". .venv/bin/activate\n", "")  # the tests' own is active
        commands = re.sub(r"^protodl ", "python -m protodl.cli ", commands, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-eu", "-c", commands], cwd=project.folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        if "seven.jpg\n" in text:
            assert "7 (" in done.stdout
            assert "weights shipped with protodl" in done.stdout
    assert (project.folder / "explained" / "summary.csv").read_text().count("\n") == 62
    assert (project.folder / "my-shapes-for-others" / "model.safetensors").is_file()
