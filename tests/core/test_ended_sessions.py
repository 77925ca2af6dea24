"""A session that has ended stays ended, and is heard of once, however it ended."""

from __future__ import annotations

import pytest

from caddtree.core.errors import CompatibilityError, InputError, StageError
from tests.core.test_observers import Finishes, make
from tests.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_a_finished_session_cannot_be_stepped(model):
    """It would go on behind its limit, and be reported twice."""
    watch = Finishes()
    session = make(model, watch).open([1, 2], max_new_tokens=3)
    while session.finish_reason is None:
        session.step()
    with pytest.raises(InputError, match="the request has ended; open another session"):
        session.step()
    session.close()

    assert [len(seen.token_ids) for seen in watch.seen] == [3]


def test_a_failed_session_is_not_reported_as_cancelled(model):
    """Neither is it stepped again."""

    class Breaks:
        def on_round(self, round_):
            raise ValueError("x")

    watch = Finishes()
    session = make(model, Breaks(), watch).open([1, 2], max_new_tokens=9)
    with pytest.raises(StageError, match="observer Breaks failed in round 0"):
        session.step()
    with pytest.raises(InputError, match="has ended"):
        session.step()
    session.close()

    assert watch.seen == []


def test_closing_gives_caches_back_twice_and_where_an_observer_fails(model):
    """The second time there is nothing to do."""

    class Full:
        def on_finish(self, generation):
            raise OSError("disk full")

    session = make(model, Full()).open([1, 2], max_new_tokens=9)
    with pytest.raises(StageError, match="observer Full failed in on_finish: OSError: disk full"):
        session.close()
    assert not hasattr(session, "target_state")
    session.close()


@pytest.mark.parametrize("how", ["thrown into the stream", "raised by the streamer"])
def test_a_request_that_its_reader_breaks_off_is_cancelled(model, how):
    """A pipe that is closed, a page that is left."""
    watch = Finishes()
    decoder = make(model, watch)

    class Closed:
        left = 3

        def put(self, tokens):
            self.left -= 1
            if self.left == 0:
                raise BrokenPipeError

        def end(self): ...

    if how == "raised by the streamer":
        with pytest.raises(BrokenPipeError):
            decoder.generate([1, 2], max_new_tokens=9, streamer=Closed())
    else:
        stream = decoder.stream([1, 2], max_new_tokens=9)
        next(stream)
        with pytest.raises(RuntimeError, match="page left"):
            stream.throw(RuntimeError("page left"))

    assert [seen.finish_reason for seen in watch.seen] == ["cancelled"]


def test_an_observer_without_any_method_is_refused(model):
    """A typing error would never be noticed."""
    with pytest.raises(CompatibilityError, match="observer Typo has none of on_round, on_finish and ends_text"):
        make(model, type("Typo", (), {"on_rounds": print})())


def test_unwatched_rounds_reach_no_observer_and_teach_the_decoder(model):
    """Warming up is nobody's request; no rule ends it."""
    watch = Finishes()
    rule = type("First", (), {"ends_text": staticmethod(lambda tokens: True)})()
    decoder = make(model, watch, rule)
    with decoder.unwatched():
        assert len(decoder.generate([1, 2], max_new_tokens=6).token_ids) == 6

    assert watch.seen == []
    assert decoder.speed.tokens_per_second is not None
    assert len(decoder.generate([1, 2], max_new_tokens=6).token_ids) == 1
