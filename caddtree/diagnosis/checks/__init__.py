"""The checks: one module per suspect, each with a ``NAME`` and a function ``check`` from evidence to a finding."""
