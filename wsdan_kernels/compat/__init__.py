"""Replacements of the published PyTorch functions, with the same names, arguments and results.

`guyuc` replaces those of WS-DAN.PyTorch (and of CAL), `paper` those of the listing behind
WS_DAN_PyTorch. Random numbers are drawn from Python's and numpy's generators in the same order.
"""
