"""The benchmarks, as scripts (python benchmarks/bap_bench.py) or modules (python -m benchmarks...).

A script finds the files beside it by their plain names; for a module this line does the same.
"""

import sys

sys.path.insert(0, __path__[0])
