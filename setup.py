"""Packaging: the top-level folders train/, robustness/ and configs/ are installed as evalkit.train, evalkit.robustness,
evalkit.configs."""

import re
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("train", "downstream", "robustness", "configs")

packages = find_packages(include=["evalkit", "evalkit.*"])
package_dir = {}
for folder in FOLDERS:
    found = [folder, *(f"{folder}.{sub}" for sub in find_packages(folder))] if find_packages(include=[folder]) else []
    packages += [f"evalkit.{name}" for name in found]
    if found:
        package_dir[f"evalkit.{folder}"] = folder

# The README's pictures with their captions, and its links, are files beside it, which an index has not: it shows the
# text of the links alone.
readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"^!\[[^]]*\]\([^)]*\)\n\n(\*.*\*\n\n)?", "", readme, flags=re.MULTILINE)
readme = re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", readme)

setup(
    long_description=readme,
    long_description_content_type="text/markdown",
    packages=packages,
    package_dir=package_dir,
    package_data={
        "evalkit": [
            *("py.typed", "published/*.csv", "data/*.txt", "report/*.j2", "report/*.js", "study/Snakefile"),
            *(f"zoo/*/{name}" for name in ("*.json", "*.jsonl", "*.csv", "*.safetensors", "records/*")),
        ],
        "evalkit.configs": ["**/*.yaml"],
    },
)
