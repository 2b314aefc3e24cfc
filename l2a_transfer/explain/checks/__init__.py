"""Tests of map methods: whether a map depends on what it claims to explain."""
