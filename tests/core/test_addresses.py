"""Addresses in messages: what nobody else may read is left out."""

import pytest

from protodl.core.addresses import without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://anna:p@ss@host:1/x?token=1, not", "at http://host:1/x, not"),
        ("postgresql://u:p@h/db?password=1 failed", "postgresql://h/db failed"),
        ("sqlite:////a/b.db: no", "sqlite:////a/b.db: no"),
        ("http://a:1/2@[::/x", "http://[::/x"),
        ("mail anna@example.org", "mail anna@example.org"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
