"""Prototype networks: neural networks that explain their predictions by resemblance."""

__version__ = "0.1.0"
