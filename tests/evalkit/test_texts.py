"""Texts against a list of them."""

import copy
import os
import pickle

import pytest

from evalkit.data.texts import Texts

LIST = ["a/1.jpg", "", "größe/b.png", "日本", os.fsdecode(b"odd\xff.jpg"), "a/1.jpg"]


def test_behaves_as_the_list():
    texts = Texts(LIST)
    assert len(texts) == 6 and list(texts) == LIST and texts == LIST and texts == Texts(LIST) and texts != LIST[:5]
    assert [texts[i] for i in range(-6, 6)] == LIST + LIST and texts[1:4] == LIST[1:4] and texts[::-2] == LIST[::-2]
    assert "日本" in texts and "b" not in texts and texts.index("größe/b.png") == 2 and texts.count("a/1.jpg") == 2
    assert list(pickle.loads(pickle.dumps(texts))) == list(copy.copy(texts)) == LIST
    assert Texts() == [] and list(Texts.of_arrays(texts.letters, texts.ends)) == LIST
    for i in (6, -7):
        with pytest.raises(IndexError):
            texts[i]
