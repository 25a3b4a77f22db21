import pytest

from gcvit_flax.errors import UserError, summarize_error


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2Jscreen", "nul\0", "\x9b31m"])
def test_a_name_in_a_sentence_cannot_break_it(name):
    sentence = str(UserError(f"weights {name} are not é: rename them"))
    assert sentence.isprintable() and sentence.startswith("weights ") and "é" in sentence
    assert ascii(name)[1:-1] in sentence


def test_a_long_message_is_cut():
    cut = summarize_error(ValueError(f"writing {'x' * 10**6}: the quota is exceeded"))
    assert len(cut) < 300 and cut.startswith("writing x") and cut.endswith("x: the quota is exceeded")
    assert summarize_error(ValueError("one\ntwo")) == "one"
