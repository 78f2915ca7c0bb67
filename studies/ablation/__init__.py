"""What each part of the recipe does: the same training with one part changed at a time."""
