"""A small project with a trained row, which all tests of explanations share."""

from pathlib import Path

import pytest

from protodl.explanation.loading import load
from protodl.explanation.model import Model
from tests.factories import ROW, write_project


@pytest.fixture(name="project", scope="session")
def _project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    return folder


@pytest.fixture(name="model", scope="session")
def _model(project: Path) -> Model:
    return load(ROW, root=project)
