"""What make release changes before it builds; the wheel itself is tested in test_install.py."""

from __future__ import annotations

import importlib.util

import pytest
from conftest import ROOT

CHANGES = "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 - 2026-01-02\n\n- The first.\n"


@pytest.fixture(scope="module")
def release():
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_unreleased_gets_version_and_date(release):
    assert release.with_release(CHANGES, "0.2.0", "2026-12-01") == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-12-01\n\n### Added\n\n- A thing.\n\n"
        "## 0.1.0 - 2026-01-02\n\n- The first.\n"
    )


def test_the_changelog_of_this_project_can_be_released(release):
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = release.with_release(changes, "999.0", "2026-12-01")
    assert released.replace("\n## 999.0 - 2026-12-01\n", "", 1) == changes


@pytest.mark.parametrize(
    ("changes", "version", "message"),
    [
        (CHANGES, "0.1.0", "has 0.1.0 already"),
        (CHANGES.replace("### Added\n\n- A thing.\n\n", ""), "0.2.0", "nothing under"),
        ("# Changelog\n", "0.2.0", "nothing under"),
    ],
)
def test_nothing_to_release_is_an_error(release, changes, version, message):
    with pytest.raises(ValueError, match=message):
        release.with_release(changes, version, "2026-12-01")


@pytest.mark.parametrize(("version", "message"), [("", "must be a number"), ("two", "must be"), ("0.0.9", "below")])
def test_a_version_that_cannot_follow_is_an_error(release, version, message):
    with pytest.raises(ValueError, match=message):
        release.check_version(version, "0.1.0")


def test_a_version_may_follow(release):
    release.check_version("0.1.0", "0.1.0")
    release.check_version("0.2.0rc1", "0.1.0")
