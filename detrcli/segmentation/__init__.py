"""From what queries say of pixels to masks and maps of a picture."""
