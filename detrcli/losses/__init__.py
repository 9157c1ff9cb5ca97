"""Hungarian matching between queries and objects, and the set prediction loss."""
