from __future__ import annotations

import io

from rich.console import Console

from foretell.training import fit
from foretell.training.progress import Progress
from foretell.training.settings import Settings


def test_quiet_unless_asked_for_and_before_a_terminal(linear, examples, capfd) -> None:
    fit(linear(), examples, max_steps=5)
    fit(linear(), examples, max_steps=5, progress=True)
    assert capfd.readouterr() == ("", "")


def test_shows_loss_validation_and_time_left() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with Progress(Settings(progress=True, max_steps=10), console=console) as progress:
        progress.update(4, 2.5, 2)
        progress.log({"validation": 0.75})
    text = stream.getvalue()
    assert all(part in text for part in ("4/10", "loss 1.25", "validation 0.75", "left"))
