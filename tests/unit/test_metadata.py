"""Metadata decide who may read a document: understood whole, or the document is refused."""

from datetime import date
from pathlib import Path

import pytest

from ingest.metadata import FolderMetadata, front_matter_of, metadata_hash, resolve, split_front_matter
from tandem.errors import DocumentError
from tandem.schemas import Metadata


def front(text: str) -> dict:
    return dict(front_matter_of("a.md", f"---\n{text}\n---\nBody".encode()))


def test_front_matter_fields_are_read_and_others_passed_over() -> None:
    found = front(
        'title: "A  title"\ngroups: hr\neffective_from: 2026-03-01\nversion: 6.0\n'
        'redirect_from: [/a]\nversions: {fpt: "*"}'
    )
    assert found == {"title": "A title", "groups": ("hr",), "effective_from": date(2026, 3, 1), "version": "6.0"}


@pytest.mark.parametrize(
    ("text", "yaml", "body"),
    [
        ("---\na: 1\n---\nText\n---\nmore", "a: 1", "Text\n---\nmore"),
        ("---\r\na: 1\r\n---\r\nText", "a: 1", "Text"),
        ("\ufeff---\na: 1\n...\nText", "a: 1", "Text"),
        ("---\n---\nText", "", "Text"),
        ("---\n\nJust a ruler.\n\n---\nText", "", "---\n\nJust a ruler.\n\n---\nText"),
        ("No front matter", "", "No front matter"),
        ("---\na: 1\nnever closed", "", "---\na: 1\nnever closed"),
    ],
)
def test_front_matter_is_split_from_the_body(text: str, yaml: str, body: str) -> None:
    found = split_front_matter(text)
    assert (found.yaml, found.body) == (yaml, body)


def test_other_formats_have_no_front_matter() -> None:
    assert front_matter_of("a.txt", b"---\ngroups: [hr]\n---\n") == {}
    assert front_matter_of("a.md", b"") == {}


BAD = [
    ("groups: 7", "groups"),
    ("groups: [a, [b]]", "groups"),
    ('groups: ["\\0admin"]', "groups"),
    ("groups: [a, *b]", "alias"),
    ("x: &a [1]\ngroups: *a", "alias"),
    ("effective_from: soon", "2026-03-01"),
    ("effective_until: 2026-13-01", "month"),
    ("title: [a, b]", "one line"),
    ("group: hr", "'groups'"),
    ("Groups: hr", "'groups'"),
    ("effective-from: 2026-01-01", "'effective_from'"),
    ("groups: [a]\ngroups: [b]", "twice"),
    ("title: 'open", "not YAML"),
    ("groups: [a\ntitle: x", "not YAML"),
    ("key: !!python/object/apply:os.system [true]", "not YAML"),
]


@pytest.mark.parametrize(("text", "named"), BAD, ids=[text.splitlines()[0] for text, _ in BAD])
def test_what_cannot_be_understood_refuses_the_document(text: str, named: str) -> None:
    with pytest.raises(DocumentError) as refused:
        front(text)
    assert refused.value.reason == "metadata"
    assert named in refused.value.message


def test_folders_hand_down_field_by_field_and_sidecars_win(tmp_path: Path) -> None:
    (tmp_path / "hr" / "pay").mkdir(parents=True)
    (tmp_path / "_folder.yaml").write_text("groups: [everyone]\nowner: all@x\ntitle: not for many")
    (tmp_path / "hr" / "_folder.yaml").write_text("groups: [hr]")
    (tmp_path / "hr" / "pay" / "bands.pdf.meta.yaml").write_text("title: Bands\neffective_from: 2025-04-01")
    folders = FolderMetadata(tmp_path)
    found = resolve("bands.pdf", {}, *folders.declared(tmp_path / "hr" / "pay" / "bands.pdf"), None)
    assert found == Metadata(title="Bands", owner="all@x", groups=("hr",), effective_from=date(2025, 4, 1))
    assert resolve("a.pdf", {}, *folders.declared(tmp_path / "a.pdf"), None).groups == ("everyone",)


def test_folders_above_the_root_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "_folder.yaml").write_text("groups: [everyone]")
    (tmp_path / "root").mkdir()
    assert (
        resolve("a.md", {}, *FolderMetadata(tmp_path / "root").declared(tmp_path / "root" / "a.md"), None).groups
        is None
    )


def test_a_broken_folder_file_closes_the_folder_rather_than_opening_it(tmp_path: Path) -> None:
    (tmp_path / "_folder.yaml").write_text("groups: [hr")
    with pytest.raises(DocumentError, match=r"_folder\.yaml") as refused:
        FolderMetadata(tmp_path).declared(tmp_path / "a.md")
    assert refused.value.reason == "metadata"


def test_front_matter_and_sidecar_may_not_contradict_each_other() -> None:
    same = resolve("a.md", {"groups": ("a",)}, {"groups": ("a",), "owner": "o"}, {}, None)
    assert same.groups == ("a",)
    with pytest.raises(DocumentError, match="Keep one"):
        resolve("a.md", {"groups": ("a",)}, {"groups": ("b",)}, {}, None)


def test_default_groups_are_for_those_who_name_none() -> None:
    assert resolve("a.md", {}, {}, {}, ("everyone",)).groups == ("everyone",)
    assert resolve("a.md", {"groups": ("hr",)}, {}, {}, ("everyone",)).groups == ("hr",)
    assert resolve("a.md", {"groups": ()}, {}, {}, ("everyone",)).groups == ()
    assert resolve("a.md", {}, {}, {}, None).groups is None


def test_an_interval_must_not_be_empty() -> None:
    days = {"effective_from": date(2026, 1, 1), "effective_until": date(2026, 1, 1)}
    with pytest.raises(DocumentError, match="must be later"):
        resolve("a.md", days, {}, {}, None)


def test_the_hash_tells_metadata_apart() -> None:
    assert metadata_hash(Metadata(title="a")) == metadata_hash(Metadata(title="a"))
    assert metadata_hash(Metadata(title="a")) != metadata_hash(Metadata(title="b"))
    assert metadata_hash(Metadata(groups=())) != metadata_hash(Metadata(groups=None))
