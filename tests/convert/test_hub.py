"""Names on the Hugging Face hub: what is fetched, what the cache gives, and what offline says."""

import shutil

import pytest

from jaxdiff.convert import load_model, model_hash
from jaxdiff.convert.hub import cached_file, choose_weights, locate
from jaxdiff.data.tokenizer import Tokenizer
from jaxdiff.errors import UserError

library = pytest.importorskip("huggingface_hub")
NAME = "somebody/tiny"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def _fill(cache, source, name=NAME):
    """Put a model into the cache, as the library lays it out."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    return shutil.copytree(source, repository / "snapshots" / ("0" * 40))


def test_a_cached_model_is_used_without_a_network(cache, tiny_model_dir, tiny_model):
    snapshot = _fill(cache, tiny_model_dir)
    assert locate(NAME) == snapshot
    model = load_model(NAME, Tokenizer.load)
    assert model.text[0].tokenizer.vocab == tiny_model.text[0].tokenizer.vocab
    assert model_hash(NAME) == model_hash(tiny_model_dir)
    assert cached_file(NAME, "tokenizer/vocab.json") == snapshot / "tokenizer" / "vocab.json"
    assert cached_file(NAME, "tokenizer/nothing.json") is None


@pytest.mark.parametrize("missing", ["everything", "vae"])
def test_offline_says_what_to_fetch_and_where_to_put_it(cache, tiny_model_dir, missing):
    if missing == "vae":
        shutil.rmtree(_fill(cache, tiny_model_dir) / "vae")
    with pytest.raises(UserError) as caught:
        load_model(NAME)
    message = str(caught.value)
    assert f"hf download {NAME}" in message
    assert "--local-dir DIR" in message
    assert "--model" not in message  # it may be a ControlNet's or a refiner's name
    assert "\n" not in message


def test_a_path_is_no_name(cache, tmp_path):
    (tmp_path / "models").mkdir()
    for where in ("models/typo", "a/b/c", "typo", "a/model.safetensors", "a/model.ckpt"):
        with pytest.raises(UserError, match="does not exist; give a model directory"):
            locate(where)


MODEL = [
    "model_index.json",
    "v1-5.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "safety_checker/model.safetensors",
]


def test_only_the_weights_that_are_needed_are_fetched():
    assert choose_weights(MODEL, None, NAME) == [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
    ]
    controlnet = ["config.json", "diffusion_pytorch_model.safetensors", "x.bin"]
    assert choose_weights(controlnet, None, NAME) == ["diffusion_pytorch_model.safetensors"]
    with pytest.raises(UserError, match="somebody/tiny/unet/.* is a pickle"):
        choose_weights(["unet/diffusion_pytorch_model.bin"], None, NAME)


def test_fetching_asks_for_no_pickle(cache, monkeypatch, tiny_model_dir):
    """The library is asked for names, then for a list of files that are all of known kinds."""
    from types import SimpleNamespace as Info

    asked = {}

    def fetch(name, allow_patterns=None, local_files_only=False):
        if local_files_only:
            raise OSError("not there")
        asked["patterns"] = allow_patterns
        return str(tiny_model_dir)

    files = [Info(rfilename=name) for name in MODEL]
    monkeypatch.setattr(library, "snapshot_download", fetch)
    monkeypatch.setattr(
        library.HfApi, "model_info", lambda self, name, timeout: Info(siblings=files)
    )
    assert locate(NAME) == tiny_model_dir
    assert "unet/diffusion_pytorch_model.safetensors" in asked["patterns"]
    assert all(p.endswith((".json", ".txt", ".safetensors")) for p in asked["patterns"])


def test_a_model_that_is_not_there(cache, monkeypatch):
    from huggingface_hub.errors import RepositoryNotFoundError

    def refuse(self, name, timeout):
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(library.HfApi, "model_info", refuse)
    with pytest.raises(UserError, match="has no somebody/tiny, or shows it only to some"):
        locate(NAME)
