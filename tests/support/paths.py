"""Where the tests find things."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # the repository
SUPPORT = Path(__file__).parent
