"""Drop-in twins of the published PyTorch code's functions: same names, arguments and returns.

`guyuc` twins WS-DAN.PyTorch (and CAL's use of it), `paper` the listing behind WS_DAN_PyTorch. The
random draws consume Python's and numpy's generators in the order of the published functions.
"""
