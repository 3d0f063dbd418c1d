"""Prediction, evaluation, metrics, figures."""
