"""The pictures of a report, one module each. Everything here needs matplotlib: import it inside functions."""
