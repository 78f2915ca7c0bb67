"""The numbers to compare with, as published.yaml holds them."""

from pathlib import Path

import yaml

from protodl.core.training_log import Record


class PublishedTable(Record):
    """Numbers that others published, with where and how."""

    source: str
    protocol: str
    test_accuracy: dict[str, float]  # by row


class Published(Record):
    """The content of published.yaml."""

    port: PublishedTable
    paper: PublishedTable


def load_published() -> Published:
    """Read the published numbers."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
