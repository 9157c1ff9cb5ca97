"""Dataset layouts, a file for each; `detect.py` finds the layout of a folder."""
