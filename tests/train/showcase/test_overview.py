from evalkit.train import METHODS, create
from evalkit.train.showcase import overview


def test_every_method_is_a_line_with_its_source():
    *lines, empty, waiting = overview.table().splitlines()
    assert (
        empty == ""
        and waiting == "Mixing never waits for the device, but for: supermix (asks whether its masks succeed)."
    )
    assert lines[0].split() == ["method", "family", "needs", "extra", "passes", "paper"] and [
        line.split()[0] for line in lines[1:]
    ] == list(METHODS)
    rows = {row[0]: row for row in overview.rows()}
    assert rows["saliencymix"] == ("saliencymix", "saliency", "-", "Uddin et al., ICLR 2021, arXiv:2006.01791", "none")
    assert rows["puzzlemix"][2:] == (
        "input gradients",
        "Kim, Choo & Song, ICML 2020, arXiv:2009.06962",
        "1 forward + backward",
    )
    assert rows["attentivemix_plus"][3] == "Li et al., OpenMixup, arXiv:2209.04851"
    for name, cls in METHODS.items():
        assert cls.family != "own" and rows[name][3] != "-"


def test_what_is_said_about_needs_is_what_a_method_asks_for():
    for name, cls in METHODS.items():
        if name == "choice":
            continue
        assert ("attention" in cls.needs) == bool(create(name).attention), name
        assert ("gradients" in cls.needs) == hasattr(cls, "input_saliency"), name
