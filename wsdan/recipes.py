"""The recipes: the defaults of the settings that depend on the data or on --recipe.

Imports nothing.
"""

# What was done before these were settings of a recipe, so a checkpoint without one of them means
# the value here.
PLAIN = {
    "freeze": 0,
    "pool_eps": 1e-12,
    "layer_decay": 1.0,
    "label_smoothing": 0.0,
    "ema": 0.0,
    "counterfactual": 0.0,
    "joint_views": False,
    "train_views": "crop+drop",
    "views_after": 0.0,
    "refine_smoothing": 1,
    "final": "probabilities",
    "tta": False,
    "precision": "fp32",
}

# arXiv:1901.09891 section 4.1 and the official code.
PAPER = {
    **PLAIN,
    "backbone": "inception_v3",
    "pretrained": True,
    "image_size": 448,
    "epochs": 80,
    "batch_size": 12,
    "num_attentions": 32,
    "optimizer": "sgd",
    "lr": 1e-3,
    "classifier_lr_scale": 1.0,
    "weight_decay": 1e-5,
    "schedule": "step",
    "warmup": 0.0,
    "refine_threshold": 0.1,
    "refine_padding": 0.05,
    "attention_bias": 0.0,
    "eval_every": 1,
    "save_every": 500,
    "workers": 2,
    "precision": "auto",  # published in float32; that it learns the same: docs/evidence.md
}

# arXiv:2108.08728 and its code, which trains on four GPUs with batches of 4 and synchronized batch
# norm, and evaluates the eight test-time views by a command of its own.
CAL = {
    **PAPER,
    "backbone": "resnet101:layer4:16",
    "epochs": 160,
    "batch_size": 16,
    "schedule": "exponential",
    "pool_eps": 1e-6,
    "counterfactual": 1.0,
    "joint_views": True,
    "final": "logits",
    "tta": True,
    "eval_every": 4,
}

# The usual fine-tuning of large pretrained networks (ConvNeXt, arXiv:2201.03545; BEiT,
# arXiv:2106.08254), as far as it gained in docs/evidence.md: without layer decay, label smoothing
# and averaged weights.
MODERN = {
    **PAPER,
    "backbone": "convnext_base",
    "image_size": 384,
    "epochs": 50,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 3e-4,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 0.1,
}

# Tuned so that a run ends in about three minutes on two CPU cores. Two thirds of the epochs pass
# the raw view alone, and none the drop, which brings nothing here: docs/evidence.md. In float32, so
# that the accuracies of docs/dataset.md are those of any machine.
EMBEDDED = {
    **PLAIN,
    "train_views": "crop",
    "views_after": 0.67,
    "backbone": "tiny",
    "pretrained": False,
    "image_size": 128,
    "epochs": 36,
    "batch_size": 32,
    "num_attentions": 8,
    "optimizer": "adamw",
    "lr": 8e-3,
    "classifier_lr_scale": 0.1,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "warmup": 0.1,
    "refine_threshold": 0.5,
    "refine_smoothing": 3,
    "refine_padding": 0.05,
    "attention_bias": -1.0,
    "eval_every": 6,
    "save_every": 0,
    "workers": 0,
}

RECIPES = {"paper": PAPER, "cal": CAL, "modern": MODERN, "embedded dataset": EMBEDDED}
NAMES = ("paper", "cal", "modern")  # of --recipe


def table(data: str, recipe: str) -> dict:
    """A new table: the settings that a run on this --data with this --recipe has by default."""
    return dict(EMBEDDED if data == "synthetic" else RECIPES[recipe])
