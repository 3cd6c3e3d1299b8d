"""Experiments: one folder each, one command each."""
