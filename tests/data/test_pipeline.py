"""The stream is a pure function of the seed and the global number of the example."""

import dataclasses

import numpy as np
import pytest

from jaxdiff.data.corpus import caption_forms
from jaxdiff.data.pipeline import DataConfig, make_batches, make_source
from jaxdiff.errors import UserError

CONFIG = DataConfig(batch_size=6, caption_dropout=0.3, resolution=4)
LARGE = 5000  # grain's shuffle takes 50 times as long per example on a few dozen


def take(batches, count):
    """The next `count` batches as one, field by field."""
    taken = [next(batches) for _ in range(count)]
    return {key: np.concatenate([batch[key] for batch in taken]) for key in taken[0]}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


def test_shapes_types_and_global_numbers(toy, tokenize):
    batches = make_batches(toy(), CONFIG, tokenize)
    batch = next(batches)
    assert batch["image"].shape == (6, 4, 4, 3) and batch["image"].dtype == np.uint8
    assert batch["tokens"].shape == (6, 1) and batch["tokens"].dtype == np.int32
    assert batch["example"].dtype == np.int64
    np.testing.assert_array_equal(next(batches)["example"], np.arange(6, 12))
    assert batches.state == 12


@pytest.mark.parametrize("threads", [0, 3])
def test_same_seed_same_stream(toy, tokenize, threads):
    threaded = dataclasses.replace(CONFIG, num_threads=threads)
    first = take(make_batches(toy(), CONFIG, tokenize), 12)
    assert_same(first, take(make_batches(toy(), threaded, tokenize), 12))
    other = dataclasses.replace(CONFIG, seed=1)
    assert (take(make_batches(toy(), other, tokenize), 12)["image"] != first["image"]).any()


@pytest.mark.parametrize("start", [0, 5, 22, 24])
def test_resume_at_any_example(toy, tokenize, start):
    """What comes after n examples is what the uninterrupted stream has there, bit for bit."""
    whole = take(make_batches(toy(), CONFIG, tokenize), 9)
    resumed = make_batches(toy(), CONFIG, tokenize, start=start)
    part = take(resumed, 5)
    assert_same(part, {key: value[start : start + 30] for key, value in whole.items()})
    assert resumed.state == start + 30


