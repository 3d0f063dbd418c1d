"""The operators in plain PyTorch. They run on every device; other backends are tested on them."""
