"""Sheets and pages that show what inspection found, a file for each command."""
