"""A plugin for caddtree: one strategy of each kind, each in a module of its own."""
