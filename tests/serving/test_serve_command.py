"""The command that serves: what it refuses, and when."""

from __future__ import annotations


def test_what_is_wrong_is_said_before_a_token_is_made(tmp_path):
    from typer.testing import CliRunner

    from foretell.cli import app

    pinned = tmp_path / "c.toml"
    pinned.write_text('[model]\nversion = "other-1"\n')
    store = ["serve", "--store", str(tmp_path / "s.db")]
    for arguments, words in (
        ([*store, "--roles", "worker,cook"], "cook"),
        ([*store, "--roles", "cook", "--check"], "cook"),
        ([*store, "--roles", ","], "roles are some of"),
        ([*store, "--config", str(pinned)], "pins other-1"),
    ):
        told = CliRunner().invoke(app, arguments)
        assert told.exit_code != 0 and words in told.output, told.output
        assert "token of this run" not in told.output
    assert not (tmp_path / "s.db").exists()
