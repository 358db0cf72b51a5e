"""The tables of the paper, trained: settings, runs, and the paper's numbers beside ours."""
