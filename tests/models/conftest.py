import pytest
from checkpoints import write

from stillscape.models import load_pretrained


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory):
    """Load a small checkpoint by its kind, made once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = load_pretrained(str(write(kind, tmp_path_factory.mktemp(kind))))
        return made[kind]

    return get
