"""What the explanations cost in accuracy: every row of the table beside itself without them."""
