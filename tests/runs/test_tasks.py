from __future__ import annotations

import pytest
from tiny_runs import call, record

from foretell.errors import ArtefactError, ParameterError, RecipeError
from foretell.runs import recipe as recipes
from foretell.runs import tasks
from foretell.runs.compare import compare_runs
from foretell.runs.folder import RunFolder
from foretell.runs.runner import predict_run, redraw_report, task_of


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_is_whole(name):
    task = tasks.find(name)
    assert task.recipe.model_fields["task"].default == name
    assert task.main_score in task.scores


def test_a_task_that_is_not_there():
    with pytest.raises(RecipeError, match="no task 'demnd'; did you mean 'demand'"):
        recipes.parse({"task": "demnd"})


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_are_valid_and_survive_json(name):
    recipe = recipes.load(name)
    assert recipe.title
    assert recipe.description
    assert recipes.parse(recipe.model_dump(mode="json")) == recipe


def test_recipes_without_a_task_are_about_demand():
    recipe = recipes.parse({"models": {"legacy": {"kind": "LegacyForecaster"}}})
    assert recipe.task == "demand"
    assert task_of({}) is tasks.find("demand")


def test_options_of_another_task_are_named(finished, tmp_path):
    with pytest.raises(ParameterError, match=r"about demand, which has no option --outcomes .*--f"):
        predict_run(finished, "shop", tmp_path / "p", outcomes="late.csv")


def test_runs_of_a_task_that_this_version_does_not_know(finished, tmp_path):
    folder = RunFolder.create(tmp_path / "new", {"task": "weather", "metrics": {"a": {}}})
    folder.end("complete", best="a")
    for use in (redraw_report, lambda run: predict_run(run, "shop", tmp_path / "p")):
        with pytest.raises(RecipeError, match="no task 'weather'"):
            use(folder.path)
    with pytest.raises(ParameterError, match="is a run about demand"):
        compare_runs(finished, folder.path)
    listed = call("list", tmp_path)
    assert listed.exit_code == 0
    assert "new" in listed.stdout


def test_a_record_without_a_recipe(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"task": "demand"})
    folder.end("complete")
    with pytest.raises(ArtefactError, match="a recipe that cannot be read"):
        redraw_report(folder.path)


def test_the_record_names_its_task(finished):
    assert record(finished)["task"] == "demand"
