import pytest

from supervit.errors import reason_of


@pytest.mark.parametrize(
    "error, reason",
    [
        (RuntimeError("no space left\nat line 3"), "no space left"),
        (RuntimeError("Exception from core.cpp:105:\nIncorrect weights in bin file!\n"), "Incorrect weights in bin file!"),
        (KeyError("logits"), "KeyError: 'logits'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_the_reason_of_an_error_is_the_line_that_says_it(error, reason):
    assert reason_of(error) == reason
