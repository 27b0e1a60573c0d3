"""The card says what is known, as text."""

import yaml

from evalkit.about import ACCURACY
from evalkit.export import card

RECORD = {
    "protocol": "accuracy",
    "metrics": {"top1": 0.8125, "top5": None},
    "standard_errors": {"top1": 0.01},
    "n": 360,
    "data": {"name": "digits|x", "split": "val"},
    "demonstration": True,
    "complete": True,
    "published": False,
}


def told(**changes):
    parts = {
        "title": "mine: <b>net</b>",
        "facts": [("network", "net, 10 classes")],
        "usage": [("The network:", "import timm\nmodel = 1")],
        "training": {"lr": 0.1, "label": "```\n# no heading"},
        "records": [RECORD],
        "protocols": {"accuracy": ACCURACY},
        "notes": ["left behind"],
        "citations": ["@article{a,\n}"],
    }
    return card.Told(**parts | changes)


def test_the_card_has_numbers_recipe_and_citation():
    text = card.text(told())
    assert text.startswith("# mine: &lt;b&gt;net&lt;/b&gt;\n")
    assert "| accuracy | top-1 | 0.8125 ± 0.0100 | 360 | digits\\|x, val | a demonstration, no benchmark |" in text
    assert "| accuracy | top-5 | undefined | 360 |" in text
    assert "lr: 0.1\n" in text and "```python\nimport timm\nmodel = 1\n```" in text
    assert "@article{a,\n}\n\n@software{evalkit," in text


def test_foreign_text_breaks_no_block():
    lines = card.text(told()).splitlines()
    fences = [line for line in lines if line.startswith("```")]
    assert [f for f in fences if f != "```"] == ["```python", "```text", "```bibtex"] and len(fences) == 6
    assert not any(line.startswith("# no heading") for line in lines)


def test_without_records_it_says_so():
    text = card.text(told(records=[], training={}))
    assert "Nothing of these weights is recorded in their run." in text and "How it was trained" not in text


def test_metadata_is_what_the_hub_reads():
    text = card.metadata(told(), "mine", "mixpro")
    found = yaml.safe_load(text.strip().strip("-"))
    assert found["library_name"] == "timm" and found["tags"] == ["image-classification", "timm", "evalkit", "mixpro"]
    (result,) = found["model-index"][0]["results"]
    assert found["model-index"][0]["name"] == "mine" and result["dataset"]["name"] == "digits|x"
    assert result["metrics"][0]["value"] == 0.8125
    assert "license" not in found and "datasets" not in found  # nobody has told
    assert "model-index" not in yaml.safe_load(card.metadata(told(records=[]), "mine", None).strip().strip("-"))
