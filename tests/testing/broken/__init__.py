"""Strategies that are broken on purpose, each with its contract class and the checks that must catch it.

``caught_by`` maps every check that fails to what its message says; every other check of the class passes. Where a
strategy does not work at all the one key is ``*``: whatever fails says this.
"""
