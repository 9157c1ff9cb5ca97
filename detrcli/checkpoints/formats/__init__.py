"""How weights are kept, by us and by others."""
