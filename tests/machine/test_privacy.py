"""What is private is masked in whatever is written, and nothing else is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.machine.privacy import scrub

TOKEN = "hf_" + "A1b2" * 9


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/home/alice/models/x", "~/models/x"),
        ("cannot read '/home/alice'.", "cannot read '~'."),
        ("file:///home/alice/x", "file://~/x"),
        ("-I/home/alice/x", "-I/home/~/x"),
        ("/home/alice2/x and /home/ali", "/home/~/x and /home/~"),
        ("/mnt/home/alice/x", "/mnt/home/~/x"),
        ("/Users/Bob/x", "/home/~/x"),
        (r"C:\Users\Bob\x", r"C:/home/~\x"),
        ("/home/bob:/home/carol", "/home/~:/home/~"),
        ("/homes/bob /data/home.txt", "/homes/bob /data/home.txt"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        (f"token={TOKEN};", "token=hf_***;"),
        ("hf_hub_download and hf_xet", "hf_hub_download and hf_xet"),
        ("Authorization: Bearer abcdef123456", "Authorization: Bearer ***"),
        ("http://al:pw@proxy:3128/x", "http://***@proxy:3128/x"),
        ("http://proxy:3128/x@y", "http://proxy:3128/x@y"),
    ],
)
def test_private_parts_of_a_text_are_masked_and_nothing_else(
    given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    assert scrub(given) == expected
    assert scrub(expected) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/root/x", "~/x"),
        ("/root", "~"),
        ("/rootfs/x /data/root/x", "/rootfs/x /data/root/x"),
    ],
)
def test_a_home_of_one_part_is_masked_only_where_it_is_one(
    given: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/root")
    assert scrub(given) == expected


def test_a_linked_home_is_masked_by_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    assert scrub(f"{tmp_path}/link/a {tmp_path}/real/b") == "~/a ~/b"


def test_every_depth_is_scrubbed_and_other_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    given = {"a": [{"/home/alice/k": ("/home/alice", 1)}], "b": None, "c": True, "d": 1.5, "e": 2}
    expected = {"a": [{"~/k": ["~", 1]}], "b": None, "c": True, "d": 1.5, "e": 2}
    assert scrub(given) == expected


def test_a_root_directory_as_home_masks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert scrub("/usr/lib") == "/usr/lib"
