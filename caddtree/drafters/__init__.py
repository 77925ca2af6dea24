"""Drafters: committed tokens and tapped features of the target -> marginals of the next positions."""
