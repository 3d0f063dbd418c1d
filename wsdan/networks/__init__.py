"""Backbones, the WS-DAN classifier, pretrained weights and published checkpoints."""
