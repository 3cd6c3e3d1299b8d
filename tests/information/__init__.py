"""Tests of jaxdiv.information."""
