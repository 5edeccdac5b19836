"""The drafts' stated limit lifted: the transformer experiment for text, with a pre-trained sentence encoder."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from stillscape._errors import InputError
from stillscape.data import holdout
from stillscape.models.load import quiet
from stillscape.models.lora import add_lora
from stillscape.reproductions.catalogue import Reproduction, Workplace
from stillscape.reproductions.controls import Control, linear_hits
from stillscape.reproductions.findings import Claim, Findings, Number, late_slope, like_the_identity, measured
from stillscape.reproductions.heads import (
    Condition,
    Features,
    Fitter,
    HeadSettings,
    Scored,
    Way,
    balanced,
    by_cross_entropy,
    difference,
    found,
    numbers_of,
    panels_of,
    run_conditions,
)
from stillscape.reproductions.starts import start_from
from stillscape.training import Recipe, fit, score

DRAFT = "draft b, section 5.2 and its limits"
STAND_IN = "stand-in"
BATCH = 32


class TextSettings(HeadSettings):
    """Settings of the text experiment."""

    model: str = "assets:minilm"
    data: str = "assets:mails"
    sizes: tuple[int, ...] = (25, 50, 100, 200, 400)
    orders: int = 3
    held_out: float = 0.2
    hessians: int = 0
    tokens: int = 48
    rank_of_lora: int = 4
    l2: float = 1.0
    control: int = 400
    recipe: dict[str, Any] = Field(
        default={"epochs": 3, "min_steps": 32, "batch": 16, "learning_rate": 1e-3, "weight_decay": 0.0}
    )


class TextClassifier(nn.Module):
    """An encoder, the mean over its tokens, a linear head: token numbers (n, T) to class scores (n, C).

    Token numbers come as floating-point numbers, as all inputs of `training` do; they are exact up to 2^24.
    """

    def __init__(self, encoder: nn.Module, padding: int, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.padding = encoder, padding
        with start_from(seed):  # nn.Linear draws its start from the global state
            self.classifier = nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr, arg-type]

    def forward(self, ids: Float[Tensor, "n T"]) -> Float[Tensor, "n C"]:
        """Return class scores."""
        return self.classifier(self.features(ids))

    def features(self, ids: Float[Tensor, "n T"]) -> Float[Tensor, "n d"]:
        """Return the mean over the tokens that are no padding."""
        numbers = ids.long()
        mask = (numbers != self.padding).long()
        states = self.encoder(input_ids=numbers, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states)
        return (states * weights).sum(1) / weights.sum(1).clamp_min(1)


def measure(settings: TextSettings, place: Workplace) -> Findings:
    """Fine-tune head and LoRA on nested subsets of labeled texts."""
    texts, labels = read_texts(settings, place)
    ids, padding = tokenized(settings, place, texts)
    held = holdout(labels, None, settings.held_out, settings.seed)
    trained = encoder(settings, place)
    encoded = _features(trained, ids, padding)
    frozen = Features.standardized(encoded, labels, held)
    words = Features(ids, labels, held)
    heads = run_conditions(
        {"head": Way(by_cross_entropy(settings.l2), balanced(settings, frozen))}, settings, frozen, place
    )
    label = f"lora:{settings.rank_of_lora}"
    tuned = run_conditions(
        {label: Way(by_lora(settings, trained, padding), balanced(settings, words))}, settings, words, place
    )
    conditions = [*heads, *tuned]
    checked = _control(settings, place, frozen, ids, padding)
    slopes = _slopes(conditions)
    return Findings(
        "text",
        "",
        {},
        (
            *checked.numbers("control"),
            *(n for one in conditions for n in numbers_of(settings, one)),
            *_slopes(conditions),
        ),
        _claims(settings, conditions, checked, slopes),
        panels_of(settings, conditions),
        remarks=(
            f"Texts are cut to {settings.tokens} tokens. Stand-in data and a random encoder show that the code runs, "
            "and nothing else."
            if settings.data == STAND_IN
            else f"Mails without headers, cut to {settings.tokens} tokens; spam against the rest, half and half.",
        ),
    )


def read_texts(settings: TextSettings, place: Workplace) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Return texts and class numbers from a parquet or CSV file with columns text and label."""
    if settings.data == STAND_IN:
        rng = np.random.default_rng(settings.seed)
        labels = rng.integers(2, size=400)
        return [" ".join(f"w{rng.integers(20) + 15 * label}" for _ in range(12)) for label in labels], labels
    import pandas as pd

    path = Path(place.asset(settings.data, "data"))
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if not {"text", "label"} <= set(table.columns):
        raise InputError(f"data is {str(path)!r} with columns {', '.join(table.columns)}; it must have text and label.")
    return table["text"].astype(str).tolist(), np.unique(table["label"].astype(str), return_inverse=True)[1]


