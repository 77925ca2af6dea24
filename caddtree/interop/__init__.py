"""caddtree inside other frameworks: one package each, imported by that framework and by nothing in caddtree."""
