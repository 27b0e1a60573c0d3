"""Packaging: the top-level folders train/, robustness/ and configs/ are installed as evalkit.train, evalkit.robustness,
evalkit.configs."""

from setuptools import find_packages, setup

FOLDERS = ("train", "downstream", "robustness", "configs")

packages = find_packages(include=["evalkit", "evalkit.*"])
package_dir = {}
for folder in FOLDERS:
    found = [folder, *(f"{folder}.{sub}" for sub in find_packages(folder))] if find_packages(include=[folder]) else []
    packages += [f"evalkit.{name}" for name in found]
    if found:
        package_dir[f"evalkit.{folder}"] = folder

setup(
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
