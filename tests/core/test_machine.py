"""The machine: project root, device and precision choices, random state, facts."""

from pathlib import Path

import pytest
import torch

from protodl.core.config import ConfigError, TrainingConfig
from protodl.core.machine import (
    THREADS_VARIABLE,
    environment_facts,
    git_revision,
    project_root,
    resolve_runtime,
    seeded,
)


@pytest.fixture(autouse=True)
def _keep_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_project_root_is_dvcs_even_in_a_temporary_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "copy" / "deep").mkdir(parents=True)
    (tmp_path / "copy" / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "copy" / "deep")
    assert project_root() == tmp_path / "copy"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert project_root() == tmp_path
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no dvc\.yaml"):
        project_root()


def test_settings_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    settings = TrainingConfig(
        device="cpu", threads=1, precision="float32", memory_format="contiguous"
    )
    runtime = resolve_runtime(settings)
    assert runtime.device.type == "cpu"
    assert runtime.dtype == torch.float32
    assert runtime.memory_format == torch.contiguous_format
    assert runtime.threads == torch.get_num_threads() == 1
    half = resolve_runtime(TrainingConfig(device="cpu", precision="bfloat16"))
    assert half.dtype == torch.bfloat16
    monkeypatch.setenv(THREADS_VARIABLE, "1")  # a worker's share wins
    assert resolve_runtime(TrainingConfig(device="cpu", threads=2)).threads == 1


def test_auto_is_bfloat16_only_where_the_processor_multiplies_it() -> None:
    runtime = resolve_runtime(TrainingConfig(device="cpu"))
    native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    assert runtime.dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"training\.device = 'cuda'.*'auto' or 'cpu'"):
        resolve_runtime(TrainingConfig(device="cuda"))


def test_seeded_leaves_the_global_state_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded(1):
        assert torch.equal(first, torch.rand(3))


def test_environment_facts_are_flat_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = environment_facts(resolve_runtime(TrainingConfig(device="cpu", threads=1)))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == "1"
    assert all(isinstance(value, str) and value for value in facts.values())
    monkeypatch.chdir(tmp_path)
    assert git_revision() == "unknown"
