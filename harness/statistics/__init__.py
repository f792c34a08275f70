"""Estimates with their intervals, tests, and what a number of samples can detect. Pure."""
