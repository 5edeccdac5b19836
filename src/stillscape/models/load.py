"""Load a pre-trained image model: the bundled one, a local folder, or one from the Hugging Face Hub."""

import copy
import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from stillscape._errors import InputError
from stillscape.models.pretrained import Pretrained

BUNDLED = Path(__file__).parent / "bundled_vit"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError)
_MODULES = "transformers_modules"  # under which transformers imports code that comes with a model
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
# The classifier is made anew for the data at hand; a checkpoint's own number may be zero, which would drop the layer.
_STAND_IN_LABELS = 2
# Kept out of the fingerprint: they say nothing about what the model computes.
_NOT_HASHED = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id", "dtype", "torch_dtype")


def load_pretrained(name: str, *, trust_remote_code: bool = False) -> Pretrained:
    """Load a pre-trained image model for adaptation.

    Weights are read once, as float32, from safetensors files only; attention is set to Hugging Face's eager
    implementation, the only one that can be differentiated twice. The checkpoint's own classifier is left out.
    Checkpoints of a bare backbone (`ViTModel`, `Dinov2Model`) load as well.

    Args:
        name: "bundled-vit", a folder written by `save_pretrained`, or a Hub id such as "google/vit-base-patch16-224".
        trust_remote_code: whether Python code that comes with the model may be run, with all that this user may do.
            A digest of that code is then part of the fingerprint.

    Raises:
        InputError: nothing there, no safetensors weights, not an image classifier, weights missing, or code from
            outside the transformers library would have to be run, and is not trusted.

    Cost: one reading and one hashing of the weights.
    """
    source = _find(name)
    with quiet(), torch.random.fork_rng(devices=[]):  # transformers draws the missing classifier at random
        config = _read_config(name, source, trust_remote_code)
        processor = _read_processor(name, source, trust_remote_code)
        model, classifiers = _read_model(name, source, config, trust_remote_code)
    model.requires_grad_(False).eval()
    skip = tuple(f"{classifier}." for classifier in classifiers)
    code = _foreign_code(config, processor, model)
    return Pretrained(
        name=name,
        config=config,
        processor=processor,
        fingerprint=_fingerprint(model, processor, skip, code),
        num_parameters=sum(p.numel() for n, p in model.named_parameters() if not n.startswith(skip)),
        backbone=model,
        classifiers=classifiers,
        remote_code=code,
    )


def _find(name: str) -> str:
    folder = BUNDLED if name == "bundled-vit" else Path(name).expanduser()
    if folder.is_dir():
        return _usable_folder(name, folder)
    if name == "bundled-vit":
        raise InputError("model is 'bundled-vit', but this installation lacks its folder; install stillscape again.")
    if folder.is_file():
        raise InputError(f"model is {name!r}, a file; give the folder that holds config.json and model.safetensors.")
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise InputError(
            f"model is {name!r}; there is no such folder. Give bundled-vit, a folder written by save_pretrained, "
            "or a Hub id such as google/vit-base-patch16-224."
        )
    return name


def _usable_folder(name: str, folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise InputError(f"model is {name!r}; the folder has no config.json. Save the model with save_pretrained.")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise InputError(
                f"model is {name!r}; its weights are in {pickles[0]}, and such files can run code when opened, so only "
                "safetensors are read. Convert them where you trust the file: load the model there and call "
                "model.save_pretrained(folder), which writes model.safetensors."
            )
        raise InputError(f"model is {name!r}; the folder has no *.safetensors file. Save it with save_pretrained.")
    return str(folder)


def _read_config(name: str, source: str, trusted: bool) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    except _UNREADABLE as error:
        _refuse_code(name, error)
        raise InputError(
            f"model is {name!r}; its configuration can't be read ({_first_line(error)}); give a local folder or a Hub "
            "id within reach."
        ) from error
    brings_its_own = trusted and "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and not brings_its_own:
        raise InputError(
            f"model is {name!r}, of type {config.model_type!r}, which is no image classifier in transformers; "
            "use a vision model such as ViT, DeiT, DINOv2, BEiT or Swin."
        )
    config.num_labels = _STAND_IN_LABELS
    return config


def _read_processor(name: str, source: str, trusted: bool) -> BaseImageProcessor:
    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=trusted)
    except _UNREADABLE as error:
        _refuse_code(name, error)
        raise InputError(
            f"model is {name!r}; its image processor can't be read ({_first_line(error)}). Size and normalization must "
            "stand beside the weights: call processor.save_pretrained(folder), which writes preprocessor_config.json."
        ) from error


def _refuse_code(name: str, error: Exception) -> None:
    if "trust_remote_code" in str(error) or "remote code" in str(error):
        raise InputError(
            f"model is {name!r}; it needs code from outside the transformers library, which is not run. Use an "
            "architecture that it knows; or, if you have read that code and trust it, --trust-remote-code."
        ) from error


def _read_model(
    name: str, source: str, config: PretrainedConfig, trusted: bool
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            source,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trusted,
            ignore_mismatched_sizes=True,  # for the classifier; anything else is refused below
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        _refuse_code(name, error)
        raise InputError(
            f"model is {name!r}; its weights can't be read ({_first_line(error)}). They must be safetensors files, "
            "as written by save_pretrained."
        ) from error
    classifiers = _find_classifiers(name, model)
    _refuse_gaps(name, model, info, classifiers)
    return model, classifiers


def _find_classifiers(name: str, model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the Linear layers whose width follows the number of labels: whatever an architecture calls them."""
    config = copy.deepcopy(model.config)
    config.num_labels = _STAND_IN_LABELS + 1
    with torch.device("meta"):
        other = dict(type(model)(config).named_modules())
    grown = [
        module_name
        for module_name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features != other[module_name].out_features
    ]
    if not grown:
        raise InputError(f"model is {name!r}; it has no linear classifier to train anew. Use another architecture.")
    return tuple(grown)


def _refuse_gaps(name: str, model: PreTrainedModel, info: dict, classifiers: tuple[str, ...]) -> None:
    """Refuse weights that transformers made up at random; missing vectors start as constants and may pass."""
    skip = tuple(f"{classifier}." for classifier in classifiers)
    shapes = {key: tensor.ndim for key, tensor in model.state_dict().items()}
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    missing = {key for key in info["missing_keys"] if shapes.get(key, 0) > 1}
    gaps = sorted(key for key in missing | mismatched if not key.startswith(skip))
    if gaps:
        raise InputError(
            f"model is {name!r}; its file lacks {len(gaps)} weights that config.json asks for, such as {gaps[0]}. "
            "Use a complete checkpoint of this architecture."
        )


def _foreign_code(*things: object) -> str:
    """Return a digest of the code outside of transformers that these are made by, file by file; empty where none is."""
    files = {
        path
        for thing in things
        if not type(thing).__module__.startswith("transformers.models.") and type(thing).__module__.startswith(_MODULES)
        for path in Path(inspect.getfile(type(thing))).parent.glob("*.py")
    }
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest() if files else ""


def _fingerprint(model: PreTrainedModel, processor: BaseImageProcessor, skip: tuple[str, ...], code: str) -> str:
    settings = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_HASHED}
    digest = hashlib.sha256()
    for part in (settings, processor.to_dict()):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    digest.update(code.encode())
    for key, tensor in sorted(model.state_dict().items()):
        if not key.startswith(skip):
            digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().data if tensor.ndim else tensor.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' reports on new classifiers and its progress bars, and restore both."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
