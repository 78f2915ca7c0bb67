"""One project whose whole pipeline has run, for the tests of every process of pytest."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.project import Project
from tests.shared import computed_once


@pytest.fixture(scope="session")
def computed(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Project:
    """After one whole `dvc repro`; to be read, or copied by a test that changes something."""

    def compute(folder: Path) -> None:
        project = Project.create(folder)
        shutil.copy(migrated_database, folder / "mlflow.db")
        project.dvc("repro")
        project.commit()

    return Project(computed_once(tmp_path_factory, "computed", compute))


@pytest.fixture
def project_copy(computed: Project, tmp_path: Path) -> Project:
    """A copy of the computed project that a test may change."""
    return computed.copy(tmp_path / "copy")
