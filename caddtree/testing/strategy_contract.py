"""What the contracts of all kinds share: how a strategy is named and made, and what its options promise."""

from __future__ import annotations

import abc
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from caddtree.plugins.hooks import Kind, hookimpl
from caddtree.plugins.registry import Provider, Registry
from caddtree.testing import option_checks
from caddtree.testing.claims import must_work, require
from caddtree.testing.inputs import DEFAULT_VOCABULARY_SIZE, tiny_target

MakeStrategy = Callable[..., Any]


class Contract(abc.ABC):
    """The checks of every kind. Subclass the contract of a kind and say what is checked.

    The attributes below are the author's side; ``strategy`` is the only one that must be given. A strategy that needs
    files overrides the fixture ``make_strategy``, a function from all options, as keywords, to a new strategy::

        @pytest.fixture
        def make_strategy(self, tmp_path):
            write_checkpoint(tmp_path / "drafter")
            return lambda model, **options: MyDrafter(model=str(tmp_path / model), **options)

    One that needs a certain target, or a device, overrides the method ``make_target``::

        def make_target(self, vocabulary_size=61):
            return tiny_target(vocabulary_size, hidden_size=64).to("cuda")
    """

    kind: ClassVar[Kind]
    strategy: ClassVar[type]
    """The class under test, as it is registered."""
    options: ClassVar[Mapping[str, Any]] = {}
    """A valid set of options, at least the required ones; checks run with it."""
    other_options: ClassVar[Mapping[str, Any]] = {}
    """Another valid value of single options, where the kit cannot derive one that shows (words, paths)."""
    invalid_options: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Changes of ``options`` that must be refused at construction, by a message with the option and the value."""
    unobservable_options: ClassVar[Collection[str]] = ()
    """Options that show in nothing the kit can see, such as a cache folder."""
    slowest_allowed: ClassVar[float] = 50.0
    """The hot call may take so many times what the kind's yardstick takes on the same machine, and a millisecond."""

    @pytest.fixture(autouse=True)
    def names_a_strategy(self) -> None:
        """Say so where the class under test was forgotten."""
        name = type(self).__name__
        require(hasattr(self, "strategy"), f"{name} names no strategy. Set `strategy = YourClass` in its body.")

    @pytest.fixture
    def make_strategy(self) -> MakeStrategy:
        """Return a function from all options to a new strategy."""
        return self.strategy

    def make_target(self, vocabulary_size: int = DEFAULT_VOCABULARY_SIZE) -> Any:
        """Return a new Hugging Face causal LM that the strategy works with."""
        return tiny_target(vocabulary_size)

    @pytest.fixture
    def target_model(self) -> Any:
        """Return a target of the usual size."""
        return self.make_target()

    @pytest.fixture
    def make(self, make_strategy: MakeStrategy) -> Callable[[], Any]:
        """Return a function that makes the strategy with ``options``."""

        def made() -> Any:
            with must_work(f"making {self.strategy.__name__} with options {dict(self.options)}"):
                return make_strategy(**self.options)

        return made

    @abc.abstractmethod
    def observe(self, strategy: Any, target_model: Any) -> object:
        """Return all that can be seen of a strategy, comparable with ``==``; each kind says what that is."""

    def test_a_recipe_can_name_it(self) -> None:
        """The registry takes the class, and its options are those that a recipe may give."""
        registry = Registry()
        hook = hookimpl(lambda registry: registry.add("under-test", self.strategy))
        plugin = types.SimpleNamespace(**{f"register_{self.kind}s": hook})
        with must_work(f"registering {self.strategy.__name__} as a {self.kind}"):
            registry.load_plugin(plugin, Provider("under-test", "", "under-test"))
        with must_work(f"making it from a recipe with options {dict(self.options)}"):
            registry.create(self.kind, "under-test", self.options)

    def test_an_option_of_the_wrong_type_is_refused_by_name(self) -> None:
        """At construction, with the option and the value in the message."""
        option_checks.check_wrong_types_are_refused(self.strategy, self.options)

    def test_an_invalid_option_is_refused_by_name(self) -> None:
        """Every entry of ``invalid_options``, at construction, with the option and the value in the message."""
        option_checks.check_invalid_options_are_refused(self.strategy, self.options, self.invalid_options)

    def test_a_number_that_is_accepted_works(self, make_strategy: MakeStrategy, target_model: Any) -> None:
        """Nothing that construction takes, 0 and -1 included, fails later with an error that names no option."""
        option_checks.check_accepted_numbers_work(
            self.strategy, make_strategy, lambda made: self.observe(made, target_model), self.options
        )

    def test_no_option_is_ignored(self, make_strategy: MakeStrategy, target_model: Any) -> None:
        """Another value of any option changes something that can be observed."""
        option_checks.check_no_option_is_ignored(
            self.strategy,
            make_strategy,
            lambda made: self.observe(made, target_model),
            self.options,
            self.other_options,
            self.unobservable_options,
        )
