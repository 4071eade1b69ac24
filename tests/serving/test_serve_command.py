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


def test_a_check_stops_where_a_secret_is_missing_or_a_list_is_none(tmp_path):
    from typer.testing import CliRunner

    from foretell.cli import app

    sink = '[[sinks]]\nname = "pager"\nkind = "webhook"\nurl = "https://pager.example/"\n'
    missing = f'secret_file = "{tmp_path / "nothing"}"\n'
    poll = '[sites.west]\n[[polls]]\nsite = "west"\nurl = "https://fhir.example/r4"\n'
    smart = f'smart = {{ client_id = "us", key_file = "{tmp_path / "nothing"}" }}\n'
    ehr = '[[cds.clients]]\nissuer = "https://ehr.example"\naudience = "https://us.example"\n'
    keys = f'jwks_file = "{tmp_path / "nothing"}"\n'
    file = tmp_path / "c.toml"
    for text, words in (
        (sink, "the configuration is right"),
        (sink + missing, "secret_file of the sink 'pager' cannot be read"),
        (sink + 'tls = { ca = "nothing.pem" }\n', "tls of the sink 'pager' cannot be used"),
        (poll, "the configuration is right"),
        (poll + smart, "holds no readable private key"),
        (ehr + keys, "holds no readable keys"),
        ('[sites.west]\nfacilities = "WEST"\n', "sites.west.facilities: Input should be a list"),
        ('[sites.west]\nzone = "Europe/Berln"\n', "sites.west.zone: no time zone is called"),
    ):
        file.write_text(text)
        told = CliRunner().invoke(app, ["serve", "--config", str(file), "--check"])
        assert words in told.output.replace("\n", ""), told.output
        assert (told.exit_code == 0) == (words == "the configuration is right")
