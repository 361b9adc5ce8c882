"""The table of vLLM versions: which release a version belongs to, and what is said of it."""

import tomllib
from itertools import chain
from pathlib import Path

import pytest

from fluidgate.errors import InputError
from fluidgate.serving.versions import RELEASES, cuts_lone_prefill, find_release, known_release, support_table

ROOT = Path(__file__).parents[2]


def test_every_minor_release_has_its_row() -> None:
    numbers = [release.number for release in RELEASES]
    assert numbers == [(0, minor) for minor in range(24, 34)]
    for release in RELEASES:
        assert release.tested is None or find_release(release.tested) is release
        assert not release.equal or release.tested


@pytest.mark.parametrize("version", ["0.30", "0.30.0", "0.30.2", "0.30.0+cpu", "0.30+cu128"])
def test_patches_and_builds_belong_to_their_release(version: str) -> None:
    assert str(known_release(version)) == "0.30"
    assert cuts_lone_prefill(version)
    assert not cuts_lone_prefill(version.replace("0.30", "0.31"))


@pytest.mark.parametrize("version", ["", "0", "0.3", "0.23.0", "0.34.0", "1.30", "0.300", "x0.30", "0.30rc1", "dev"])
def test_another_version_is_not_taken_for_one_of_them(version: str) -> None:
    assert find_release(version) is None
    with pytest.raises(InputError, match=r"is not a version that fluidgate knows; give one from 0\.24 to 0\.33"):
        known_release(version)


def test_no_extra_brings_a_vllm_over_a_servers_own() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for wanted in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert not wanted.startswith("vllm"), wanted


@pytest.mark.parametrize("page", ["deploy.md", "parity.md"])
def test_the_docs_show_the_table_below_its_command(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert f"$ fluidgate serve-args --support\n```\n\n{support_table()}\n\n" in text


def test_the_table_shows_each_release_once_newest_first() -> None:
    rows = support_table().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| {release}" for release in reversed(RELEASES)]
    assert "| 0.30 | tested on 0.30.0 | shown on 0.30.0 with `cut_lone_prefill` | `--max-num-active-seqs` |" in rows
