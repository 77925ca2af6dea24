"""Verifiers: one target forward over a draft tree, then the walk to the accepted path."""
