"""The log of a running service, one object a line."""

from __future__ import annotations

import json
import logging
import socket
import sys
from datetime import datetime

from foretell.data.clinical.hl7.writer import Result, result_message
from foretell.serving.logs import JsonLines

T0 = 1_767_225_600.0


def test_every_line_is_an_object_that_names_nobody(tmp_path, launch):
    config = tmp_path / "s.toml"
    config.write_text(
        f'[service]\nstore = "{tmp_path}/s.db"\npartitions = 2\nlog = "json"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\n"
    )
    service = launch(config).wait()
    good = result_message("H", "CANARYPATIENT", [Result("8867-4", 90.0, "/min")], time=T0,
                          control="1")  # fmt: skip
    with socket.create_connection(("127.0.0.1", service.ports["mllp"]), 180) as door:
        for content in (good, b"PID|||CANARYPATIENT", good[:40]):
            door.sendall(b"\x0b" + content + b"\x1c\r")
            assert b"MSA|A" in door.recv(65536)
    assert service.stop() == 0
    lines = [
        line for line in service.text().splitlines()
        if not line.startswith(("ready ", "token of this run"))
    ]  # fmt: skip
    assert len(lines) >= 1, "at least who speaks is told"
    for line in lines:
        told = json.loads(line)
        assert set(told) == {"time", "level", "part", "message", "version"}
        assert told["part"].startswith("foretell.serving") and told["level"] in (
            "info", "warning", "error", "critical"
        )  # fmt: skip
        assert datetime.fromisoformat(told["time"]).utcoffset() is not None
    assert "CANARY" not in service.text()


def test_words_of_an_exception_and_breaks_of_lines_stay_out():
    try:
        raise ValueError("CANARY")
    except ValueError:
        raised = sys.exc_info()
    record = logging.LogRecord("foretell.serving", logging.ERROR, "x", 1, "a\nb %s", ("c",), raised)
    line = JsonLines().format(record)
    assert "\n" not in line and "CANARY" not in line
    told = json.loads(line)
    assert (told["message"], told["exception"], told["level"]) == ("a\nb c", "ValueError", "error")
