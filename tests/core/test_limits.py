"""What a process may use: containers' quotas as the system's files tell them, and one variable."""

from pathlib import Path

import pytest
import torch

from protodl.cli import main
from protodl.core import machine
from protodl.core.check import check_params
from protodl.core.config import ConfigError
from protodl.core.limits import THREADS_VARIABLE, available_cpus, memory, threads_of_variable

OWN = Path(__file__).parents[2] / "params.yaml"
MINE, HERE = available_cpus(), memory()
SECOND = "0::/{}\n", "30 25 0:26 {} /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
FIRST = (
    "5:memory:/{0}\n3:cpu,cpuacct:/{0}\n",
    "31 23 0:28 {0} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 23 0:29 {0} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
)
CPU_MAX, MEMORY_MAX = "cpu.max", "memory.max"
QUOTA, PERIOD = "cpu,cpuacct/{}cpu.cfs_quota_us", "cpu,cpuacct/{}cpu.cfs_period_us"


def system(root: Path, kind: tuple[str, str], group: str, mounted: str, **files: str) -> Path:
    """A root folder with the files by which the system tells of control groups."""
    proc = {"proc/self/cgroup": kind[0].format(group), "proc/self/mountinfo": kind[1]}
    proc["proc/self/mountinfo"] = kind[1].format(mounted)
    for name, text in (*proc.items(), *((f"sys/fs/cgroup/{n}", t) for n, t in files.items())):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "group", "mounted", "files"),
    [
        (SECOND, "", "/", {"cpu.max": "100000 100000\n"}),
        (SECOND, "a/b", "/", {"a/b/cpu.max": "170000 100000"}),
        (SECOND, "a/b", "/", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}),
        (SECOND, "pod/x", "/pod/x", {"cpu.max": "30000 20000"}),
        (FIRST, "", "/", {QUOTA.format(""): "150000", PERIOD.format(""): "100000"}),
        (FIRST, "u/v", "/", {QUOTA.format("u/"): "100000", PERIOD.format("u/"): "100000"}),
        (FIRST, "docker/z", "/docker/z", {QUOTA.format(""): "9", PERIOD.format(""): "10"}),
    ],
)
def test_a_container_s_share_of_the_processors_counts(
    kind: tuple[str, str], group: str, mounted: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert available_cpus(system(tmp_path, kind, group, mounted, **files)) == 1


@pytest.mark.faults
@pytest.mark.parametrize(
    "files", [{}, {"cpu.max": "max 100000"}, {"cpu.max": ""}, {"cpu.max": "9900000 100000"}]
)
def test_without_a_limit_all_processors_count(files: dict[str, str], tmp_path: Path) -> None:
    assert available_cpus(system(tmp_path, SECOND, "", "/", **files)) == MINE
    unlimited = {QUOTA.format(""): "-1", PERIOD.format(""): "100000"}
    assert available_cpus(system(tmp_path / "first", FIRST, "", "/", **unlimited)) == MINE
    assert available_cpus(tmp_path / "no such system") == MINE


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "files", "expected"),
    [
        (SECOND, {"a/b/memory.max": "max", "a/memory.max": f"{3 * 2**20}\n"}, 3 * 2**20),
        (FIRST, {"memory/a/b/memory.limit_in_bytes": f"{2**21}\n"}, 2**21),
        (FIRST, {"memory/a/b/memory.limit_in_bytes": "9223372036854771712\n"}, HERE),
        (SECOND, {}, HERE),
    ],
)
def test_a_container_s_memory_counts(
    kind: tuple[str, str], files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    assert memory(system(tmp_path, kind, "a/b", "/", **files)) == min(expected, HERE)


@pytest.mark.faults
@pytest.mark.parametrize("text", ["-2", "two", "1.5", "9" * 5000, "²", "2,4"])
def test_a_wrong_number_of_threads_is_named_with_its_variable(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"variable {THREADS_VARIABLE} = ") as error:
        check_params(OWN)
    assert len(str(error.value)) < 200


def test_the_variable_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in {"": 0, " 3 ": 3, "0": 0}.items():
        monkeypatch.setenv(THREADS_VARIABLE, text)
        assert threads_of_variable() == expected


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("threads: 0 ", "threads: 999 "), ["training.threads = 999", "processors; say at most"]),
        (("shift: 1 ", "shift: 30 "), ["mnist-small-deconv.augment.shift = 30", "at most 27"]),
        (("validation_size: 5000", "validation_size: 60000"), ["must be left; say 5000"]),
        (("source: full", "source: sample"), ["mnist has 2000 training images", "say 400"]),
        (("num_prototypes: 50}", "num_prototypes: 50001}"), ["cifar10 has 50000 training images"]),
        (("batch_size: 125\n", "batch_size: 60000\n"), ["batch_size = 60000: needs more than"]),
        (("{decoder: upconv, num_prototypes: 15}", "{num_prototypes: 60000}"), ["13 GiB", "8.0"]),
        (("appearance: 0.3}", "appearance: 0.01}"), ["exchanges none", "6 of 30 prototypes"]),
        (("torchvision: MNIST", "torchvision: MNIST, classes: [a, b]"), ["2 names", "10 classes"]),
        (("judge:", "# judge:"), ["judge: is missing; add it: DVC follows it"]),
        (("  port:  ", "  usps:  "), ["recipes.usps: not a valid choice"]),
    ],
)
def test_what_a_run_would_stop_at_is_found_before(
    change: tuple[str, str], named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with 8 GiB of memory, or half of one for a batch."""
    monkeypatch.setattr(
        "protodl.core.check.memory", lambda: 2**29 if "batch" in change[0] else 2**33
    )
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    text = OWN.read_text(encoding="utf-8")
    assert change[0] in text
    (tmp_path / "params.yaml").write_text(text.replace(*change))
    with pytest.raises(ConfigError) as error:
        check_params(tmp_path / "params.yaml")
    assert all(part in str(error.value) for part in named), str(error.value)


@pytest.mark.faults
def test_a_folder_that_leads_elsewhere_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    project, disk = tmp_path / "project", tmp_path / "large disk"
    for folder in (project, disk, project / "inside"):
        folder.mkdir()
    (project / "params.yaml").write_bytes(OWN.read_bytes())
    (project / "report").symlink_to("inside")
    check_params(project / "params.yaml")
    (project / "models").symlink_to(disk)
    with pytest.raises(ConfigError, match=r"models/ is a link to .*large disk.*dvc cache dir"):
        check_params(project / "params.yaml")


@pytest.mark.parametrize(("variable", "quota", "threads"), [("3", 9, 3), ("", 2, 2)])
@pytest.mark.parametrize("command", [["explain", "no-such-row", "x.png"], ["try", "--port", "80"]])
def test_explaining_obeys_the_variable_and_the_container(
    command: list[str], variable: str, quota: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("PROTODL_THREADS", variable)
    monkeypatch.setattr(machine, "available_cpus", lambda: quota)
    monkeypatch.setattr("protodl.page.server.serve", lambda *_: None)
    try:
        main(command)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
