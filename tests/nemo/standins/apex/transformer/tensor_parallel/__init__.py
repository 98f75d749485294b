"""Attributes of tensor parallel parameters."""
