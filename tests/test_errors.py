"""Errors of one point of many: a line for the user, and the traceback for developers."""

import logging

import pytest

from simjax.errors import SimjaxError, value_or_error, value_or_raise


def broken() -> int:
    raise ZeroDivisionError("no\n request")


def test_a_value_is_given_as_it_is() -> None:
    assert value_or_error(lambda: 3) == 3 and value_or_raise(3) == 3


def test_an_error_of_any_kind_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMJAX_TRACEBACK", raising=False)
    found = value_or_error(broken)
    assert isinstance(found, SimjaxError) and str(found) == "ZeroDivisionError: no request"
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SimjaxError, match="no request"):
        value_or_raise(found)


def test_the_traceback_is_logged_for_developers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "simjax.errors"):
        value_or_error(broken)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and "in broken" in caplog.text and "ZeroDivisionError" in caplog.text


def test_the_traceback_is_printed_on_demand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMJAX_TRACEBACK", "1")
    value_or_error(broken)
    assert "in broken" in capsys.readouterr().err


def test_a_mistake_of_the_user_has_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    mistake = SimjaxError("rate=-1: it must be positive")

    def refuses() -> int:
        raise mistake

    with caplog.at_level(logging.DEBUG, "simjax.errors"):
        assert value_or_error(refuses) is mistake
    assert not caplog.records
