from evalkit.ordered import each_once


def test_each_value_once_in_its_first_place():
    assert each_once("mississippi") == ["m", "i", "s", "p"] and each_once([]) == []
    assert each_once(n % 100 for n in range(1000, 0, -1)) == [0, *range(99, 0, -1)]
