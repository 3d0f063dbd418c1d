"""What a classifier looked at in an image: parts, overlays, and the figure of `wsdan explain`."""
