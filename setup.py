"""The packages of the wheel, which setup.cfg alone cannot say: what lies in hf_genrec/, and three folders beside it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["hf_genrec*"]),
        "hf_genrec.configs",
        "hf_genrec.dataset_scripts",
        "hf_genrec.trainers",
    ]
)
