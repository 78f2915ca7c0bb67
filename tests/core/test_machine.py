"""The machine: project root, device and precision choices, random state, facts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protodl.core.config import ConfigError, TrainingConfig
from protodl.core.dataset_config import DatasetConfig
from protodl.core.limits import THREADS_VARIABLE
from protodl.core.machine import (
    BELOW_AVX512,
    device_trouble,
    environment_facts,
    git_revision,
    own_folder,
    prepare_machine,
    project_root,
    seeded,
)


@pytest.fixture(autouse=True)
def _keep_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


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
    runtime = prepare_machine(settings)
    assert runtime.device.type == "cpu"
    assert runtime.dtype == torch.float32
    assert runtime.memory_format == torch.contiguous_format
    assert runtime.threads == torch.get_num_threads() == 1
    half = prepare_machine(TrainingConfig(device="cpu", precision="bfloat16"))
    assert half.dtype == torch.bfloat16
    monkeypatch.setenv(THREADS_VARIABLE, "1")  # a worker's share wins
    assert prepare_machine(TrainingConfig(device="cpu", threads=2)).threads == 1


def test_numbers_too_small_for_quick_arithmetic_count_as_zero() -> None:
    tiny = torch.full((64, 64), 1e-30)
    assert float((tiny * 1e-9).max()) > 0  # denormal
    prepare_machine(TrainingConfig(device="cpu", threads=1))
    assert float((tiny * 1e-9).max()) == 0


@pytest.mark.parametrize(
    ("native", "used", "limit", "dtype"),
    [
        (True, "AVX512", "", torch.bfloat16),
        (True, "AVX512", "ALL", torch.bfloat16),
        (True, "AVX512", "avx512_core_amx", torch.bfloat16),
        (False, "AVX512", "", torch.float32),
        (True, "AVX2", "", torch.float32),
        (True, "DEFAULT", "", torch.float32),
        (True, "AVX512", "AVX2", torch.float32),
        (True, "AVX512", "avx512_core_vnni", torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_the_processor_multiplies_it(
    native: bool, used: str, limit: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert prepare_machine(TrainingConfig(device="cpu")).dtype == dtype


def test_torch_names_what_a_variable_limits_it_to() -> None:
    asked = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    for limit in ("default", "avx2"):
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": limit}
        answer = subprocess.run(
            [sys.executable, "-c", asked], env=environment, capture_output=True, text=True
        )
        assert answer.stdout.strip() in BELOW_AVX512


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@NO_GPU
@pytest.mark.faults
@pytest.mark.parametrize("seen", [False, True])
def test_a_gpu_that_cannot_compute_is_one_sentence_where_it_is_asked_for(
    seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch sees it or not: here it has neither the driver nor the device."""
    device_trouble.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    with pytest.raises(ConfigError, match=r"training\.device = 'cuda'.*'auto' or 'cpu'") as error:
        prepare_machine(TrainingConfig(device="cuda"))
    assert len(str(error.value).splitlines()) == 1


@NO_GPU
@pytest.mark.faults
def test_auto_falls_back_from_a_gpu_that_cannot_compute_and_warns_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device_trouble.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare_machine(TrainingConfig(threads=1)).device.type == "cpu"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the processors compute, as the GPU cannot: ")


@pytest.mark.faults
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac")
@pytest.mark.parametrize("seen", [False, True])
def test_a_mac_s_gpu_that_is_not_there_is_one_sentence(
    seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_trouble.cache_clear()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: seen)
    with pytest.raises(ConfigError, match=r"training\.device = 'mps'.*'auto' or 'cpu'") as error:
        prepare_machine(TrainingConfig(device="mps"))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.faults
def test_a_home_that_is_not_there_is_named() -> None:
    config = DatasetConfig(folder="~nobody-at-all/pictures", size=20, channels=1)
    with pytest.raises(ConfigError, match=r"'~nobody-at-all/pictures': there is no such home"):
        own_folder(config)


@pytest.mark.faults
def test_a_repository_of_another_user_is_said_and_its_revision_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for its tests
    assert git_revision() == "unknown"
    assert "git config --global --add safe.directory" in capsys.readouterr().err


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
    facts = environment_facts(prepare_machine(TrainingConfig(device="cpu", threads=1)))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == "1"
    assert all(isinstance(value, str) and value for value in facts.values())
    monkeypatch.chdir(tmp_path)
    assert git_revision() == "unknown"
