"""One trip from data to report: the recipe, the runner and the run folder."""
