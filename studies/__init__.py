"""Questions that the table of results leaves open, each with a DVC pipeline of its own."""
