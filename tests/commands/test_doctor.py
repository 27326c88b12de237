"""`hf-genrec doctor`: what it finds missing, and that no command is forgotten."""

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from conftest import run_command

from hf_genrec import cli
from hf_genrec.commands import doctor


@pytest.fixture
def installed(monkeypatch):
    """The installed versions, with those that a test writes here in their place; None for what is missing."""
    others: dict[str, str | None] = {}

    def other_version(name):
        if name in others and others[name] is None:
            raise PackageNotFoundError(name)
        return others.get(name) or version(name)

    monkeypatch.setattr(doctor, "version", other_version)
    return others


def rows(monkeypatch, capsys) -> dict[str, str]:
    lines = run_command(monkeypatch, capsys, "doctor").splitlines()
    return {line[:18].strip(): line[19:] for line in lines[lines.index("") + 1 :] if line}


def test_every_command_says_what_it_needs():
    extras = set(metadata("hf_genrec").get_all("Provides-Extra"))
    commands = typer.main.get_command(cli.app).commands
    for name, entry in commands.items():
        module = sys.modules[entry.callback.__module__]
        assert hasattr(module, "EXTRA") or name in doctor.EXTRAS, f"{module.__file__}: give it EXTRA, an extra or None"
    assert {extra for extra in doctor.extras_of(commands).values() if extra} <= extras


def test_the_page_about_installation_names_every_extra():
    page = (Path(__file__).parents[2] / "docs/install.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([a-z]+)`", row)]
    assert sorted(named) == sorted(metadata("hf_genrec").get_all("Provides-Extra"))


def test_versions_devices_and_every_extra_are_said(monkeypatch, capsys):
    printed = run_command(monkeypatch, capsys, "doctor")
    for name in ("hf_genrec", "torch", "transformers", "numpy", "safetensors", "typer"):
        assert f"{name:14s} {version(name)}" in printed
    assert "threads of" in printed
    found = rows(monkeypatch, capsys)
    assert found["recommend"] == found["train"] == "ready"
    named = set(doctor.extras_of(typer.main.get_command(cli.app).commands).values())
    for extra in metadata("hf_genrec").get_all("Provides-Extra"):
        assert extra in named or extra in found


def test_what_is_missing_stands_beside_the_line_that_installs_it(installed, monkeypatch, capsys):
    installed |= {"pyarrow": None, "duckdb": None, "trl": "0.1"}
    found = rows(monkeypatch, capsys)
    assert found["recommend"] == "ready"
    assert found["recommend --user"].startswith("missing duckdb")  # which ibis-framework[duckdb] asks for
    assert found["recommend --user"].endswith(', pyarrow>=21: pip install "hf_genrec[data]"')
    assert "trl<2,>=1.15 (there is 0.1)" in found["train"]
    assert found["train"].endswith(': pip install "hf_genrec[train]"')
    assert "trl" not in found["spark"]


def test_a_broken_installation_is_still_described(installed, monkeypatch, capsys):
    installed["typer"] = None
    monkeypatch.setitem(sys.modules, "torch", None)
    printed = run_command(monkeypatch, capsys, "doctor")
    assert "torch does not import: " in printed
    assert 'missing typer>=0.15: pip install "hf_genrec"' in printed


def test_a_checkout_that_is_not_installed(monkeypatch, capsys):
    def nothing(name):
        raise PackageNotFoundError(name)

    for name in ("metadata", "requires"):
        monkeypatch.setattr(doctor, name, nothing)
    assert "and not installed: pip install hf_genrec" in run_command(monkeypatch, capsys, "doctor")


def test_an_accelerator_is_named_with_its_memory(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    device = SimpleNamespace(name="Made-up 9000", total_memory=24 * 2**30)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda place: device)
    printed = run_command(monkeypatch, capsys, "doctor")
    assert "CUDA 0         Made-up 9000, 24.0 GiB\nCUDA 1         Made-up 9000, 24.0 GiB\n" in printed
