"""Numbers that several parts of the package share, with their sources. Imports nothing."""

# Per-channel statistics of ImageNet, by which images are normalized (RGB, of values in [0, 1]).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Mean and std by the number of channels: grey has the averages of RGB; alpha goes to [-1, 1].
NORMALIZATION = {
    1: ((0.449,), (0.226,)),
    3: (IMAGENET_MEAN, IMAGENET_STD),
    4: ((*IMAGENET_MEAN, 0.5), (*IMAGENET_STD, 0.5)),
}

# The training views, arXiv:1901.09891 section 3.2 and 4.1: ranges of the thresholds, as shares of
# the attention map's peak, and the padding of the crop's box, as a share of the image's side.
CROP_THRESHOLD = (0.4, 0.6)
DROP_THRESHOLD = (0.2, 0.5)
CROP_PADDING = 0.1
# The view of two images that exchange boxes, CALMix (arXiv:2605.18700), without padding.
MIX_THRESHOLD = (0.6, 0.8)
AUTO = "auto"  # a refine_threshold: of each image, by its map

MAX_PIXELS = 178_956_970  # of an image: twice PIL.Image.MAX_IMAGE_PIXELS, where Pillow refuses one
SYNTHETIC_MIN_SIZE = 32  # side in pixels of the smallest image that `--data synthetic` draws
SYNTHETIC_MAX_SIZE = 1024  # of the largest; its images are kept in memory

CONFIG = "config.yaml"  # the settings of a run, in its folder

METRICS = "metrics.jsonl"  # the record of each epoch, there too
REPRODUCED = "reproduce.json"  # the comparison of wsdan reproduce, there too
# Of an evaluation, in a run's folder or that of --plots.
CURVES, PREDICTIONS = "curves.png", "predictions.csv"
FIGURES = ("confusion.png", "per_class.png", "reliability.png", "mistakes.png")