def tokenized(settings: TextSettings, place: Workplace, texts: list[str]) -> tuple[Float[np.ndarray, "n T"], int]:
    """Return token numbers of each text, cut and padded to one length, and the number that pads."""
    if settings.model == STAND_IN:
        rows = [[1 + int(word[1:]) for word in text.split()][: settings.tokens] for text in texts]
        return np.array([row + [0] * (settings.tokens - len(row)) for row in rows], dtype=np.float32), 0
    from transformers import AutoTokenizer

    with _loading(place.asset(settings.model, "model")) as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
    given = tokenizer(texts, truncation=True, padding="max_length", max_length=settings.tokens, return_tensors="np")
    return given["input_ids"].astype(np.float32), int(tokenizer.pad_token_id)


@contextmanager
def _loading(path: str) -> Iterator[str]:
    """Say in one line what can't be loaded."""
    try:
        with quiet():
            yield path
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model is {path!r}, which can't be loaded ({reason}); give a folder with a text encoder and its tokenizer."
        ) from None


def encoder(settings: TextSettings, place: Workplace, *, random: bool = False) -> Any:
    """Return the pre-trained encoder, or one of the same shape before any training."""
    from transformers import AutoConfig, AutoModel, BertConfig, BertModel

    if settings.model == STAND_IN:
        small = BertConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
        with start_from(settings.seed + random):
            return BertModel(small).eval()
    with _loading(place.asset(settings.model, "model")) as path:
        if not random:
            return AutoModel.from_pretrained(path, attn_implementation="eager").eval()
        with start_from(settings.seed):
            return AutoModel.from_config(AutoConfig.from_pretrained(path), attn_implementation="eager").eval()


@torch.no_grad()
def _features(model: Any, ids: np.ndarray, padding: int) -> Float[np.ndarray, "n d"]:
    whole = TextClassifier(model, padding, 2, 0).eval()
    return torch.cat([whole.features(part) for part in torch.from_numpy(ids).split(BATCH)]).double().numpy()


def by_lora(settings: TextSettings, trained: nn.Module, padding: int) -> Fitter:
    """Return a fit of low-rank updates and a fresh head, by the library's own training loop."""

    def tune(features: Features, rows: np.ndarray) -> Scored:
        classes = int(features.labels.max()) + 1
        model = TextClassifier(copy.deepcopy(trained).requires_grad_(False), padding, classes, settings.seed)
        add_lora(model.encoder, settings.rank_of_lora, settings.seed)
        model.classifier.requires_grad_(True)
        fit(model, features.x, features.labels, rows, Recipe(**settings.recipe), seed=settings.seed)
        scored = score(model, features.x, features.labels, np.flatnonzero(features.held), batch=BATCH)
        return Scored(scored.losses, scored.probabilities.argmax(1) == features.labels[features.held], model)

    return tune


