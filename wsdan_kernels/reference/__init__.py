"""Plain PyTorch: the equations, the fallback on every device, and the truth in every test."""
