"""Feature networks, the WS-DAN classifier, weights and published checkpoints."""
