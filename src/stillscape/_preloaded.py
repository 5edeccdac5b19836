"""Imported once by the server that workers are forked from."""

from stillscape._processes import lasting_imports

with lasting_imports():
    import stillscape.experiments.tasks  # noqa: F401 - for its effect on what is loaded
