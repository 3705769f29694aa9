"""The digest of a manifest is a chain, in which every prefix is found."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_migrate.errors import ManifestError
from lambda_migrate.manifest_digest import EMPTY_DIGEST, chain_digest
from lambda_migrate.migrations import Manifest, Migration, Script


def migration(version: int, text: str = "select 1", *, path: str = "") -> Migration:
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(version, f"{version:04}_it", Script(text), None, checksum, path)


MIGRATIONS = st.dictionaries(st.integers(1, 50), st.sampled_from("abc"), max_size=8).map(
    lambda texts: [migration(version, text) for version, text in texts.items()]
)


def test_every_digest_is_chained_from_the_one_before() -> None:
    first, second = migration(3, "a"), migration(20, "b")
    manifest = Manifest([second, first])
    one = chain_digest(EMPTY_DIGEST, 3, first.checksum)
    assert manifest.digests == (one, chain_digest(one, 20, second.checksum))
    assert manifest.digest == manifest.digest_at(20)
    assert manifest.digest_at(3) == one


def test_the_digest_is_pinned_because_it_is_stored() -> None:
    assert hashlib.sha256(b"lambda-migrate manifest v1").hexdigest() == EMPTY_DIGEST
    assert chain_digest("a", 1, "b") == hashlib.sha256(b"a:1:b").hexdigest()


def test_an_empty_manifest_has_a_digest_and_no_version() -> None:
    empty = Manifest()
    assert (empty.digest, empty.version, len(empty), list(empty)) == (EMPTY_DIGEST, -1, 0, [])


def test_versions_are_ordered_as_numbers() -> None:
    manifest = Manifest([migration(20230101120000), migration(9), migration(10)])
    assert [m.version for m in manifest] == [9, 10, 20230101120000]
    assert manifest.version == 20230101120000


@given(MIGRATIONS, st.integers(0, 51))
def test_a_prefix_is_found_in_the_chain_of_what_it_is_a_prefix_of(
    migrations: list[Migration], version: int
) -> None:
    manifest = Manifest(migrations)
    prefix = manifest.up_to(version)
    assert prefix.digest in (EMPTY_DIGEST, *manifest.digests)
    assert list(manifest)[: len(prefix)] == list(prefix)


@given(MIGRATIONS, MIGRATIONS)
def test_a_digest_is_in_a_chain_exactly_when_the_manifest_is_a_prefix(
    ours: list[Migration], theirs: list[Migration]
) -> None:
    short, long = Manifest(ours), Manifest(theirs)
    is_prefix = list(long)[: len(short)] == list(short)
    assert (short.digest in (EMPTY_DIGEST, *long.digests)) == is_prefix


@given(MIGRATIONS, st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_found_does_not_matter(
    migrations: list[Migration], random: object
) -> None:
    shuffled = list(migrations)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    assert Manifest(shuffled) == Manifest(migrations)
    assert hash(Manifest(shuffled)) == hash(Manifest(migrations))


def test_two_migrations_of_one_version_are_refused_with_both_files() -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest([migration(1, path="a.sql"), migration(1, path="b.sql"), migration(2)])
    assert caught.value.faults == ("version 1 exists twice: a.sql and b.sql; renumber one of them",)


def test_a_version_that_is_not_there_has_neither_migration_nor_digest() -> None:
    manifest = Manifest([migration(1)])
    assert manifest.get(2) is None
    with pytest.raises(KeyError):
        manifest.digest_at(2)


def test_a_manifest_equals_only_manifests() -> None:
    assert Manifest() != EMPTY_DIGEST
    assert repr(Manifest()) == f"Manifest(0 migrations, digest {EMPTY_DIGEST[:12]})"
