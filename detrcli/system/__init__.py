"""What the operating system and other processes give: files, caches, seeds, launches."""
