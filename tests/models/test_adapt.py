import pytest

from stillscape._errors import InputError
from stillscape.models import Adaptation, parse_adaptation


@pytest.mark.parametrize("text", ["head", "full", "last-layers:1", "last-layers:12", "lora:8"])
def test_written_form_is_read_back(text):
    assert str(parse_adaptation(text)) == text


def test_parts():
    assert parse_adaptation("lora:16") == Adaptation("lora", 16)
    assert parse_adaptation("head").amount is None


@pytest.mark.parametrize(
    "text", ["", "heads", "head:1", "full:2", "lora", "lora:", "lora:0", "lora:-1", "lora:1.5", "last-layers", "LoRA:4"]
)
def test_anything_else_is_refused_with_the_four_forms(text):
    with pytest.raises(InputError) as error:
        parse_adaptation(text)
    for form in (repr(text), "head", "last-layers:N", "lora:R", "full"):
        assert form in str(error.value)
