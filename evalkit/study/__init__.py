"""Studies: tables of trainings and evaluations as graphs of evalkit commands, run by Snakemake."""
