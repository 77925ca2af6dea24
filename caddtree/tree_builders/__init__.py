"""Tree builders: marginals to draft tree."""
