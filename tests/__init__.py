"""Tests of both packages; as a package, so that no other installed `tests` comes first."""
