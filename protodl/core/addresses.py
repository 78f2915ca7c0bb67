"""Addresses as messages, logs and tags may show them."""

import re


def without_secrets(text: str) -> str:
    """A text in which addresses have neither user and password nor a query."""
    # A password may hold a slash, whatever the standard says; so all up to the last @ goes.
    return re.sub(r"(\w+://)(?:[^\s'\"]*@)?([^\s?;,'\"]*)(?:\?[^\s;,'\"]*)?", r"\1\2", text)
