"""WS-DAN (arXiv:1901.09891): attention-guided fine-grained classification."""

from wsdan.config import Config
from wsdan.model import WSDAN
from wsdan.objective import wsdan_objective

__all__ = ["WSDAN", "Config", "wsdan_objective"]
