"""Finds the words of a text that differ from a reference, and explains why the model wrote them."""

from captum_spes.errors.explaining import explain_errors
from captum_spes.errors.finding import find_errors
from captum_spes.errors.text import errors_text

__all__ = ["errors_text", "explain_errors", "find_errors"]
