"""Figures and pages of what inspection computes."""