def test_resume_far_into_a_run_costs_nothing(toy, tokenize):
    batch = next(make_batches(toy(), CONFIG, tokenize, start=10**12))
    assert batch["example"][0] == 10**12


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_processes_side_by_side_are_the_single_stream(toy, tokenize, processes):
    whole = make_batches(toy(), CONFIG, tokenize)
    shards = [
        make_batches(toy(), CONFIG, tokenize, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    for _ in range(9):
        parts = [next(shard) for shard in shards]
        together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        assert_same(together, next(whole))
        assert len(set(together["example"])) == 6
    assert {shard.state for shard in shards} == {whole.state}


def test_resume_on_another_process_count(toy, tokenize):
    whole = make_batches(toy(), CONFIG, tokenize)
    take(whole, 4)
    shards = [
        make_batches(toy(), CONFIG, tokenize, process_index=i, process_count=2, start=whole.state)
        for i in range(2)
    ]
    expected = next(whole)
    parts = [next(shard) for shard in shards]
    np.testing.assert_array_equal(np.concatenate([p["image"] for p in parts]), expected["image"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_after_example_n_comes_n_plus_1(processes, workers):
    """The last process's part, from the 12th example on, whoever prepares it."""
    config = dataclasses.replace(CONFIG, source="shapes", batch_size=4)
    source, begin = make_source(config), 12

    def lengths(captions):
        return {"tokens": np.array([[len(caption)] for caption in captions], np.int32)}

    whole = take(make_batches(source, config, lengths), 6)
    resumed = make_batches(
        source,
        dataclasses.replace(config, workers=workers),
        lengths,
        process_index=processes - 1,
        process_count=processes,
        start=begin,
    )
    part = take(resumed, 3)
    mine = [n for n in range(begin, 24) if n % 4 // (4 // processes) == processes - 1]
    assert part["example"].tolist() == mine
    assert_same(part, {key: value[mine] for key, value in whole.items()})


def test_every_epoch_sees_every_example_once_in_a_new_order(toy, tokenize):
    plain = dataclasses.replace(CONFIG, batch_size=23)
    batches = make_batches(toy(23), plain, tokenize)
    epochs = [next(batches)["image"].max((1, 2, 3)).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(1, 24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_caption_dropout_rate(toy, tokenize, share):
    config = dataclasses.replace(CONFIG, batch_size=1000, caption_dropout=share)
    dropped = next(make_batches(toy(LARGE), config, tokenize))["tokens"] == 0
    assert abs(dropped.mean() - share) <= 4 * np.sqrt(share * (1 - share) / 1000)


def test_flips_half_where_the_caption_allows_it(toy, tokenize):
    config = dataclasses.replace(CONFIG, batch_size=600)

    def flipped(caption, config=config):
        images = next(make_batches(toy(LARGE, caption), config, tokenize))["image"]
        return (images[:, 0, 0, 0] == 0).mean()

    assert abs(flipped("cat face, noto style") - 0.5) < 0.09
    assert flipped("flag japan, noto style") == 0
    assert flipped("cat face", dataclasses.replace(config, flip=False)) == 0


def test_flip_and_dropout_are_independent(toy, tokenize):
    config = dataclasses.replace(CONFIG, batch_size=1000, caption_dropout=0.5)
    batch = next(make_batches(toy(LARGE), config, tokenize))
    flip, drop = batch["image"][:, 0, 0, 0] == 0, batch["tokens"][:, 0] == 0
    assert abs(np.corrcoef(flip, drop)[0, 1]) < 0.12


def test_loosened_captions_keep_the_pictures(toy):
    seen = []

    def tokenize(captions):
        seen.extend(captions)
        return {"tokens": np.zeros((len(captions), 1), np.int32)}

    loose = dataclasses.replace(CONFIG, batch_size=500, caption_dropout=0.0, loosen_captions=0.4)
    images = next(make_batches(toy(LARGE), loose, tokenize))["image"]
    strict = dataclasses.replace(loose, loosen_captions=0.0)
    np.testing.assert_array_equal(images, next(make_batches(toy(LARGE), strict, tokenize))["image"])
    counts = {caption: seen[:500].count(caption) for caption in set(seen[:500])}
    assert counts.keys() == {f"{p}cat face{s}" for p, s in zip(
        ("", "a ", "the ", ""), (*[", noto style"] * 3, ""), strict=True)}  # fmt: skip
    assert abs(counts["cat face, noto style"] / 500 - 0.6) < 0.08


def test_captions_say_other_names(toy, tmp_path):
    """A share of them, in equal parts; what else a batch holds stays as it is."""
    file, seen = tmp_path / "names.txt", []
    file.write_text("kitty face = cat face\ntabby = cat face\nhound = dog\n")

    def tokenize(captions):
        seen.append(captions)
        return {"tokens": np.zeros((len(captions), 1), np.int32)}

    plain = dataclasses.replace(CONFIG, batch_size=500, caption_dropout=0.0, loosen_captions=0.2)
    named = dataclasses.replace(plain, synonyms=str(file), synonym_share=0.5)
    batches = [next(make_batches(toy(LARGE), config, tokenize)) for config in (named, plain)]
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
    ours, theirs = seen[0], seen[-1]
    assert set(ours) <= set(caption_forms(toy(LARGE), config=named))
    for word in ("kitty face", "tabby"):
        assert abs(sum(word in caption for caption in ours) / 500 - 0.25) < 0.06
    for caption, before in zip(ours, theirs, strict=True):
        assert (caption == before) == ("cat face" in caption)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"resolution": 0},
        {"caption_dropout": 1.5},
        {"synonym_share": -0.1},
        {"synonym_share": 0.5},
        {"seed": -1},
        {"seed": 2**32},
        {"label_template": "a photo"},
        {"max_aspect": 0.5},
        {"source": "folder:x", "bucket_step": 3},
        {"bucket_step": 2},
        {"conditioning": True},
        {"caption": "a photo"},
        {"cache": "x", "workers": 1},
    ],
)
def test_contradictory_configs_fail_when_built(change):
    with pytest.raises(UserError, match=list(change)[-1]):
        dataclasses.replace(CONFIG, **change)


def test_batch_size_must_divide(toy, tokenize):
    with pytest.raises(UserError, match="multiple of the 4 processes"):
        make_batches(toy(), CONFIG, tokenize, process_count=4)


def test_moments_are_taken_as_the_picture_would_be(toy, tokenize):
    """Where the picture is mirrored, the moments of its mirror image stand."""

    class Encoded(toy):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            image = example["image"]
            return {**example, "moments": np.stack([image, image[:, ::-1]]).astype(np.float32)}

    batch = next(make_batches(Encoded(LARGE), dataclasses.replace(CONFIG, batch_size=50), tokenize))
    assert 0 < (batch["image"][:, 0, 0, 0] == 0).mean() < 1
    np.testing.assert_array_equal(batch["moments"], batch["image"])
