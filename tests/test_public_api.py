"""A snapshot of the public API: names and signatures. A change here is a change for users; say so in the changelog.

To accept one: python tests/test_public_api.py > tests/public_api.txt
"""

import importlib
import inspect
from pathlib import Path

import stillscape

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def described(name: str, value: object) -> str:
    if not callable(value):
        return name
    try:
        names = [str(p).split(":")[0].split("=")[0].strip() for p in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        return name
    return f"{name}({', '.join(names)})"


def public_api() -> list[str]:
    lines = []
    for room in stillscape.__all__:
        module = importlib.import_module(f"stillscape.{room}")
        lines += [f"{room}.{described(name, getattr(module, name))}" for name in sorted(module.__all__)]
    return lines


def test_the_public_api_is_as_it_was():
    assert public_api() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_every_public_function_and_class_is_documented():
    for room in stillscape.__all__:
        module = importlib.import_module(f"stillscape.{room}")
        assert module.__doc__
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value):
                assert inspect.getdoc(value), f"{room}.{name}"


def test_rooms_open_as_attributes():
    assert stillscape.bounds.loss_difference(9, loss_bound=1.0, hessian_bound=0.0, radius=0.0, kind="rigorous") == 0.1
    assert "bounds" in dir(stillscape)


if __name__ == "__main__":
    print("\n".join(public_api()))
