"""The stages of dvc.yaml, a short script each."""

import sys

from protodl.core.process import print_error

sys.excepthook = print_error  # here: a Ctrl-C may come while a stage still imports torch
