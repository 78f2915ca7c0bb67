"""What the architectures reach with more time: rows of the table at some ten times their epochs."""
