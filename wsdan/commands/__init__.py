"""The commands of the command line, one module each; wsdan/cli.py lists them.

A module has HELP, a line; `add_options(parser)`; and `run(options)`, which returns the exit status
or None for 0, and raises UserError for a user's mistake. torch is imported in `run`, after the
options were checked: help and mistakes are told at once.
"""
