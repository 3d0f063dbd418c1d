"""Replacements of published PyTorch functions, with the same names, arguments and results.

`guyuc`: WS-DAN.PyTorch; `cal`: CAL; `wvinzh`: WS_DAN_PyTorch; `paper`: its listing; `fgir`:
FGIR-Backbones. Random numbers are drawn from Python's, numpy's and torch's generators in the order
of the published loops. Each module says which lines of a fork change.
"""
