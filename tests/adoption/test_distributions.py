"""The distributions contain two packages under our own names, with all of their files, and nothing else."""

from __future__ import annotations

import tomllib
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.adoption.building import INSTALL_SECONDS, Distributions
from tests.support.worker import ROOT

pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"celery_partitions": ROOT / "tasks", "celery_partitions_config": ROOT / "config"}
#: Not distributed: `make demo` and `make dev` run the demo in a checkout.
NOT_INSTALLED = "celery_partitions.demo"


def packages_on_disk() -> set[str]:
    found = set()
    for name, folder in FOLDERS.items():
        for path in folder.rglob("__init__.py"):
            found.add(".".join([name, *path.parent.relative_to(folder).parts]))
    return {name for name in found if name != NOT_INSTALLED and not name.startswith(f"{NOT_INSTALLED}.")}


def source_files() -> set[str]:
    """Every file of the two folders except the demo and the guides, by its installed name."""
    return {
        str(Path(name) / path.relative_to(folder))
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".md" and "__pycache__" not in path.parts and (folder / "demo") not in path.parents
    }


def test_pyproject_lists_all_packages_except_the_demo() -> None:
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


def test_the_wheel_installs_two_top_level_packages(distributions: Distributions) -> None:
    tops = {name.partition("/")[0] for name in distributions.wheel_files}
    assert {name for name in tops if not name.endswith(".dist-info")} == set(FOLDERS)


def test_the_wheel_contains_exactly_the_files_of_the_packages(distributions: Distributions) -> None:
    installed = {name for name in distributions.wheel_files if ".dist-info/" not in name}
    assert installed == source_files()


def test_the_wheel_has_its_metadata(distributions: Distributions) -> None:
    metadata = Parser().parsestr(distributions.metadata())
    assert metadata["License-Expression"] == "MIT"
    assert any(name.endswith("/licenses/LICENSE") for name in distributions.wheel_files)
    classifiers = metadata.get_all("Classifier", [])
    assert "Framework :: Celery" in classifiers
    assert {"Operating System :: POSIX :: Linux", "Operating System :: MacOS"} <= set(classifiers)
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)} <= set(classifiers)
    assert [url.partition(",")[0] for url in metadata.get_all("Project-URL", [])] == list(PYPROJECT["project"]["urls"])


def test_an_installation_does_not_include_test_tools(distributions: Distributions) -> None:
    metadata = Parser().parsestr(distributions.metadata())
    required = metadata.get_all("Requires-Dist", [])
    plain = {Requirement(word) for word in required if "extra ==" not in word}
    assert plain == set(map(Requirement, PYPROJECT["project"]["dependencies"]))
    demo = " ".join(PYPROJECT["project"]["optional-dependencies"]["demo"])
    assert not any(name in demo for name in ("pytest", "mypy", "playwright", "pandas", "bokeh"))


def test_the_source_distribution_builds_the_wheel_and_contains_no_tests(distributions: Distributions) -> None:
    """The wheel was built from it, so no file is missing."""
    files = distributions.sdist_files
    assert {"LICENSE", "README.md", "pyproject.toml"} <= files
    assert not [name for name in files if name.startswith(("tests/", "tasks/demo/", "."))]
