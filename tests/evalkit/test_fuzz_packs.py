"""Whatever stands in the files of a packed set and in the index of a folder: it works, and gives the images that were
packed, or one line says what is wrong. An error that nobody thought of is a fault, and so is another image."""

import io
import json
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.cli import invoke
from evalkit.data import file_index, folders
from evalkit.data.images import BadImage, Images
from evalkit.data.packed import packed
from evalkit.errors import EvalkitError
from tests.bad_inputs.make import splits

from .test_fuzz import ODD, fuzzed, garbled

FILES = ("pack.json", "shard-00000.npz", "shard-00000.tar", ".plan")


def contents(images: Images) -> list[tuple[str, str, bytes]]:
    """Name, class and pixels of each image, in order of their names."""
    return sorted(
        (images.ids[i], images.classes[images.labels[i]], images.read(i).tobytes()) for i in range(len(images))
    )


def odd_arrays(path: Path, rng: random.Random) -> bytes:
    """The arrays of a file, one of them another."""
    arrays: dict[str, Any] = dict(np.load(path))
    name, out = rng.choice(sorted(arrays)), io.BytesIO()
    values, how = arrays[name], rng.randrange(6)
    if how == 0:
        del arrays[name]
    elif how == 1:
        odd = rng.choice([o for o in ODD if not isinstance(o, dict | list)])
        arrays[name] = np.array(0 if odd is None else odd)
    elif how == 2:
        arrays[name] = values[: rng.randrange(len(values) + 1)] if values.ndim else values[None]
    elif how == 3:
        arrays[name] = values.astype(rng.choice([np.float64, np.int8, np.uint64, bool]))
    elif values.size:
        arrays[name] = values.copy()
        place = rng.randrange(values.size)
        arrays[name].flat[place] = rng.choice([0, 1, 255, int(values.flat[place]) + 1 & 255])
    np.savez(out, **arrays)
    return out.getvalue()


def odd_file(path: Path, rng: random.Random) -> bytes:
    data = path.read_bytes()
    if rng.random() < 0.4 or path.suffix == ".tar":
        return garbled(data, rng)
    if path.suffix == ".npz":
        return odd_arrays(path, rng)
    if path.suffix == ".json":
        return json.dumps(
            rng.choice(ODD) if rng.random() < 0.1 else fuzzed(json.loads(data), rng, rng.randint(1, 3))
        ).encode()
    return garbled(data, rng)


def seeded(name: str, seeds: range) -> Iterator[tuple[int, random.Random]]:
    return ((seed, random.Random(f"{name} {seed}")) for seed in seeds)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with images and a pack of them."""
    root = tmp_path_factory.mktemp("packs")
    splits(root / "data")
    assert invoke(["pack", str(root / "data"), str(root / "packed"), "--workers", "1"]) == (0, "")
    return root


def meet_packs(made: Path, seeds: range) -> None:
    whole, split = contents(packed(made / "packed", "train")), made / "packed" / "train"
    kept, faults = {name: (split / name).read_bytes() for name in FILES}, []
    for seed, rng in seeded("pack", seeds):
        name = rng.choice(FILES)
        (split / name).write_bytes(odd_file(split / name, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = packed(made / "packed", "train")
                if contents(found) != whole:
                    faults.append(f"{seed} {name}: other images")
                assert found.fingerprint
            except (EvalkitError, BadImage):
                pass
            except Exception as e:
                faults.append(f"{seed} {name}: {type(e).__name__}: {e}")
            code, line = invoke(["pack", str(made / "data"), str(made / "packed"), "--workers", "1"])
            if "EVALKIT_DEBUG" in line or "\n" in line or (code == 1) != bool(line):
                faults.append(f"{seed} {name}, packed again: {code}: {line}")
            elif code == 0 and contents(packed(made / "packed", "train")) != whole:
                faults.append(f"{seed} {name}, packed again: other images")
        for path in split.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, data in kept.items():
            (split / name).write_bytes(data)
    assert not faults, "\n".join(faults)


def meet_indexes(made: Path, cache: Path, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is read as it is, whatever stands in the index of its files."""
    monkeypatch.setenv(file_index.CACHE, str(cache))
    monkeypatch.setattr(file_index, "SETTLED", -1.0)
    whole, faults = contents(folders.folder(made / "data" / "val")), []
    (index,) = (cache / "index").iterdir()
    kept = index.read_bytes()
    for seed, rng in seeded("index", seeds):
        index.write_bytes(odd_file(index, rng))
        try:
            if contents(folders.folder(made / "data" / "val")) != whole:
                faults.append(f"{seed}: other images")
        except Exception as e:
            faults.append(f"{seed}: {type(e).__name__}: {e}")
        index.write_bytes(kept)
    assert not faults, "\n".join(faults)


def test_a_few_odd_packs(made):
    meet_packs(made, range(10))


def test_a_few_odd_indexes_of_folders(made, tmp_path, monkeypatch):
    meet_indexes(made, tmp_path, range(40), monkeypatch)


@pytest.mark.slow
def test_odd_packs_and_indexes(made, tmp_path, monkeypatch):
    meet_packs(made, range(100, 180))
    meet_indexes(made, tmp_path, range(100, 500), monkeypatch)
