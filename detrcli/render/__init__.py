"""Figures and pages that show what inspection found."""
