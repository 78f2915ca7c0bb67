"""Seeds that are trained on the nodes of a Ray cluster, here all on this machine."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protodl.core.config import load_params
from protodl.pipeline import dispatch
from protodl.pipeline.cluster import LOOPBACK, VARIABLES
from protodl.training.away import Word
from tests.stages.test_train import ROOT, Stage

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'protodl[cluster]'")
STORE = 80 * 2**20  # bytes of a node's object store: the least that Ray takes


@pytest.fixture(name="cluster", scope="module")
def _cluster() -> Iterator[Any]:
    """A node with room for one training; a test adds others."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        # Of its own, and short: Ray puts sockets there.
        for name, value in {**VARIABLES, **LOOPBACK, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray.cluster_utils import Cluster

        first = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=first)
        yield cluster
        cluster.shutdown()


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Stage:
    """Two seeds that the train stage itself has trained."""
    stage = Stage(tmp_path_factory.mktemp("local"), migrated_database)
    status, output = stage.run("0, 1")
    assert status == 0, output
    return stage


@pytest.fixture(name="stage")
def _stage(tmp_path: Path, migrated_database: Path) -> Stage:
    """A folder in which nothing is trained."""
    stage = Stage(tmp_path, migrated_database)
    stage.write_params("0, 1")
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    shutil.copy(tmp_path / "train.pt", tmp_path / "data" / "mnist")
    return stage


def train(stage: Stage, cluster: Any) -> dict[str, str]:
    params = load_params(stage.folder / "params.yaml")
    return dispatch.train_missing(stage.folder, params, ["a-row"], cluster.address)


def assert_like(stage: Stage, local: Stage) -> None:
    """The train stage has nothing to do, and delivers the bytes of a local training."""
    status, output = stage.run("0, 1")
    assert status == 0, output
    assert "epoch" not in output
    for seed in (0, 1):
        assert stage.model(seed) == local.model(seed)
        history, expected = stage.log(seed).history, local.log(seed).history
        assert [r.train for r in history] == [r.train for r in expected]
        assert [r.validation for r in history] == [r.validation for r in expected]
    assert stage.log(0).fingerprint == local.log(0).fingerprint


def test_a_seed_whose_node_dies_goes_on_elsewhere_to_the_same_bytes(
    stage: Stage,
    local: Stage,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    hear, first_words = dispatch.Queue._hear, []

    def listening(queue: dispatch.Queue, running: dispatch.Running, word: Word) -> None:
        hear(queue, running, word)
        if word.epoch == 1 and running.node == second.node_id:
            cluster.remove_node(second, allow_graceful=False)
        first_words.append((running.node == second.node_id, word.epoch))

    monkeypatch.setattr(dispatch.Queue, "_hear", listening)
    assert train(stage, cluster) == {}
    said = capsys.readouterr().out
    assert said.count("goes on elsewhere after epoch 1: Task failed because the node") == 1
    assert "a-row: trained, every seed is in the checkpoint store" in said
    assert (True, 1) in first_words
    assert (True, 3) not in first_words
    assert_like(stage, local)
