"""The benchmarks compare the same work, count it right, and say what was measured."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor, nn

from benchmarks import run
from benchmarks.logging_time import Clock, logging_seconds
from benchmarks.measure import Bench, Stopwatch, Work, build_trainer, random_split, training
from benchmarks.operations import step_operations
from benchmarks.page import one_of_each_network, speed_page
from benchmarks.pipeline_overheads import first_step_seconds, stage_seconds
from benchmarks.port_way import DeformedImages, PortWay, deform_image, use_plain_layers
from benchmarks.processes import fresh_training, total_rate
from benchmarks.published_time import time_to_published
from benchmarks.same_results import comparison
from benchmarks.training_speed import OFF, published_work, top_operators
from protodl.core.experiment_config import AugmentConfig, Experiment, LossConfig, ModelConfig
from protodl.core.machine import Runtime
from protodl.data.augment import deform, displacement
from protodl.network.losses import LossInputs, training_terms, weighted
from protodl.network.network import PrototypeNetwork
from protodl.tracking.store import tracking_uri
from tests import factories

ROOT = Path(__file__).parents[2]
ROWS = [("small", "deconv", 1, 28), ("small", "upconv", 1, 28), ("large", "upconv", 3, 32)]
CPU = Runtime(torch.device("cpu"), torch.float32, torch.channels_last, threads=1)

# A DataLoader's workers are forked beside torch's threads, which Python 3.12 and later warn of.
forks = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def network(architecture: str, decoder: str, channels: int, size: int) -> PrototypeNetwork:
    torch.manual_seed(0)
    config = ModelConfig(architecture=cast(Any, architecture), decoder=cast(Any, decoder))
    return PrototypeNetwork(config, channels, size)


def port_way(workers: int) -> PortWay:
    experiment = Experiment(dataset="mnist", batch_size=40, loss=LossConfig(r1=0.5))
    split = random_split((1, 28, 28), 100)
    return PortWay(network("small", "deconv", 1, 28), split, experiment, workers)


# --- the same work ------------------------------------------------------------------------------


def test_operations_are_those_of_the_shapes() -> None:
    net = network("small", "deconv", 1, 28)
    net.decoder.requires_grad_(False)
    net.decoder = nn.Identity()  # what is left can be counted by hand
    sides, channels = [14, 7, 4, 2], [1, 32, 32, 32, 10]
    encoder = [
        2 * 9 * i * o * side**2 for i, o, side in zip(channels, channels[1:], sides, strict=False)
    ]
    head = 2 * len(net.prototypes) * 10
    # Backward twice the forward, but the images need no gradient; distances are differences.
    by_hand = 3 * (sum(encoder) + head) - encoder[0]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert step_operations(net, 2) == pytest.approx(2 * by_hand, rel=0.01)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_operations_of_a_residual_network_are_counted() -> None:
    net = network("resnet", "resnet", 3, 32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert step_operations(net, 4) > 2 * step_operations(network("small", "deconv", 3, 32), 4)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("row", ROWS)
def test_the_baseline_network_computes_the_same_losses(row: tuple[str, str, int, int]) -> None:
    fast, plain = network(*row), use_plain_layers(network(*row))
    images, labels = torch.rand(4, row[2], row[3], row[3]), torch.arange(4)
    ours, theirs = (
        training_terms(LossInputs(each, each(images), images, labels, LossConfig()))
        for each in (fast, plain)
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-5)


def test_the_baseline_takes_no_shortcut() -> None:
    class Fast(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            raise AssertionError(f"the shortcut was taken for {maps}")

        def plain(self, maps: Tensor) -> Tensor:
            return maps + 1

    layers = use_plain_layers(nn.Sequential(Fast(), nn.Sequential(Fast())))
    assert layers(torch.zeros(1)) == 2


def test_the_baseline_deforms_as_the_batch_does() -> None:
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    noise = 2 * torch.rand(3, 2, 28, 28, dtype=torch.float64) - 1
    batch = deform(images, displacement(noise, 20.0, 4.0)).numpy()
    for n in range(3):
        one = deform_image(images[n].numpy(), noise[n].numpy(), 20.0, 4.0)
        np.testing.assert_allclose(one, batch[n], atol=1e-10)


def test_the_baseline_trains() -> None:
    image, label = DeformedImages(random_split((1, 28, 28), 100))[1]
    assert image.shape == (1, 28, 28)
    assert label == 1
    port = port_way(workers=0)
    before = port.network.prototypes.detach().clone()
    assert [port.train_batch() for _ in range(4)] == [40, 40, 40, 40]  # on into the next epoch
    assert not torch.equal(before, port.network.prototypes)


def test_the_baseline_minimises_the_same_loss() -> None:
    port = port_way(workers=0)
    images, labels = torch.rand(4, 1, 28, 28), torch.arange(4)
    weights = published_work(port.experiment).loss
    output = port.network(images)
    expected = training_terms(LossInputs(port.network, output, images, labels, weights))
    total = torch.stack(weighted(expected, weights)).sum()
    step = port.step(images, labels)
    for name in ("classification", "reconstruction", "r1", "r2"):
        assert step[name] == pytest.approx(expected[name].item(), rel=1e-5)
    assert step["loss"] == pytest.approx(total.item(), rel=1e-5)


def test_only_the_published_work_is_compared() -> None:
    own = {key: 0.5 for key in OFF if key in LossConfig.model_fields}
    loss = LossConfig.model_validate({"reconstruction": 0.02, "reconstruction_norm": "l1", **own})
    augment = AugmentConfig(shift=2, flip=True)
    row = Experiment(dataset="cifar10", loss=loss, augment=augment, batch_size=7)
    work = published_work(row)
    assert work.augment == AugmentConfig(elastic_alpha=20, elastic_sigma=4)
    assert (work.loss.reconstruction, work.loss.reconstruction_norm) == (0.02, "l1")
    assert {key: getattr(work.loss, key) for key in own} == {key: OFF[key] for key in own}
    assert (work.batch_size, work.model) == (7, row.model)


# --- the measuring ------------------------------------------------------------------------------


@forks
def test_settled_workers_have_loaded_ahead_and_rest() -> None:
    port = port_way(workers=1)
    for _ in range(3):
        port.train_batch()
    port.settle()
    assert port.loaded.batches.value == 3 + 2
    time.sleep(0.05)
    assert port.loaded.batches.value == 3 + 2


def test_a_rate_is_taken_from_rest_to_rest_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def lasting(name: str, seconds: float) -> Callable[[], int]:
        def call() -> int:
            calls.append(name)
            now[0] += seconds
            return 10

        return call

    slow = Work(lasting("slow", 2.0), cast(Any, lasting("rest", 1.0)))
    fast = Work(lasting("fast", 1.0))
    rates = Stopwatch(seconds=4, rounds=3, warm_up=1).rates(slow, fast)
    assert rates == [20 / 5, 40 / 4]  # the rest after the work counts, the one before does not
    turn = ["slow", "rest", "slow", "slow", "rest", "fast", "fast", "fast", "fast", "fast"]
    assert calls == ["slow", "rest", "fast", *turn, *turn, *turn]


def test_a_profile_gives_shares_of_the_time() -> None:
    trainer = build_trainer(Experiment(dataset="mnist", batch_size=8), CPU)
    shares = [share for _, share in top_operators(trainer)]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < sum(shares) <= 1
    assert training(trainer).do() == 8


def test_a_training_can_be_of_other_images() -> None:
    trainer = build_trainer(Experiment(dataset="mnist", batch_size=8), CPU, (3, 32, 32))
    assert training(trainer).do() == 8
    assert trainer.network.image_size == 32
    assert trainer.network.channels == 3


def test_a_fresh_process_tells_its_memory_and_trains_when_told() -> None:
    environment = {"PROTODL_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with fresh_training(ROOT, "mnist-small-deconv", 0.01, environment) as process:
        assert 0 < process.memory["imported"] < process.memory["peak"] < 20_000
        assert total_rate([process]) > 0
        assert total_rate([process]) > 0


def test_a_stage_lasts_until_the_next_one_starts() -> None:
    printed = [(1.0, "Running stage 'check':"), (1.5, "> python -m stages.check")]
    printed += [(4.0, "Running stage 'train@a':"), (9.0, "To track the changes"), (9.5, "")]
    assert stage_seconds(printed) == {"check": 3.0, "train@a": 5.5}
    assert stage_seconds([(2.0, "Data and pipelines are up to date."), (2.1, "")]) == {}


def test_the_first_step_is_as_the_stage_prints_it() -> None:
    printed = [
        (1.0, "Running stage 'train@a':"),
        (9.0, "a seed 0: first step 3.8 s after the start"),
    ]
    assert first_step_seconds(printed) == 3.8


def test_only_the_time_in_hooks_counts_as_logging(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = factories.write_params(project, {"a": {"dataset": "mnist", "epochs": 2}})
    bench = Bench(project, params, CPU, Stopwatch())
    start = time.perf_counter()
    seconds = logging_seconds(bench, "a")
    assert 0 < 2 * seconds < time.perf_counter() - start
    store = MlflowClient(tracking_uri())
    experiment = store.get_experiment_by_name("protodl")
    assert experiment is not None
    (seed,) = store.search_runs([experiment.experiment_id], "tags.kind = 'seed'")
    assert len(store.get_metric_history(seed.info.run_id, "validation/accuracy")) == 2
    ticks = iter([1.0, 3.0, 10.0, 11.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    clock = Clock()
    hook = clock.timed(lambda: None)
    hook()
    hook()
    assert clock.seconds == 3.0


# --- time to the published accuracy -------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "seconds", "reached"),
    [(0.5, 1.5, 3), (0.6115, 3.0, 3), (0.6215, None, 1), (0.7, None, 0)],
)
def test_time_to_published_is_the_median_over_the_seeds(
    accuracy: float, seconds: float | None, reached: int, tmp_path: Path
) -> None:
    """Validation accuracy of seed s is 0.61 + s/1000 after 1.5 seconds, 0.62 + s/1000 after 3."""
    params = factories.write_params(tmp_path, {"a": {"dataset": "mnist"}}, seeds=(0, 1, 2))
    logs = [factories.training(params, "a", seed) for seed in params.seeds]
    found = time_to_published(logs, accuracy, port_rate=1000)
    assert found["seconds"] == seconds
    assert (found["reached"], found["seeds"]) == (reached, 3)
    assert found["factor"] == (None if seconds is None else 1500 * 55_000 / 1000 / seconds)
    assert (found["processor"], found["threads"]) == ("Abacus, 2 cores", "2")


# --- the files ----------------------------------------------------------------------------------


@forks
def test_a_quick_run_writes_the_files_and_keeps_other_sections(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        for section in ("training", "elastic", "same_results"):
            run.main(["--quick", "--only", section, "--output", str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / "results.json").read_text())
    row = "mnist-small-deconv"
    assert set(results["measured"]) == {"training", "elastic", "same_results"}
    assert len(results["same_results"][row]["plain"]) == 3
    assert {"processor", "threads", "git_revision"} <= set(results["measured"]["elastic"])
    speed = results["throughput"][row]
    expected = speed["images_per_second"] / speed["port_images_per_second"]
    assert speed["ratio"] == pytest.approx(expected, rel=1e-2)
    assert speed["recipe_images_per_second"] > 0
    assert 0 < results["share_of_peak"][row] < 2
    assert results["elastic"]["ratio"] > 0
    assert set(results["time_to_published"]) == {row}
    assert (tmp_path / "SPEED.md").read_text() == speed_page(results)
    assert f"{speed['ratio']:.1f}" in (tmp_path / "SPEED.md").read_text()
    assert (tmp_path / "speed.png").stat().st_size < 100_000


def test_results_are_compared_with_their_standard_error() -> None:
    found = comparison([0.90, 0.92, 0.94], [0.91, 0.92, 0.93])
    assert found["difference"] == pytest.approx(0)
    assert found["standard_error"] == pytest.approx(((0.0004 + 0.0001) / 3) ** 0.5)


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.parse(["--only", "elastic,sped"])
    assert "sped" in capsys.readouterr().err


def test_missing_data_is_named_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"dvc repro download@mnist"):
        run.main(["--only", "elastic,same_results", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_quick_run_leaves_the_committed_figures_alone() -> None:
    assert run.parse(["--quick"]).output != run.parse([]).output == ROOT / "benchmarks"


@pytest.mark.skipif(not (ROOT / "benchmarks/results.json").exists(), reason="not measured yet")
def test_the_committed_page_shows_the_committed_figures() -> None:
    committed = (ROOT / "benchmarks/SPEED.md").read_text(encoding="utf-8")
    assert committed == speed_page(run.read(ROOT / "benchmarks"))


def test_one_row_of_each_network_is_shown() -> None:
    rows = ["mnist-small-deconv", "mnist-small-upconv", "a-b-small-deconv", "c-large-upconv"]
    assert one_of_each_network(rows) == ["mnist-small-deconv", "mnist-small-upconv", rows[-1]]


def test_the_first_and_the_last_row_are_the_extremes(tmp_path: Path) -> None:
    params = factories.write_params(tmp_path, {name: {"dataset": "mnist"} for name in "abc"})
    assert list(Bench(tmp_path, params, CPU, Stopwatch()).extremes) == ["a", "c"]
