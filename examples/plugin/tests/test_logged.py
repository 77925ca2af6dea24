"""The verifier that keeps a log keeps the contract of a verifier; its log is read in test_recipes."""

from caddtree.testing import VerifierContract

from caddtree_example.logged import Logged


class TestLogged(VerifierContract):
    strategy = Logged
    options = {"below": 2}
    invalid_options = [{"below": 0}]
    # shows in the log alone
    unobservable_options = ["below"]
