"""Why acceptance is low: checks that measure a pipeline, each with what was found and what to do.

``caddtree doctor`` runs them on a recipe; :func:`~caddtree.diagnosis.examination.examine` on any decoder.
"""
