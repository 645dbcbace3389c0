"""What the reader of untrusted JSON gives, and what it says of what is wrong."""

from __future__ import annotations

from datetime import date

import pytest

from etacore.errors import ModelLoadError, RegistryError
from etacore.models.json_reader import Reader

RAW = {
    "text": "a",
    "empty": "",
    "integer": 3,
    "number": 2.5,
    "yes": True,
    "nothing": None,
    "object": {"inner": 1},
    "list": [{"inner": 1}, {"inner": 2}],
    "odd": [{"inner": 1}, 7],
    "texts": ["a", "b"],
    "dates": ["2026-01-02"],
    "bounds": [0, 1],
}


def read():
    return Reader(dict(RAW), "f.json")


def test_values_come_as_what_they_are_asked_for():
    r = read()
    assert (r.text("text"), r.integer("integer"), r.number("integer"), r.number("number")) == ("a", 3, 3.0, 2.5)
    assert (r.whole("integer", 3, 3), r.texts("texts"), r.different("texts")) == (3, ("a", "b"), ("a", "b"))
    assert (r.dates("dates"), r.bounds("bounds")) == ((date(2026, 1, 2),), (0.0, 1.0))
    assert (r.optional("nothing", r.text), r.optional("text", r.text)) == (None, "a")
    assert [one.integer("inner") for one in r.objects("list")] == [1, 2]
    r.only(RAW)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: r.text("absent"), "field absent is missing"),
        (lambda r: r.text("empty"), "field empty is empty"),
        (lambda r: r.text("integer"), "field integer is 3, not a text"),
        (lambda r: r.integer("yes"), "field yes is True, not an integer"),
        (lambda r: r.whole("yes", 0, 5), "field yes is True, not a whole number from 0 to 5"),
        (lambda r: r.whole("integer", 4, 5), "field integer is 3, not a whole number from 4 to 5"),
        (lambda r: r.whole("absent", 4, 5), "field absent is None, not a whole number from 4 to 5"),
        (lambda r: r.objects("odd"), "field odd[1] is 7, not an object"),
        (lambda r: r.objects("list")[1].text("inner"), "field list[1].inner is 2, not a text"),
        (lambda r: r.only([*RAW, "b", "a"]), "field a is missing"),
        (lambda r: r.only(RAW.keys() - {"odd"}), "field 'odd' is not known to this version"),
        (lambda r: r.bounds("texts"), "field texts is ['a', 'b'], not [low, high]"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(call, said):
    with pytest.raises(RegistryError) as caught:
        call(read())
    assert (caught.value.message, caught.value.hint) == (f"f.json: {said}", None)


def test_a_long_value_is_cut():
    with pytest.raises(RegistryError) as caught:
        Reader({"a": ["x" * 1000]}, "f.json").text("a")
    assert len(caught.value.message) < 150


class OfModels(Reader):
    error = ModelLoadError
    hint = "do something"


@pytest.mark.parametrize(
    "call",
    [
        lambda: OfModels([], "f.json"),
        lambda: OfModels({"a": 1}, "f.json").inner("a", 1),
        lambda: OfModels.decode(b"{", "f.json"),
        lambda: OfModels.decode(b"[1, 2]", "f.json", max_bytes=5),
        lambda: OfModels({"a": 1}, "f.json").text("a"),
    ],
)
def test_a_reader_of_its_own_raises_its_own_error_with_its_hint(call):
    with pytest.raises(ModelLoadError, match=r"f\.json") as caught:
        call()
    assert caught.value.hint == "do something"


def test_any_content_is_decoded():
    assert Reader.decode(b"[1, 2]", "f.json", max_bytes=6) == [1, 2]
