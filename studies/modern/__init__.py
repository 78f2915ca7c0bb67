"""What prototypes cost a modern network, and whether its reasons decide."""
