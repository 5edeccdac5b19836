"""What stands beside the verdict in words: classes that are short, how sure it could be, and how stable it is."""

from collections.abc import Mapping, Sequence

from stillscape.sufficiency.classes import classes_sentence
from stillscape.sufficiency.outlook import outlook_sentence
from stillscape.sufficiency.stability import stability_sentence


def sentences_beside(result: Mapping, classes: Sequence[dict], question: Mapping) -> list[str]:
    """Return the sentences that an adaptation's result has to say besides its verdict.

    Args:
        result: of `assemble`.
        classes: of `class_statuses`.
        question: with "epsilon", "level" and "metric".

    Returns:
        sentences, none of them empty.
    """
    said = [classes_sentence(list(classes), question["epsilon"], level=question["level"])]
    if result["outlook"] is not None:
        said.append(outlook_sentence(result["outlook"], question["metric"]))
    said.append(stability_sentence(result["stability"]))
    return [sentence for sentence in said if sentence]
