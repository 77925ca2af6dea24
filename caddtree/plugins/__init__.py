"""Hook specifications, the registry of strategies, and recipes: how parts are found, validated and named."""
