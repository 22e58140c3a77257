import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemalens.core import errors
from hemalens.core.errors import (
    ArtifactError,
    ConfigError,
    DecodeError,
    HemalensError,
    MissingExtraError,
    SourceError,
    UserError,
)


def test_a_message_names_the_thing_the_rule_and_the_next_step():
    assert str(SourceError("source x.npz", "has no labels", "add them")) == "source x.npz: has no labels; add them"


def test_a_message_without_a_next_step_ends_after_the_rule():
    assert str(DecodeError("image a.png", "is truncated")) == "image a.png: is truncated"


@given(st.text(), st.text(), st.text())
def test_a_message_is_one_printable_line_whatever_the_names_hold(what, rule, step):
    message = str(UserError(what, rule, step))
    assert message.isprintable()
    assert len(message.splitlines()) == 1


def test_control_characters_and_lone_surrogates_are_shown_escaped():
    assert str(UserError("file a\x1b[31m\n\udcff", "bad")) == r"file a\x1b[31m\n\udcff: bad"


def test_letters_of_other_scripts_stay_as_they_are():
    assert str(UserError("file 血液.png", "is größer", "ça va")) == "file 血液.png: is größer; ça va"


@pytest.mark.parametrize("kind", [UserError, SourceError, DecodeError, ConfigError, ArtifactError])
def test_errors_cross_process_boundaries_whole(kind):
    error = kind("a\nb", "rule", "step")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.what, copy.rule, copy.step, str(copy)) == (error.what, error.rule, error.step, str(error))


def test_a_missing_extra_says_how_to_install_it_and_survives_pickling():
    error = MissingExtraError("hemalens serve", "serve")
    copy = pickle.loads(pickle.dumps(error))
    assert "pip install 'hemalens[serve]'" in str(error)
    assert (copy.extra, str(copy)) == ("serve", str(error))


def test_every_public_error_is_in_the_tree_and_only_the_base_is_no_user_error():
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, HemalensError)
        assert issubclass(kind, UserError) == (kind is not HemalensError)
