"""`evalkit doctor` against machines that are made up."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from evalkit import doctor

REQUIRES = {
    "evalkit": ["torch>=2.6", "torchvision>=0.21", "timm>=1.0.15,<1.1", "numpy", 'pytest>=8; extra == "dev"'],
    "torchvision": ["numpy", "torch==2.14.1", 'gdown; extra == "gdown"'],
}
FINE = "everything that evalkit needs is there"
VERSIONS = {"torch": "2.14.1", "torchvision": "0.29.1", "timm": "1.0.31", "numpy": "2.4.6", "pytest": "9.2.0"}


@pytest.fixture
def machine(monkeypatch):
    """Installed versions, to be changed by a test."""
    versions = dict(VERSIONS)

    def lookup(table):
        def get(name):
            if name not in table:
                raise metadata.PackageNotFoundError(name)
            return table[name]

        return get

    monkeypatch.setattr(metadata, "version", lookup(versions))
    monkeypatch.setattr(metadata, "requires", lookup(REQUIRES))
    return versions


def of(checks):
    return {c.name: c for c in checks}


def test_everything_fits(machine):
    found = of(doctor.packages())
    assert {c.status for c in found.values()} == {doctor.OK}
    assert set(found) == {"torch", "torchvision", "timm", "numpy", "pytest"}
    assert found["timm"].found == "1.0.31 (<1.1,>=1.0.15)" and found["numpy"].found.startswith("2.4.6")


def test_extras_that_name_others_of_evalkit_are_no_package(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy", "evalkit[study]; extra == 'all'"])
    assert [check.name for check in doctor.packages()] == ["numpy"]


def test_a_torch_that_torchvision_was_not_built_for(machine):
    machine["torch"] = "2.13.0"
    torch = of(doctor.packages())["torch"]
    assert torch.status == doctor.PROBLEM and torch.found.startswith("2.13.0, needs ")
    assert torch.mend == "pip install 'torch==2.14.1,>=2.6'"


def test_out_of_range_missing_and_missing_extra(machine):
    machine["timm"] = "1.1.0"
    del machine["numpy"], machine["pytest"]
    found = of(doctor.packages())
    assert (found["timm"].status, found["timm"].mend) == (doctor.PROBLEM, "pip install 'timm<1.1,>=1.0.15'")
    assert (found["numpy"].status, found["numpy"].found, found["numpy"].mend) == (
        doctor.PROBLEM,
        "not installed, needs ",
        "pip install 'numpy'",
    )
    assert (found["pytest"].status, found["pytest"].mend) == (doctor.OPTIONAL, "pip install 'pytest>=8'")


def test_run_from_source(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", nothing)
    (check,) = doctor.packages()
    assert check.status == doctor.OPTIONAL and check.mend == "pip install -c constraints.txt -e ."


def test_a_package_that_does_not_load(monkeypatch):
    def load(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(doctor, "import_module", load)
    (check,) = doctor.imports()
    assert check == doctor.Check(
        "import torchvision",
        "RuntimeError: operator torchvision::nms does not exist",
        doctor.PROBLEM,
        "pip install --force-reinstall torch torchvision",
    )


def test_gpus_are_listed(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda i: SimpleNamespace(name="H100", total_memory=80 * 2**30)
    )
    found = of(doctor.devices())
    assert found["GPU 0"].found == "H100, 80 GiB, bf16" and "GPU" not in found


def test_little_disk_and_little_shared_memory(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**29, total=2**26))
    monkeypatch.setattr("os.path.isdir", lambda path: True)
    found = of(doctor.memory_and_disk())
    assert found["disk"].status == doctor.PROBLEM and found["disk"].found == "0.5 GiB free here"
    assert found["shared memory"].status == doctor.OPTIONAL and found["shared memory"].mend.startswith("workers=0")


@pytest.mark.parametrize("present", [True, False])
def test_data_and_weights(monkeypatch, tmp_path, present):
    monkeypatch.setattr("evalkit.data.embedded.FASHION_FOLDER", tmp_path if present else tmp_path / "no")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "file" if present else None)
    found = of(doctor.data())
    assert {c.status for c in found.values()} == ({doctor.OK} if present else {doctor.OPTIONAL})
    if not present:
        assert (
            "dataset-fashion-mnist" in found["fashion-mnist"].mend and "pretrained=True" in found["DINO weights"].mend
        )


@pytest.mark.parametrize("status, code, last", [("ok", 0, FINE), ("optional", 0, FINE), ("problem", 1, "1 problem")])
@pytest.mark.parametrize("terminal", [False, True])
def test_exit_code_and_output(monkeypatch, capsys, status, code, last, terminal):
    monkeypatch.setattr(
        doctor, "checks", lambda: iter([doctor.Check("thing", "[dev] none", status, "pip install '.[dev]'")])
    )
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    assert doctor.run() == code
    *lines, end = capsys.readouterr().out.splitlines()
    assert end == last and any(
        "[dev] none" in line and "pip install '.[dev]'" in line and status in line for line in lines
    )


def test_this_machine(monkeypatch):
    """But for its disk, which may be full at this moment."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**40, total=2**41))
    found = list(doctor.checks())
    assert found[0].name == "evalkit" and not [c for c in found if c.status == doctor.PROBLEM]


# ---- for a bug report


def test_report_has_versions_and_checks_and_no_names(machine, monkeypatch, capsys):
    monkeypatch.setattr("platform.node", lambda: "gpu7.lab.example")
    monkeypatch.setattr("getpass.getuser", lambda: "mel")
    broken = doctor.Check("import cv2", "ImportError: /home/mel/venv/lib/cv2.so: not found on gpu7", doctor.PROBLEM)
    place = doctor.Check("fashion-mnist", "/data/mel/fashion", doctor.OK, "apt install")
    monkeypatch.setattr(doctor, "checks", lambda: iter([*doctor.packages(), broken, place]))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert doctor.report() == 1
    text = capsys.readouterr().out
    assert text.startswith("```text\nsystem: ") and text.endswith("```\n") and "OMP_NUM_THREADS: 3" in text
    assert "ok        torch: 2.14.1 (==2.14.1,>=2.6)" in text
    assert "problem   import cv2: ImportError: .../cv2.so: not found on ..." in text
    assert "ok        fashion-mnist: .../fashion" in text and "mel" not in text and "gpu7" not in text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("at ~/x/y.py", "at .../y.py"),
        ("no '/Mel Smith/venv/x.so'", "no '.../venv/x.so'"),
        ("torch 2.14.1+cu130 (>=2.11), 10/12", "torch 2.14.1+cu130 (>=2.11), 10/12"),
        ("https://pypi.org/simple/x", "https://pypi.org/simple/x"),
    ],
)
def test_paths_lose_their_folders(text, shown, monkeypatch):
    monkeypatch.setenv("HOME", "/Mel Smith")
    assert doctor.anonymous(text) == shown
