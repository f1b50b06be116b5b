"""What the project says about itself: dependencies, pins, and the paths that its pages name."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()]
FOLDERS = ("assets", "benchmarks", "configs", "docs", "eval", "latentsync", "scripts", "tests")
PACKAGE_OF = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "PIL": "pillow"}
OPTIONAL = {
    "insightface": "insightface",
    "skimage": "eval",
    "tensorboard": "train",
    "psutil": "train",
    "matplotlib": "profile",
    "ray": "ray",
    "peft": "lora",
}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return requirements([line.split("#")[0] for line in lines if line.split("#")[0].strip()])


def imported_packages() -> set[str]:
    """Top-level names that latentsync/ imports, own and standard ones left out."""
    names: set[str] = set()
    for path in (ROOT / "latentsync").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"latentsync"}


def test_every_dependency_is_pinned_within_its_range():
    pinned = pins()
    for name, requirement in requirements(PROJECT["dependencies"]).items():
        assert name in pinned, f"requirements.txt lacks {name}"
        (pin,) = pinned[name].specifier
        assert pin.operator == "=="
        assert pin.version in requirement.specifier, f"{name}: {pin} is outside {requirement.specifier}"


def test_what_the_library_imports_is_declared():
    declared = set(requirements(PROJECT["dependencies"]))
    for name in imported_packages() - set(OPTIONAL):
        assert canonicalize_name(PACKAGE_OF.get(name, name)) in declared, (
            f"{name} is imported but not declared"
        )
    for name in imported_packages() & set(OPTIONAL):
        assert OPTIONAL[name] in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_named_on_a_page_exist(page: Path):
    named = re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []
