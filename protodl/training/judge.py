"""How a judge is trained: on the training images alone."""

from protodl.core.experiment_config import JudgeConfig
from protodl.core.machine import Runtime, seeded
from protodl.data.datasets import Split, info_of
from protodl.network.judge import Judge
from protodl.training.classifier import augment_of, train_classifier


def train_judge(dataset: str, train: Split, config: JudgeConfig, runtime: Runtime) -> Judge:
    """Train a judge on what the networks are trained on; the same seed, the same bits."""
    with seeded(config.seed):
        judge = Judge(info_of(dataset, train))
    train_classifier(judge, train, augment_of(dataset, train), config, runtime)
    return judge.cpu()