def _control(settings: TextSettings, place: Workplace, frozen: Features, ids: np.ndarray, padding: int) -> Control:
    """Hold frozen features against counts of tokens and against a random encoder, by logistic regression."""
    from sklearn.feature_extraction.text import TfidfTransformer

    training = balanced(settings, frozen)(0)[: settings.control]
    rows = np.concatenate([training, np.flatnonzero(frozen.held)])
    # Of the very tokens that the encoder reads, so that neither sees more of a text.
    numbers, places = np.unique(ids[rows], return_inverse=True)
    counts = np.zeros((len(rows), len(numbers)))
    np.add.at(counts, (np.arange(len(rows))[:, None], places.reshape(len(rows), -1)), numbers[places] != padding)
    counts = TfidfTransformer().fit(counts[: len(training)]).transform(counts).toarray()
    plain = _features(encoder(settings, place, random=True), ids[rows], padding)
    sets = {"pre-trained": frozen.x[rows], "token counts": counts, "random model": plain}
    return Control({name: linear_hits(x, frozen.labels[rows], len(training)) for name, x in sets.items()})


def _slopes(conditions: list[Condition]) -> list[Number]:
    """Return the slope in k of |L_k+1 - L_k| over random orders of held-out texts at the largest size's weights."""
    from stillscape.convergence import geometric_sizes, loss_differences

    found = []
    for one in conditions:
        curves = [
            loss_differences(losses, 200, sizes=geometric_sizes(losses.size - 1, 20)) for losses in one.losses[:, -1]
        ]
        found.append(
            measured(
                f"{one.label}: slope of |L_k+1 - L_k| at fixed w",
                [late_slope(curve.k, curve.mean) for curve in curves],
                spread=0.05,
            )
        )
    return found


def _claims(
    settings: TextSettings, conditions: list[Condition], checked: Control, slopes: list[Number]
) -> tuple[Claim, ...]:
    head, lora = conditions
    gains = [one.hits.mean(2)[:, -1] - one.hits.mean(2)[:, 0] for one in conditions]
    accuracy = difference("accuracy", lora, head)
    others = ", ".join(f"{name} by {checked.difference(name)[0]:+.3f}" for name in checked.others)
    return (
        Claim(
            "The pre-trained encoder knows something about these texts (needed before anything is concluded).",
            "our own control",
            "stands" if checked.passed else "cannot_tell",
            f"frozen features beat {others} in accuracy.",
        ),
        Claim(
            "Accuracy rises with the number of texts, as for images.",
            DRAFT,
            "stands" if checked.passed and all((gain > 0).all() for gain in gains) else "cannot_tell",
            "; ".join(
                f"{one.label}: {one.hits.mean(2)[:, 0].mean():.3f} to {one.hits.mean(2)[:, -1].mean():.3f}"
                for one in conditions
            )
            + f" from {settings.sizes[0]} to {settings.sizes[-1]} texts, in every order.",
        ),
        Claim(
            "The difference of losses shows that the surface of a text transformer settles, too.",
            DRAFT,
            "falls" if like_the_identity([n.value for n in slopes if n.value is not None]) else "cannot_tell",
            "as for images it is MAD / (k + 1) at any fixed weights. Sufficient sizes by the retrained optima: "
            f"{'; '.join(found(one) for one in conditions)}. LoRA against the head at the largest size: accuracy "
            f"{accuracy[0]:+.3f} ({accuracy[1]:+.3f} to {accuracy[2]:+.3f}).",
        ),
    )


TEXT = Reproduction(
    "text",
    "The transformer experiment for text",
    DRAFT,
    TextSettings,
    measure,
    quick={
        "model": STAND_IN,
        "data": STAND_IN,
        "sizes": (20, 40, 80),
        "orders": 2,
        "tokens": 12,
        "control": 80,
        "rank_of_lora": 2,
        "recipe": {"steps": 60, "batch": 8, "learning_rate": 2e-2, "weight_decay": 0.0},
    },
    needs="the encoder and the mails that scripts/prepare_text.py makes; others by --model and --data",
)
