"""Prediction, evaluation, metrics, reports and figures."""
