"""Studies whose jobs ran, in the order of their plan, without Snakemake."""

import yaml

from evalkit.cli import invoke
from evalkit.study import plan, spec


def made_study(folder, content):
    """A study of this content whose jobs all ran: (its file, its folder, its plan)."""
    file, out = folder / "mine.yaml", folder / "out"
    file.write_text(yaml.safe_dump(content))
    study = spec.load(file)
    made = plan.make(study, study.cells)
    plan.start(out, made, study)
    for job in made.jobs:
        code, line = invoke([*plan.words(out, job), "--out", str(out / job.out)])
        assert code == 0, line
    return file, out, made
