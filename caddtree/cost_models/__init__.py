"""Cost models: (draft nodes, context) -> seconds of a round."""
