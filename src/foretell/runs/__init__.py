"""One trip from data to report: recipes, tasks, the runner and the run folder."""
