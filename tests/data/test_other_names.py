"""Other names of a corpus' subjects: WordNet's, in the sense that is meant."""

import pytest
import small_wordnet

from jaxdiff.data import other_names
from jaxdiff.data.config import DataConfig
from jaxdiff.data.other_names import other_names as names_of
from jaxdiff.data.synonyms import (
    Synonym,
    names_by_subject,
    names_digest,
    read_synonyms,
    rename,
)
from jaxdiff.errors import UserError

DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
00000010 05 n 02 cat 0 true_cat 0 002 ~ 00000020 n 0000 ~ 00000030 n 0000 | a feline; "a cat"
00000020 05 n 03 house_cat 0 Felis_catus 0 kitty 0 001 ~ 00000040 n 0000 | a tame cat
00000030 05 n 01 wildcat 0 000 | a wild one
00000040 05 n 02 tabby 0 queen 1 000 | a striped one
00000050 05 n 01 kitten 0 000 | young domestic cat
00000055 05 n 01 house_kitten 0 000 | young cat not yet grown
00000060 06 n 02 boat 0 sub 1 000 | a vessel
00000070 13 n 01 sub 0 000 | a sandwich
00000080 18 n 02 queen 0 cat 0 000 | a person
00000090 06 n 01 queen 1 000 | a chessman
00000100 06 n 03 tent 0 collapsible_shelter 0 sub 3 000 | of cloth
"""
INDEX = """\
  1 This software and database is being provided to you, the LICENSEE, by
boat n 1 1 @ 1 0 00000060
cat n 2 1 @ 2 1 00000080 00000010
collapsible_shelter n 1 0 1 0 00000100
house_cat n 1 1 @ 1 0 00000020
house_kitten n 1 0 1 0 00000055
kitten n 1 0 1 0 00000050
kitty n 1 0 1 0 00000020
queen n 3 0 3 0 00000080 00000090 00000040
sub n 3 0 3 0 00000070 00000060 00000100
tabby n 1 0 1 0 00000040
tent n 1 0 1 0 00000100
true_cat n 1 0 1 0 00000010
wildcat n 1 0 1 0 00000030
"""


def test_names_of_the_thing_of_its_kinds_and_of_its_young():
    """People are left out, as are words that mean something else first, and subjects themselves."""
    found = dict(names_of(DATA, INDEX, ["cat", "boat", "tent", "wildcat", "unknown"], most=9))
    assert found == {
        "true cat": "cat",
        "house cat": "cat",
        "kitty": "cat",
        "tabby": "cat",
        "kitten": "cat",
        "house kitten": "cat",
        "sub": "boat",  # its second sense, by the very synset; "queen" is below, and not first
        "collapsible shelter": "tent",
    }


def test_a_subject_of_many_kinds_gets_none_of_their_names():
    few = dict(names_of(DATA, INDEX, ["cat"], most=4))
    assert few == {"true cat": "cat", "kitten": "cat", "house kitten": "cat"}


def test_the_nearest_subject_above_counts():
    assert dict(names_of(DATA, INDEX, ["cat", "house cat"], most=9))["tabby"] == "house cat"


@pytest.fixture
def wordnet(tmp_path, monkeypatch):
    """A small WordNet, as if fetched."""
    small_wordnet.put(tmp_path, monkeypatch, data=DATA, index=INDEX)


def test_the_file_is_read_back(wordnet, tmp_path, monkeypatch, capsys):
    out, captions = tmp_path / "names.txt", ["cat, noto style", "tent"]
    monkeypatch.setattr(other_names, "captions_at", lambda name, resolution: captions)
    assert other_names.main([str(out)]) == 0
    assert f"wrote {out}: 8 other names of 2 subjects" in capsys.readouterr().out
    names = names_by_subject(read_synonyms(out))
    everyday = ["house cat", "house kitten", "kitten", "kitty", "tabby"]
    assert names["cat"] == [*everyday, "true cat", "wildcat"]
    assert rename("cat, noto style", names, 0.6) == "tabby, noto style"
    assert rename("cat face, noto style", names, 0.5) == "cat face, noto style"
    assert other_names.main([str(out), "--most", "-1"]) == 2
    assert "--most must be at least 0" in capsys.readouterr().err


def test_names_that_no_caption_has_are_refused(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("kitten = cat\n")
    config = DataConfig(synonyms=str(file))
    digest = names_digest(config, lambda: ["cat, noto style", "dog"])
    assert digest.keys() == {"synonyms"} and names_digest(DataConfig(), lambda: 1 / 0) == {}
    file.write_text("tabby = cat\n")
    assert names_digest(config, lambda: ["cat"]) != digest
    with pytest.raises(UserError, match="no other name for 'a photo of my cat' or any other"):
        names_digest(config, lambda: ["a photo of my cat"])


@pytest.mark.parametrize("line", ["kitten", "= cat", "kitten ="])
def test_other_lines_are_refused(line, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text(f"tabby = cat  # striped\n\n{line}\n")
    with pytest.raises(UserError, match=r"names\.txt, line 3: .* should be SYNONYM = SUBJECT"):
        read_synonyms(file)
    file.write_text("tabby = cat  # striped\n")
    assert read_synonyms(file) == [Synonym("tabby", "cat")]
    with pytest.raises(UserError, match=r"nowhere\.txt cannot be read"):
        read_synonyms(tmp_path / "nowhere.txt")
