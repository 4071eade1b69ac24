"""A site's own file of panels: costs, times, and what cannot be had there."""

from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import ParameterError
from foretell.serving.config import read_config
from foretell.serving.doctor import examine
from foretell.serving.service import Service, make_fold
from foretell.serving.worker.advice import Adviser

SITE = """
[lactate]
channels = ["Lactate"]
cost = 9.0
turnaround = 3.0
refractory = 12
loinc = ["32693-4"]

["blood count"]
channels = ["WBC", "Platelets"]
cost = 1.0

[coagulation]
channels = ["PTT"]
cost = 1.0
available = false
"""


def configured(folder, panels: str | None = SITE, name: str = "panels.toml"):
    """A configuration in a folder that is not the one the process runs in."""
    if panels is not None:
        (folder / name).write_text(panels)
    file = folder / "site.toml"
    file.write_text(f'[service]\nstore = "{folder / "s.db"}"\n[sensing]\npanels = "{name}"\n')
    return read_config(file)


def advised(adviser: Adviser, *, since=None, ordered=(), hour: int = 10, asked=None):
    """What is offered where lactate and leucocytes alone move the risk, lactate the more."""
    size, channels = adviser._size, adviser.channels
    weights = np.zeros(size)
    for panel, weight in (("lactate", 0.8), ("blood count", 0.6)):
        for held in adviser._panels:
            if held.name == panel:
                weights[held.features[0]] = weight
    gone, known = np.full(200, 1000), np.zeros(200, bool)
    for panel, hours in (since or {}).items():
        for c in channels[panel]:
            gone[c], known[c] = hours, True
    return adviser(
        lambda table: 1 / (1 + np.exp(-np.asarray(table) @ weights)), np.zeros(size), gone, known,
        risk=0.3, hour=hour, ordered=ordered, asked=asked,
    )  # fmt: skip


def test_the_file_of_the_site_holds_in_the_fold(tmp_path, deployed):
    _, deployment, _ = deployed
    fold = make_fold(configured(tmp_path), deployments=[deployment])
    adviser = fold.ladder.scorers[0]._adviser
    assert set(fold.ladder.scorers[0].panels) == {"lactate", "blood count"}
    # A lactate tells more, and costs more than that here.
    first, second = advised(adviser)
    assert (first.panel, second.panel) == ("blood count", "lactate")
    assert (second.cost, second.expected_result_by) == (9.0, 13.0)
    assert second.loinc == ("32693-4",)

    def names(**told):
        return [r.panel for r in advised(adviser, **told)]

    assert names(ordered=["32693-4"]) == ["blood count"]
    # Twelve hours for lactate, by the file; six for what tells none.
    assert names(since={"lactate": 11, "blood count": 7}) == ["blood count"]
    assert names(since={"lactate": 13, "blood count": 5}) == ["lactate"]
    assert names(asked={"lactate": 1, "blood count": 3}, hour=12) == ["blood count"]


def test_without_a_file_all_is_as_it_comes(tmp_path, deployed):
    _, deployment, _ = deployed
    fold = make_fold(read_config({}), deployments=[deployment])
    first, second = advised(fold.ladder.scorers[0]._adviser)
    assert (first.panel, second.panel) == ("lactate", "blood count")
    assert (first.cost, first.expected_result_by, first.loinc) == (1.0, 11.0, ("2524-7",))


def test_a_file_that_is_changed_later_is_not_read_again(tmp_path, deployed):
    _, deployment, _ = deployed
    service = Service(configured(tmp_path), deployments=[deployment])
    (tmp_path / "panels.toml").write_text("broken")
    try:
        assert "lactate" in service.make_fold().ladder.scorers[0].panels
    finally:
        service.committer.close()
        service.stores.close()
        service.store.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("[lactate\n", "cannot be read"),
        ('[lactate]\nchannels = ["Lactate"]\n', "'lactate' has no cost"),
        ('[a]\nchannels = ["Lactat"]\ncost = 1\n', "'Lactat', which is no variable; did you mean"),
        ('[a]\nchannels = ["Lactate"]\ncost = -1\n', "costs -1"),
        ('[a]\nchannels = ["Lactate"]\ncost = 1\nturnaround = inf\n', "finite"),
        ('[a]\nchannels = ["Lactate"]\ncost = 1\nprice = 2\n', "unknown key"),
        ('[a]\nchannels = ["Lactate"]\ncost = 1\navailable = 0\n', "true or false"),
        ('[a]\nchannels = ["WBC"]\ncost = 1\n[b]\nchannels = ["WBC"]\ncost = 1\n', "share no"),
        ('[a]\nchannels = ["WBC"]\ncost = 1\navailable = false\n', "no panel that can be ordered"),
        ("", "no panel that can be ordered"),
    ],
)
def test_a_start_and_the_doctor_say_what_is_wrong(tmp_path, text, said):
    config = configured(tmp_path, text)
    with pytest.raises(ParameterError, match=r"sensing\.panels") as told:
        make_fold(config)
    assert said in str(told.value) and "panels.toml" in str(told.value)
    (found,) = [f for f in examine(config) if f.what == "panels"]
    assert found.state == "wrong" and said in found.text


def test_the_doctor_names_what_can_be_ordered(tmp_path):
    (found,) = [f for f in examine(configured(tmp_path)) if f.what == "panels"]
    assert found.state == "ok" and found.text.startswith("lactate, blood count can be ordered")
    assert not [f for f in examine(read_config({})) if f.what == "panels"]
