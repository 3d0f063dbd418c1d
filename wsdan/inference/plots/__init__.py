"""Figures of a run and of an evaluation. What is computed and what is drawn are apart: each module
has functions that give numbers, and one that makes a matplotlib Figure of them."""
