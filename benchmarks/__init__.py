"""Speed, as ratios measured in one run against a baseline that works as the published port does."""
